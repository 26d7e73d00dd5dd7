"""Arrays with the geometry that gives them meaning. Axes are (Z, Y, X), with channels or classes first."""

__all__ = ["Case", "Prediction", "Volume"]

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Volume:
    """One scalar image or label map as it was acquired."""

    array: np.ndarray  # (Z, Y, X)
    spacing_mm: tuple[float, float, float]  # (z, y, x)
    affine: np.ndarray  # (4, 4): voxel (x, y, z) -> RAS mm, as NIfTI defines it


@dataclass(frozen=True)
class Case:
    """One prepared patient."""

    case_id: str
    image: np.ndarray  # (C, Z, Y, X) float32 in [0, 1]
    truth: np.ndarray  # (Z, Y, X) uint8, classes
    spacing_mm: tuple[float, float, float]  # (z, y, x)
    site: str = ""


@dataclass(frozen=True)
class Prediction:
    """Class probabilities of one case, or of a slab of its slices.

    `log_probs` is there for single models only: the log-softmax, exact where the probability itself underflows.
    The mean of an ensemble (Eq. 6) has none.
    """

    probs: np.ndarray  # (K, Z, Y, X), sums to 1 over K
    log_probs: np.ndarray | None = None  # (K, Z, Y, X)
