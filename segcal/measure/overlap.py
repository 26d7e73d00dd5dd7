"""Overlap of two segmentations."""

__all__ = ["dice"]

import numpy as np


def dice(prediction: np.ndarray, truth: np.ndarray, label: int) -> float:
    """Dice coefficient of one label: 2 |A and B| / (|A| + |B|).

    prediction, truth (...) integer labels. Absent in both: NaN (excluded and counted by the tables); absent in one:
    0. Empty input: NaN. Raises ValueError where the shapes differ.

    >>> dice(np.array([1, 1, 0]), np.array([1, 0, 0]), 1)
    0.6666666666666666
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction and truth must have one shape, got {prediction.shape} and {truth.shape}")
    a, b = prediction == label, truth == label
    size = int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    return 2.0 * int(np.count_nonzero(a & b)) / size if size else float("nan")
