"""Training and predicting on a GPU: what the other tests say of a processor holds there. See `make test-gpu`."""

import copy
import itertools
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from segcal.learn.batches import Resident, Streamed, batches_of
from segcal.learn.fit import build, channels_last, fit
from segcal.learn.fold import folded
from segcal.learn.losses import bind
from segcal.learn.predict import MonteCarlo, predict_slabs, predict_together, slabs_of
from segcal.learn.step import captured, optimiser_of, plain
from tests.learn import test_step

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

CPU, GPU = torch.device("cpu"), torch.device("cuda")
CONFIG = replace(test_step.CONFIG, epochs=4, patience=4, lr_patience=1)
DICE = {"loss": "soft_dice", "head": "sigmoid"}


def items(dims=2, count=10, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 1, *[16] * dims, generator=generator, dtype=dtype)
    return TensorDataset(images, (images[:, 0] > 0.6).to(torch.uint8))


def falling(epoch=0):
    """A Dice that falls from epoch to epoch, so that the schedule lowers the rate."""
    epochs = itertools.count(epoch + 1)
    return lambda net: (1 / next(epochs),)


def trained(config, device=GPU):
    return list(fit(config, items(config.dims), falling(), device))


@pytest.mark.parametrize("loss", [{}, DICE], ids=["cross_entropy", "soft_dice"])
def test_captured_steps_are_the_plain_loop_of_a_cpu_in_float64(loss):
    """A smaller mini-batch, and a rate that the schedule lowers, in between."""
    config = replace(CONFIG, **loss)
    images, truth = items(count=26, dtype=torch.float64).tensors
    given = list(zip(images.split(4), truth.split(4), strict=True))
    given.insert(2, (images[:3], truth[:3]))
    reference = build(config).double()
    net = channels_last(copy.deepcopy(reference), GPU)
    optimiser = torch.optim.Adam(reference.parameters(), lr=0.01)
    expected = plain(reference, bind(config, CPU), optimiser)
    ours = optimiser_of(net, 0.01, GPU)
    first = tuple(part.to(GPU) for part in given[0])
    step, how = captured(net, ours, plain(net, bind(config, GPU), ours), first)
    assert how == "captured"
    for number, batch in enumerate(given):
        if number == 4:
            ours.param_groups[0]["lr"].fill_(0.001)
            optimiser.param_groups[0]["lr"] = 0.001
        assert float(step(*(part.to(GPU) for part in batch))) == pytest.approx(float(expected(*batch)), rel=1e-8)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    "changes",
    [{}, DICE, {"dropout": 0.5, "mc_samples": 2}, {"dims": 3, "batch": 2}],
    ids=["softmax", "sigmoid", "dropout", "volumes"],
)
def test_every_network_trains_by_captured_steps_as_it_does_on_a_cpu(changes, precision):
    config = replace(CONFIG, precision=precision, **changes)
    on_gpu, on_cpu = trained(config), trained(config, CPU)
    assert {record.step for record in on_gpu} == {"captured"}
    assert [record.lr for record in on_gpu] == pytest.approx([record.lr for record in on_cpu])
    near = 0.25 if config.dropout else 0.05  # other masks; TF32, bfloat16
    assert [r.train_loss for r in on_gpu] == pytest.approx([r.train_loss for r in on_cpu], rel=near)


def test_capturing_leaves_no_trace_and_masks_go_on_from_replay_to_replay():
    config = replace(CONFIG, dropout=0.5)
    net = channels_last(build(config), GPU).train()
    generator = torch.Generator(device=GPU).manual_seed(5)
    net.seed_dropout(generator)
    before, state = copy.deepcopy(net.state_dict()), generator.get_state()
    optimiser = optimiser_of(net, 0.0, GPU)
    images, truth = (part[:4].to(GPU) for part in items().tensors)
    plainly = plain(net, bind(config, GPU), optimiser)
    step, how = captured(net, optimiser, plainly, (images, truth))
    assert how == "captured"
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(generator.get_state(), state)
    replayed = [float(step(images, truth)) for _ in range(3)]
    assert len(set(replayed)) == 3
    generator.set_state(state)
    assert replayed == pytest.approx([float(plainly(images, truth)) for _ in range(3)], rel=1e-3)


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.5, "mc_samples": 2}, {"precision": "bf16"}])
def test_a_training_that_was_cut_short_goes_on_as_if_it_had_not_been(changes):
    config = replace(CONFIG, **changes)
    whole = trained(config)
    begun = fit(config, items(), falling(), GPU)
    state = [next(begun), next(begun)][-1].state()
    rest = list(fit(config, items(), falling(2), GPU, state))
    assert [record.epoch for record in rest] == [3, 4]
    assert [record.lr for record in rest] == [record.lr for record in whole[2:]]
    assert [r.train_loss for r in rest] == pytest.approx([r.train_loss for r in whole[2:]], rel=1e-3)


def test_prepared_data_lie_on_the_gpu_and_give_the_same_batches():
    source = batches_of(items(), GPU)
    assert isinstance(source, Resident)
    for ours, other in zip(
        source.shuffled(4, torch.Generator().manual_seed(1)),
        Streamed(items(), GPU).shuffled(4, torch.Generator().manual_seed(1)),
        strict=True,
    ):
        assert ours[0].is_cuda
        assert all(torch.equal(a, b) for a, b in zip(ours, other, strict=True))
        assert ours[0].stride() == other[0].stride()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("head", ["softmax", "sigmoid"])
def test_probabilities_are_those_of_a_cpu(dims, head):
    config = replace(CONFIG, dims=dims, head=head, loss="cross_entropy" if head == "softmax" else "soft_dice")
    nets = [folded(build(replace(config, seed=seed)).eval()) for seed in range(3)]
    image = np.random.default_rng(0).random((1, 16, 16, 16), dtype=np.float32)
    expected = [[p.probs for _, p in predict_slabs(channels_last(net, CPU), head, image, CPU)] for net in nets]
    ours = [channels_last(copy.deepcopy(net), GPU) for net in nets]
    slabs = [
        [p.probs for p in predict_together(ours, head, slab, first, [None] * 3)]
        for first, slab in slabs_of(image, dims, GPU)
    ]
    for member in range(3):
        for at, slab in enumerate(slabs):
            np.testing.assert_allclose(slab[member], expected[member][at], atol=1e-5)


def test_a_mean_of_monte_carlo_samples_tends_to_that_of_a_cpu_and_repeats():
    """Other masks: two means of n probabilities differ by a standard error of 0.5 sqrt(2 / n) at most."""
    samples = 1000
    net = folded(build(replace(CONFIG, dropout=0.5, mc_samples=samples)).eval())
    image = np.random.default_rng(0).random((1, 2, 16, 16), dtype=np.float32)
    monte_carlo = MonteCarlo(samples, "net case")
    ((_, cpu),) = predict_slabs(channels_last(copy.deepcopy(net), CPU), "softmax", image, CPU, monte_carlo)
    on_gpu = channels_last(net, GPU)
    (_, first), (_, again) = (next(predict_slabs(on_gpu, "softmax", image, GPU, monte_carlo)) for _ in range(2))
    np.testing.assert_array_equal(first.probs, again.probs)
    error = 0.5 * np.sqrt(2 / samples)
    apart = np.abs(first.probs - cpu.probs)
    assert apart.mean() < error
    assert apart.max() < 6 * error


A_QUARTER = """
import torch
from segcal.learn.batches import device_bytes
from segcal.sweep.run_trial import _out_of_gpu_memory, trial_device

device = trial_device(0.25)
total = torch.cuda.mem_get_info(device)[1]
assert device_bytes(device) <= 0.2375 * total + 1, device_bytes(device)
try:
    torch.empty(int(0.24 * total), dtype=torch.uint8, device=device)
except Exception as error:
    print(_out_of_gpu_memory(error))
"""


def test_a_share_of_the_memory_is_all_that_a_process_takes():
    """In a process of its own: what torch has of this one's stays as it is."""
    ran = subprocess.run([sys.executable, "-c", A_QUARTER], capture_output=True, text=True)
    assert ran.stdout == "True\n", ran.stderr
