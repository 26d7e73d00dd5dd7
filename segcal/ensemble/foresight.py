"""What the segment entropy H(S) foretells: the Dice of a structure, and whether a case is unlike what was learnt."""

__all__ = ["Honesty", "dice_line", "is_novel", "leave_one_out", "novelty", "predicted_dice"]

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit
from scipy.stats import t

from segcal.ensemble.manifest import DiceLine, Novelty
from segcal.measure.uncertainty import logit

FEWEST = 4  # cases: a line through fewer says nothing of its own error
ALPHA = 0.05  # share of false alarms that the threshold aims at
ROUNDING = (
    1e-6  # nats; the same case, summed in another order, differs in the ninth digit and must not be flagged for it
)


@dataclass(frozen=True)
class Honesty:
    """How the line does on cases that it was not fitted to: each is left out in turn."""

    n: int
    coverage: float  # share of cases whose Dice lies in the 95% interval
    mean_abs_error: float  # of the predicted Dice


def dice_line(entropy: ArrayLike, dice: ArrayLike) -> DiceLine | None:
    """Least squares of logit Dice (clipped to [0.001, 0.999]) on H(S), nats; (n,) each, a pair with a NaN is left out.

    None for fewer than 4 pairs, and where all H(S) are the same.
    """
    x, y = _pairs(entropy, dice)
    if x.size < FEWEST or np.ptp(x) == 0:
        return None
    centre = float(x.mean())
    sxx = float(np.sum((x - centre) ** 2))
    if sxx == 0:  # so close to each other that their squared distances underflow
        return None
    slope = float(np.sum((x - centre) * (y - y.mean())) / sxx)
    intercept = float(y.mean() - slope * centre)
    residuals = y - (intercept + slope * x)
    sd = math.sqrt(float(np.sum(residuals**2)) / (x.size - 2))
    return DiceLine(int(x.size), slope, intercept, sd, centre, sxx, float(x.min()), float(x.max()))


def predicted_dice(line: DiceLine | None, entropy: float, level: float = 0.95) -> tuple[float, float, float]:
    """Dice that H(S) foretells, with the interval in which the Dice of such a case lies: (point, low, high).

    y -+ t_{n-2} s sqrt(1 + 1/n + (x - mean)^2 / Sxx) on the scale of the logit, and back by the logistic function.
    No line, or H(S) NaN because nothing is predicted: all NaN. Beyond [low_entropy, high_entropy] of the line it
    is extrapolated, and wider.

    >>> predicted_dice(DiceLine(12, 0.0, 0.0, 0.0, 0.2, 1.0, 0.1, 0.3), 0.2)
    (0.5, 0.5, 0.5)
    """
    if line is None or not math.isfinite(entropy):
        return float("nan"), float("nan"), float("nan")
    y = line.intercept + line.slope * entropy
    distance = (entropy - line.mean_entropy) ** 2 / line.sxx
    half = float(t.ppf((1 + level) / 2, line.n - 2)) * line.residual_sd * math.sqrt(1 + 1 / line.n + distance)
    return float(expit(y)), float(expit(y - half)), float(expit(y + half))


def leave_one_out(entropy: ArrayLike, dice: ArrayLike) -> Honesty | None:
    """Coverage of the 95% interval and mean absolute error of the predicted Dice, each case by the line of the others.

    Dice counts as clipped to [0.001, 0.999]. Cases without which there is no line are left out; none left: None.
    """
    x, y = _pairs(entropy, dice)
    inside, errors = [], []
    for case in range(x.size):
        others = np.arange(x.size) != case
        line = dice_line(x[others], expit(y[others]))
        if line is None:
            continue
        point, low, high = predicted_dice(line, float(x[case]))
        truth = float(expit(y[case]))
        inside.append(low <= truth <= high)
        errors.append(abs(point - truth))
    if not errors:
        return None
    return Honesty(len(errors), float(np.mean(inside)), float(np.mean(errors)))


def novelty(source: ArrayLike, target: ArrayLike | None = None, alpha: float = ALPHA) -> Novelty | None:
    """The threshold of a case's mean H(S) over its structures beyond which it is flagged (split conformal prediction).

    The threshold is the k-th smallest of the n scores of source cases, k = ceil((n + 1)(1 - alpha)), or n where n is
    too small for that; and ROUNDING above it. If a new case of the source is exchangeable with these (drawn alike, and
    without ties), it is flagged with probability (n + 1 - k) / (n + 1) exactly, whatever the scores' distribution
    (Vovk, Gammerman & Shafer 2005, Algorithmic Learning in a Random World; Angelopoulos & Bates 2023, Conformal
    Prediction: A Gentle Introduction). That holds on average over draws of the n cases, not for each, and of new cases
    in which something is predicted; where the source may have nothing to predict, such cases are flagged besides.

    source (n,), target (m,): NaN, nothing is predicted, counts as beyond all scores, in the source as in the target:
    where the structures are in every case, to find none is stranger than any entropy. Fewer than 4 source cases: None,
    and so where nothing is predicted in so many of them that the threshold would be beyond all scores.
    """
    scores = np.sort(_beyond_if_nothing(source))
    n = int(scores.size)
    if n < FEWEST:
        return None
    k = min(n, math.ceil(round((n + 1) * (1 - alpha), 9)))  # 19.000000000000004 is 19
    threshold = float(scores[k - 1]) + ROUNDING
    if not math.isfinite(threshold):
        return None
    others = _beyond_if_nothing([] if target is None else target)
    detected = float(np.mean(others > threshold)) if others.size else None
    return Novelty(threshold, (n + 1 - k) / (n + 1), n, int(others.size), detected)


def is_novel(novelty: Novelty, score: float) -> bool:
    """Whether a case of this mean H(S) is flagged; NaN, nothing is predicted, is."""
    return math.isnan(score) or score > novelty.threshold


def _beyond_if_nothing(scores: ArrayLike) -> np.ndarray:
    found = np.asarray(scores, dtype=np.float64)
    return np.where(np.isnan(found), np.inf, found)


def _pairs(entropy: ArrayLike, dice: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """H(S) and logit Dice where both are known."""
    x, d = np.asarray(entropy, dtype=np.float64), np.asarray(dice, dtype=np.float64)
    if x.shape != d.shape or x.ndim != 1:
        raise ValueError(f"entropy and dice must be (n,) alike, got shapes {x.shape} and {d.shape}")
    known = np.isfinite(x) & np.isfinite(d)
    return x[known], logit(d[known])
