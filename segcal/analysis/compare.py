"""From scores to cells: means over patients, their intervals, and paired tests with the family corrected."""

__all__ = [
    "Column", "Comparison", "box_columns", "calibration_columns", "cell_of", "compare", "difference_table",
    "distance_columns", "finest_p", "mean", "plugin_columns", "recipe_table", "score_table", "volume_columns",
]  # fmt: skip

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from segcal.analysis.scores import Scores
from segcal.measure.case import REGIONS, column
from segcal.measure.metric import METRICS
from segcal.records import Cell, Difference, Interval, Method, Table
from segcal.stats import bootstrap_ci, effect_size, hierarchical_bootstrap, holm, paired_tests, spread
from segcal.tasks import TaskSpec

SIGNIFICANT = 0.01  # after Holm's correction over the family of a table
FINEST = 4  # the smallest p that a test can give, times its family, is this much below SIGNIFICANT


@dataclass(frozen=True)
class Column:
    """A metric as a table shows it."""

    title: str
    name: str  # metric@where
    better: str = "low"
    scale: float = 1.0


@dataclass(frozen=True)
class Comparison:
    """Every method against every other on the same patients, for the columns of one table."""

    columns: tuple[Column, ...]
    methods: tuple[Method, ...]
    values: dict[tuple[Method, Column], np.ndarray]  # (patients,), NaN where not defined
    p_adjusted: dict[tuple[Method, Method, Column], float]
    n_resamples: int  # of the tests

    def p(self, a: Method, b: Method, column: Column) -> float:
        """Adjusted p of a pair, in either order."""
        return self.p_adjusted[(a, b, column) if (a, b, column) in self.p_adjusted else (b, a, column)]


def box_columns(task: TaskSpec) -> tuple[Column, ...]:
    """Calibration in the box and Dice (the paper's Table II)."""
    return (
        *calibration_columns("box"),
        *(Column(f"Dice {name}", column("dice", name), "high") for name in task.structures),
    )


def calibration_columns(region: str) -> tuple[Column, ...]:
    """NLL, Brier score, and ECE in per cent: of the top label (the paper's), and class-wise."""
    return (
        Column("NLL", column("nll", region)),
        Column("Brier", column("brier", region)),
        Column("ECE %", column("ece", region), scale=100.0),
        Column("class-wise ECE %", column("ece_classwise", region), scale=100.0),
    )


def distance_columns(task: TaskSpec, scores: Scores, methods: Sequence[Method]) -> tuple[Column, ...]:
    """HD95 in mm (Table S-II); a second column with the image diagonal for misses where a structure was missed."""
    columns = []
    shown = np.any([scores.rows(method) for method in methods], axis=0)
    for name in task.structures:
        columns.append(Column(f"HD95 {name}, mm", column("hd95", name)))
        known = scores.frame.loc[shown, [column("hd95_worst", name), column("hd95", name)]].notna().sum()
        if known.iloc[0] > known.iloc[1]:
            columns.append(Column(f"{name}, missed = diagonal", column("hd95_worst", name)))
    return tuple(columns)


def volume_columns(task: TaskSpec) -> tuple[Column, ...]:
    """Calibration in the box, Dice and HD95 together (Table S-III, networks over volumes)."""
    distances = (Column(f"HD95 {name}, mm", column("hd95", name)) for name in task.structures)
    return (*(c for c in box_columns(task) if "class-wise" not in c.title), *distances)


def plugin_columns(task: TaskSpec) -> tuple[Column, ...]:
    """The metrics of plug-ins, in both regions or of every structure; none where there is no such plug-in."""
    found = []
    for name in METRICS.added():
        metric = METRICS[name]
        for where in REGIONS if metric.of == "region" else task.structures:
            title = f"{metric.title} ({where})" if metric.of == "region" else f"{metric.title} {where}"
            found.append(Column(title, column(name, where), metric.better, metric.scale))
    return tuple(found)


def compare(
    scores: Scores, methods: Sequence[Method], columns: Sequence[Column], seed: int, n_resamples: int
) -> Comparison:
    """Values by patient (mean over draws) and Holm-adjusted p of every pair; the family is the whole table.

    All tests share the resamples of the patients. A test of B resamples gives no p below 2/(B+1), and Holm multiplies
    the smallest by the family's size: B grows with the family, or nothing could ever be significant. No p is below what
    so few patients can give (`finest_p`).
    """
    values = {(m, c): scores.by_patient(m, c.name) * c.scale for m in methods for c in columns}
    tests = [(a, b, c) for c in columns for a, b in itertools.combinations(methods, 2)]
    resamples = _enough(n_resamples, len(tests))
    adjusted: dict[tuple[Method, Method, Column], float] = {}
    if tests:
        differences = np.stack([values[a, c] - values[b, c] for a, b, c in tests], axis=1)
        raw = paired_tests(differences, np.random.default_rng(seed), resamples)
        p_values = holm(np.maximum(raw, finest_p(np.isfinite(differences).sum(axis=0))))
        adjusted = dict(zip(tests, map(float, p_values), strict=True))
    return Comparison(tuple(columns), tuple(methods), values, adjusted, resamples)


def score_table(comparison: Comparison, key: str, title: str, seed: int, n_resamples: int) -> Table:
    """One row a method, one cell a column; `best` marks the winner that beats every other row significantly."""
    rows = []
    for method in comparison.methods:
        cells = []
        for c in comparison.columns:
            cell = cell_of(comparison.values[method, c], seed, n_resamples)
            cells.append(replace(cell, best=_wins(comparison, method, c)))
        rows.append((method.title, tuple(cells)))
    caption = (
        "Means over test patients; spread: 2.5th to 97.5th percentile of the patients; ci: 95% bootstrap interval of "
        f"the mean. Bold: the best, where p < {SIGNIFICANT} against every other row after Holm's correction over the "
        "table."
    )
    titles = tuple(c.title for c in comparison.columns)
    return Table(key, title, caption, titles, tuple(rows), tuple(c.better for c in comparison.columns))


def difference_table(
    comparisons: Sequence[Comparison],
    seed: int,
    n_resamples: int,
    key: str = "differences",
    title: str = "Differences between methods",
) -> Table:
    """Differences between methods with their interval, adjusted p and effect size; each comparison is a family."""
    methods = comparisons[0].methods
    rows = []
    for a, b in _pairs(methods):
        cells = []
        for comparison in comparisons:
            for c in comparison.columns:
                first, second = comparison.values[a, c], comparison.values[b, c]
                low, high = bootstrap_ci(first - second, np.random.default_rng(seed), n_resamples)
                ci = Interval(low, high, "ci")
                cells.append(Difference(mean(first - second), ci, comparison.p(a, b, c), effect_size(first, second)))
        rows.append((f"{a.title} minus {b.title}", tuple(cells)))
    tests = " and ".join(f"{len(c.p_adjusted)} tests of {c.n_resamples} resamples" for c in comparisons)
    titles = [_in_region(c) for comparison in comparisons for c in comparison.columns]
    return Table(
        key,
        title,
        "Mean difference over patients, [95% bootstrap interval of it], p of the two-sided paired bootstrap over "
        f"patients, adjusted by Holm over a table's family of all pairs and columns ({tests}), and effect size d: mean "
        "of the paired differences over their standard deviation. The trained networks are taken as given.",
        tuple(titles),
        tuple(rows),
    )


def recipe_table(scores: Scores, methods: Sequence[Method], columns: Sequence[Column], seed: int, n: int) -> Table:
    """Differences between the recipes' single models when other seeds might have been trained: seeds x patients."""
    singles = [method for method in methods if method.size == 1]
    pairs = list(itertools.combinations(singles, 2))
    n = _enough(n, len(pairs) * len(columns))
    rows, p_values = [], []
    for b, a in pairs:
        cells = []
        for c in columns:
            first, second = scores.by_draw(a, c.name) * c.scale, scores.by_draw(b, c.name) * c.scale
            point, low, high, p = hierarchical_bootstrap(first, second, np.random.default_rng(seed), n)
            both = np.isfinite(first).any(axis=0) & np.isfinite(second).any(axis=0)
            p_values.append(np.maximum(p, finest_p(both.sum())))
            cells.append(Difference(point, Interval(low, high, "ci"), p))
        rows.append((f"{a.title} minus {b.title}", cells))
    adjusted = iter(holm(p_values))
    corrected = [(title, tuple(replace(cell, p=float(next(adjusted))) for cell in cells)) for title, cells in rows]
    return Table(
        "recipes",
        "Differences between recipes, over seeds and patients",
        "Single models. Both the seeds of each recipe and the patients are resampled (crossed bootstrap, Owen 2007): "
        "the interval and p speak of the recipe, not of the networks that happened to be trained. p adjusted by Holm "
        f"over this table; {n} resamples. A recipe with a single seed has no interval.",
        tuple(_in_region(c) for c in columns),
        tuple(corrected),
    )


def cell_of(values: np.ndarray, seed: int, n_resamples: int) -> Cell:
    """Mean, spread and ci of one value a patient; a single patient has neither interval."""
    low, high = spread(values) if np.isfinite(values).sum() > 1 else (float("nan"),) * 2
    ci_low, ci_high = bootstrap_ci(values, np.random.default_rng(seed), n_resamples)
    missing = int(np.isnan(values).sum())
    return Cell(
        point=mean(values),
        spread=Interval(low, high, "spread"),
        ci=Interval(ci_low, ci_high, "ci"),
        n=len(values) - missing,
        excluded=missing,
    )


def _enough(n_resamples: int, tests: int) -> int:
    """Resamples with which a family of so many tests can reach SIGNIFICANT after Holm's correction; see `compare`."""
    return max(n_resamples, int(2 * FINEST * tests / SIGNIFICANT))


def finest_p(patients: np.ndarray | int) -> np.ndarray:
    """The smallest two-sided p that so many patients can give: all differences of one sign, 2 / 2^n.

    A bootstrap of few patients goes below it: with 3 patients of one sign no resample has the other one.
    """
    p: np.ndarray = np.minimum(1.0, 2.0 ** (1.0 - np.asarray(patients, dtype=np.float64)))
    return p


def mean(values: np.ndarray) -> float:
    """Mean of what is defined; NaN where nothing is."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _in_region(c: Column) -> str:
    _, _, where = c.name.partition("@")
    said = c.title.endswith(f"({where})")
    return f"{c.title} ({where})" if where in REGIONS and not said else c.title


def _wins(comparison: Comparison, method: Method, c: Column) -> bool:
    mine = mean(comparison.values[method, c])
    sign = 1 if c.better == "low" else -1
    others = [other for other in comparison.methods if other != method]
    return bool(others) and all(
        sign * mine < sign * mean(comparison.values[other, c]) and comparison.p(method, other, c) < SIGNIFICANT
        for other in others
    )


def _pairs(methods: Sequence[Method]) -> list[tuple[Method, Method]]:
    """What the paper compares: methods of one loss, and the same kind of method of two losses. Later minus earlier."""
    kind = [(method.size > 1, method.mc_samples > 0) for method in methods]
    return [
        (methods[j], methods[i])
        for i, j in itertools.combinations(range(len(methods)), 2)
        if methods[i].loss == methods[j].loss or kind[i] == kind[j]
    ]
