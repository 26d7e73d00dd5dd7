"""From scores to cells: means over patients, their intervals, and paired tests with the family corrected."""

__all__ = ["Column", "Comparison", "compare", "comparison_table", "curves", "score_table", "scatters"]

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from segcal.measure.uncertainty import logit
from segcal.records import Cell, Curve, Interval, Method, Point, Scatter, Table
from segcal.stats import bootstrap_ci, correlation, holm, paired_bootstrap, spread
from segcal.tasks import TaskSpec

SIGNIFICANT = 0.01  # after Holm's correction over the family of a table


@dataclass(frozen=True)
class Column:
    """A metric as a table shows it."""

    title: str
    metric: str
    region: str = ""
    structure: str = ""
    better: str = "low"
    scale: float = 1.0


@dataclass(frozen=True)
class Comparison:
    """Every method against every other on the same patients, for the columns of one table."""

    columns: tuple[Column, ...]
    methods: tuple[Method, ...]
    values: dict[tuple[Method, Column], np.ndarray]  # (patients,), NaN where not defined
    p_adjusted: dict[tuple[Method, Method, Column], float]

    def p(self, a: Method, b: Method, column: Column) -> float:
        """Adjusted p of a pair, in either order."""
        return self.p_adjusted[(a, b, column) if (a, b, column) in self.p_adjusted else (b, a, column)]


def box_columns(task: TaskSpec) -> tuple[Column, ...]:
    """Calibration in the box and Dice (the paper's Table II)."""
    dice = [Column(f"Dice {name}", "dice", structure=name, better="high") for name in task.structures]
    return (*calibration_columns("box"), *dice)


def calibration_columns(region: str) -> tuple[Column, ...]:
    """NLL, Brier score and ECE in per cent."""
    return (
        Column("NLL", "nll", region),
        Column("Brier", "brier", region),
        Column("ECE %", "ece", region, scale=100.0),
    )


def distance_columns(task: TaskSpec, scores: pd.DataFrame) -> tuple[Column, ...]:
    """HD95 in mm (Table S-II); a second column with the image diagonal for misses where a structure was missed."""
    columns = []
    for name in task.structures:
        columns.append(Column(f"HD95 {name}, mm", "hd95", structure=name))
        mine = scores[scores.structure == name]
        if mine[mine.metric == "hd95_worst"].value.notna().sum() > mine[mine.metric == "hd95"].value.notna().sum():
            columns.append(Column(f"{name}, missed = diagonal", "hd95_worst", structure=name))
    return tuple(columns)


def compare(
    scores: pd.DataFrame, methods: Sequence[Method], columns: Sequence[Column], seed: int, n_resamples: int
) -> Comparison:
    """Values by patient (mean over draws) and Holm-adjusted p of every pair; the family is the whole table.

    Every test starts from the same seed, so all methods see the same resamples of the patients.
    """
    cases = sorted(scores.case_id.unique())
    values = {(method, column): by_patient(scores, method, column, cases) for method in methods for column in columns}
    tests = [(a, b, column) for column in columns for a, b in itertools.combinations(methods, 2)]
    p_values = [
        paired_bootstrap(values[a, column], values[b, column], np.random.default_rng(seed), n_resamples)
        for a, b, column in tests
    ]
    adjusted = dict(zip(tests, (float(p) for p in holm(p_values)), strict=True))
    return Comparison(tuple(columns), tuple(methods), values, adjusted)


def by_patient(scores: pd.DataFrame, method: Method, column: Column, cases: Sequence[str]) -> np.ndarray:
    """A metric of each patient: its mean over the method's draws; NaN where no draw defines it."""
    chosen = scores[
        (scores.recipe == method.recipe)
        & (scores["size"] == method.size)
        & (scores.metric == column.metric)
        & (scores.region == column.region)
        & (scores.structure == column.structure)
    ]
    means: np.ndarray = chosen.groupby("case_id").value.mean().reindex(list(cases)).to_numpy(dtype=float)
    return means * column.scale


def score_table(comparison: Comparison, key: str, title: str, seed: int, n_resamples: int) -> Table:
    """One row a method, one cell a column; `best` marks the winner that beats every other row significantly."""
    rows = []
    for method in comparison.methods:
        cells = []
        for column in comparison.columns:
            cell = _cell(comparison.values[method, column], seed, n_resamples)
            cells.append(replace(cell, best=_wins(comparison, method, column)))
        rows.append((method.title, tuple(cells)))
    titles = tuple(column.title for column in comparison.columns)
    caption = (
        "Mean over test patients, (spread): 2.5th to 97.5th percentile of the patients, [ci]: 95% interval of the "
        f"mean. Bold: best, and p < {SIGNIFICANT} against every other row after Holm's correction."
    )
    return Table(key, title, caption, titles, tuple(rows), tuple(column.better for column in comparison.columns))


def comparison_table(comparison: Comparison, seed: int, n_resamples: int) -> Table:
    """Differences between methods with their 95% CI and adjusted p."""
    rows = []
    for a, b in _interesting_pairs(comparison.methods):
        cells = []
        for column in comparison.columns:
            difference = comparison.values[a, column] - comparison.values[b, column]
            low, high = bootstrap_ci(difference, np.random.default_rng(seed), n_resamples)
            p = comparison.p(a, b, column)
            ci = "" if np.isnan(low) else f"\n[{low:+.3f}, {high:+.3f}]\n{p_text(p)}"
            cells.append(f"{_mean(difference):+.3f}{ci}")
        rows.append((f"{a.title} minus {b.title}", tuple(cells)))
    return Table(
        "differences",
        "Differences between methods",
        "Mean difference over patients [95% bootstrap CI of it], two-sided paired bootstrap p, Holm-adjusted over "
        f"all pairs and columns of this table's family; {n_resamples} resamples of patients.",
        tuple(column.title for column in comparison.columns),
        tuple(rows),
    )


def p_text(p: float) -> str:
    """p as tables print it."""
    return "p n/a" if np.isnan(p) else "p<0.001" if p < 0.001 else f"p={p:.3f}"


def curves(scores: pd.DataFrame) -> tuple[Curve, ...]:
    """Each metric against M: mean over patients of each draw, then mean and percentiles over the draws."""
    found = []
    kept = scores[scores.metric.isin(["nll", "dice"])]
    for (recipe, label, region, metric), group in kept.groupby(["recipe", "label", "region", "metric"], sort=True):
        by_draw = group.groupby(["size", "draw"]).value.mean().dropna()
        sizes = sorted(by_draw.index.get_level_values("size").unique())
        per_size = [by_draw.loc[size].to_numpy() for size in sizes]
        del recipe
        found.append(
            Curve(
                label=str(label),
                region=str(region),
                metric=str(metric),
                sizes=tuple(int(size) for size in sizes),
                mean=tuple(float(values.mean()) for values in per_size),
                low=tuple(spread(values)[0] for values in per_size),
                high=tuple(spread(values)[1] for values in per_size),
                draws=tuple(len(values) for values in per_size),
            )
        )
    return tuple(found)


def scatters(scores: pd.DataFrame, methods: Sequence[Method]) -> tuple[Scatter, ...]:
    """H(S) (Eq. 7) against logit Dice of every predicted segment, with Pearson's r and the regression line."""
    found = []
    for method in methods:
        chosen = scores[(scores.recipe == method.recipe) & (scores["size"] == method.size)]
        table = chosen[chosen.structure != ""].pivot_table(
            index=["case_id", "structure"], columns="metric", values="value", dropna=False
        )
        table = table.reindex(columns=["entropy", "dice"])
        defined = table.dropna()
        odds = logit(defined.dice.to_numpy())
        r, p, slope, intercept = correlation(defined.entropy.to_numpy(), odds)
        points = tuple(
            Point(str(case_id), str(structure), float(entropy), float(odd))
            for (case_id, structure), entropy, odd in zip(defined.index, defined.entropy, odds, strict=True)
        )
        clipped = int(((defined.dice < 0.001) | (defined.dice > 0.999)).sum())
        found.append(Scatter(method.title, points, r, p, slope, intercept, clipped, len(table) - len(defined)))
    return tuple(found)


def _cell(values: np.ndarray, seed: int, n_resamples: int) -> Cell:
    low, high = spread(values) if np.isfinite(values).sum() > 1 else (float("nan"),) * 2
    ci_low, ci_high = bootstrap_ci(values, np.random.default_rng(seed), n_resamples)
    missing = int(np.isnan(values).sum())
    return Cell(
        point=_mean(values),
        spread=Interval(low, high, "spread"),
        ci=Interval(ci_low, ci_high, "ci"),
        n=len(values) - missing,
        excluded=missing,
    )


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _wins(comparison: Comparison, method: Method, column: Column) -> bool:
    mine = _mean(comparison.values[method, column])
    sign = 1 if column.better == "low" else -1
    others = [other for other in comparison.methods if other != method]
    return bool(others) and all(
        sign * mine < sign * _mean(comparison.values[other, column])
        and comparison.p(method, other, column) < SIGNIFICANT
        for other in others
    )


def _interesting_pairs(methods: Sequence[Method]) -> list[tuple[Method, Method]]:
    """Ensemble against single of one recipe; recipes of one size against each other. Later minus earlier."""
    pairs = []
    for a, b in itertools.combinations(methods, 2):
        if a.recipe == b.recipe or (a.size == 1) == (b.size == 1):
            pairs.append((b, a))
    return pairs
