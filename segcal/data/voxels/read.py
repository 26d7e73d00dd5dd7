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

SIDES_MM = (0.01, 100.0)  # of a voxel, as scanners make them
RIGHT_ANGLE = 2e-3  # cosine that rounded headers may be off; a quarter of a voxel over 128 of them
WHOLE = 0.01  # distance from a whole number that a label's slope may make
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
    array = np.rint(volume.array)
    if np.abs(volume.array - array).max(initial=0) > WHOLE:  # 1.00002 is a whole number that was stored with a slope
        array = volume.array
    classes = np.zeros(array.shape, dtype=np.uint8)
    known = array == 0
    for value, label in values.items():
        here = array == value
        classes[here] = label
        known |= here
    if not known.all():
        odd = np.unique(array[~known])
        rule = f"labels in {image.name} must be {', '.join(map(str, (0, *values)))}"
        shown = ", ".join(f"{value:g}" for value in odd[:5])
        raise UnknownLabel(case_id, rule, shown, "correct the file, or the labels of the task")
    return Volume(classes, volume.spacing_mm, volume.affine)


def same_grid(case_id: str, name: str, volume: Volume, first_name: str, first: Volume) -> None:
    """Raise GridMismatch where two volumes of one case differ in shape or in where their corners lie.

    A tenth of a voxel is allowed: headers are rounded.
    """
    rule, remedy = f"{name} must lie on the grid of {first_name}", "resample it onto that grid"
    if volume.array.shape != first.array.shape:
        raise GridMismatch(case_id, rule, f"shape {volume.array.shape} against {first.array.shape}", remedy)
    z, y, x = first.array.shape
    corners = np.array([[i, j, k, 1] for i in (0, x - 1) for j in (0, y - 1) for k in (0, z - 1)]).T
    gap = float(np.linalg.norm((volume.affine - first.affine)[:3] @ corners, axis=0).max())
    if gap > 0.1 * min(first.spacing_mm):
        raise GridMismatch(case_id, rule, f"corners that lie {gap:.3g} mm apart", remedy)


def _read(image: ImageFile, root: Path, case_id: str) -> Raw:
    path = image.paths[0]
    if len(image.paths) > 1 or image.series:
        return read_series(image.paths, root, case_id, image.series)
    check_path(path, root, case_id)
    name = path.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return read_nifti(path, case_id, image.component)
    if name.endswith((".mhd", ".mha")):
        return read_metaimage(path, root, case_id)
    if name.endswith((".nrrd", ".nhdr")):
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
    if min(raw.spacing_mm) < SIDES_MM[0] or max(raw.spacing_mm) > SIDES_MM[1]:
        rule = f"voxels of {name} must have sides of {SIDES_MM[0]:g} to {SIDES_MM[1]:g} mm"
        sides = "x".join(f"{side:.4g}" for side in raw.spacing_mm)
        raise BadGeometry(case_id, rule, f"{sides} mm", "give its spacing in mm")
    columns = np.linalg.norm(raw.affine[:3, :3], axis=0)
    axes = raw.affine[:3, :3] / np.where(columns > 0, columns, 1)
    if np.abs(axes.T @ axes - np.eye(3)).max() > RIGHT_ANGLE:
        remedy = "resample it to a grid with right angles"
        raise BadGeometry(case_id, f"{name} must have axes at right angles", "a sheared or singular affine", remedy)
