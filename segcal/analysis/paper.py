"""The paper's own numbers (its Tables II, S-I, S-II and S-III), and ours beside them."""

__all__ = ["Ours", "PaperValue", "beside_paper", "paper_values"]

import csv
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources

from segcal.records import Cell, Table
from segcal.report.tables import interval, number

PAPER_TABLES = "paper_tables.csv"
SEGMENTS = ("I", "II", "III")  # the paper's names of a task's structures, in the order of TaskSpec.structures
TITLES = {"nll": "NLL", "brier": "Brier", "ece": "ECE %", "dice": "Dice {}", "hd95": "HD95 {}, mm"}
SUBJECTS = {
    "II": "Calibration in the box and Dice.",
    "S-I": "Calibration on the whole volume.",
    "S-II": "95th percentile Hausdorff distance.",
    "S-III": "Networks over volumes (Appendix F): calibration in the box, Dice and Hausdorff distance.",
}
MISSING = "–"

# Our cell for (method, region, quantity, structure), ECE in per cent; None where the experiment has no such method.
Ours = Callable[[str, str, str, str], Cell | None]


@dataclass(frozen=True)
class PaperValue:
    """A number of the paper: mean over test patients, and the 2.5th and 97.5th percentile of the patients."""

    table: str  # II, S-I, S-II or S-III
    task: str
    method: str  # CE, MCDO CE, EN CE, DSC, MCDO DSC or EN DSC
    quantity: str  # nll, brier, ece (per cent), dice or hd95 (mm)
    segment: str  # I, II or III; "" where the quantity is of a region
    mean: float
    low: float  # NaN where the paper gives none
    high: float
    suspect: str  # why the number must not be a target; "" where nothing speaks against it

    @property
    def region(self) -> str:
        """`box` or `whole`; "" for a quantity of a structure."""
        return "" if self.segment else "whole" if self.table == "S-I" else "box"


def paper_values(task: str) -> tuple[PaperValue, ...]:
    """All numbers the paper gives for a task, in its order; empty for a task that is not the paper's."""
    return tuple(value for value in _all_values() if value.task == task)


def beside_paper(task: str, structures: Sequence[str], ours: Ours) -> tuple[Table, ...]:
    """One table for each of the paper's: its six methods down, each cell a line of the paper's and a line of ours.

    Empty for a task that is not the paper's, or whose structures are not as many as the paper's segments.
    """
    values = paper_values(task)
    if len({value.segment for value in values if value.segment}) != len(structures):
        return ()
    names = dict.fromkeys(value.table for value in values)
    return tuple(_table([value for value in values if value.table == name], structures, ours) for name in names)


@functools.cache
def _all_values() -> tuple[PaperValue, ...]:
    lines = (resources.files("segcal.analysis") / PAPER_TABLES).read_text(encoding="utf-8").splitlines()
    return tuple(
        PaperValue(
            table=row["table"],
            task=row["task"],
            method=row["method"],
            quantity=row["quantity"],
            segment=row["segment"],
            mean=float(row["mean"]),
            low=float(row["low"] or "nan"),
            high=float(row["high"] or "nan"),
            suspect=row["suspect"],
        )
        for row in csv.DictReader(lines)
    )


def _table(values: Sequence[PaperValue], structures: Sequence[str], ours: Ours) -> Table:
    name = values[0].table
    names = dict(zip(SEGMENTS, structures, strict=False)) | {"": ""}
    columns = tuple(dict.fromkeys((value.quantity, value.segment) for value in values))
    rows: dict[str, list[PaperValue]] = {}
    for value in values:
        rows.setdefault(value.method, []).append(value)
    return Table(
        key=f"paper_{name.lower().replace('-', '_')}",
        title=f"Beside the paper: Table {name}",
        caption=_caption(values),
        columns=tuple(TITLES[quantity].format(names[segment]) for quantity, segment in columns),
        rows=tuple(
            (
                method,
                tuple(_cell(value, ours(method, value.region, value.quantity, names[value.segment])) for value in row),
            )
            for method, row in rows.items()
        ),
        better=tuple("high" if quantity == "dice" else "low" for quantity, _ in columns),
        marked=frozenset(at for at, row in enumerate(rows.values()) if any(value.suspect for value in row)),
    )


def _cell(paper: PaperValue, ours: Cell | None) -> str:
    """The paper's digits as printed (two decimals) over ours, both with the spread of the patients."""
    theirs = f"{paper.mean:.2f}" + ("" if math.isnan(paper.low) else f" ({paper.low:.2f}–{paper.high:.2f})")
    if ours is None:
        return f"paper {theirs}\nours {MISSING}"
    spread = interval(ours.spread)
    patients = f" n={ours.n}" if ours.excluded else ""
    return f"paper {theirs}\nours {number(ours.point)}" + (f" ({spread})" if spread else "") + patients


def _caption(values: Sequence[PaperValue]) -> str:
    name, printed = values[0].table, not math.isnan(values[0].low)
    spread = (
        "what the paper prints as its 95% CI, so ours show the spread, too"
        if printed
        else "ours only; the paper has none"
    )
    members = (
        "the paper writes of 50 members, having trained 10 networks" if name == "S-III" else "the paper's: 50 members"
    )
    return (
        f"{SUBJECTS[name]} Mean over test patients (2.5th to 97.5th percentile of the patients: {spread}); n: patients "
        f"that count, where some were left out; {MISSING}: this experiment has no such method. CE, DSC: trained with "
        f"cross-entropy, with Dice; MCDO: MC dropout; EN: ensemble ({members}).{_doubts(values)}"
    )


def _doubts(values: Sequence[PaperValue]) -> str:
    """What the dagger means, and why each marked row has one; empty where no row has."""
    methods: dict[str, list[str]] = {}
    for value in values:
        if value.suspect and value.method not in methods.setdefault(value.suspect, []):
            methods[value.suspect].append(value.method)
    reasons = "; ".join(f"{' and '.join(found)} ({reason})" for reason, found in methods.items())
    if not reasons:
        return ""
    return f" †: the paper's calibration in this row cannot be taken at its word, nor be a target: {reasons}."
