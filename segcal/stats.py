"""Statistics over patients: intervals, paired tests, multiplicity. The random generator is always passed in."""

__all__ = ["bootstrap_ci", "bootstrap_means", "correlation", "holm", "paired_bootstrap", "spread"]

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


def spread(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Percentiles that hold the central `level` of the patients: the paper's "95% CI". Not an interval of a mean.

    values (n,); NaN entries are left out; an empty input gives (nan, nan).
    """
    kept = _finite(values)
    if kept.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(kept, _tails(level))
    return float(low), float(high)


def bootstrap_means(values: ArrayLike, rng: np.random.Generator, n_resamples: int = 10_000) -> np.ndarray:
    """Means of resampled patients, (n_resamples,) or (n_resamples, columns), float64.

    values (n,) or (n, columns): all columns share the same resamples, which makes differences of columns paired.
    One multinomial count matrix times the values equals resampling rows one by one.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.shape[0] == 0:
        raise ValueError("values must hold at least 1 patient, got 0")
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got n_resamples={n_resamples}")
    n = table.shape[0]
    counts = rng.multinomial(n, np.full(n, 1.0 / n), size=n_resamples)
    means: np.ndarray = counts @ table / n
    return means


def bootstrap_ci(
    values: ArrayLike,
    rng: np.random.Generator,
    n_resamples: int = 10_000,
    level: float = 0.95,
    method: Literal["percentile", "bca"] = "percentile",
) -> tuple[float, float]:
    """Bootstrap confidence interval (low, high) of the mean over patients.

    `percentile` takes quantiles of the resampled means; `bca` corrects them for bias and acceleration (Efron 1987,
    "Better bootstrap confidence intervals", JASA 82). values (n,); NaN entries are left out. Fewer than 2 patients
    have no interval: (nan, nan).

    >>> bootstrap_ci([1.0, 1.0, 1.0], np.random.default_rng(0))
    (1.0, 1.0)
    """
    if method not in ("percentile", "bca"):
        raise ValueError(f"method must be 'percentile' or 'bca', got method={method!r}")
    tails = _tails(level)
    kept = _finite(values)
    if kept.size < 2:
        return float("nan"), float("nan")
    if np.ptp(kept) == 0:
        return float(kept[0]), float(kept[0])
    means = bootstrap_means(kept, rng, n_resamples)
    if method == "bca":
        tails = _bca_tails(kept, means, tails)
    low, high = np.quantile(means, tails)
    return float(low), float(high)


def _bca_tails(values: np.ndarray, means: np.ndarray, tails: np.ndarray) -> np.ndarray:
    """Bias-corrected, accelerated tail probabilities for the mean (Efron 1987, Eqs. 6.4-6.6)."""
    below = np.mean(means < values.mean()) + 0.5 * np.mean(means == values.mean())
    resamples = means.size
    bias = stats.norm.ppf(np.clip(below, 0.5 / resamples, 1 - 0.5 / resamples))
    # Jackknife means differ from the mean by -(x_i - mean)/(n - 1), so the acceleration has a closed form.
    centred = values - values.mean()
    acceleration = np.sum(centred**3) / (6.0 * np.sum(centred**2) ** 1.5)
    z = bias + stats.norm.ppf(tails)
    adjusted: np.ndarray = stats.norm.cdf(bias + z / (1.0 - acceleration * z))
    return adjusted


def paired_bootstrap(a: ArrayLike, b: ArrayLike, rng: np.random.Generator, n_resamples: int = 10_000) -> float:
    """Two-sided p-value that the mean of a - b over patients differs from 0.

    p = 2 min(1 + #{mean* <= 0}, 1 + #{mean* >= 0}) / (B + 1), at most 1, where mean* are the means of B paired
    resamples of the patients. The added one keeps p above 0 (Davison and Hinkley 1997, section 4.2): B = 100 cannot
    go below 0.0198. a, b (n,) in the same order of patients; a pair with a NaN is left out; fewer than 2 pairs
    give NaN.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"a and b must pair the same patients, got shapes {first.shape} and {second.shape}")
    difference = _finite(first - second)
    if difference.size < 2:
        return float("nan")
    means = bootstrap_means(difference, rng, n_resamples)
    dust = 1e-12 * float(np.abs(difference).max())  # a mean of exactly 0 is a tie, whatever the unit's rounding
    tail = 1 + min(int(np.sum(means <= dust)), int(np.sum(means >= -dust)))
    return float(min(1.0, 2.0 * tail / (n_resamples + 1)))


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given; they control the family-wise error.

    p_values (m,); NaN stays NaN and does not count in the family; an empty input gives an empty array.

    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if np.any((p < 0) | (p > 1)):
        raise ValueError(f"p_values must lie in [0, 1], got {p[(p < 0) | (p > 1)][0]}")
    adjusted = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    ascending = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(ascending.size, 0, -1)
    adjusted[ascending] = np.minimum(1.0, np.maximum.accumulate(factors * p[ascending]))
    return adjusted


def correlation(x: ArrayLike, y: ArrayLike) -> tuple[float, float, float, float]:
    """Pearson's r, its two-sided p, and the least-squares line's slope and intercept of y on x.

    x, y (n,); pairs with a NaN are left out; fewer than 3 pairs, or a constant x or y, give NaN.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    kept = np.isfinite(first) & np.isfinite(second)
    first, second = first[kept], second[kept]
    if first.size < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return (float("nan"),) * 4
    line = stats.linregress(first, second)
    return float(line.rvalue), float(line.pvalue), float(line.slope), float(line.intercept)


def _finite(values: ArrayLike) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"values must be one number per patient, got shape {array.shape}")
    return array[~np.isnan(array)]


def _tails(level: float) -> np.ndarray:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got level={level}")
    return np.array([(1 - level) / 2, (1 + level) / 2])
