"""Two recipes of several seeds each on the same patients: both the seeds and the patients are a sample."""

__all__ = ["hierarchical_bootstrap"]

import numpy as np
from numpy.typing import ArrayLike

from segcal.stats.paired import DUST
from segcal.stats.resamples import counts_of, tails_of, two_sided_p

BLOCK = 1000  # resamples drawn at a time; part of the random stream, so not to be derived from the shapes


def hierarchical_bootstrap(
    a: ArrayLike, b: ArrayLike, rng: np.random.Generator, n_resamples: int = 10_000, level: float = 0.95
) -> tuple[float, float, float, float]:
    """Difference of two recipes' means over seeds and patients, its interval and p: (difference, low, high, p).

    The crossed two-way ("pigeonhole") bootstrap of Owen 2007, Annals of Applied Statistics 1(2): each resample draws
    the seeds of a, the seeds of b and the patients, the latter jointly for both, and takes the mean over seeds and
    patients of a minus that of b. Percentile interval; two-sided p as in `paired_bootstrap`, add-one, B = n_resamples.

    a (seeds of a, patients), b (seeds of b, patients), the same patients in the same order. NaN entries are left out
    of the means; a resample without an entry of a or of b does not count. A recipe with fewer than 2 seeds, or fewer
    than 2 patients (a seed or patient without any entry does not count): (difference, nan, nan, nan); a or b without
    any entry: all NaN.

    The interval is approximate. The scatter within a seed and patient is counted up to three times (conservative),
    but S seeds show only (S - 1)/S of the variance between seeds, with percentile rather than t quantiles: below
    about ten seeds a difference between seeds is called real somewhat too often - by far not as often as by
    resampling patients alone, which takes the seeds at hand for the recipe. Raises ValueError for tables of other
    patients and for n_resamples below 1.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise ValueError(
            f"a and b must be (seeds, patients) of the same patients, got {first.shape} and {second.shape}"
        )
    if n_resamples < 1:
        raise ValueError(f"n_resamples must be at least 1, got n_resamples={n_resamples}")
    tails = tails_of(level)
    known_a, known_b = ~np.isnan(first), ~np.isnan(second)
    if not known_a.any() or not known_b.any():
        return (float("nan"),) * 4
    difference = float(first[known_a].mean() - second[known_b].mean())
    seeds = min(known.any(axis=1).sum() for known in (known_a, known_b))
    if seeds < 2 or (known_a.any(axis=0) & known_b.any(axis=0)).sum() < 2:
        return difference, float("nan"), float("nan"), float("nan")
    found = np.concatenate(
        [_block(first, second, rng, min(BLOCK, n_resamples - start)) for start in range(0, n_resamples, BLOCK)]
    )
    found = found[~np.isnan(found)]
    dust = DUST * max(np.nanmax(np.abs(first)), np.nanmax(np.abs(second)))
    low, high = np.quantile(found, tails)
    p = two_sided_p(np.sum(found <= dust), np.sum(found >= -dust), found.size)
    return difference, float(low), float(high), float(p)


def _block(a: np.ndarray, b: np.ndarray, rng: np.random.Generator, n_resamples: int) -> np.ndarray:
    """Differences of the weighted means of one block of resamples, (n_resamples,); NaN without an entry."""
    seeds_a, seeds_b, patients = (counts_of(rng, n, n_resamples) for n in (len(a), len(b), a.shape[1]))
    found: np.ndarray = _means(a, seeds_a, patients) - _means(b, seeds_b, patients)
    return found


def _means(values: np.ndarray, seeds: np.ndarray, patients: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    if known.all():  # every seed and every patient weighs what it was drawn
        found: np.ndarray = np.einsum("rp,rp->r", seeds @ values, patients) / values.size
        return found
    sums = np.einsum("rp,rp->r", seeds @ np.where(known, values, 0.0), patients)
    weights = np.einsum("rp,rp->r", seeds @ known.astype(np.float64), patients)
    means: np.ndarray = np.divide(sums, weights, out=np.full(sums.shape, np.nan), where=weights > 0)
    return means
