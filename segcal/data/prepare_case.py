"""One case from files to the task's grid: read, turn, resample, scale, crop. What the way back needs is recorded."""

__all__ = ["prepare_case", "read_case", "scale_intensity"]

from typing import Any

import numpy as np

from segcal.data.case_files import CaseFiles
from segcal.data.faults import GridMismatch
from segcal.data.orient import orient
from segcal.data.resample import (
    Spacing,
    crop_or_pad,
    outside_share,
    resample,
    resample_labels,
    resample_onto,
    resampled_shape,
)
from segcal.data.voxels.read import read_image, read_labels, same_grid
from segcal.data.voxels.streams import check_size
from segcal.tasks import TaskSpec
from segcal.volume import Volume

MAX_OUTSIDE = 0.05  # share of a label that may lie outside the image it was drawn on


def read_case(case: CaseFiles, task: TaskSpec) -> tuple[dict[str, Volume], Volume]:
    """Channels of one case, and its classes (uint8), each checked and all on one grid."""
    volumes = {name: read_image(image, case.root, case.case_id) for name, image in case.channels.items()}
    meanings = case.label_values or {value: value for value in task.labels}
    values = {value: task.classes[meaning] for value, meaning in meanings.items()}
    label = read_labels(case.label, case.root, case.case_id, values)
    first_name, first = next(iter(volumes.items()))
    if case.label_has_own_grid:
        label = _onto(case, label, first, task)
    for name, volume in (*volumes.items(), ("label", label)):
        same_grid(case.case_id, name, volume, first_name, first)
    return volumes, label


def prepare_case(case: CaseFiles, task: TaskSpec) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """One checked case: image (C, Z, Y, X) float32 in [0, 1], truth (Z, Y, X) uint8, and its manifest entry."""
    volumes, label = read_case(case, task)
    native = next(iter(volumes.values()))
    label, axes = orient(label, task.orientation)
    volumes = {name: orient(volume, task.orientation)[0] for name, volume in volumes.items()}
    first = next(iter(volumes.values()))
    z, y, x = (want or have for want, have in zip(task.spacing_mm, first.spacing_mm, strict=True))
    target_mm: Spacing = (z, y, x)
    grid = resampled_shape(label.array.shape, first.spacing_mm, target_mm)
    check_size(grid, 4, "its prepared grid", case.case_id)
    scaled = [scale_intensity(volumes[name].array, task.intensity, task.intensity_inside) for name in task.channels]
    image = np.stack([resample(array, first.spacing_mm, target_mm) for array in scaled])
    classes = resample_labels(label.array, task.n_classes, first.spacing_mm, target_mm, task.label_resampling)
    resampled = classes.shape
    image, offset = crop_or_pad(image, task.crop)
    truth, _ = crop_or_pad(classes, task.crop)
    whole, kept = int(np.count_nonzero(classes)), int(np.count_nonzero(truth))
    entry = {
        "case_id": case.case_id,
        "site": case.site,
        "group": case.group,
        "shape": list(truth.shape),
        "spacing_mm": list(target_mm),
        "resampled_shape": list(resampled),
        "crop_offset": list(offset),
        "cropped_away": 1 - kept / whole if whole else 0.0,
        "native": {
            "shape": list(native.array.shape),
            "spacing_mm": list(native.spacing_mm),
            "affine": native.affine.tolist(),
            "axes": axes,
            "turned_shape": list(first.array.shape),
            "turned_spacing_mm": list(first.spacing_mm),
        },
        "class_voxels": np.bincount(truth.ravel(), minlength=task.n_classes).tolist(),
    }
    return image, truth, entry


def scale_intensity(array: np.ndarray, how: str, inside: str = "all") -> np.ndarray:
    """An image to [0, 1], float32: `percentile` maps the 1st and 99th percentile, `minmax` the extremes.

    inside: the voxels that these are taken of, `all` or `nonzero` (above 0; the others become 0, as skull-stripped
    images have it). An image without such a voxel, or of one value, becomes 0.
    """
    voxels = array[array > 0] if inside == "nonzero" else array.ravel()
    if voxels.size == 0:
        return np.zeros_like(array, dtype=np.float32)
    low, high = np.percentile(voxels, (1, 99) if how == "percentile" else (0, 100))
    if high <= low:
        return np.zeros_like(array, dtype=np.float32)
    scaled: np.ndarray = ((array - np.float32(low)) * np.float32(1 / (high - low))).astype(np.float32, copy=False)
    np.clip(scaled, 0, 1, out=scaled)
    if inside == "nonzero":
        scaled[array <= 0] = 0
    return scaled


def _onto(case: CaseFiles, label: Volume, image: Volume, task: TaskSpec) -> Volume:
    """A label that was drawn on a grid of its own, on the image's."""
    share = outside_share(label, image)
    if share > MAX_OUTSIDE:
        rule = f"{case.label.name} must lie within the image"
        remedy = "check which series it was drawn on"
        raise GridMismatch(case.case_id, rule, f"{share:.0%} of it outside", remedy)
    onto = resample_onto(label, image, task.n_classes, task.label_resampling)
    if label.array.any() and not onto.array.any():
        rule = f"{case.label.name} must be seen in a slice of the image"
        raise GridMismatch(case.case_id, rule, "none of it", "check which series it was drawn on")
    return onto
