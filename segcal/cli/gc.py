"""`segcal gc`: what an experiment keeps that no ensemble and no report needs, and away with it."""

__all__ = ["add_gc"]

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from segcal.cli.plan import size
from segcal.cli.verb import add_verb, say, seconds_of
from segcal.errors import UsageError
from segcal.progress import bars, silent


@dataclass(frozen=True)
class Row:
    """So many things of a kind, and what they take."""

    kind: str
    count: int
    bytes: int


def add_gc(verbs: Any) -> None:
    """The verb."""
    verb = add_verb(
        verbs, "gc", _gc, "delete what no ensemble and no report needs: superseded versions and checkpoints",
        "segcal gc --experiment calib --dry-run",
    )  # fmt: skip
    verb.add_argument("--experiment", default="calib", help="MLflow experiment to clean (default: calib)")
    verb.add_argument("--dry-run", action="store_true", help="only say what would be deleted")
    verb.add_argument(
        "--older-than", default="1h", metavar="TIME",
        help="leave what was needed or written within this time: 24h, 90m, 2d, or hours (default: 1h)",
    )  # fmt: skip


def older_than_seconds(text: str) -> float:
    """Seconds of a time such as 24h, 90m, 30s, 2d, 0, or a number of hours. Raises UsageError for any other text."""
    seconds = seconds_of(text)
    if seconds is None:
        raise UsageError(f"--older-than must be a time, got '{text}'; write 24h, 90m, 30s, 2d, 0, or hours")
    return seconds


def _gc(arguments: argparse.Namespace) -> None:
    older_than_s = older_than_seconds(arguments.older_than)
    from segcal.ledger.garbage import KINDS, delete, find_garbage
    from segcal.ledger.store import open_store

    client = open_store(new=False)
    progress = bars(say) if sys.stderr.isatty() else silent  # not a line for each of thousands
    items = find_garbage(client, arguments.experiment, int(time.time() * 1000), older_than_s, progress)
    if not arguments.dry_run:
        items = delete(client, items, progress)
    of_kind = {kind: [item.bytes for item in items if item.kind == kind] for kind in KINDS}
    _show(arguments, [Row(kind, len(sizes), sum(sizes)) for kind, sizes in of_kind.items()])


def _show(arguments: argparse.Namespace, rows: Sequence[Row]) -> None:
    total = Row("total", sum(row.count for row in rows), sum(row.bytes for row in rows))
    if arguments.json:
        print(json.dumps({
            "experiment": arguments.experiment, "deleted": not arguments.dry_run,
            "rows": [asdict(row) for row in rows], "count": total.count, "bytes": total.bytes,
        }))  # fmt: skip
    else:
        width = max(len(row.kind) for row in rows)
        for row in (*rows, total):
            print(f"{row.kind:{width}} {row.count:7} {size(row.bytes):>8}")
    if arguments.dry_run:
        say("nothing was deleted; the same command without --dry-run deletes it")
