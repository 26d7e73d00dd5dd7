"""To the task's grid: spacing, then centre crop or pad. Plain geometry in mm; the patient's orientation is kept."""

__all__ = ["crop_or_pad", "resample", "resample_labels"]

import numpy as np
import SimpleITK as sitk

Spacing = tuple[float, float, float]


def resample(array: np.ndarray, spacing_mm: Spacing, target_mm: Spacing) -> np.ndarray:
    """An image (Z, Y, X) by linear interpolation, float32.

    The outer edge of the first voxel stays where it is, so the first centre moves by half the change of the voxel
    size. Beyond the last centre the nearest voxel is repeated.
    """
    return _on_grid(array.astype(np.float32), spacing_mm, target_mm, sitk.sitkLinear)


def resample_labels(
    classes: np.ndarray, n_classes: int, spacing_mm: Spacing, target_mm: Spacing, how: str
) -> np.ndarray:
    """Classes (Z, Y, X) uint8. `linear`: each class's mask is interpolated and the largest wins; or `nearest`."""
    if np.allclose(spacing_mm, target_mm):
        return classes.astype(np.uint8)
    if how == "nearest":
        return _on_grid(classes.astype(np.uint8), spacing_mm, target_mm, sitk.sitkNearestNeighbor)
    shares = [resample(classes == label, spacing_mm, target_mm) for label in range(n_classes)]
    winner: np.ndarray = np.argmax(shares, axis=0).astype(np.uint8)
    return winner


def crop_or_pad(array: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, tuple[int, int]]:
    """The centre (..., y, x) of an array, padded with 0 where it is smaller; and the (y, x) offset of the crop.

    A negative offset is the width of the padding.
    """
    offsets = tuple((have - want) // 2 for have, want in zip(array.shape[-2:], size, strict=True))
    result = np.zeros((*array.shape[:-2], *size), dtype=array.dtype)
    source, target = [], []
    for have, want, offset in zip(array.shape[-2:], size, offsets, strict=True):
        source.append(slice(max(offset, 0), max(offset, 0) + min(have, want)))
        target.append(slice(max(-offset, 0), max(-offset, 0) + min(have, want)))
    result[..., target[0], target[1]] = array[..., source[0], source[1]]
    return result, (offsets[0], offsets[1])


def _on_grid(array: np.ndarray, spacing_mm: Spacing, target_mm: Spacing, interpolator: int) -> np.ndarray:
    if np.allclose(spacing_mm, target_mm):
        return array
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(spacing_mm[::-1])
    grid = sitk.ResampleImageFilter()
    grid.SetInterpolator(interpolator)
    grid.SetOutputSpacing(target_mm[::-1])
    grid.SetOutputOrigin([(new - old) / 2 for new, old in zip(target_mm[::-1], spacing_mm[::-1], strict=True)])
    shape = [max(1, round(n * old / new)) for n, old, new in zip(array.shape, spacing_mm, target_mm, strict=True)]
    grid.SetSize(shape[::-1])
    grid.SetUseNearestNeighborExtrapolator(True)
    resampled: np.ndarray = sitk.GetArrayFromImage(grid.Execute(image))
    return resampled
