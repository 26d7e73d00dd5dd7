"""Random fields and soft masks in mm, for all generated anatomy."""

__all__ = ["Grid", "smooth_field", "soft_step", "softer_max", "thick_slices", "thin_grid", "to_mm"]

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Grid:
    """A regular grid: shape and spacing (z, y, x), and where its middle lies, in mm."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    centre_mm: np.ndarray  # (3,)

    def points_mm(self) -> np.ndarray:
        """Centres of the voxels, (3, Z, Y, X)."""
        axes = [
            (np.arange(n) - (n - 1) / 2) * side + middle
            for n, side, middle in zip(self.shape, self.spacing_mm, self.centre_mm, strict=True)
        ]
        return np.stack(np.meshgrid(*axes, indexing="ij"))


def smooth_field(rng: np.random.Generator, grid: Grid, correlation_mm: float, sd: float) -> np.ndarray:
    """A Gaussian random field (Z, Y, X) of mean 0 whose values fade out of correlation over about `correlation_mm`.

    Drawn on a coarse grid and interpolated, so that long correlations cost little.
    """
    step = [max(side, correlation_mm / 2) for side in grid.spacing_mm]
    extent = [n * side for n, side in zip(grid.shape, grid.spacing_mm, strict=True)]
    margin = 4  # keeps the filter's edge out of sight
    coarse = [int(np.ceil(length / side)) + 2 * margin for length, side in zip(extent, step, strict=True)]
    noise = rng.standard_normal(coarse).astype(np.float32)
    sigma = [0.5 * correlation_mm / side for side in step]
    smooth = ndimage.gaussian_filter(noise, sigma, mode="wrap")
    smooth *= sd / smooth.std()
    axes = [
        margin + (np.arange(n) + 0.5) * side / coarse_side - 0.5
        for n, side, coarse_side in zip(grid.shape, grid.spacing_mm, step, strict=True)
    ]
    # Separable interpolation, one axis after the other: far cheaper than one in three dimensions.
    for axis, at in enumerate(axes):
        low = np.clip(np.floor(at).astype(int), 0, smooth.shape[axis] - 2)
        share = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        share = share * share * (3 - 2 * share)  # no kinks at the coarse grid's points
        smooth = np.take(smooth, low, axis) * (1 - share) + np.take(smooth, low + 1, axis) * share
    return smooth


def soft_step(x: np.ndarray, width: float) -> np.ndarray:
    """0 far below 0, 1 far above, 0.5 at 0; most of the change within +-`width`."""
    step: np.ndarray = 0.5 * (1 + np.tanh(np.clip(x / width, -20, 20)))
    return step


def thin_grid(shape: tuple[int, int, int], spacing_mm: tuple[float, float, float], centre_mm: np.ndarray) -> Grid:
    """The grid of thick slices cut into slices of about 2 mm, on which anatomy is laid out."""
    per_slice = max(1, round(spacing_mm[0] / 2.0))
    z, y, x = spacing_mm
    return Grid((shape[0] * per_slice, shape[1], shape[2]), (z / per_slice, y, x), centre_mm)


def thick_slices(fine: np.ndarray, per_slice: int) -> np.ndarray:
    """Mean of every `per_slice` thin slices (Z, Y, X) -> (Z / per_slice, Y, X): a rectangular slice profile."""
    thick: np.ndarray = fine.reshape(-1, per_slice, *fine.shape[1:]).mean(axis=1)
    return thick


def to_mm(level: np.ndarray, grid: Grid) -> np.ndarray:
    """A field turned into distance from its zero surface in mm, exact to first order."""
    slope = np.sqrt(sum(part**2 for part in np.gradient(level, *grid.spacing_mm)))
    distance: np.ndarray = (level / np.maximum(slope, 0.25 * np.median(slope))).astype(np.float32)
    return distance


def softer_max(first: np.ndarray, second: np.ndarray, width_mm: float) -> np.ndarray:
    """The larger of two fields, without a kink."""
    larger: np.ndarray = 0.5 * (first + second + np.sqrt((first - second) ** 2 + width_mm**2))
    return larger
