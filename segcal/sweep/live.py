"""How far a running sweep is, on a terminal: a picture below the lines that are said, drawn four times a second."""

__all__ = ["LiveView"]

import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.constrain import Constrain
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from segcal.sweep.course import Course, better, clock_time, epochs_per_s
from segcal.sweep.run_trial import Assignment
from segcal.sweep.tally import Tally

ROWS = 12  # trials, and recipes, at most
WIDTH = 100


class LiveView:
    """A SweepView. While it is drawn, what is printed to stderr and logged there stands above it.

    There is no lock: the handler of a signal may say a line at any moment, from within any method. The thread that
    draws works on a copy of what the methods left, which costs them nothing.
    """

    def __init__(
        self, assignments: Sequence[Assignment], title: str = "", console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._tally, self._title = Tally(assignments, clock), title
        self._console = console or Console(stderr=True)
        self._live = Live(
            get_renderable=lambda: self, console=self._console, refresh_per_second=4, redirect_stdout=False
        )  # fmt: skip
        self._handlers: list[logging.StreamHandler[Any]] = []
        self._told = self._closed = False

    def began(self, key: str) -> None:
        self._tally.began(key)
        if not self._live.is_started and not self._closed:  # not before there is something to see
            self._start()

    def epoch(self, key: str, epoch: int, val_dice: float, step: str, best_dice: float = math.nan) -> None:
        self._tally.epoch(key, epoch, val_dice, best_dice)
        if ":" in step and not self._told:  # once: the others will do the same
            self._told = True
            self._say(key, f"a step is {step}")

    def ended(self, key: str, how: str, why: str = "", epoch: int = 0, best_dice: float = math.nan) -> None:
        self._tally.ended(key, how, epoch, best_dice)
        if how == "failed":
            self._say(key, f"FAILED, {why}", "red")
        elif how == "again":
            self._say(key, why)
        elif how == "died":
            self._say(key, "its process died; it goes on from its last checkpoint")

    def close(self) -> None:
        """Leave the last picture, without the trials that are no longer running."""
        self._closed = True
        if self._live.is_started:
            real = self._console.file
            self._live.stop()
            for handler in self._handlers:
                handler.setStream(real)

    def _start(self) -> None:
        real = sys.stderr
        self._live.start(refresh=True)
        self._handlers = [
            handler
            for handler in logging.getLogger().handlers
            if isinstance(handler, logging.StreamHandler) and handler.stream is real
        ]
        for handler in self._handlers:
            handler.setStream(sys.stderr)  # rich's, which prints above the picture

    def _say(self, key: str, text: str, style: str = "") -> None:
        line = Text(f"{self._tally.courses[key].name}: {text}", style)
        self._console.print(line, soft_wrap=True, highlight=False)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        courses = list(self._tally.courses.copy().values())
        recipes = _recipes(courses)
        running = [] if self._closed else [course for course in courses if course.state == "running"]
        room = options.size.height - 6  # without what stands above, and the line of the cursor
        most = max(1, min(ROWS, max(room // 2, room - len(recipes) - 2) - 2))
        parts: list[RenderableType] = [Text(), self._whole(courses), Text()]
        if running:
            parts += [*_running_rows(running, most), Text()]
        left = room - (min(len(running), most) + 2 if running else 0) - 1
        parts += _recipe_rows(recipes, max(1, min(ROWS, left)))
        yield Constrain(Group(*parts), WIDTH)

    def _whole(self, courses: Sequence[Course]) -> RenderableType:
        count = Counter("stopped" if self._closed and c.state == "running" else c.state for c in courses)
        ended = count["finished"] + count["failed"]
        parts = [
            (f"{self._title}  " if self._title else "", "bold"),
            (f"{ended}/{len(courses)} trials", ""),
            (f"  {count['finished']} done", "green" if count["finished"] else "dim"),
            (f"  {count['failed']} failed", "bold red" if count["failed"] else "dim"),
            (f"  {count['running']} running", "cyan" if count["running"] else "dim"),
            (f"  {len(courses) - ended - count['running']} left", ""),
        ]
        rate = None if self._closed else epochs_per_s(courses)
        times = [f"{clock_time(self._tally.elapsed_s)} elapsed"]
        if not self._closed:
            times += [f"ETA {clock_time(self._tally.eta_s())}", f"{rate:.3g} epochs/s" if rate else "measuring"]
        rows = Table.grid(expand=True)
        rows.add_column(no_wrap=True, overflow="ellipsis")
        for row in (Text.assemble(*parts), _bar(ended, len(courses)), "   ".join(times)):
            rows.add_row(row)
        return rows


def _recipes(courses: Sequence[Course]) -> dict[str, tuple[int, int, float | None]]:
    """Trials done, all, and the best Dice of each recipe."""
    found: dict[str, tuple[int, int, float | None]] = {}
    for course in courses:
        done, planned, best = found.get(course.recipe, (0, 0, None))
        dice = math.nan if course.best_dice is None else course.best_dice
        found[course.recipe] = done + (course.state == "finished"), planned + 1, better(best, dice)
    return found


def _running_rows(running: Sequence[Course], most: int) -> Iterator[RenderableType]:
    shown = running if len(running) <= most else running[: most - 1]
    table = _table("running", "epoch", "last", "best Dice")
    for course in shown:
        epoch = f"{course.epochs}/{course.most}"
        table.add_row(
            course.name, _bar(course.epochs, course.most), epoch, _told(course.last_dice), _told(course.best_dice)
        )
    yield table
    if more := len(running) - len(shown):
        yield Text(f"and {more} more", "dim")


def _recipe_rows(recipes: dict[str, tuple[int, int, float | None]], most: int) -> Iterator[RenderableType]:
    shown = list(recipes) if len(recipes) <= most else list(recipes)[: most - 1]
    table = _table("recipe", "done", "", "best Dice")
    for label in shown:
        done, planned, best = recipes[label]
        table.add_row(label, _bar(done, planned), f"{done}/{planned}", "", _told(best))
    yield table
    if more := len(recipes) - len(shown):
        yield Text(f"and {more} more", "dim")


def _table(first: str, *numbers: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    table.add_column(first, ratio=3, no_wrap=True, overflow="ellipsis")
    table.add_column("", ratio=4)
    for index, name in enumerate(numbers):
        width = 11 if index == 0 else 9
        table.add_column(name, justify="right", width=width, no_wrap=True)
    return table


def _bar(done: float, total: float) -> ProgressBar:
    return ProgressBar(
        total=max(total, 1), completed=done, style="grey30", complete_style="cyan", finished_style="green"
    )


def _told(dice: float | None) -> str:
    return "-" if dice is None else f"{dice:.3f}"
