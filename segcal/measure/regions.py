"""Which voxels count: the whole volume, or a box around the structures (paper: section VI-D)."""

__all__ = ["dilated_box"]

import math

import numpy as np


def dilated_box(
    truth: np.ndarray, spacing_mm: tuple[float, float, float], margin_mm: float, margin_slices: int
) -> tuple[slice, slice, slice]:
    """Bounding box of all foreground of the truth, grown by margin_mm in-plane and margin_slices through-plane.

    truth (Z, Y, X) integer labels, 0 = background; spacing_mm (z, y, x). A margin that is no whole number of voxels
    grows to the next one. The box is clipped to the volume. No foreground: an empty box. Only evaluation may look at
    it. Raises ValueError for a truth that is not 3-D and for a negative margin.
    """
    foreground = np.asarray(truth) != 0
    if foreground.ndim != 3:
        raise ValueError(f"truth must be (Z, Y, X), got shape {foreground.shape}")
    if margin_mm < 0 or margin_slices < 0:
        raise ValueError(f"margins must not be negative, got {margin_mm} mm and {margin_slices} slices")
    if not foreground.any():
        return slice(0, 0), slice(0, 0), slice(0, 0)
    # The tiny slack keeps 8 mm / 0.1 mm at 80 voxels in floating point.
    in_plane = [math.ceil(margin_mm / spacing - 1e-6) for spacing in spacing_mm[1:]]
    sides = []
    for axis, margin in enumerate((margin_slices, *in_plane)):
        present = np.flatnonzero(foreground.any(axis=tuple(a for a in range(3) if a != axis)))
        sides.append(
            slice(max(0, int(present[0]) - margin), min(foreground.shape[axis], int(present[-1]) + 1 + margin))
        )
    return sides[0], sides[1], sides[2]
