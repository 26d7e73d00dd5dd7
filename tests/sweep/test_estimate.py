"""The arithmetic of a plan: every number by hand, and laws that hold for all."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcal.errors import UsageError
from segcal.sweep.estimate import (
    CHECKPOINT_FILES_BYTES,
    EPOCH_S,
    START_S,
    TRIAL_S,
    Pending,
    Span,
    Speed,
    Workload,
    checkpoints_of,
    duration,
    epochs_of,
    estimate,
    in_time,
    makespan,
    recipe_cost,
    slots,
    trained_epochs,
)
from segcal.trial import TrialConfig

CONFIG = TrialConfig(
    task="t", label="ce", data_digest="d", in_channels=1, n_classes=2, dims=2, seed=0, loss="cross_entropy",
    head="softmax", weights="none", class_weights=(1.0, 1.0), batch=4, epochs=10, patience=3,
)  # fmt: skip
SPEED = Speed(train_s=0.02, validate_s=0.01, predict_s=0.1)
WORK = Workload(train=100, val=50, test=30)  # an epoch: 2 s + 0.5 s

durations = st.lists(st.floats(0.0, 100.0), max_size=30)
many = st.integers(1, 40)


def cost(config=CONFIG, trials=4, members=4, best=(), weights_bytes=1000):
    return recipe_cost(
        config, SPEED, WORK, members=members, trials=trials, best_epochs=best, weights_bytes=weights_bytes
    )


def pending(count, label="ce"):
    return [Pending(label, rank) for rank in range(count)]


def test_makespan_by_hand():
    assert makespan([], 3) == 0
    assert makespan([3, 2, 2], 2) == 4  # the third starts at 2, where the second ended
    assert makespan([2, 2, 3], 2) == 5  # the order counts: an even share would be 3.5
    assert makespan([1, 1, 1, 1, 4], 2) == 6


@given(durations, many)
def test_makespan_lies_between_an_even_share_and_one_after_another(jobs, at_once):
    took, slack = makespan(jobs, at_once), 1e-9 * (1 + sum(jobs))
    assert took >= max([sum(jobs) / at_once, *jobs]) - slack
    assert took <= sum(jobs) + slack
    assert took <= sum(jobs) / at_once + max([0.0, *jobs]) + slack  # Graham's bound


@given(durations, many, st.data())
def test_fewer_jobs_or_more_slots_never_take_longer(jobs, at_once, data):
    """What the search for "what would fit" rests on."""
    took = makespan(jobs, at_once) + 1e-6
    assert makespan(jobs, at_once + 1) <= took
    if jobs:
        gone = data.draw(st.integers(0, len(jobs) - 1))
        assert makespan(jobs[:gone] + jobs[gone + 1 :], at_once) <= took


def test_epochs_are_patience_and_one_at_least_and_epochs_at_most():
    assert epochs_of(CONFIG, []) == Span(4, 10, None)
    assert epochs_of(replace(CONFIG, patience=50), []) == Span(10, 10, 10)


def test_epochs_of_trained_members_are_expected():
    assert [trained_epochs(best, CONFIG) for best in (1, 5, 9)] == [4, 8, 10]
    assert epochs_of(CONFIG, [1, 5, 9]).expected == pytest.approx(22 / 3)


def test_a_trial_by_hand():
    one = cost(best=[5])  # 8 epochs
    assert one.epoch_s == pytest.approx(2.5)
    assert one.items_per_s == pytest.approx(50)
    assert one.trial_s.least == pytest.approx(TRIAL_S + 4 * (2.5 + EPOCH_S))
    assert one.trial_s.expected == pytest.approx(TRIAL_S + 8 * (2.5 + EPOCH_S))
    assert one.total_s.most == pytest.approx(4 * (TRIAL_S + 10 * (2.5 + EPOCH_S)))
    assert one.predict_s == pytest.approx(4 * 30 * 0.1)


def test_a_sweep_by_hand():
    two = [cost(), cost(replace(CONFIG, label="dice", loss="soft_dice", patience=50), trials=1, members=3)]
    whole = estimate(two, [*pending(4), Pending("dice", 2)], at_once=2)
    trial = {n: TRIAL_S + n * (2.5 + EPOCH_S) for n in (4, 10)}
    assert (whole.trials, whole.trained) == (5, 2)
    assert whole.wall_s.most == pytest.approx(START_S + 3 * trial[10])  # five alike on two slots
    assert whole.wall_s.least == pytest.approx(START_S + 2 * trial[4] + trial[10])
    assert whole.wall_s.expected is None  # nobody knows how long cross-entropy trains
    assert whole.trial_s.least == pytest.approx(4 * trial[4] + trial[10])
    assert whole.report_s == pytest.approx((4 + 3) * 30 * 0.1 / 2)


def test_storage_by_hand():
    stored = estimate([cost()], pending(4), 1).storage
    assert (stored.checkpoints.least, stored.checkpoints.most) == (4, 4 * 4)  # writes after 5, 10, 20 s and at the end
    assert stored.checkpoints.expected == 4 * 4
    assert stored.checkpoint_bytes.most == 16 * (1000 + CHECKPOINT_FILES_BYTES)
    assert (checkpoints_of(3, 1e4), checkpoints_of(100, 1e4), checkpoints_of(100, 7)) == (3, pytest.approx(22), 2)


def test_nothing_left_costs_nothing():
    whole = estimate([cost(trials=0)], [], 2)
    assert whole.wall_s == whole.trial_s == Span(0, 0, 0)
    assert whole.storage.most == 0
    assert whole.trained == 4
    assert in_time([cost(trials=0)], [], 2, 1.0).verdict == "fits"


def test_what_ends_in_time():
    recipes, trials = [cost()], pending(4)  # a trial: 10.7 to 26 s; four on one slot: 62.8 to 124 s
    assert in_time(recipes, trials, 1, 125).verdict == "fits"
    maybe = in_time(recipes, trials, 1, 100)
    assert (maybe.verdict, maybe.members, maybe.at_once) == ("may not finish", 3, 2)
    late = in_time(recipes, trials, 1, 60)
    assert (late.verdict, late.members, late.at_once) == ("cannot finish", 1, 4)
    never = in_time(recipes, trials, 1, 40)
    assert (never.verdict, never.members, never.at_once) == ("cannot finish", None, None)


@given(many, many, st.floats(1, 1000))
def test_what_is_said_to_fit_fits_and_one_more_does_not(count, at_once, limit):
    recipes, trials = [cost(trials=count, members=count)], pending(count)
    found = in_time(recipes, trials, at_once, limit)
    if found.verdict == "fits":
        return
    if found.members:
        assert estimate(recipes, trials[: found.members], at_once).wall_s.most <= limit
    assert estimate(recipes, trials[: (found.members or 0) + 1], at_once).wall_s.most > limit
    if found.at_once:
        assert found.at_once > at_once
        assert estimate(recipes, trials, found.at_once).wall_s.most <= limit
        assert estimate(recipes, trials, found.at_once - 1).wall_s.most > limit


@pytest.mark.parametrize(
    ("there", "each", "at_once"),
    [
        ((2, 0), (1, 0.25), 2),  # no GPU: its share does not count
        ((5, 0), (2, 0), 2),
        ((16, 2), (1, 0.25), 8),
        ((16, 3), (1, 0.4), 6),  # two on each; the rest of a GPU is nobody's
        ((16, 1), (1, 0.1), 10),
        ((4, 2), (1, 0.25), 4),  # as many as there are cores
        ((None, 2), (1, 0.25), 8),
        ((16, 5), (1, 2), 2),
        ((16, 5), (1, 0), 16),
    ],
)
def test_slots(there, each, at_once):
    assert slots(*there, *each) == at_once


def test_a_trial_that_fits_nowhere():
    with pytest.raises(UsageError, match="cpus of a trial must be at most 2, got 4; lower it"):
        slots(2, 0, 4, 0)
    with pytest.raises(UsageError, match="gpus of a trial must be at most 1, got 2; lower it"):
        slots(8, 1, 1, 2)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0.0 s"), (7.04, "7.0 s"), (99, "99 s"), (100, "1.7 min"), (7200, "2.0 h"), (9e6, "104 d")],
)
def test_durations_in_words(seconds, told):
    assert duration(seconds) == told
