"""Lines of a running sweep, by a clock of the test."""

import re
from dataclasses import dataclass

import pytest

from segcal.sweep.view import LinesView


@dataclass(frozen=True)
class Config:
    key: str
    label: str
    seed: int
    epochs: int = 10


@dataclass(frozen=True)
class Given:
    config: Config


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def watched():
    clock, said = Clock(), []
    given = [Given(Config("a", "ce", 0)), Given(Config("b", "dice", 1))]
    return LinesView(given, said.append, clock=clock), clock, said


def test_a_trial_that_goes_on_has_a_line_every_few_seconds(watched):
    view, clock, said = watched
    view.began("a")
    for epoch in range(1, 8):
        clock.now += 2
        view.epoch("a", epoch, 0.5, "plain")
    assert [line.partition(", ETA")[0] for line in said] == [
        f"[0/2 trials] ce seed 0: epoch {epoch}/10, validation Dice 0.500" for epoch in (3, 6)
    ]
    assert all(re.search(r"ETA \d+:\d\d:\d\d$", line) for line in said)


def test_every_trial_that_ends_has_a_line(watched):
    view, clock, said = watched
    for key in ("a", "b"):
        view.began(key)
    clock.now += 1
    view.ended("a", "finished", epoch=8)
    view.ended("b", "failed", "FloatingPointError: no longer finite")
    view.close()
    assert said[0].startswith("[1/2 trials] ce seed 0: done after 8 epochs, ETA ")
    assert said[1] == "[2/2 trials] dice seed 1: FAILED, FloatingPointError: no longer finite"


def test_the_last_one_to_finish_leaves_nothing_to_expect(watched):
    view, _, said = watched
    view.ended("a", "finished", epoch=8)
    view.ended("b", "finished", epoch=8)
    assert said[-1] == "[2/2 trials] dice seed 1: done after 8 epochs, finishing"


def test_a_trial_that_goes_on_elsewhere_has_not_ended(watched):
    view, _, said = watched
    view.began("a")
    view.epoch("a", 3, 0.5, "plain")
    view.ended("a", "died")
    view.ended("b", "again", "out of GPU memory with a share of 0.25; again with 0.5")
    assert said == [
        "[0/2 trials] ce seed 0: its process died; it goes on from its last checkpoint",
        "[0/2 trials] dice seed 1: out of GPU memory with a share of 0.25; again with 0.5",
    ]


def test_why_a_step_is_not_captured_is_said_once(watched):
    view, _, said = watched
    view.epoch("a", 1, 0.5, "plain: batches differ")
    view.epoch("b", 1, 0.5, "plain: batches differ")
    assert said == ["ce seed 0: a step is plain: batches differ"]


def test_a_stopped_trial_is_no_line_and_not_done(watched):
    view, clock, said = watched
    view.began("a")
    view.ended("a", "stopped", epoch=2)
    assert said == []
    clock.now += 6
    view.epoch("b", 3, 0.5, "plain")
    assert said[0].startswith("[0/2 trials] dice seed 1: epoch 3/10")
