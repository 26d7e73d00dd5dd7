"""One case from files to the task's grid: read, turn, resample, scale, crop. What the way back needs is recorded."""

__all__ = ["prepare_case", "prepare_image", "read_case", "read_channels", "scale_intensity"]

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from segcal.data.case_files import CaseFiles, ImageFile
from segcal.data.faults import GridMismatch
from segcal.data.orient import orient
from segcal.data.resample import (
    crop_or_pad,
    outside_share,
    resample,
    resample_labels,
    resample_onto,
    resampled_shape,
    spacing_of,
)
from segcal.data.voxels.read import read_image, read_labels, same_grid
from segcal.data.voxels.streams import check_size
from segcal.tasks import TaskSpec
from segcal.volume import Volume

MAX_OUTSIDE = 0.05  # share of a label that may lie outside the image it was drawn on


def read_channels(channels: Mapping[str, ImageFile], root: Path, case_id: str) -> dict[str, Volume]:
    """The images of one case, each checked and all on the grid of the first."""
    volumes = {name: read_image(image, root, case_id) for name, image in channels.items()}
    first_name, first = next(iter(volumes.items()))
    for name, volume in volumes.items():
        same_grid(case_id, name, volume, first_name, first)
    return volumes


def read_case(case: CaseFiles, task: TaskSpec) -> tuple[dict[str, Volume], Volume]:
    """Channels of one case, and its classes (uint8), each checked and all on one grid."""
    volumes = read_channels(case.channels, case.root, case.case_id)
    meanings = case.label_values or {value: value for value in task.labels}
    values = {value: task.classes[meaning] for value, meaning in meanings.items()}
    label = read_labels(case.label, case.root, case.case_id, values)
    first_name, first = next(iter(volumes.items()))
    if case.label_has_own_grid:
        label = _onto(case, label, first, task)
    same_grid(case.case_id, "label", label, first_name, first)
    return volumes, label


def prepare_case(case: CaseFiles, task: TaskSpec) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """One checked case: image (C, Z, Y, X) float32 in [0, 1], truth (Z, Y, X) uint8, and its manifest entry."""
    volumes, label = read_case(case, task)
    label, _ = orient(label, task.orientation)
    image, way_back = prepare_image(volumes, task, case.case_id)
    spacing_mm, target_mm = spacing_of(way_back["native"]["turned_spacing_mm"]), spacing_of(way_back["spacing_mm"])
    classes = resample_labels(label.array, task.n_classes, spacing_mm, target_mm, task.label_resampling)
    truth, _ = crop_or_pad(classes, task.crop)
    whole, kept = int(np.count_nonzero(classes)), int(np.count_nonzero(truth))
    entry = {
        "case_id": case.case_id,
        "site": case.site,
        "group": case.group,
        **way_back,
        "cropped_away": 1 - kept / whole if whole else 0.0,
        "class_voxels": np.bincount(truth.ravel(), minlength=task.n_classes).tolist(),
    }
    return image, truth, entry


def prepare_image(volumes: Mapping[str, Volume], task: TaskSpec, case_id: str) -> tuple[np.ndarray, dict[str, Any]]:
    """Channels of one grid as networks take them: image (C, Z, Y, X) float32 in [0, 1], and the way back.

    volumes: every channel of the task, as read. The way back is what `labels_to_native` and `probs_to_native` need, and
    part of a case's manifest entry. Raises TooLarge for a grid beyond the caps.
    """
    native = next(iter(volumes.values()))
    turned = {name: orient(volume, task.orientation) for name, volume in volumes.items()}
    first, axes = next(iter(turned.values()))
    target_mm = spacing_of([want or have for want, have in zip(task.spacing_mm, first.spacing_mm, strict=True)])
    resampled = resampled_shape(first.array.shape, first.spacing_mm, target_mm)
    check_size(resampled, 4, "its prepared grid", case_id)
    scaled = [scale_intensity(turned[name][0].array, task.intensity, task.intensity_inside) for name in task.channels]
    image = np.stack([resample(array, first.spacing_mm, target_mm) for array in scaled])
    image, offset = crop_or_pad(image, task.crop)
    return image, {
        "shape": list(image.shape[1:]),
        "spacing_mm": list(target_mm),
        "resampled_shape": list(resampled),
        "crop_offset": list(offset),
        "native": {
            "shape": list(native.array.shape),
            "spacing_mm": list(native.spacing_mm),
            "affine": native.affine.tolist(),
            "axes": axes,
            "turned_shape": list(first.array.shape),
            "turned_spacing_mm": list(first.spacing_mm),
        },
    }


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
