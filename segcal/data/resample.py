"""To the task's grid: spacing, then centre crop or pad. Plain geometry in mm; the patient's orientation is kept.

`resample` and `resample_labels` change the voxel size along the image's own axes; `resample_onto` takes labels from
one grid to another that may be tilted against it.
"""

__all__ = [
    "Spacing", "crop_or_pad", "outside_share", "resample", "resample_labels", "resample_onto", "resample_volume",
    "resampled_shape", "spacing_of", "uncrop",
]  # fmt: skip

from collections.abc import Callable, Sequence

import numpy as np
import SimpleITK as sitk

from segcal.data.voxels.raw import place
from segcal.volume import Volume

Spacing = tuple[float, float, float]


def spacing_of(sides: Sequence[float]) -> Spacing:
    """Three sides (z, y, x) in mm, as a manifest lists them."""
    z, y, x = sides
    return z, y, x


def resample(
    array: np.ndarray, spacing_mm: Spacing, target_mm: Spacing, shape: tuple[int, ...] | None = None
) -> np.ndarray:
    """An image (Z, Y, X) by linear interpolation, float32. shape: of the result, where rounding does not give it.

    The outer edge of the first voxel stays where it is, so the first centre moves by half the change of the voxel
    size. Beyond the last centre the nearest voxel is repeated.
    """
    return _on_grid(array.astype(np.float32, copy=False), spacing_mm, target_mm, sitk.sitkLinear, shape)


def resample_labels(
    classes: np.ndarray,
    n_classes: int,
    spacing_mm: Spacing,
    target_mm: Spacing,
    how: str,
    shape: tuple[int, ...] | None = None,
) -> np.ndarray:
    """Classes (Z, Y, X) uint8. `linear`: each class's mask is interpolated, the largest wins, ties go to the nearest
    voxel's class; or `nearest`."""
    if np.allclose(spacing_mm, target_mm) and shape in (None, classes.shape):
        return classes.astype(np.uint8, copy=False)
    nearest = _on_grid(classes.astype(np.uint8), spacing_mm, target_mm, sitk.sitkNearestNeighbor, shape)
    if how == "nearest":
        return nearest
    return _largest(lambda mask: resample(mask, spacing_mm, target_mm, shape), classes, n_classes, nearest)


def resample_onto(label: Volume, image: Volume, n_classes: int, how: str) -> Volume:
    """Classes of one grid on another grid, by where their voxels lie; outside the first grid is background."""

    def take(mask: np.ndarray, nearest: bool = False) -> np.ndarray:
        return resample_volume(Volume(mask, label.spacing_mm, label.affine), image, nearest=nearest).array

    classes = take(label.array, nearest=True).astype(np.uint8)
    if how != "nearest":
        classes = _largest(take, label.array, n_classes, classes)
    return Volume(classes, image.spacing_mm, image.affine)


def resampled_shape(shape: tuple[int, ...], spacing_mm: Spacing, target_mm: Spacing) -> tuple[int, ...]:
    """Shape of an image after the change of its voxel size: what covers the same extent, to the nearest voxel."""
    return tuple(max(1, round(n * old / new)) for n, old, new in zip(shape, spacing_mm, target_mm, strict=True))


def resample_volume(volume: Volume, onto: Volume, outside: float = 0.0, *, nearest: bool = False) -> Volume:
    """A volume on another one's grid, by where the voxels lie; linear or nearest neighbour, float32."""
    source = sitk.GetImageFromArray(np.ascontiguousarray(volume.array, dtype=np.float32))
    place(source, volume)
    reference = sitk.Image(onto.array.shape[::-1], sitk.sitkUInt8)
    place(reference, onto)
    grid = _filter(sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear)
    grid.SetReferenceImage(reference)
    grid.SetDefaultPixelValue(outside)
    return Volume(sitk.GetArrayFromImage(grid.Execute(source)), onto.spacing_mm, onto.affine)


def outside_share(label: Volume, image: Volume) -> float:
    """Share of a label's foreground whose centres lie outside the image's voxels; 0 for an empty label."""
    z, y, x = np.nonzero(label.array)
    if not len(z):
        return 0.0
    to_image = np.linalg.inv(image.affine) @ label.affine
    at = to_image[:3, :3] @ np.stack([x, y, z]) + to_image[:3, 3:]
    size = np.array(image.array.shape[::-1])[:, None]
    return float(1 - ((at >= -0.5) & (at <= size - 0.5)).all(axis=0).mean())


def crop_or_pad(array: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, ...]]:
    """The centre of the last axes, padded with 0 where it is smaller, and the offset of the crop in each.

    size: (y, x) or (z, y, x). A negative offset is the width of the padding.
    """
    have = array.shape[-len(size) :]
    offsets = tuple((n - want) // 2 for n, want in zip(have, size, strict=True))
    return uncrop(array, size, tuple(-offset for offset in offsets)), offsets


def uncrop(array: np.ndarray, size: tuple[int, ...], offsets: tuple[int, ...]) -> np.ndarray:
    """The array at `offsets` in one of `size` (last axes) that is 0 elsewhere; what leaves it is cut off."""
    lead = array.shape[: array.ndim - len(size)]
    result = np.zeros((*lead, *size), dtype=array.dtype)
    source, target = [slice(None)] * len(lead), [slice(None)] * len(lead)
    for have, want, offset in zip(array.shape[len(lead) :], size, offsets, strict=True):
        length = max(min(have + min(offset, 0), want - max(offset, 0)), 0)
        source.append(slice(max(-offset, 0), max(-offset, 0) + length))
        target.append(slice(max(offset, 0), max(offset, 0) + length))
    result[tuple(target)] = array[tuple(source)]
    return result


def _largest(
    move: Callable[[np.ndarray], np.ndarray], classes: np.ndarray, n_classes: int, nearest: np.ndarray
) -> np.ndarray:
    """The class with the largest interpolated share; the background has what the others leave.

    Ties go to the nearest voxel's class. They are no rarity: where two slices become one, every voxel on which they
    differ is one, and a rule such as "the lowest class" would make structures shrink or grow by 5 to 20%.
    """
    shares = {label: move(classes == label) for label in range(1, n_classes) if (classes == label).any()}
    shares[0] = 1 - sum(shares.values(), np.zeros(nearest.shape, dtype=np.float32))
    winner = nearest.astype(np.uint8)
    best = np.zeros(nearest.shape, dtype=np.float32)
    for label, share in shares.items():
        np.copyto(best, share, where=nearest == label)
    for label, share in shares.items():
        larger = share > best + 1e-5
        winner[larger] = label
        np.copyto(best, share, where=larger)
    return winner


def _filter(interpolator: int) -> sitk.ResampleImageFilter:
    grid = sitk.ResampleImageFilter()
    grid.SetInterpolator(interpolator)
    grid.SetNumberOfThreads(1)  # cases run in parallel
    return grid


def _on_grid(
    array: np.ndarray, spacing_mm: Spacing, target_mm: Spacing, interpolator: int, shape: tuple[int, ...] | None
) -> np.ndarray:
    if np.allclose(spacing_mm, target_mm) and shape in (None, array.shape):
        return array
    image = sitk.GetImageFromArray(np.ascontiguousarray(array))
    image.SetSpacing(spacing_mm[::-1])
    grid = _filter(interpolator)
    grid.SetOutputSpacing(target_mm[::-1])
    grid.SetOutputOrigin([(new - old) / 2 for new, old in zip(target_mm[::-1], spacing_mm[::-1], strict=True)])
    grid.SetSize([int(n) for n in (shape or resampled_shape(array.shape, spacing_mm, target_mm))[::-1]])
    grid.SetUseNearestNeighborExtrapolator(True)
    resampled: np.ndarray = sitk.GetArrayFromImage(grid.Execute(image))
    return resampled
