"""Many tests at once."""

__all__ = ["holm"]

import numpy as np
from numpy.typing import ArrayLike


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm's step-down adjusted p-values (Holm 1979), in the order given; they control the family-wise error.

    p_values (m,); NaN stays NaN and does not count in the family; an empty input gives an empty array. Raises
    ValueError for a p outside [0, 1].

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
