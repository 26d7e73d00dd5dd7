"""Telling two groups apart by a score: the target (say, out of distribution) should score higher than the source."""

__all__ = ["auroc", "fpr_at_tpr"]

import numpy as np
from numpy.typing import ArrayLike

from segcal.stats.resamples import defined


def auroc(source: ArrayLike, target: ArrayLike) -> float:
    """The probability that a target score exceeds a source score, a tie counting half: the area under the ROC curve.

    The Mann-Whitney statistic over n m (Hanley and McNeil 1982, Radiology 143). source (n,), target (m,); NaN entries
    are left out; an empty group gives NaN.

    >>> auroc([1.0, 2.0], [2.0, 3.0])
    0.875
    """
    low, high = np.sort(defined(source)), defined(target)
    if low.size == 0 or high.size == 0:
        return float("nan")
    # Twice the number of pairs won: integers, so that auroc(a, b) + auroc(b, a) = 1 to the last bit.
    won = np.searchsorted(low, high, "left").sum() + np.searchsorted(low, high, "right").sum()
    return float(won / (2 * low.size * high.size))


def fpr_at_tpr(source: ArrayLike, target: ArrayLike, tpr: float = 0.95) -> tuple[float, float]:
    """Share of the source that is flagged (score >= threshold) where `tpr` of the targets are: (share, threshold).

    Targets are the positives; the threshold is the largest that flags at least `tpr` of them: one of their scores.
    source (n,), target (m,); NaN entries are left out. No targets: (nan, nan); no source: (nan, threshold). Raises
    ValueError for a tpr outside (0, 1].

    >>> fpr_at_tpr([1.0, 2.0, 3.0, 4.0], [3.0, 4.0, 5.0, 6.0], tpr=0.75)
    (0.25, 4.0)
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"tpr must be above 0 and at most 1, got tpr={tpr}")
    negatives, positives = defined(source), -np.sort(-defined(target))
    if positives.size == 0:
        return float("nan"), float("nan")
    share = np.arange(1, positives.size + 1) / positives.size
    threshold = float(positives[np.argmax(share >= tpr)])
    return float(np.mean(negatives >= threshold)) if negatives.size else float("nan"), threshold
