"""What the views of a report show, out of report.json and the scores: sorted tables, curves, bins, points, cases."""

__all__ = [
    "CURVES", "METHOD", "REGIONS", "CaseRow", "PointRow", "case_rows", "chosen_method", "curve_panels", "dice_of",
    "diagrams", "first_direction", "methods_of", "numeric", "point_rows", "points_data", "read_tables", "row_order",
]  # fmt: skip

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from segcal.analysis.variants import PLAIN
from segcal.measure.case import column
from segcal.records import Cell, Difference, Interval, Table
from segcal.report.figures.reliability import MIN_VOXELS

# The M-curves by the name that the URL gives them: metric, region, title, unit of the axis
CURVES: dict[str, tuple[str, str, str, str]] = {
    "nll-box": ("nll", "box", "NLL in the box", "NLL"),
    "nll-whole": ("nll", "whole", "NLL, whole volume", "NLL"),
    "dice": ("dice", "", "Dice, mean of the structures", "Dice"),
}
REGIONS = {"box": "in the box", "whole": "whole volume"}
METHOD = 0  # the number of the column that names the rows; the others are counted from 1

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?(?![\w-])")
NAN = float("nan")


@dataclass(frozen=True)
class PointRow:
    """One predicted segment: H(S) in nats, and its Dice, clipped as the report does."""

    case_id: str
    structure: str
    domain: str
    entropy: float
    dice: float


@dataclass(frozen=True)
class CaseRow:
    """A case, and of each method its mean Dice and mean H(S) over the structures; NaN: no structure defines it."""

    case_id: str
    domain: str
    site: str
    dice: Mapping[str, float]
    entropy: Mapping[str, float]


def read_tables(content: Mapping[str, Any]) -> tuple[Table, ...]:
    """The tables of report.json, as they were written; null is NaN again."""
    return tuple(
        Table(
            key=table["key"], title=table["title"], caption=table["caption"], columns=tuple(table["columns"]),
            rows=tuple((title, tuple(map(_cell, cells))) for title, cells in table["rows"]),
            better=tuple(table["better"]) or ("",) * len(table["columns"]), marked=frozenset(table["marked"]),
        )
        for table in content["tables"]
    )  # fmt: skip


def row_order(table: Table, number: int, descending: bool) -> list[int]:
    """Places of the rows sorted by a column (METHOD: by their names); what has no value comes last either way."""
    if number == METHOD:
        values: list[Any] = [title.casefold() for title, _ in table.rows]
    else:
        cells = [row[number - 1] for _, row in table.rows]
        values = [_value(cell) for cell in cells] if numeric(table, number) else [_words(cell) for cell in cells]
    known = [place for place, value in enumerate(values) if value == value and value != ""]
    known.sort(key=lambda place: values[place], reverse=descending)
    return known + [place for place in range(len(values)) if place not in set(known)]


def numeric(table: Table, number: int) -> bool:
    """Whether every entry of a column that says anything begins with a number."""
    if number == METHOD:
        return False
    cells = [row[number - 1] for _, row in table.rows]
    told = [cell for cell in cells if not (isinstance(cell, str) and cell in ("", "n/a"))]
    return bool(told) and all(not isinstance(cell, str) or _NUMBER.match(_plain(cell)) for cell in told)


def first_direction(table: Table, number: int) -> str:
    """asc or desc: what a first click sorts by, the best on top."""
    return "desc" if number != METHOD and table.better[number - 1] == "high" else "asc"


def methods_of(content: Mapping[str, Any]) -> list[str]:
    """Titles of the methods, in the report's order."""
    return list(dict.fromkeys(str(part["title"]) for part in (*content["scatters"], *content["reliability"])))


def chosen_method(titles: Sequence[str]) -> str | None:
    """The method that is shown to who chose none: the last ensemble, else the first method; None: there is none."""
    ensembles = [title for title in titles if ", ensemble of " in title]
    return ensembles[-1] if ensembles else next(iter(titles), None)


def curve_panels(content: Mapping[str, Any], wanted: str) -> list[dict[str, Any]]:
    """The M-curves of one name of CURVES, or of all ("all"); a label keeps its colour in all of them."""
    labels = list(dict.fromkeys(str(curve["label"]) for curve in content["curves"]))
    panels = []
    for name, (metric, region, title, unit) in CURVES.items():
        found = [c for c in content["curves"] if (c["metric"], c["region"]) == (metric, region)]
        if found and wanted in ("all", name):
            curves = [{**curve, "colour": labels.index(curve["label"])} for curve in found]
            panels.append({"name": name, "title": title, "unit": unit, "curves": curves})
    return panels


def diagrams(content: Mapping[str, Any], region: str, wanted: str) -> list[dict[str, Any]]:
    """Reliability diagrams of a region, of one method or of all ("all"), with a row a bin.

    rows: low, high, count, confidence, accuracy (None where the bin is empty), and whether the bin holds enough voxels
    to be taken at its word.
    """
    found = []
    for bins in content["reliability"]:
        if bins["region"] == region and wanted in ("all", bins["title"]):
            rows = [
                {"low": low, "high": high, "count": int(count), "confidence": confidence, "accuracy": accuracy,
                 "enough": count > MIN_VOXELS}
                for low, high, count, confidence, accuracy in zip(
                    bins["edges"], bins["edges"][1:], bins["count"], bins["confidence"], bins["accuracy"], strict=False
                )
            ]  # fmt: skip
            found.append({"title": bins["title"], "region": region, "ece": bins["ece"], "rows": rows})
    return found


def point_rows(scatter: Mapping[str, Any]) -> list[PointRow]:
    """Every predicted segment of a method."""
    return [
        PointRow(p["case_id"], p["structure"], p["domain"], float(p["entropy"]), dice_of(p["logit_dice"]))
        for p in scatter["points"]
    ]


def points_data(scatter: Mapping[str, Any], structures: Sequence[str], url: Any) -> dict[str, Any]:
    """The scatter for the script: points with the URL of their case, and the lines that were fitted.

    A line runs between the lowest and the highest H(S) of its own points. Fits of one domain are left out where there
    is only one.
    """
    points = [{**p, "dice": dice_of(p["logit_dice"]), "url": url(p["case_id"], p["structure"])}
              for p in scatter["points"]]  # fmt: skip
    domains = sorted({p["domain"] for p in points})  # source before target
    fits = []
    for fit in scatter["fits"]:
        own = [p["entropy"] for p in points if fit["domain"] in ("all", p["domain"])]
        if own and fit["slope"] is not None and (fit["domain"] == "all" or len(domains) > 1):
            fits.append({**fit, "low": min(own), "high": max(own)})
    return {"points": points, "fits": fits, "structures": list(structures), "domains": domains}


def dice_of(logit: float) -> float:
    """The Dice that a logit stands for."""
    return 1.0 / (1.0 + math.exp(-logit))


def case_rows(frame: pd.DataFrame, structures: Sequence[str], titles: Sequence[str]) -> list[CaseRow]:
    """Every case with its scores by method title, means over draws and structures."""
    plain = frame[frame["variant"].astype(str) == PLAIN]
    named = plain.assign(case_id=plain["case_id"].astype(str), method=_titles(plain, titles))
    named = named[named["method"] != ""]
    means: dict[str, dict[str, dict[str, float]]] = {"dice": {}, "entropy": {}}
    for metric, found in means.items():
        columns = [column(metric, structure) for structure in structures]
        table = named.groupby(["case_id", "method"])[columns].mean().mean(axis=1).reset_index()
        for case_id, title, value in table.to_numpy().tolist():
            found.setdefault(case_id, {})[title] = value
    cases = frame[["case_id", "split", "domain", "site"]].astype(str).drop_duplicates("case_id")
    cases = cases.sort_values(["split", "case_id"], ascending=[False, True])  # test before ood
    return [
        CaseRow(case_id, domain, site, means["dice"].get(case_id, {}), means["entropy"].get(case_id, {}))
        for case_id, _, domain, site in cases.to_numpy().tolist()
    ]


def _titles(frame: pd.DataFrame, titles: Sequence[str]) -> list[str]:
    """The title of the method of each row (see records.Method.title), "" for sizes that only the curves have."""
    known: dict[tuple[str, int], str] = {}
    for label, size in set(zip(frame["label"].astype(str), frame["size"].astype(int), strict=True)):
        ending = "" if size == 1 else f", ensemble of {size}"
        found = [f"{label}{sampled}{ending}" for sampled in ("", ", MC dropout")]
        known[label, size] = next((title for title in found if title in titles), "")
    return [known[key] for key in zip(frame["label"].astype(str), frame["size"].astype(int), strict=True)]


def _cell(cell: Any) -> Cell | Difference | str:
    if isinstance(cell, str):
        return cell
    if "effect" in cell:
        return Difference(_float(cell["point"]), _interval(cell["ci"]), _float(cell["p"]), _float(cell["effect"]))
    return Cell(
        _float(cell["point"]), _interval(cell["spread"]), _interval(cell["ci"]), cell["n"], cell["excluded"],
        cell["best"],
    )  # fmt: skip


def _interval(ends: Mapping[str, Any]) -> Interval:
    return Interval(_float(ends["low"]), _float(ends["high"]), ends["kind"])


def _float(value: float | None) -> float:
    return NAN if value is None else float(value)


def _value(cell: Cell | Difference | str) -> float:
    if not isinstance(cell, str):
        return cell.point
    found = _NUMBER.match(_plain(cell))
    return float(found[0]) if found else NAN


def _words(cell: Cell | Difference | str) -> str:
    return cell.casefold() if isinstance(cell, str) else f"{cell.point}"


def _plain(text: str) -> str:
    return text.strip().replace("\N{MINUS SIGN}", "-").replace(",", "")
