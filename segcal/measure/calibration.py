"""Do the probabilities mean what they say? Negative log-likelihood, Brier score, reliability (paper: Eqs. 3-5)."""

__all__ = [
    "CLIP", "Reliability", "binned_error", "brier", "ece", "ece_classwise", "nll", "reliability", "reliability_of_bins",
]  # fmt: skip

from dataclasses import dataclass
from typing import Literal

import numpy as np

CLIP = 1e-12  # probabilities below this count as this in a logarithm


@dataclass(frozen=True)
class Reliability:
    """Bins of a reliability diagram and what follows from them."""

    edges: np.ndarray  # (n_bins + 1,)
    count: np.ndarray  # (n_bins,) int64
    confidence: np.ndarray  # (n_bins,) mean confidence, NaN in empty bins
    accuracy: np.ndarray  # (n_bins,) fraction correct, NaN in empty bins
    ece: float  # NaN without a sample
    mce: float  # NaN without a sample


def nll(probs: np.ndarray, truth: np.ndarray) -> float:
    """Negative log-likelihood (Eq. 3): mean over voxels of -ln p(true class), in nats.

    probs (K, ...) sums to 1 over K; truth (...) integer classes. Probabilities are clipped at 1e-12. Accumulated in
    float64. Empty input: NaN. Raises ValueError where shapes do not match or truth holds a class beyond K.

    >>> round(nll(np.array([[0.5], [0.5]]), np.array([1])), 4)
    0.6931
    """
    p_true = _p_true(probs, truth)
    return float(-np.log(np.maximum(p_true, CLIP)).mean()) if p_true.size else float("nan")


def brier(probs: np.ndarray, truth: np.ndarray, normalise: Literal["sum", "mean"] = "sum") -> float:
    """Brier score (Eq. 4): mean over voxels of the squared distance to the one-hot truth.

    `sum` adds over the K classes (0..2), as the paper's tables must have done; `mean` divides by K, as Eq. 4 prints.
    probs (K, ...), truth (...). Empty input: NaN. Raises ValueError for shapes and classes as `nll`, and for another
    `normalise`.
    """
    if normalise not in ("sum", "mean"):
        raise ValueError(f"normalise must be 'sum' or 'mean', got normalise={normalise!r}")
    p_true = _p_true(probs, truth)
    if not p_true.size:
        return float("nan")
    # sum_k (p_k - y_k)^2 = sum_k p_k^2 - 2 p_true + 1
    total = np.square(probs, dtype=np.float64).sum() / p_true.size - 2 * p_true.mean() + 1
    return float(total if normalise == "sum" else total / probs.shape[0])


def reliability(confidence: np.ndarray, correct: np.ndarray, n_bins: int = 10) -> Reliability:
    """Bins ((m-1)/M, m/M] of confidence, with mean confidence and accuracy in each (Eq. 5).

    confidence (...) in [0, 1], correct (...) bool. A float32 confidence is compared with float32 edges, so that 0.3
    lies in (0.2, 0.3]; 0 belongs to the first bin and 1 to the last. Empty input: counts 0, ece and mce NaN. Raises
    ValueError where the shapes differ or n_bins is below 1.
    """
    return reliability_of_bins(*confidence_bins(confidence, correct, n_bins))


def confidence_bins(
    confidence: np.ndarray, correct: np.ndarray, n_bins: int = 10
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Additive parts of a reliability diagram: voxels, sum of confidence, number correct; each (n_bins,) float64."""
    if n_bins < 1:
        raise ValueError(f"n_bins must be at least 1, got n_bins={n_bins}")
    flat, hits = np.asarray(confidence).ravel(), np.asarray(correct).ravel()
    if flat.shape != hits.shape:
        raise ValueError(f"confidence and correct must have one shape, got {flat.shape} and {hits.shape}")
    inner = _edges(n_bins)[1:-1].astype(flat.dtype if flat.dtype.kind == "f" else np.float64)
    index = np.searchsorted(inner, flat, side="left")
    count = np.bincount(index, minlength=n_bins).astype(np.float64)
    confidence_sum = np.bincount(index, weights=flat, minlength=n_bins)
    correct_sum = np.bincount(index, weights=hits, minlength=n_bins)
    return count, confidence_sum, correct_sum


def reliability_of_bins(count: np.ndarray, confidence_sum: np.ndarray, correct_sum: np.ndarray) -> Reliability:
    """The reliability diagram of summed bins; ece is Eq. 5, mce the largest gap."""
    total = count.sum()
    with np.errstate(invalid="ignore"):
        mean_confidence, accuracy = confidence_sum / count, correct_sum / count
    gaps = np.abs(confidence_sum - correct_sum)
    return Reliability(
        edges=_edges(count.size),
        count=count.astype(np.int64),
        confidence=mean_confidence,
        accuracy=accuracy,
        ece=float(gaps.sum() / total) if total else float("nan"),
        mce=float(np.nanmax(np.abs(mean_confidence - accuracy))) if total else float("nan"),
    )


def ece(probs: np.ndarray, truth: np.ndarray, n_bins: int = 10) -> float:
    """Expected calibration error of the top label (Eq. 5): mean over bins of |accuracy - confidence|, by voxels.

    probs (K, ...), truth (...). Ties take the lowest class. Empty input: NaN. Raises ValueError for shapes and
    classes as `nll`, and for n_bins below 1.
    """
    _check(probs, truth)
    return reliability(probs.max(axis=0), probs.argmax(axis=0) == truth, n_bins).ece if truth.size else float("nan")


def ece_classwise(probs: np.ndarray, truth: np.ndarray, n_bins: int = 10) -> float:
    """Class-wise calibration error: Eq. 5 of each class's probability against its frequency, averaged over classes.

    Also called static calibration error (Nixon et al. 2019). probs (K, ...), truth (...). Empty input: NaN. Raises
    ValueError as `ece`.
    """
    _check(probs, truth)
    if not truth.size:
        return float("nan")
    bins = [np.stack(confidence_bins(probs[k], truth == k, n_bins), axis=-1) for k in range(probs.shape[0])]
    return float(binned_error(np.array(bins), truth.size).mean())


def binned_error(bins: np.ndarray, voxels: int) -> np.ndarray:
    """Eq. 5 of summed bins (..., n_bins, 3): voxels, sum of confidence, number correct; voxels: of all bins.

    Without voxels: NaN.
    """
    gaps: np.ndarray = np.abs(bins[..., 1] - bins[..., 2]).sum(axis=-1) / voxels
    return gaps


def _p_true(probs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Probability of the true class, float64 (voxels,)."""
    _check(probs, truth)
    picked = np.take_along_axis(probs, truth[np.newaxis].astype(np.intp), axis=0)
    return picked.ravel().astype(np.float64)


def _check(probs: np.ndarray, truth: np.ndarray) -> None:
    if probs.shape[1:] != truth.shape:
        raise ValueError(f"probs (K, ...) must match truth (...), got {probs.shape} and {truth.shape}")
    if truth.size and (truth.min() < 0 or truth.max() >= probs.shape[0]):
        raise ValueError(f"truth must hold classes 0..{probs.shape[0] - 1}, got {truth.min()}..{truth.max()}")


def _edges(n_bins: int) -> np.ndarray:
    return np.arange(n_bins + 1, dtype=np.float64) / n_bins
