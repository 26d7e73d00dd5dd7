"""A training that is put down and taken up again is the training that was never put down."""

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from segcal.learn.fit import fit
from segcal.trial import TrialConfig

CPU = torch.device("cpu")
DICE = [0.3, 0.5, 0.4, 0.4, 0.6, 0.5, 0.5, 0.5, 0.55, 0.7]


def config(**changes):
    fields = {
        "task": "toy", "label": "ce", "data_digest": "d", "in_channels": 1, "n_classes": 2, "dims": 2, "seed": 3,
        "loss": "cross_entropy", "head": "softmax", "weights": "none", "class_weights": (1.0, 1.0), "batch": 4,
        "kernels": (4, 4, 8, 8), "epochs": 10, "patience": 10, "lr_patience": 2, "dropout": 0.5,
    }  # fmt: skip
    return TrialConfig(**(fields | changes))


@pytest.fixture(scope="module")
def slices():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(12, 1, 16, 16, generator=generator)
    return TensorDataset(image, (image[:, 0] > 0.5).to(torch.uint8))


def scripted(values):
    given = iter(values)
    return lambda net: (next(given),)


def facts(record):
    return record.epoch, record.train_loss, record.val_dice, record.lr


def trained(settings, slices, stops=()):
    """Records and final state of a training that is put down after the epochs in `stops`."""
    state, records = None, []
    for stop in [*stops, None]:
        done = len(records)
        for record in fit(settings, slices, scripted(DICE[done:]), CPU, state):
            records.append(record)
            state = record.state()
            if record.epoch == stop:
                break
    return records, state


@pytest.mark.parametrize("stops", [(1,), (4,), (9,), (1, 2, 3, 5, 8)])
@pytest.mark.parametrize("changes", [{}, {"dims": 2, "precision": "bf16"}, {"dropout": 0.0, "loss": "soft_dice"}])
def test_a_resumed_training_is_bit_identical(slices, changes, stops):
    whole, end = trained(config(**changes), slices)
    parts, resumed_end = trained(config(**changes), slices, stops)
    assert [facts(record) for record in parts] == [facts(record) for record in whole]
    assert len({record.lr for record in whole}) > 1  # the plateau's counters had something to forget
    assert end.keys() == resumed_end.keys()
    assert all(np.array_equal(end[name], resumed_end[name]) for name in end)


def test_a_state_is_a_copy_that_training_on_does_not_touch(slices):
    training = fit(config(), slices, scripted(DICE), CPU)
    state = next(training).state()
    before = {name: value.copy() for name, value in state.items()}
    list(training)
    assert all(np.array_equal(state[name], before[name]) for name in before)


def test_a_training_that_had_ended_stays_ended_and_keeps_its_best(slices):
    settings = config(patience=3)
    records, state = trained(settings, slices)
    assert [record.epoch for record in records][-1] == 5 + 3
    assert list(fit(settings, slices, scripted([]), CPU, state)) == []
    best = records[4].weights
    assert all(np.array_equal(state[f"best.{name}"], best[name]) for name in best)


@pytest.mark.parametrize("lost", ["net.", "adam.", "generator.dropout", "plateau.best", "training.epoch"])
def test_a_state_that_lacks_a_part_is_not_taken_for_whole(slices, lost):
    state = next(fit(config(), slices, scripted(DICE), CPU)).state()
    torn = {name: value for name, value in state.items() if not name.startswith(lost)}
    with pytest.raises((KeyError, RuntimeError)):
        next(fit(config(), slices, scripted(DICE), CPU, torn))
