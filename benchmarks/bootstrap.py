"""Bootstrap intervals and tests over patients as a report asks for them, against SciPy and NumPy's loops, on one core.

Needs torch, numpy and scipy only. Times are CPU time. Every call has a seed of its own, as `segcal.stats.resamples`
remembers what was drawn from a seed lately; what that saves is measured apart.
"""

__all__ = ["measure"]

import itertools
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Literal

import numpy as np
from scipy import stats

from benchmarks.machine import describe
from benchmarks.table import Row
from benchmarks.timing import interleaved, one_core
from segcal.stats import bootstrap_ci, bootstrap_means, hierarchical_bootstrap, paired_tests
from segcal.stats.crossed import BLOCK
from segcal.stats.resamples import counts_of, tails_of

PATIENTS = 100
METHODS = 12
METRICS = 5
RECIPES = 3
SEEDS = 10
RESAMPLES = 10_000
TEST_RESAMPLES = 264_000  # what segcal.analysis.compare takes for the 330 tests of 12 methods by 5 metrics
SHARE = 20  # loops of the tests run over a 20th of their resamples, of the recipes over a fifth; times are multiplied
RECIPE_SHARE = 5
TAILS = tails_of(0.95)
SAME = 1e-12  # how far results from the same resamples may be apart
GOAL = "9x a loop"
NEW_SEEDS = itertools.count(1)  # 0 is for agreement and for what is remembered

Way = Callable[[int], object]  # of a seed
Method = Literal["percentile", "bca"]
Indices = Iterable[np.ndarray]  # patients of each resample


def measure() -> list[Row]:
    """All rows, from a process of its own: NumPy's BLAS takes as many threads as it finds cores when it is loaded."""
    machine = describe()
    flop_per_s = None if machine.gpu else 1e9 * machine.gemm_gflop_per_s["fp32"] / 2  # a core's, in float64
    with one_core(), ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_rows, flop_per_s).result()


def _rows(flop_per_s: float | None) -> list[Row]:
    rng = np.random.default_rng(0)
    patients = rng.normal(size=(PATIENTS, 1, 1))
    methods = rng.normal(scale=0.2, size=(METHODS, METRICS))
    values = np.exp(0.5 * (patients + methods + 0.5 * rng.normal(size=(PATIENTS, METHODS, METRICS))))
    recipes = 0.3 * rng.normal(size=(RECIPES, METRICS, SEEDS, 1)) + rng.normal(size=(RECIPES, METRICS, SEEDS, PATIENTS))
    table = values.reshape(PATIENTS, -1)
    return [
        *_percentiles(table, flop_per_s),
        *_bca(table, flop_per_s),
        *_tests(values, flop_per_s),
        *_recipes(recipes, flop_per_s),
    ]


def _percentiles(table: np.ndarray, flop_per_s: float | None) -> list[Row]:
    apart = _scipy(table, "percentile", _Redrawn(_indices(0, RESAMPLES)))
    error = _difference(apart, _intervals(table, 0), _at_once(table, 0), _loop(table, _indices(0, RESAMPLES)))
    seconds = _seconds({
        "ours": lambda seed: _intervals(table, seed),
        "each": lambda seed: _intervals(table, seed, apart=True),
        "once": lambda seed: _at_once(table, seed),
        "scipy": lambda seed: _scipy(table, "percentile", np.random.default_rng(seed)),
        "loop": lambda seed: _loop(table, _draws(seed, RESAMPLES)),
        "counts": lambda seed: counts_of(np.random.default_rng(seed), PATIENTS, RESAMPLES),
        "multinomial": lambda seed: np.random.default_rng(seed).multinomial(
            PATIENTS, np.full(PATIENTS, 1 / PATIENTS), size=RESAMPLES
        ).astype(np.float64),
    })  # fmt: skip
    again = _remembered(lambda seed: _intervals(table, seed))
    limit_s, limit = _limit(2 * RESAMPLES * table.size, flop_per_s)
    columns = table.shape[1]
    return [
        Row(f"CI of {columns} means, {PATIENTS} patients: SciPy", seconds["ours"], seconds["scipy"], limit_s, "",
            f"{RESAMPLES} resamples, drawn once for all columns, SciPy's by column; {error}{limit}"),
        Row("  the same: NumPy loop, all columns in one", seconds["ours"], seconds["loop"], limit_s, GOAL,
            f"{again:.2f} s where a report has drawn from this seed before"),
        Row("  every column draws its own: SciPy", seconds["each"], seconds["scipy"],
            note="as SciPy does; in a report only where columns lack different numbers of patients"),
        Row("  one product for all columns: NumPy loop", seconds["once"], seconds["loop"], limit_s, GOAL,
            "bootstrap_means of the table, then quantiles"),
        Row("  drawing alone: NumPy's multinomial", seconds["counts"], seconds["multinomial"],
            note="counts of all resamples: inside ours wherever nothing is remembered"),
    ]  # fmt: skip


def _bca(table: np.ndarray, flop_per_s: float | None) -> list[Row]:
    apart = _scipy(table, "bca", _Redrawn(_indices(0, RESAMPLES)))
    error = _difference(apart, _intervals(table, 0, "bca"))
    seconds = _seconds({
        "ours": lambda seed: _intervals(table, seed, "bca"),
        "scipy": lambda seed: _scipy(table, "bca", np.random.default_rng(seed)),
    })  # fmt: skip
    again = _remembered(lambda seed: _intervals(table, seed, "bca"))
    limit_s, limit = _limit(2 * RESAMPLES * table.size, flop_per_s)
    return [
        Row(f"BCa of {table.shape[1]} means, {PATIENTS} patients: SciPy", seconds["ours"], seconds["scipy"], limit_s,
            note=f"{error}{limit}; {again:.2f} s where drawn before")
    ]  # fmt: skip


def _tests(values: np.ndarray, flop_per_s: float | None) -> list[Row]:
    """values (patients, methods, metrics)."""
    first, second = np.array(list(itertools.combinations(range(METHODS), 2))).T
    differences = (values[:, first] - values[:, second]).reshape(PATIENTS, -1)
    share = TEST_RESAMPLES // SHARE

    def ours(seed: int, n_resamples: int = TEST_RESAMPLES) -> np.ndarray:
        return paired_tests(differences, np.random.default_rng(seed), n_resamples)

    def by_methods(indices: Indices) -> np.ndarray:
        means = np.array([values[rows].mean(axis=0) for rows in indices])
        return _p((means[:, first] - means[:, second]).reshape(len(means), -1))

    def by_tests(indices: Indices) -> np.ndarray:
        return _p(np.array([differences[rows].mean(axis=0) for rows in indices]))

    mine = ours(0, share)
    error = _difference(mine, by_tests(_indices(0, share)), by_methods(_indices(0, share)), what="p")
    seconds = _seconds({
        "ours": ours,
        "tests": lambda seed: by_tests(_draws(seed, share)),
        "methods": lambda seed: by_methods(_draws(seed, share)),
    })  # fmt: skip
    again = _remembered(ours)
    limit_s, limit = _limit(2 * TEST_RESAMPLES * differences.size, flop_per_s)
    return [
        Row(f"{differences.shape[1]} paired tests of {METHODS} methods: NumPy loop", seconds["ours"],
            SHARE * seconds["tests"], limit_s, GOAL,
            f"{TEST_RESAMPLES} resamples; the loops over {share}, times {SHARE}; {error}{limit}"),
        Row("  the same: loop over methods' means", seconds["ours"], SHARE * seconds["methods"], limit_s,
            note=f"subtracts the means afterwards, has no place for NaN; ours {again:.2f} s where drawn before"),
    ]  # fmt: skip


def _recipes(recipes: np.ndarray, flop_per_s: float | None) -> list[Row]:
    """recipes (recipes, metrics, seeds, patients)."""
    pairs = [(recipes[a, m], recipes[b, m]) for a, b in itertools.combinations(range(RECIPES), 2)
             for m in range(METRICS)]  # fmt: skip
    share = RESAMPLES // RECIPE_SHARE

    def ours(seed: int) -> np.ndarray:
        return np.array([hierarchical_bootstrap(a, b, np.random.default_rng(seed), RESAMPLES)[1:] for a, b in pairs])

    def loop(seed: int) -> np.ndarray:
        return np.array([_crossed_loop(a, b, _crossed_draws(seed, share)) for a, b in pairs])

    theirs = np.array([_crossed_loop(a, b, _crossed_indices(0, RESAMPLES)) for a, b in pairs])
    error = _difference(ours(0), theirs, what="ends and p")
    seconds = _seconds({"ours": ours, "loop": loop})
    again = _remembered(ours)
    first, second = pairs[0]
    limit_s, limit = _limit(2 * RESAMPLES * len(pairs) * (first.size + second.size), flop_per_s)
    what = f"{len(pairs)} tests of recipes, {SEEDS} seeds: NumPy loop"
    note = f"seeds x {PATIENTS} patients; the loop over {share} of {RESAMPLES} resamples, times {RECIPE_SHARE}"
    return [
        Row(what, seconds["ours"], RECIPE_SHARE * seconds["loop"], limit_s, GOAL,
            f"{note}; {error}{limit}; {again:.2f} s where drawn before")
    ]  # fmt: skip


def _intervals(table: np.ndarray, seed: int, method: Method = "percentile", apart: bool = False) -> np.ndarray:
    """(columns, 2), as a report's tables ask for them; `apart`: every column from a seed of its own."""
    return np.array([
        bootstrap_ci(column, np.random.default_rng([seed, at] if apart else seed), RESAMPLES, method=method)
        for at, column in enumerate(table.T)
    ])  # fmt: skip


def _at_once(table: np.ndarray, seed: int) -> np.ndarray:
    found: np.ndarray = np.quantile(bootstrap_means(table, np.random.default_rng(seed), RESAMPLES), TAILS, axis=0).T
    return found


def _scipy(table: np.ndarray, method: Method, rng: np.random.Generator) -> np.ndarray:
    ends = []
    for column in table.T:
        name: Any = {"percentile": "percentile", "bca": "BCa"}[method]
        found = stats.bootstrap((column,), np.mean, n_resamples=RESAMPLES, method=name, rng=rng).confidence_interval
        ends.append((found.low, found.high))
    return np.array(ends)


def _loop(table: np.ndarray, indices: Indices) -> np.ndarray:
    means = np.array([table[rows].mean(axis=0) for rows in indices])
    found: np.ndarray = np.quantile(means, TAILS, axis=0).T
    return found


def _crossed_loop(a: np.ndarray, b: np.ndarray, indices: Iterable[tuple[np.ndarray, ...]]) -> np.ndarray:
    """Low, high and p."""
    found = np.array([
        a[of_a[:, np.newaxis], rows].mean() - b[of_b[:, np.newaxis], rows].mean() for of_a, of_b, rows in indices
    ])  # fmt: skip
    return np.array([*np.quantile(found, TAILS), _p(found)])


def _p(means: np.ndarray) -> np.ndarray:
    """Two-sided p of resampled means (resamples, ...)."""
    fewer = np.minimum((means <= 0).sum(axis=0), (means >= 0).sum(axis=0))
    p: np.ndarray = np.minimum(1, 2 * (1 + fewer) / (len(means) + 1))
    return p


def _draws(seed: int, n_resamples: int) -> Iterator[np.ndarray]:
    """Patients of each resample."""
    rng = np.random.default_rng(seed)
    return (rng.integers(PATIENTS, size=PATIENTS) for _ in range(n_resamples))


def _crossed_draws(seed: int, n_resamples: int) -> Iterator[tuple[np.ndarray, ...]]:
    """Seeds of two recipes and patients of each resample."""
    rng = np.random.default_rng(seed)
    return (tuple(rng.integers(n, size=n) for n in (SEEDS, SEEDS, PATIENTS)) for _ in range(n_resamples))


def _indices(seed: int, n_resamples: int) -> np.ndarray:
    """The patients in the resamples that segcal.stats draws from a seed, (n_resamples, patients)."""
    return _listed(counts_of(np.random.default_rng(seed), PATIENTS, n_resamples))


def _crossed_indices(seed: int, n_resamples: int) -> Iterator[tuple[np.ndarray, ...]]:
    rng = np.random.default_rng(seed)
    for _ in range(0, n_resamples, BLOCK):
        yield from zip(*(_listed(counts_of(rng, n, BLOCK)) for n in (SEEDS, SEEDS, PATIENTS)), strict=True)


def _listed(counts: np.ndarray) -> np.ndarray:
    resamples, n = counts.shape
    return np.repeat(np.tile(np.arange(n), resamples), counts.astype(int).ravel()).reshape(resamples, n)


class _Redrawn(np.random.Generator):
    """Gives SciPy the resamples that ours drew."""

    def __init__(self, indices: np.ndarray) -> None:
        super().__init__(np.random.PCG64(0))
        self.indices = indices

    def integers(self, low: Any, *_: Any, size: Any = None, **__: Any) -> Any:
        """The indices, of the size that was asked for."""
        return self.indices.reshape(size)


def _difference(mine: np.ndarray, *others: np.ndarray, what: str = "ends") -> str:
    """The largest relative difference, for a note. All are of the same resamples: they must agree."""
    largest = max(float(np.abs(other / mine - 1).max()) for other in others)
    if not largest < SAME:
        raise SystemExit(f"{what} must agree on the same resamples, differ by up to {largest:.2g}")
    return f"{what} on the same resamples {f'within {largest:.0e}' if largest else 'equal'}"


def _seconds(ways: Mapping[str, Way]) -> dict[str, float]:
    """Median of each way, every call of it with a new seed."""
    return interleaved({name: _fresh(way) for name, way in ways.items()}, clock=time.process_time)


def _fresh(way: Way) -> Callable[[], object]:
    return lambda: way(next(NEW_SEEDS))


def _remembered(way: Way) -> float:
    """Median of calls with one seed, which the round of warming up has drawn from."""
    return interleaved({"again": lambda: way(0)}, clock=time.process_time)["again"]


def _limit(flop: int, flop_per_s: float | None) -> tuple[float | None, str]:
    """Seconds of the product of all counts and values, and words for a note. None where only a GPU was measured."""
    return (flop / flop_per_s, f"; limit {1e3 * flop / flop_per_s:.1f} ms: the product") if flop_per_s else (None, "")
