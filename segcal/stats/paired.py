"""Paired comparisons on the same patients: is there a difference, and how large against its scatter?"""

__all__ = ["effect_size", "paired_bootstrap", "paired_tests"]

import numpy as np
from numpy.typing import ArrayLike

from segcal.stats.intervals import bootstrap_means
from segcal.stats.resamples import defined, multinomial_chunks, two_sided_p

DUST = 1e-12  # of the largest difference: a mean of exactly 0 is a tie, whatever the unit's rounding


def paired_bootstrap(a: ArrayLike, b: ArrayLike, rng: np.random.Generator, n_resamples: int = 10_000) -> float:
    """Two-sided p-value that the mean of a - b over patients differs from 0.

    p = 2 min(1 + #{mean* <= 0}, 1 + #{mean* >= 0}) / (B + 1), at most 1, where mean* are the means of B paired
    resamples of the patients. The added one keeps p above 0 (Davison and Hinkley 1997, section 4.2): B = 100 cannot
    go below 0.0198. a, b (n,) in the same order of patients; a pair with a NaN is left out; fewer than 2 pairs
    give NaN.
    """
    difference = defined(np.subtract(*_pair(a, b)))
    if difference.size < 2:
        return float("nan")
    means = bootstrap_means(difference, rng, n_resamples)
    dust = DUST * np.abs(difference).max()
    return float(two_sided_p(np.sum(means <= dust), np.sum(means >= -dust), n_resamples))


def paired_tests(differences: ArrayLike, rng: np.random.Generator, n_resamples: int = 10_000) -> np.ndarray:
    """`paired_bootstrap` for many columns at once, on the same resamples of the patients: p (columns,), float64.

    differences (patients, columns), a - b of each comparison, NaN where a pair is not defined. A resample's mean of a
    column is over its defined patients, mean* = (counts @ filled) / (counts @ defined); a resample that holds none of
    them does not count in B. A column with fewer than 2 defined pairs gives NaN, no columns an empty array. A column
    without NaN has the p of `paired_bootstrap` from the same state of the generator; one with NaN differs by chance
    only, because there the undefined patients are not drawn. Raises ValueError for a table that is not 2-D and for
    infinite differences.
    """
    table = np.asarray(differences, dtype=np.float64)
    if table.ndim != 2:
        raise ValueError(f"differences must be (patients, columns), got shape {table.shape}")
    if np.isinf(table).any():
        raise ValueError(f"differences must be finite or NaN, got {table[np.isinf(table)][0]}")
    patients, columns = table.shape
    known = ~np.isnan(table)
    enough = known.sum(axis=0) >= 2
    if not enough.any():
        return np.full(columns, np.nan)
    filled, gaps = np.where(known, table, 0.0), ~known.all(axis=0)
    dust = DUST * np.abs(filled).max(axis=0)
    at_most, at_least, resamples = np.zeros((3, columns), dtype=np.int64)
    for counts in multinomial_chunks(rng, patients, n_resamples, columns):
        sums = counts @ filled
        sizes = np.full(sums.shape, float(patients))
        sizes[:, gaps] = counts @ known[:, gaps].astype(np.float64)
        margin = dust * sizes
        at_most += np.count_nonzero((sums <= margin) & (sizes > 0), axis=0)
        at_least += np.count_nonzero((sums >= -margin) & (sizes > 0), axis=0)
        resamples += np.count_nonzero(sizes, axis=0)
    return np.where(enough, two_sided_p(at_most, at_least, resamples), np.nan)


def effect_size(a: ArrayLike, b: ArrayLike) -> float:
    """Cohen's d_z: the mean of the differences a - b over their standard deviation (n - 1).

    Cohen 1988, "Statistical power analysis for the behavioral sciences", chapter 2; Lakens 2013, Frontiers in
    Psychology 4:863. a, b (n,) in the same order of patients; a pair with a NaN is left out; fewer than 2
    pairs, or differences that are all the same, give NaN.

    >>> effect_size([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    2.0
    """
    first, second = _pair(a, b)
    difference = defined(first - second)
    if difference.size < 2:
        return float("nan")
    scale = max(np.nanmax(np.abs(first)), np.nanmax(np.abs(second)))
    if np.ptp(difference) <= DUST * scale:
        return float("nan")
    return float(difference.mean() / difference.std(ddof=1))


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"a and b must pair the same patients, got shapes {first.shape} and {second.shape}")
    return first, second
