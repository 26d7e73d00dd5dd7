"""Laws that every correctly computed row obeys (science, section 3), checked on every row that a report is made of.

A broken law is a defect or a discovery; the report says which, and never hides it.
"""

__all__ = ["check_laws"]

import itertools
import math
from collections.abc import Callable
from typing import Any, cast

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
    regions = [_region(frame, region) for region in REGIONS]

    def each(excess: Callable[[pd.DataFrame], pd.Series]) -> pd.Series:
        both: pd.Series[float] = pd.concat([excess(rows).dropna() for rows in regions])
        return both

    entropy = pd.concat([frame[column("entropy", name)] for name in task.structures]).dropna()
    excesses = {
        "|mean confidence - accuracy| <= ECE": each(lambda r: (r.confidence - r.accuracy).abs() - r.ece),
        "ECE <= 1 - mean p(true class)": each(lambda r: r.ece - (1 - r.p_true)),
        "1 - mean p(true class) <= 1 - exp(-NLL)": each(lambda r: np.exp(-r.nll) - r.p_true),
        "ECE with 15 bins <= ECE with 30 bins, which are nested": each(lambda r: r.ece15 - r.ece30),
        f"Brier <= {BRIER_BOUND} NLL": each(lambda r: r.brier - BRIER_BOUND * r.nll),
        "0 <= H(S) <= ln 2": np.maximum(-entropy, entropy - np.log(2)),
        "NLL of an ensemble <= mean NLL of its members": _of_members(frame, "nll"),
        "members' mean Brier - Brier of the ensemble = members' variance": _variance_gap(frame),
        "mean NLL over all subsets of a size falls with the size": _falls(frame, "nll"),
        "mean Brier over all subsets of a size falls with the size": _falls(frame, "brier"),
        "mutual information = entropy of the ensemble - mean entropy of its members >= 0": each(
            lambda r: r.member_entropy - r.entropy
        ),
        "sums over the whole volume >= sums over the box": _outside(frame),
    }
    return tuple(_check(law, excess, frame) for law, excess in excesses.items())


def _region(frame: pd.DataFrame, region: str) -> pd.DataFrame:
    suffix = f"@{region}"
    mine = frame[[name for name in frame.columns if name.endswith(suffix)]]
    return mine.rename(columns=lambda name: name.removesuffix(suffix))


def _plain(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame.variant == PLAIN]


def _of_members(frame: pd.DataFrame, metric: str) -> pd.Series:
    """Metric of each ensemble minus the mean of its members', by region; index: region, the frame's."""
    rows = _plain(frame)
    parts: dict[str, list[pd.Series]] = {region: [] for region in REGIONS}
    for _, mine in rows.groupby("recipe", observed=True):
        singles = mine[mine["size"] == 1].assign(seed=lambda r: r.seeds.str[0])
        ensembles = [group for _, group in mine[mine["size"] > 1].groupby(["size", "draw"])]
        for region in REGIONS:
            name = column(metric, region)
            members = singles.pivot(index="case_id", columns="seed", values=name)
            for group in ensembles:
                means = members[list(group.seeds.iloc[0])].mean(axis=1, skipna=False)
                parts[region].append(group[name] - means.reindex(group.case_id).to_numpy())
    found = {region: pd.concat(differences) for region, differences in parts.items() if differences}
    return pd.concat(found).dropna() if found else pd.Series(dtype=float)


def _variance_gap(frame: pd.DataFrame) -> pd.Series:
    """How far the members' mean Brier minus the ensemble's is from the members' variance."""
    gap = -_of_members(frame, "brier")
    if gap.empty:
        return gap
    variance = pd.concat({region: frame[column("variance", region)] for region in REGIONS})
    distance: pd.Series[float] = (gap - variance.reindex(gap.index)).abs().dropna()
    return distance


def _falls(frame: pd.DataFrame, metric: str) -> pd.Series:
    """Mean over all subsets of one size minus that of the next smaller; only sizes whose subsets are all there."""
    rows = _plain(frame)
    names = [column(metric, region) for region in REGIONS]
    grouped = rows.groupby(["recipe", "case_id", "size"], observed=True)
    counts = grouped["size"].count()
    means = {region: grouped[name].mean().to_dict() for region, name in zip(REGIONS, names, strict=True)}
    found = {}
    for key, drawn in counts.groupby(level=["recipe", "case_id"], observed=True):
        recipe, case_id = cast(tuple[str, str], key)
        sizes = [int(m) for m in drawn.index.get_level_values("size")]
        pool = int(drawn.iloc[0]) if sizes[0] == 1 else 0
        complete = [m for m, n in zip(sizes, drawn, strict=True) if n == math.comb(pool, m)]
        for small, large in itertools.pairwise(complete):
            for region, mean in means.items():
                difference = mean[recipe, case_id, large] - mean[recipe, case_id, small]
                found[f"{recipe} {case_id} {region} M={large}"] = difference
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
