"""How sure is the model of a segment it predicts? Entropy over the predicted structure (paper: Eq. 7)."""

__all__ = ["binary_entropy", "logit", "segment_entropy", "total_entropy"]

import numpy as np


def segment_entropy(probs: np.ndarray, label: int) -> float:
    """H(S) (Eq. 7): mean binary entropy of p(label), in nats, over the voxels whose most probable class is `label`.

    probs (K, ...); ties take the lowest class. 0 <= H <= ln 2. An empty segment: NaN.
    """
    segment = probs.argmax(axis=0) == label
    p = probs[label][segment].astype(np.float64)
    return float(binary_entropy(p).mean()) if p.size else float("nan")


def total_entropy(probs: np.ndarray) -> np.ndarray:
    """-sum p ln p over the classes (K, Z, ...), nats, float32 (Z, ...). 0 ln 0 is 0.

    Made in float64, slice by slice of the first axis. 0 <= entropy <= ln K. An empty array stays empty.
    """
    found = np.empty(probs.shape[1:], np.float32)
    for z in range(probs.shape[1]):
        p = probs[:, z].astype(np.float64)
        found[z] = np.abs((p * np.log(np.where(p > 0, p, 1.0))).sum(axis=0))  # no -0
    return found


def binary_entropy(p: np.ndarray) -> np.ndarray:
    """-p ln p - (1-p) ln(1-p) in nats, 0 where p is 0 or 1."""
    q = np.clip(p, 0.0, 1.0).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy: np.ndarray = -np.where(q > 0, q * np.log(q), 0.0) - np.where(q < 1, (1 - q) * np.log1p(-q), 0.0)
    return entropy


def logit(dice: np.ndarray, clip: float = 0.001) -> np.ndarray:
    """ln(d / (1 - d)) with d clipped to [clip, 1 - clip]; NaN stays NaN."""
    d = np.clip(np.asarray(dice, dtype=np.float64), clip, 1 - clip)
    odds: np.ndarray = np.log(d / (1 - d))
    return odds
