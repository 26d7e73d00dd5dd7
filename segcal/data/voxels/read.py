"""Reads any image of a case, checked: no fault passes in silence, and every format has the same faults.

Order of the checks: the path, the header with caps *before* anything large is read, the whole stream with its
checksum, then finiteness and geometry.
"""

__all__ = ["FORMATS", "read_image", "read_labels", "same_grid"]

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segcal.data.case_files import ImageFile
from segcal.data.faults import BadGeometry, GridMismatch, NotFinite, UnknownLabel, Unreadable
from segcal.data.voxels.dicom import peek, read_series
from segcal.data.voxels.dicom_seg import read_segmentation
from segcal.data.voxels.itk_files import read_metaimage, read_nrrd
from segcal.data.voxels.nifti import read_nifti
from segcal.data.voxels.raw import Raw
from segcal.data.voxels.streams import AGAIN, check_path
from segcal.volume import Volume

FORMATS = (".nii.gz", ".nii", ".mhd", ".mha", ".nrrd", ".nhdr", ".dcm")


def read_image(image: ImageFile, root: Path, case_id: str) -> Volume:
    """One scalar image, checked; array (Z, Y, X) float32.

    Raises a DataFault that names the case for a file that is outside the root, absent, empty, truncated, corrupt,
    of another format, too large, not finite, not three-dimensional, or without a sensible geometry.
    """
    raw = _read(image, root, case_id)
    if raw.array.ndim != 3:
        got = f"shape {raw.array.shape}"
        raise Unreadable(case_id, f"{image.name} must be one 3-D image", got, "split its channels")
    if not np.isfinite(raw.array).all():
        bad = int(np.count_nonzero(~np.isfinite(raw.array)))
        raise NotFinite(case_id, f"{image.name} must hold finite voxels", f"{bad} NaN or infinite", AGAIN)
    _check_geometry(raw, image.name, case_id)
    x, y, z = raw.spacing_mm
    return Volume(raw.array.transpose(2, 1, 0), (z, y, x), raw.affine)


def read_labels(image: ImageFile, root: Path, case_id: str, values: Mapping[int, int]) -> Volume:
    """A label map, checked like an image; array (Z, Y, X) uint8 of classes.

    values: what may stand in the file, beside 0, and the class that it means.
    """
    volume = read_image(image, root, case_id)
    classes = np.zeros(volume.array.shape, dtype=np.uint8)
    known = volume.array == 0
    for value, label in values.items():
        here = volume.array == value
        classes[here] = label
        known |= here
    if not known.all():
        odd = np.unique(volume.array[~known])
        rule = f"labels in {image.name} must be {', '.join(map(str, (0, *values)))}"
        shown = ", ".join(f"{value:g}" for value in odd[:5])
        raise UnknownLabel(case_id, rule, shown, "correct the file, or the labels of the task")
    return Volume(classes, volume.spacing_mm, volume.affine)


def same_grid(case_id: str, name: str, volume: Volume, first_name: str, first: Volume) -> None:
    """Raise GridMismatch where two volumes of one case differ in shape or in where their voxels lie (by 0.01 mm)."""
    rule, remedy = f"{name} must lie on the grid of {first_name}", "resample it onto that grid"
    if volume.array.shape != first.array.shape:
        raise GridMismatch(case_id, rule, f"shape {volume.array.shape} against {first.array.shape}", remedy)
    gap = float(np.abs(volume.affine - first.affine).max())
    if gap > 0.01 or not np.allclose(volume.spacing_mm, first.spacing_mm, atol=1e-3):
        raise GridMismatch(case_id, rule, f"affines that differ by {gap:.3g} mm", remedy)


def _read(image: ImageFile, root: Path, case_id: str) -> Raw:
    path = image.paths[0]
    if len(image.paths) > 1 or image.series:
        return read_series(image.paths, root, case_id, image.series)
    check_path(path, root, case_id)
    if path.name.endswith((".nii", ".nii.gz")):
        return read_nifti(path, case_id, image.component)
    if path.suffix in (".mhd", ".mha"):
        return read_metaimage(path, root, case_id)
    if path.suffix in (".nrrd", ".nhdr"):
        return read_nrrd(path, root, case_id)
    header = peek(path)
    if header and header.modality == "SEG":
        return read_segmentation(path, case_id)
    if header:
        return read_series(image.paths, root, case_id)
    raise Unreadable(case_id, f"{path.name} must be NIfTI, MetaImage, NRRD or DICOM", "neither", AGAIN)


def _check_geometry(raw: Raw, name: str, case_id: str) -> None:
    if not np.isfinite(raw.affine).all() or not np.isfinite(raw.spacing_mm).all() or min(raw.spacing_mm) <= 0:
        got = f"{raw.spacing_mm} mm"
        raise BadGeometry(case_id, f"{name} must have a positive voxel size", got, "repair its header")
    columns = np.linalg.norm(raw.affine[:3, :3], axis=0)
    axes = raw.affine[:3, :3] / np.where(columns > 0, columns, 1)
    if abs(abs(np.linalg.det(axes)) - 1) > 0.01:
        remedy = "resample it to a grid with right angles"
        raise BadGeometry(case_id, f"{name} must have axes at right angles", "a sheared or singular affine", remedy)
