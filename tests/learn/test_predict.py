"""Monte Carlo dropout: what is sampled, what is shared, and that it can be repeated."""

import numpy as np
import pytest
import torch

from segcal.learn.predict import MonteCarlo, predict_slabs, sampling, segment
from segcal.learn.unet import Dropout, UNet
from segcal.trial import TrialConfig

CPU = torch.device("cpu")
SMALL = (4, 4, 8, 8, 8, 8)
CONFIG = TrialConfig(
    task="t", label="l", data_digest="d", in_channels=1, n_classes=2, dims=2, seed=0, loss="cross_entropy",
    head="softmax", weights="none", class_weights=(1.0, 1.0), batch=1, dropout=0.5,
)  # fmt: skip


def network(dims=2, dropout=0.5):
    return UNet(1, 2, SMALL, dropout, dims, torch.Generator().manual_seed(0)).eval()


def image(depth=10, seed=0):
    return np.random.default_rng(seed).random((1, depth, 16, 16), dtype=np.float32)


def sampled(net, picture, name="w c", samples=12, **options):
    parts = [p.probs for _, p in predict_slabs(net, "softmax", picture, CPU, MonteCarlo(samples, name), **options)]
    return np.concatenate(parts, axis=1)


@pytest.mark.parametrize("dims", [2, 3])
def test_prefix_and_finish_are_the_network(dims):
    net = network(dims)
    picture = torch.rand(2, 1, *[16] * dims)
    with torch.inference_mode():
        prefix = net.prefix(picture)
        assert torch.equal(net.finish(prefix), net(picture))


@pytest.mark.parametrize("dims", [2, 3])
def test_what_the_skips_add_is_known_before_a_sample_is_drawn(dims):
    net = UNet(1, 2, (4, 4, 4, 4, 8, 8, 8, 8, 8, 8), 0.5, dims, torch.Generator().manual_seed(0)).eval().double()
    picture = torch.rand(1, 1, *[16] * dims, dtype=torch.float64)
    with torch.inference_mode():
        prefix = net.prefix(picture)
        merged = net.merged(prefix)
        assert len(prefix) == 3 > len(merged) == 2
        torch.testing.assert_close(net.finish(prefix, merged), net(picture), rtol=1e-12, atol=1e-12)
        many = net.finish([*prefix[:-1], prefix[-1].expand(3, *prefix[-1].shape[1:])], merged)
        torch.testing.assert_close(many, net(picture).expand(3, *[-1] * (dims + 1)), rtol=1e-12, atol=1e-12)


def test_the_prefix_ends_before_the_first_dropout():
    net = network()
    assert len(net.prefix(torch.rand(1, 1, 16, 16))) == 1  # 3 levels, all with dropout: only the first block is shared
    assert len(UNet(1, 2, dropout=0.5).eval().prefix(torch.rand(1, 1, 16, 16))) == 3  # the third of 5 levels
    assert len(network(dropout=0.0).prefix(torch.rand(1, 1, 16, 16))) == 3  # all


def test_the_mean_over_samples_by_hand():
    """Plain forward passes with the same masks: everything computed anew for every sample."""
    net, picture = network(), image(1)
    found = sampled(net, picture, samples=7)[:, 0]
    generator = MonteCarlo(7, "w c").generator(0, CPU)
    with torch.inference_mode(), net.sampling(generator):
        batch = torch.from_numpy(picture).swapaxes(0, 1).expand(7, 1, 16, 16)
        logits = net(batch.contiguous(memory_format=torch.channels_last))
    expected = torch.softmax(logits.double(), dim=1).mean(dim=0).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_samples_differ_and_their_mean_settles():
    net, picture = network(), image(1)
    one, other = (sampled(net, picture, name, samples=1) for name in ("a", "b"))
    assert np.abs(one - other).max() > 0.01
    far = np.abs(sampled(net, picture, "a", 2) - sampled(net, picture, "b", 2)).mean()
    near = np.abs(sampled(net, picture, "a", 200) - sampled(net, picture, "b", 200)).mean()
    assert near < far / 4


def test_a_result_can_be_repeated_slice_by_slice():
    net, picture = network(), image(10)
    state = torch.get_rng_state()
    whole = sampled(net, picture)
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(whole, sampled(net, picture))
    np.testing.assert_allclose(whole[:, 9:10], sampled(net, picture, slices=slice(9, 10)), atol=1e-6)
    assert np.abs(whole - sampled(net, picture, "w other")).max() > 0.01


def test_volumes_are_sampled_too():
    net = network(3)
    found = sampled(net, image(16), samples=3)
    assert found.shape == (2, 16, 16, 16)
    np.testing.assert_allclose(found.sum(axis=0), 1, atol=1e-6)
    assert found.argmax(axis=0).tolist() == segment(net, "softmax", image(16), CPU, MonteCarlo(3, "w c")).tolist()


def test_training_goes_on_with_its_own_masks():
    net = network().train()
    own = torch.Generator().manual_seed(1)
    net.seed_dropout(own)
    sampled(net, image(1))
    layers = [module for module in net.modules() if isinstance(module, Dropout)]
    assert all(layer.generator is own and not layer.training for layer in layers)


def test_which_networks_are_sampled():
    assert sampling(CONFIG, "abc", "p1") == MonteCarlo(50, "abc p1")
    assert sampling(TrialConfig(**{**vars(CONFIG), "dropout": 0.0}), "abc", "p1") is None
    assert sampling(TrialConfig(**{**vars(CONFIG), "mc_samples": 0}), "abc", "p1") is None
