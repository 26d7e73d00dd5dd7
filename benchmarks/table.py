"""Rows of a benchmark: printed as a table, kept as JSON beside the machine they were measured on."""

__all__ = ["Row", "save", "show"]

import datetime
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.machine import Machine


@dataclass(frozen=True)
class Row:
    """One comparison: ours (None: not measured), what a user would otherwise run, the machine's limit, the goal."""

    what: str
    seconds: float | None
    plain_seconds: float | None = None
    limit_seconds: float | None = None
    goal: str = ""
    note: str = ""

    @property
    def ratio(self) -> float | None:
        """How many times faster than the plain way."""
        return self.plain_seconds / self.seconds if self.plain_seconds and self.seconds else None


def show(machine: Machine, rows: Sequence[Row]) -> str:
    """A table for people."""
    line = "{:66} {:>8} {:>8} {:>7} {:>8}  {:14} {}"
    lines = [machine.title, line.format("", "seconds", "plain", "ratio", "limit", "goal", "")]
    for row in rows:
        numbers = [_number(value) for value in (row.plain_seconds, row.ratio, row.limit_seconds)]
        lines.append(line.format(row.what, _number(row.seconds), *numbers, row.goal, row.note))
    return "\n".join(lines)


def save(folder: Path, verb: str, machine: Machine, rows: Sequence[Row]) -> Path:
    """Put the verb's rows into the machine's file, which holds the latest run of each verb."""
    name = re.sub(r"[^a-z0-9]+", "-", (machine.gpu or f"{machine.cpu} {machine.cores} cores").lower()).strip("-")
    path = folder / f"{name}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known["machine"] = asdict(machine)
    rounded = [{key: round(v, 4) if isinstance(v, float) else v for key, v in asdict(row).items()} for row in rows]
    known[verb] = {"date": datetime.date.today().isoformat(), "rows": rounded}
    folder.mkdir(exist_ok=True)
    path.write_text(json.dumps(known, indent=1) + "\n")
    return path


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"
