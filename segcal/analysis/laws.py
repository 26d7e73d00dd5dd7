"""Laws that every correctly computed row obeys (science, section 3), checked on every row that a report is made of.

A broken law is a defect or a discovery; the report says which, and never hides it.
"""

__all__ = ["check_laws"]

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd

from segcal.analysis.variants import PLAIN
from segcal.measure.case import REGIONS, column
from segcal.records import LawCheck
from segcal.tasks import TaskSpec

SLACK = 1e-5  # float32 probabilities
BRIER_BOUND = 0.8146  # sup of the Brier score over NLL


def check_laws(frame: pd.DataFrame, task: TaskSpec) -> tuple[LawCheck, ...]:
    """Check the laws on the frame of `Scores`."""
    regions = {region: _region(frame, region) for region in REGIONS}

    def each(excess: str) -> pd.Series:
        parts = [pd.Series(rows.eval(excess), dtype=float) for rows in regions.values()]
        return pd.concat(parts).dropna()

    entropy = pd.concat([frame[column("entropy", name)] for name in task.structures]).dropna()
    return (
        _check("|mean confidence - accuracy| <= ECE", each("abs(confidence - accuracy) - ece"), frame),
        _check("ECE <= 1 - mean p(true class)", each("ece - (1 - p_true)"), frame),
        _check("1 - mean p(true class) <= 1 - exp(-NLL)", each("exp(-nll) - p_true"), frame),
        _check("ECE with 15 bins <= ECE with 30 bins (nested)", each("ece15 - ece30"), frame),
        _check(f"Brier <= {BRIER_BOUND} NLL", each(f"brier - {BRIER_BOUND} * nll"), frame),
        _check("0 <= H(S) <= ln 2", np.maximum(-entropy, entropy - np.log(2)), frame),
        _check("NLL of an ensemble <= mean NLL of its members", _of_members(frame, "nll", 1.0), frame),
        _check(
            "mean NLL over all draws falls with M (where all subsets of a size were scored)", _falls(frame, "nll"), frame
        ),
        _check(
            "mean Brier over all draws falls with M (where all subsets of a size were scored)",
            _falls(frame, "brier"), frame,
        ),
        _check("members' mean Brier - ensemble's Brier = members' variance", _variance_gap(frame), frame),
        _check("mutual information = entropy of the ensemble - mean entropy of its members >= 0",
               each("member_entropy - entropy"), frame),
        _check("sums over the whole volume >= sums over the box (whole = inside + outside)",
               _outside(frame), frame),
    )  # fmt: skip


def _region(frame: pd.DataFrame, region: str) -> pd.DataFrame:
    suffix = f"@{region}"
    mine = frame[[name for name in frame.columns if name.endswith(suffix)]]
    return mine.rename(columns=lambda name: name.removesuffix(suffix))


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame.variant == PLAIN]


def _of_members(frame: pd.DataFrame, metric: str, sign: float) -> pd.Series:
    """Metric of each ensemble minus the mean of its members', by region; index: the frame's."""
    rows = _plain(frame)
    parts = []
    for region in REGIONS:
        name = column(metric, region)
        singles = rows[rows["size"] == 1]
        by_member = {
            (recipe, case_id, seeds[0]): value
            for recipe, case_id, seeds, value in zip(
                singles.recipe, singles.case_id, singles.seeds, singles[name], strict=True
            )
        }
        ensembles = rows[rows["size"] > 1]
        means = [
            np.mean([by_member.get((recipe, case_id, seed), np.nan) for seed in seeds])
            for recipe, case_id, seeds in zip(ensembles.recipe, ensembles.case_id, ensembles.seeds, strict=True)
        ]
        parts.append(sign * (ensembles[name] - np.array(means, dtype=float)))
    return pd.concat(dict(zip(REGIONS, parts, strict=True))).dropna()


def _variance_gap(frame: pd.DataFrame) -> pd.Series:
    """How far the members' mean Brier minus the ensemble's is from the members' variance."""
    gap = -_of_members(frame, "brier", 1.0)
    variance = pd.concat({region: frame[column("variance", region)] for region in REGIONS})
    distance: pd.Series[float] = (gap - variance.reindex(gap.index)).abs().dropna()
    return distance


def _falls(frame: pd.DataFrame, metric: str) -> pd.Series:
    """Mean over all subsets of one size minus that of the next smaller; only sizes whose subsets are all there."""
    rows = _plain(frame)
    found = {}
    for (recipe, case_id), group in rows.groupby(["recipe", "case_id"], observed=True):
        pool = int((group["size"] == 1).sum())
        sizes, counts = np.unique(group["size"], return_counts=True)
        sizes = [int(m) for m, n in zip(sizes, counts, strict=True) if n == math.comb(pool, int(m))]
        for region in REGIONS:
            means = group.groupby("size")[column(metric, region)].mean()
            for small, large in itertools.pairwise(sizes):
                found[f"{recipe} {case_id} {region} M={large}"] = means[large] - means[small]
    return pd.Series(found, dtype=float).dropna()


def _outside(frame: pd.DataFrame) -> pd.Series:
    """Sums over the whole volume are at least those over the box: what lies outside is not negative."""
    parts = []
    for metric in ("nll", "brier", "p_true", "accuracy", "confidence"):
        box, whole = (frame[column(metric, r)] * frame[column("voxels", r)] for r in REGIONS)
        parts.append((box - whole) / frame[column("voxels", "whole")])
    return pd.concat(parts).dropna()


def _check(law: str, excess: pd.Series, frame: pd.DataFrame) -> LawCheck:
    """A law holds where the excess over its bound is not positive."""
    broken = excess[excess > SLACK]
    worst = ""
    if len(broken):
        at = broken.idxmax()
        row = at[-1] if isinstance(at, tuple) else at
        worst = f"{_where(frame, row)} by {broken.max():.2g}"
    return LawCheck(law, len(excess), len(broken), worst)


def _where(frame: pd.DataFrame, row: Any) -> str:
    if isinstance(row, str):
        return row
    found = frame.loc[row]
    return f"{found.label}, {found['size']} members, draw {found.draw}, {found.case_id}"
