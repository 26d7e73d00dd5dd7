"""Intervals: where the patients lie, and how far a mean or any other statistic of them can be trusted."""

__all__ = ["bootstrap_ci", "bootstrap_means", "bootstrap_of", "spread"]

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from segcal.stats.resamples import defined, multinomial_chunks, tails_of


def spread(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Percentiles that hold the central `level` of the patients: the paper's "95% CI". Not an interval of a mean.

    values (n,); NaN entries are left out; an empty input gives (nan, nan).
    """
    kept = defined(values)
    if kept.size == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(kept, tails_of(level))
    return float(low), float(high)


def bootstrap_means(values: ArrayLike, rng: np.random.Generator, n_resamples: int = 10_000) -> np.ndarray:
    """Means of resampled patients, (n_resamples,) or (n_resamples, columns), float64.

    values (n,) or (n, columns): all columns share the same resamples, which makes differences of columns paired. One
    multinomial count matrix times the values equals resampling rows one by one. Raises ValueError where there is no
    patient.
    """
    table = np.asarray(values, dtype=np.float64)
    if table.shape[0] == 0:
        raise ValueError("values must hold at least 1 patient, got 0")
    n, columns = table.shape[0], table[0].size
    chunks = [counts @ table / n for counts in multinomial_chunks(rng, n, n_resamples, columns)]
    return np.concatenate(chunks)


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
    have no interval: (nan, nan). Raises ValueError for another method, and for a level outside (0, 1).

    >>> bootstrap_ci([1.0, 1.0, 1.0], np.random.default_rng(0))
    (1.0, 1.0)
    """
    if method not in ("percentile", "bca"):
        raise ValueError(f"method must be 'percentile' or 'bca', got method={method!r}")
    tails = tails_of(level)
    kept = defined(values)
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


def bootstrap_of(
    sizes: int | tuple[int, ...],
    statistic: Callable[..., float],
    rng: np.random.Generator,
    n_resamples: int = 10_000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval (low, high) of any statistic of resampled patients: a ratio of means, an r, an AUROC.

    sizes: the number of patients, or one number per independent group. statistic: called with one array of patient
    indices (n,) per group, drawn with replacement. Resamples where it is NaN are left out; if they are more than
    half, or a group has fewer than 2 patients, there is no interval: (nan, nan). Raises ValueError for n_resamples
    below 1 and a level outside (0, 1).

    >>> x = np.array([2.0, 2.0, 2.0])
    >>> bootstrap_of(3, lambda patients: x[patients].mean() / x.mean(), np.random.default_rng(0), 100)
    (1.0, 1.0)
    """
    groups = (sizes,) if isinstance(sizes, int) else sizes
    tails = tails_of(level)
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got n_resamples={n_resamples}")
    if not groups or min(groups) < 2:
        return float("nan"), float("nan")
    found = np.array([statistic(*(rng.integers(n, size=n) for n in groups)) for _ in range(n_resamples)])
    kept = defined(found)
    if 2 * kept.size < n_resamples:
        return float("nan"), float("nan")
    low, high = np.quantile(kept, tails)
    return float(low), float(high)
