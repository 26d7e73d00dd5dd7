"""`segcal status`: how far a sweep is, whoever drives it."""

__all__ = ["add_status", "status_lines"]

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from segcal.cli.verb import add_verb

if TYPE_CHECKING:
    from segcal.sweep.status import RecipeStatus, SweepStatus

EVERY_S = 2.0
ROWS = 12  # running trials in the text
NAMES = 6


def add_status(verbs: Any) -> None:
    """The verb."""
    verb = add_verb(
        verbs, "status", _status, "how far a sweep is: trials per recipe, time left, the last errors",
        "segcal status --experiment calib --watch",
    )  # fmt: skip
    verb.add_argument("--experiment", default="calib", help="MLflow experiment of the sweep (default: calib)")
    verb.add_argument("--storage", metavar="URI", help="folder or URI of the records "
                      "(default: $SEGCAL_STORAGE, or beside the tracking store)")  # fmt: skip
    verb.add_argument("--watch", action="store_true", help=f"look again every {EVERY_S:.0f} s until Ctrl-C; with "
                      "--json, and where it is no terminal that reads it, print what is new")  # fmt: skip


def _status(arguments: argparse.Namespace) -> None:
    from segcal.ledger.location import tracking_uri
    from segcal.sweep.status import find_status

    uri = tracking_uri()

    def find() -> "SweepStatus":
        return find_status(uri, arguments.experiment, arguments.storage)

    def told() -> str:
        status = find()
        return json.dumps(asdict(status)) if arguments.json else "\n".join(status_lines(status))

    if not arguments.watch:
        print(told())
        return
    try:
        if sys.stdout.isatty() and not arguments.json:
            _draw(told)
        else:
            _repeat(told, "" if arguments.json else "\n")
    except KeyboardInterrupt:
        return


def _draw(told: Callable[[], str]) -> None:
    """The text, in place of the one before it; the last one stays."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(highlight=False), auto_refresh=False) as live:
        while True:
            live.update(Text(told(), no_wrap=True, overflow="ellipsis"), refresh=True)
            time.sleep(EVERY_S)


def _repeat(told: Callable[[], str], end: str) -> None:
    """The text, whenever it is another."""
    before = None
    while True:
        text = told()
        if text != before:
            print(text, end=f"\n{end}", flush=True)
        before = text
        time.sleep(EVERY_S)


def status_lines(status: "SweepStatus") -> list[str]:
    """The status for people."""
    from segcal.sweep.course import clock_time

    total = status.total
    lines = [
        f"experiment '{status.experiment}': {total.done} of {total.planned} trials done; records in {status.records}",
        _driver(status),
        "",
        *_recipes(status),
    ]
    if status.running:
        rows = [
            (c.name, f"{c.epochs}/{c.most}", _dice(c.last_dice), _dice(c.best_dice), _number(c.epoch_s))
            for c in status.running
        ]
        lines += ["", *_table([("running", "epoch", "last", "best Dice", "s/epoch"), *rows[:ROWS]])]
        if len(rows) > ROWS:
            lines.append(f"and {len(rows) - ROWS} more")
        rate = f"{status.epochs_per_s:.3g} epochs/s" if status.epochs_per_s else "not measured yet"
        lines += ["", f"{'throughput':12} {rate}", f"{'ETA':12} {clock_time(status.eta_s)}"]
    if status.kept:
        names = ", ".join(status.kept[:NAMES])
        more = f" and {len(status.kept) - NAMES} more" if len(status.kept) > NAMES else ""
        lines += ["", f"{len(status.kept)} trials are kept that the newest plan no longer asks for: {names}{more}"]
    if status.damaged:
        names = ", ".join(status.damaged[:NAMES])
        lines += ["", f"{len(status.damaged)} records are damaged; the next sweep trains these trials again: {names}"]
    if status.errors:
        lines += ["", "last errors"]
        for error in status.errors:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(error.time_ms / 1000))
            lines.append(f"{when}  {error.trial}: {(error.error.splitlines() or [''])[0]}")
    return lines


def _driver(status: "SweepStatus") -> str:
    driver = status.driver
    who = f"process {driver.pid} of {driver.user} on {driver.host}, since {driver.since}" if driver else ""
    if driver and driver.alive:
        return f"driven by {who}"
    if driver and driver.alive is None:
        return f"driven by {who}: another machine, so whether it lives is not known here"
    if status.total.planned and status.total.done == status.total.planned:
        return f"complete; next: segcal report --experiment {status.experiment}"
    gone = f" ({who}, is gone)" if who else ""
    return f"nobody drives it{gone}: call the same `segcal sweep` again to go on"


def _recipes(status: "SweepStatus") -> list[str]:
    def row(of: "RecipeStatus") -> tuple[str, ...]:
        numbers = (of.planned, of.done, of.running, of.failed, of.stopped, of.to_do)
        return (of.label, *map(str, numbers), _dice(of.best_dice))

    head = ("recipe", "planned", "done", "running", "failed", "stopped", "to do", "best Dice")
    rows = [row(of) for of in status.recipes]
    return _table([head, *rows, *([row(status.total)] if len(rows) > 1 else [])])


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """The first column to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [f"{row[0]:{widths[0]}}", *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]


def _dice(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
