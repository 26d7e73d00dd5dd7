"""How two quantities go together over patients."""

__all__ = ["Correlations", "correlation", "correlations"]

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class Correlations:
    """Linear and rank correlation of n pairs with their two-sided p, and the least-squares line of y on x."""

    n: int
    pearson_r: float
    pearson_p: float
    spearman_r: float
    spearman_p: float
    slope: float
    intercept: float


def correlations(x: ArrayLike, y: ArrayLike) -> Correlations:
    """Pearson's r (the paper's, section on Eq. 7) and Spearman's, which asks only whether y rises with x.

    x, y (n,); pairs with a NaN or an infinity are left out; fewer than 3 pairs, or a constant x or y, give NaN.
    Raises ValueError where their lengths differ.
    """
    first, second = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"x and y must pair the same patients, got shapes {first.shape} and {second.shape}")
    kept = np.isfinite(first) & np.isfinite(second)
    first, second = first[kept], second[kept]
    if first.size < 3 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return Correlations(first.size, *(float("nan"),) * 6)
    line, ranks = stats.linregress(first, second), stats.spearmanr(first, second)
    numbers = (line.rvalue, line.pvalue, ranks.statistic, ranks.pvalue, line.slope, line.intercept)
    return Correlations(first.size, *map(float, numbers))


def correlation(x: ArrayLike, y: ArrayLike) -> tuple[float, float, float, float]:
    """Pearson's r, its two-sided p, and the least-squares line's slope and intercept of y on x: of `correlations`."""
    found = correlations(x, y)
    return found.pearson_r, found.pearson_p, found.slope, found.intercept
