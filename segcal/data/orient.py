"""Turns a volume to the nearest of left-posterior-superior and back: axes are swapped and flipped, no voxel changes.

Tilted scans stay tilted: a resampling to canonical axes would blur slices into each other.
"""

__all__ = ["orient", "turn_back"]

from collections.abc import Sequence

import nibabel as nib
import numpy as np

from segcal.volume import Volume

LPS = nib.orientations.axcodes2ornt(("L", "P", "S"))
STAY = nib.orientations.axcodes2ornt(("R", "A", "S"))


def orient(volume: Volume, how: str) -> tuple[Volume, list[list[int]]]:
    """The volume with axes nearest to LPS (`lps`), or as it is (`stored`); and the turn, to take it back."""
    turn = STAY if how == "stored" else nib.orientations.ornt_transform(nib.io_orientation(volume.affine), LPS)
    stored = volume.array.transpose(2, 1, 0)
    array = nib.apply_orientation(stored, turn).transpose(2, 1, 0)
    affine = volume.affine @ nib.orientations.inv_ornt_aff(turn, stored.shape)
    order = np.argsort(turn[:, 0])  # input axis of each output axis
    x, y, z = (volume.spacing_mm[::-1][axis] for axis in order)
    return Volume(array, (z, y, x), affine), turn.astype(int).tolist()


def turn_back(array: np.ndarray, axes: Sequence[Sequence[int]]) -> np.ndarray:
    """An array (..., Z, Y, X) that was turned by `axes`, as it was stored."""
    back = nib.orientations.ornt_transform(STAY, np.asarray(axes, dtype=float))
    stored = np.moveaxis(array, [-1, -2, -3], [0, 1, 2])  # (X, Y, Z, ...)
    result: np.ndarray = np.moveaxis(nib.apply_orientation(stored, back), [0, 1, 2], [-1, -2, -3])
    return result
