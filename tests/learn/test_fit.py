import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from segcal.learn.fit import build, fit
from segcal.learn.fold import folded
from segcal.learn.predict import predict_slabs, restore, segment
from segcal.trial import TrialConfig

CPU = torch.device("cpu")


def config(**changes):
    fields = {
        "task": "toy", "label": "ce", "data_digest": "d", "in_channels": 1, "n_classes": 2, "dims": 2, "seed": 0,
        "loss": "cross_entropy", "head": "softmax", "weights": "none", "class_weights": (1.0, 1.0), "batch": 4,
        "kernels": (4, 4, 8, 8), "epochs": 4, "patience": 10,
    }  # fmt: skip
    return TrialConfig(**(fields | changes))


@pytest.fixture
def slices():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(12, 1, 16, 16, generator=generator)
    return TensorDataset(image, (image[:, 0] > 0.5).to(torch.uint8))


def scripted(values):
    """A validation that says what the test wants."""
    given = iter(values)
    return lambda net: (next(given),)


def same(one, two):
    return all(np.array_equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_same_seed_same_weights_other_seed_other_weights(slices, dropout):
    runs = [
        list(fit(config(seed=seed, dropout=dropout), slices, scripted([0.1, 0.2, 0.3, 0.4]), CPU)) for seed in (3, 3, 4)
    ]
    assert same(runs[0][-1].weights, runs[1][-1].weights)
    assert [r.train_loss for r in runs[0]] == [r.train_loss for r in runs[1]]
    assert not same(runs[0][-1].weights, runs[2][-1].weights)


def test_global_random_state_is_left_alone(slices):
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    list(fit(config(epochs=1), slices, scripted([0.5]), CPU))
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before)


def test_it_learns(slices):
    losses = [record.train_loss for record in fit(config(epochs=15), slices, lambda net: (0.5,), CPU)]
    assert losses[-1] < 0.6 * losses[0]


def test_weights_come_with_every_best_epoch_and_only_then(slices):
    records = list(fit(config(), slices, scripted([0.2, 0.1, 0.2, 0.5]), CPU))
    assert [record.weights is not None for record in records] == [True, False, False, True]
    assert [record.epoch for record in records] == [1, 2, 3, 4]


def test_stops_after_patience_epochs_without_a_better_one(slices):
    records = list(fit(config(epochs=20, patience=3), slices, scripted([0.3, 0.4] + [0.1] * 18), CPU))
    assert len(records) == 5


def test_rate_falls_on_a_plateau_of_gains_below_the_threshold(slices):
    dice = [0.5, 0.5005, 0.5009, 0.5009, 0.6, 0.6]
    settings = {"epochs": 6, "lr": 0.01, "lr_patience": 2, "lr_factor": 0.5, "lr_threshold": 0.001}
    records = list(fit(config(**settings), slices, scripted(dice), CPU))
    assert [record.lr for record in records] == [0.01, 0.01, 0.01, 0.005, 0.005, 0.005]


def test_undefined_validation_counts_as_0_and_partly_defined_as_its_mean(slices):
    records = list(fit(config(epochs=1), slices, lambda net: (float("nan"), float("nan")), CPU))
    assert (records[0].val_dice, records[0].weights is not None) == (0.0, True)
    records = list(fit(config(epochs=1), slices, lambda net: (0.4, float("nan")), CPU))
    assert records[0].val_dice == 0.4


def test_a_loss_that_is_not_finite_ends_the_training():
    slices = TensorDataset(torch.full((4, 1, 16, 16), float("nan")), torch.zeros(4, 16, 16, dtype=torch.uint8))
    with pytest.raises(FloatingPointError, match="must stay finite, got nan in epoch 1"):
        list(fit(config(), slices, scripted([0.5]), CPU))


def test_a_checkpoint_restores_the_same_network(slices):
    nets = []

    def validate(net):
        nets.append(net)
        return (0.5,)

    (record,) = fit(config(epochs=1), slices, validate, CPU)
    image = slices.tensors[0][:, 0].numpy()[None]
    restored = restore(config(), record.weights, CPU)
    one, two = (
        np.concatenate([p.probs for _, p in predict_slabs(n, "softmax", image, CPU)], 1)
        for n in (folded(nets[0]), restored)
    )
    np.testing.assert_array_equal(one, two)


def test_slabs_are_the_volume_and_can_be_asked_for_singly():
    net, image = build(config()).eval(), np.random.default_rng(0).random((1, 11, 16, 16), dtype=np.float32)
    (first, thick), (second, thin) = predict_slabs(net, "softmax", image, CPU)
    assert (first, second) == (0, 8)
    assert [p.probs.shape[1] for p in (thick, thin)] == [8, 3]
    np.testing.assert_allclose(np.exp(thick.log_probs), thick.probs)
    probs = np.concatenate([thick.probs, thin.probs], axis=1)
    np.testing.assert_array_equal(segment(net, "softmax", image, CPU), probs.argmax(axis=0))
    ((start, alone),) = predict_slabs(net, "softmax", image, CPU, slices=slice(9, 10))
    assert start == 8
    np.testing.assert_array_equal(alone.probs, thin.probs)


def test_bf16_trains_near_fp32_and_not_the_same(slices):
    full, half = (
        [record.train_loss for record in fit(config(epochs=5, precision=p), slices, lambda net: (0.5,), CPU)]
        for p in ("fp32", "bf16")
    )
    assert full != half
    assert half == pytest.approx(full, rel=0.1)


@pytest.fixture
def volumes():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(4, 1, 8, 16, 16, generator=generator)
    return TensorDataset(image, (image[:, 0] > 0.5).to(torch.uint8))


@pytest.mark.parametrize("loss", ["cross_entropy", "soft_dice"])
def test_a_network_over_volumes_learns_and_repeats_itself(volumes, loss):
    head = {"cross_entropy": "softmax", "soft_dice": "sigmoid"}[loss]
    given = config(dims=3, loss=loss, head=head, batch=2, epochs=10, lr=0.01)
    one, two = (list(fit(given, volumes, lambda net: (0.5,), CPU)) for _ in range(2))
    assert [record.train_loss for record in one] == [record.train_loss for record in two]
    assert one[-1].train_loss < one[0].train_loss - 0.05


def test_a_network_over_volumes_predicts_the_whole_at_once(volumes):
    given = config(dims=3, epochs=1)
    (record,) = fit(given, volumes, lambda net: (0.5,), CPU)
    net = restore(given, record.weights, CPU)
    image = volumes.tensors[0][0].numpy()
    image.flags.writeable = False  # as a memory-mapped case is
    ((first, prediction),) = predict_slabs(net, "softmax", image, CPU)
    assert (first, prediction.probs.shape) == (0, (2, 8, 16, 16))
    np.testing.assert_allclose(prediction.probs.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_array_equal(segment(net, "softmax", image, CPU), prediction.probs.argmax(axis=0))
