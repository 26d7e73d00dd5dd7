"""The live picture of a sweep, drawn on a terminal that is a string, by a clock that a test turns."""

import io
import logging
import math
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from segcal.cli import _view_of
from segcal.sweep.course import Course, better, clock_time, epochs_per_s, eta_s
from segcal.sweep.live import LiveView
from segcal.sweep.tally import Tally
from segcal.sweep.view import LinesView


def given(label, seed, epochs=10):
    return SimpleNamespace(config=SimpleNamespace(key=f"{label}{seed}", label=label, seed=seed, epochs=epochs))


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def terminal(width=80, height=24):
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)


def picture(view, width=80, height=24):
    """What the view draws, without the blanks at the ends of lines."""
    console = terminal(width, height)
    console.print(view, end="")
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def row(lines, name):
    """Words of the row that begins with `name`, without its bar."""
    found = next(line for line in lines if line.startswith(name))
    return [word for word in found.removeprefix(name).split() if not set(word) <= set("━╸╺")]


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def view(clock):
    """2 recipes x 3 seeds; `began` starts no thread."""
    view = LiveView([given(label, seed) for label in ("ce", "dice") for seed in range(3)], "calib", terminal(), clock)
    view._live.auto_refresh = False
    yield view
    view.close()


def test_trials_epochs_dice_speed_and_time(view, clock):
    view.began("ce0")
    view.began("dice0")
    clock.now += 50  # a process starts
    view.epoch("ce0", 1, 0.5, "plain")
    view.epoch("dice0", 1, 0.4, "plain")
    clock.now += 4
    view.epoch("ce0", 3, 0.75, "plain")  # 2 s an epoch
    view.epoch("dice0", 2, 0.25, "plain")  # 4 s
    lines = picture(view)
    assert lines[1] == "calib  0/6 trials  0 done  0 failed  2 running  4 left"
    # slots are free at 7 x 2 and 8 x 4 s; ce 1 until 14 + 20, ce 2 until 32 + 20, dice 1 until 74, dice 2 until 92
    assert lines[3] == "0:00:54 elapsed   ETA 0:01:32   0.75 epochs/s"
    assert row(lines, "ce seed 0") == ["3/10", "0.750", "0.750"]
    assert row(lines, "dice seed 0") == ["2/10", "0.250", "0.400"]
    assert row(lines, "ce  ") == ["0/3", "0.750"]

    view.ended("ce0", "finished", epoch=5)
    view.ended("dice0", "failed", "ValueError: no")
    lines = picture(view)
    assert lines[1] == "calib  2/6 trials  1 done  1 failed  0 running  4 left"
    assert not any(line.startswith("running") for line in lines)
    assert (row(lines, "ce  "), row(lines, "dice  ")) == (["1/3", "0.750"], ["0/3", "0.400"])


def test_a_bar_is_as_long_as_what_is_done(view):
    view.began("ce0")
    for epoch, expected in ((0, 0.0), (5, 0.5), (10, 1.0)):
        view.epoch("ce0", epoch, 0.5, "plain")
        lines = picture(view, width=100)
        bar = next(line for line in lines if line.startswith("ce seed 0"))
        assert bar.count("━") / 35 == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(("width", "height"), [(100, 30), (80, 24), (80, 16), (60, 14), (200, 60)])
@pytest.mark.parametrize(("recipes", "running"), [(1, 1), (1, 40), (4, 40), (30, 1), (30, 40)])
def test_the_picture_fits_the_terminal(clock, width, height, recipes, running):
    assignments = [given(f"recipe-with-a-name-{index % recipes}", index) for index in range(100)]
    view = LiveView(assignments, "calib", terminal(), clock)
    view._live.auto_refresh = False
    for assignment in assignments[:running]:
        view.began(assignment.config.key)
        view.epoch(assignment.config.key, 1, 0.5, "plain")
    lines = picture(view, width, height)
    assert len(lines) < height
    assert max(map(len, lines)) <= min(width, 100)
    shown = sum(" seed " in line or "1/10" in line for line in lines)
    more = [int(line.split()[1]) for line in lines if line.startswith("and ")]
    assert 1 <= shown <= 12
    assert (shown < running) == (running - shown in more)
    view.close()


def test_messages_and_warnings_stand_above_the_picture(monkeypatch, clock):
    """`say` and logging write to sys.stderr; both must pass through the terminal that the picture is on."""
    file = io.StringIO()
    monkeypatch.setattr(sys, "stderr", file)
    console = Console(stderr=True, width=80, height=24, force_terminal=True, color_system=None)
    handler = logging.StreamHandler(file)
    logging.getLogger().addHandler(handler)
    view = LiveView([given("ce", 0), given("ce", 1)], "calib", console, clock)
    view._live.auto_refresh = False
    try:
        assert sys.stderr is file
        view.began("ce0")
        assert sys.stderr is not file
        print("the store is away [/]", file=sys.stderr, flush=True)
        logging.getLogger().warning("a warning")
        view.ended("ce0", "failed", "ValueError: [red]no[/red]")
        view.epoch("ce1", 1, math.nan, "plain: no GPU")
        view.epoch("ce1", 2, math.nan, "plain: no GPU")
        view.close()
        assert sys.stderr is file
        assert handler.stream is file
    finally:
        logging.getLogger().removeHandler(handler)
    shown = file.getvalue()
    # Each erased the picture, wrote its line, and the picture was drawn below it.
    for text in (
        "the store is away [/]", "a warning", "ce seed 0: FAILED, ValueError: [red]no[/red]",
        "ce seed 1: a step is plain: no GPU",
    ):  # fmt: skip
        assert shown.count(text) == 1
        before, _, after = shown.partition(text)
        assert before.endswith("\x1b[2K")
        assert "calib  " in after


def test_nothing_is_drawn_before_a_trial_begins_nor_after_the_end(clock):
    console = terminal()
    view = LiveView([given("ce", 0)], "calib", console, clock)
    assert console.file.getvalue() == ""
    view.close()
    view.began("ce0")
    view.close()
    assert console.file.getvalue() == ""


def test_what_was_running_at_the_end_is_left(view):
    view.began("ce0")
    view.close()
    lines = picture(view)
    assert lines[1] == "calib  0/6 trials  0 done  0 failed  0 running  6 left"
    assert not any(line.startswith("ce seed 0") for line in lines)


def test_lines_tell_the_same(clock):
    said = []
    view = LinesView([given("ce", seed) for seed in range(2)], said.append, every_s=5.0, clock=clock)
    view.began("ce0")
    clock.now += 3
    view.epoch("ce0", 1, 0.5, "plain: no GPU")
    clock.now += 3
    view.epoch("ce0", 4, 0.75, "plain: no GPU")
    clock.now += 6
    view.ended("ce0", "finished", epoch=10)
    view.ended("ce1", "failed", "ValueError: no")
    assert said == [
        "ce seed 0: a step is plain: no GPU",
        "[0/2 trials] ce seed 0: epoch 4/10, validation Dice 0.750, ETA 0:00:16",  # 6 epochs, then 10, of a second
        "[1/2 trials] ce seed 0: done after 10 epochs, ETA 0:00:10",
        "[2/2 trials] ce seed 1: FAILED, ValueError: no",
    ]


def test_epochs_that_were_on_record_are_not_taken_for_speed(clock):
    """A trial that goes on after epoch 500 tells of all its epochs within a moment."""
    tally = Tally([given("ce", 0, epochs=1000)], clock)
    tally.began("ce0")
    clock.now += 5
    tally.epoch("ce0", 1, 0.5)
    assert tally.courses["ce0"].epoch_s is None
    clock.now += 1
    tally.epoch("ce0", 501, 0.5)
    clock.now += 20
    tally.epoch("ce0", 511, 0.5)
    assert tally.courses["ce0"].epoch_s == 2.0
    assert tally.eta_s() == (1000 - 511) * 2.0


def test_a_trial_that_tells_nothing_but_its_end_is_measured_whole(clock):
    tally = Tally([given("ce", 0), given("ce", 1)], clock)
    tally.began("ce0")
    clock.now += 8
    tally.ended("ce0", "finished", 4, best_dice=0.9)
    assert (tally.courses["ce0"].epoch_s, tally.courses["ce0"].best_dice) == (2.0, 0.9)
    assert tally.eta_s() == 4 * 2.0  # the next is expected to take as many epochs


def test_a_trial_that_is_run_again_is_ahead_once_more(clock):
    tally = Tally([given("ce", 0)], clock)
    for how, epochs in (("died", 7), ("again", 0)):
        tally.began("ce0")
        tally.epoch("ce0", 7, 0.5)
        tally.ended("ce0", how)
        assert (tally.courses["ce0"].state, tally.courses["ce0"].epochs) == ("waiting", epochs)
    tally.began("ce0")
    tally.ended("ce0", "stopped")
    assert tally.courses["ce0"].state == "stopped"


def test_eta_by_hand():
    running = Course("a", "ce", 10, "running", 4, epoch_s=2.0)
    assert eta_s([running], 1) == 6 * 2.0
    assert eta_s([running, Course("b", "dice", 10)], 1) == 12.0 + 20.0  # nothing else is measured
    assert eta_s([running, Course("b", "ce", 10)], 2) == 20.0
    assert eta_s([running, Course("b", "ce", 10, "finished", 5, epoch_s=4.0)], 1) == 1 * 2.0
    assert eta_s([running, Course("b", "ce", 10, "finished", 3)], 1) == 1 * 2.0  # longer than the mean, not done
    assert eta_s([Course("a", "ce", 10, "running", 10, epoch_s=2.0)], 1) == 0.0
    assert eta_s([Course("a", "ce", 10)], 1) is None
    assert eta_s([Course("a", "ce", 10, "failed", 3), Course("b", "ce", 10, "stopped")], 1) == 0.0


def test_throughput_is_of_what_runs():
    running = [Course(name, "ce", 10, "running", 4, epoch_s=2.0) for name in "ab"]
    assert epochs_per_s([*running, Course("c", "ce", 10, "finished", 4, epoch_s=1.0)]) == 1.0
    assert epochs_per_s([Course("c", "ce", 10, "running")]) is None


def test_a_dice_that_is_not_defined_is_never_the_best():
    assert (better(None, math.nan), better(0.5, math.nan), better(None, 0.5), better(0.5, 0.4)) == (None, 0.5, 0.5, 0.5)


def test_times():
    assert [clock_time(value) for value in (None, 0, 59.6, 3723, 360_000)] == [
        "unknown", "0:00:00", "0:01:00", "1:02:03", "100:00:00",
    ]  # fmt: skip


@pytest.mark.parametrize(("terminal", "kind", "live"), [
    (True, "xterm-256color", True), (True, "dumb", False), (False, "xterm-256color", False),
])  # fmt: skip
def test_it_is_drawn_only_where_it_can_be_redrawn(monkeypatch, terminal, kind, live):
    file = io.StringIO()
    file.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", file)
    monkeypatch.setenv("TERM", kind)
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    view = _view_of("calib")
    assert (view is not None) == live
    if view:
        assert isinstance(view([given("ce", 0)]), LiveView)
