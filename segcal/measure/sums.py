"""What is summed over the voxels of a case, a row a subset of members: every metric of the case follows from it."""

__all__ = ["N_BINS", "RegionSums", "StructureSums", "coarse"]

from dataclasses import dataclass

import numpy as np

from segcal.measure.grid import FINE
from segcal.measure.surface import SurfaceDistances

N_BINS = 10


@dataclass(frozen=True)
class RegionSums:
    """Sums over the voxels of a region, a row a subset; every calibration metric follows from them."""

    voxels: int
    nll: np.ndarray  # (S,)
    nll_loose: np.ndarray
    brier: np.ndarray
    p_true: np.ndarray
    clipped: np.ndarray
    winners: np.ndarray  # (S, K, FINE, 3)
    classwise: np.ndarray  # (S, K, FINE, 3)
    variance: np.ndarray  # (S,), NaN where not asked for
    entropy: np.ndarray
    member_entropy: np.ndarray

    @property
    def top(self) -> np.ndarray:
        """Bins of the most probable class's probability, (S, FINE, 3)."""
        bins: np.ndarray = self.winners.sum(axis=1)
        return bins


@dataclass(frozen=True)
class StructureSums:
    """One structure in every subset's label map: sizes in voxels, and distances of the subsets that are `full`."""

    truth: int
    predicted: np.ndarray  # (S,)
    common: np.ndarray  # (S,) voxels of both
    entropy: np.ndarray  # (S,) sum of the binary entropy over the predicted segment
    distances: tuple[SurfaceDistances | None, ...]  # (S,), None where not full, or absent in one or both
    full: np.ndarray  # (S,) bool
    diagonal_mm: float

    @property
    def absent(self) -> np.ndarray:
        """In neither map: the tables leave it out, although its distance is 0 by convention."""
        absent: np.ndarray = (self.predicted == 0) & (self.truth == 0)
        return absent


def coarse(bins: np.ndarray, n_bins: int) -> np.ndarray:
    """Fewer bins (..., n_bins, 3) out of the fine ones (..., FINE, 3); n_bins must divide FINE."""
    united: np.ndarray = bins.reshape(*bins.shape[:-2], n_bins, FINE // n_bins, 3).sum(axis=-2)
    return united
