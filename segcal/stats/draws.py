"""Ensembles drawn from one pool of members overlap, and so look more alike than they are."""

__all__ = ["draws_error"]

import numpy as np
from numpy.typing import ArrayLike

from segcal.stats.resamples import defined


def draws_error(values: ArrayLike, size: int, pool: int) -> float:
    """Standard error of one ensemble of `size` members, from draws of that size without replacement out of `pool`.

    The standard deviation over the draws (n - 1) divided by sqrt((pool - size) / (pool - 1)), the finite-population
    correction (Cochran 1977, "Sampling techniques", section 2.6): the standard deviation that draws with replacement
    from the pool would have. Against members of an unlimited pool it is small by sqrt((pool - 1) / pool), 0.5% at 100.

    values (draws,), one number per draw; NaN entries are left out. size = pool (all draws are the same), pool = 1, or
    fewer than 2 draws give NaN. Raises ValueError for a size outside 1 to pool.
    """
    if pool < 1:
        raise ValueError(f"pool must be at least 1, got pool={pool}")
    if not 1 <= size <= pool:
        raise ValueError(f"size must be at least 1 and at most pool={pool}, got size={size}")
    kept = defined(values)
    if size == pool or kept.size < 2:
        return float("nan")
    return float(kept.std(ddof=1) / np.sqrt((pool - size) / (pool - 1)))
