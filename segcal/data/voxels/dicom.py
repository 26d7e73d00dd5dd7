"""DICOM series through pydicom: slices are ordered by where they lie, and what is missing or cut is a fault.

pydicom decodes them, SimpleITK where it cannot. Several series may share a folder; a series is asked for by its UID.
"""

__all__ = ["SeriesHeader", "peek", "read_series", "write_series"]

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, MRImageStorage

from segcal.data.faults import (
    AmbiguousSeries,
    BadGeometry,
    DoubledCase,
    GridMismatch,
    MissingCase,
    Truncated,
    Unreadable,
)
from segcal.data.voxels.raw import Raw, affine_of_lps
from segcal.data.voxels.streams import AGAIN, check_path, check_size
from segcal.volume import Volume

GAP_TOLERANCE_MM = 0.05  # positions are stored as rounded decimals
_PEEK = ("PatientID", "SeriesInstanceUID", "SeriesDescription", "Modality", "ImageOrientationPatient",
         "ReferencedSeriesSequence")  # fmt: skip

logging.getLogger("pydicom").setLevel(logging.ERROR)  # odd values are judged here


@dataclass(frozen=True)
class SeriesHeader:
    """What tells one file's series from another."""

    uid: str
    patient: str
    description: str
    modality: str
    axial: bool  # slices within 45 degrees of axial
    references: tuple[str, ...]  # SeriesInstanceUIDs that a segmentation was drawn on


@dataclass(frozen=True)
class Slice:
    """One file of a series with the numbers of its header, parsed."""

    path: Path
    data: Dataset
    uid: str
    shape: tuple[int, int]  # columns, rows
    axes: np.ndarray  # (3, 2): directions of rows and columns in LPS
    corner: np.ndarray  # (3,): centre of the first pixel, LPS mm
    pixel_mm: tuple[float, float]  # (x, y)
    slope: float
    intercept: float
    thickness_mm: float


def peek(path: Path) -> SeriesHeader | None:
    """The series of a file, without its pixels; None where it is no DICOM image."""
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_PEEK))
        axes = [float(value) for value in header.get("ImageOrientationPatient") or ()]
        normal = np.cross(axes[:3], axes[3:]) if len(axes) == 6 else np.zeros(3)
        references = header.get("ReferencedSeriesSequence") or ()
        return SeriesHeader(
            uid=str(header.get("SeriesInstanceUID", "")),
            patient=str(header.get("PatientID", "")),
            description=str(header.get("SeriesDescription", "")),
            modality=str(header.get("Modality", "")),
            axial=bool(abs(normal[2]) > np.sqrt(0.5)),
            references=tuple(str(item.get("SeriesInstanceUID", "")) for item in references),
        )
    except Exception:  # pydicom raises many kinds for a file that is none
        return None


def read_series(paths: Sequence[Path], root: Path, case_id: str, uid: str = "") -> Raw:
    """The slices of one series as a volume. Files of other series among the paths are left out where a uid is given."""
    slices = []
    for path in paths:
        check_path(path, root, case_id)
        one = _read_file(path, case_id)
        if not uid or one.uid == uid:
            slices.append(one)
    if not slices:
        raise MissingCase(case_id, "a series must have slices", f"none of series {uid}", "restore its files")
    name = slices[0].path.parent.name
    if len({one.uid for one in slices}) > 1:
        several = f"{len({one.uid for one in slices})} series"
        raise AmbiguousSeries(case_id, f"{name} must hold one series", several, "give each a folder of its own")
    check_size((*slices[0].shape, len(slices)), 4, name, case_id)
    axes, pixel_mm = _in_plane(slices, name, case_id)
    normal = np.cross(axes[:, 0], axes[:, 1])
    corners = np.array([one.corner for one in slices])
    order = np.argsort(corners @ normal, kind="stable")
    gap = _gap(np.sort(corners @ normal), slices[0].thickness_mm, name, case_id)
    corner = corners[order[0]]
    drift = np.abs((corners[order] - corner) - np.outer((corners @ normal)[order] - (corner @ normal), normal)).max()
    if drift > GAP_TOLERANCE_MM:
        rule = f"the slices of {name} must lie straight above one another"
        raise BadGeometry(case_id, rule, f"{drift:.3g} mm aside", "resample it to a grid with right angles")
    array = np.stack([_pixels(slices[index], case_id) for index in order], axis=-1)
    with np.errstate(over="ignore"):  # becomes infinite, which is a fault of its own
        array = array.astype(np.float32)
    affine = affine_of_lps(np.column_stack([axes, normal]), np.array([*pixel_mm, gap]), corner)
    return Raw(array, affine, (pixel_mm[0], pixel_mm[1], gap))


def write_series(folder: Path, volume: Volume, uid: str, patient: str, study_uid: str, description: str) -> None:
    """Write a volume (Z, Y, X) as one uncompressed MR series, a file a slice, into an existing or new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    spacing = np.asarray(volume.spacing_mm[::-1])
    axes = lps[:3, :3] / spacing
    for index, pixels in enumerate(np.clip(np.rint(volume.array), 0, 32767).astype("<u2")):
        data = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = MRImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = UID(f"{uid}.{index + 1}")
        data.PatientID = data.PatientName = patient
        data.StudyInstanceUID, data.SeriesInstanceUID = UID(study_uid), UID(uid)
        data.FrameOfReferenceUID, data.Modality = f"{study_uid}.1", "MR"
        data.SeriesDescription, data.InstanceNumber = description, index + 1
        data.ImagePositionPatient = [f"{v:.8g}" for v in lps[:3, 3] + lps[:3, 2] * index]
        data.ImageOrientationPatient = [f"{v:.10f}" for v in (*axes[:, 0], *axes[:, 1])]
        data.PixelSpacing = [f"{spacing[1]:.8g}", f"{spacing[0]:.8g}"]
        data.SliceThickness = f"{spacing[2]:.8g}"
        data.Rows, data.Columns = pixels.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 0
        data.PixelData = pixels.tobytes()
        data.save_as(folder / f"1-{index + 1:02d}.dcm", enforce_file_format=True)


def _read_file(path: Path, case_id: str) -> Slice:
    try:
        if _is_deflated(path):  # it would be inflated whole before its size is known
            raise ValueError("a deflated transfer syntax")
        data = pydicom.dcmread(path)
        if "SOPClassUID" in data and "PixelData" not in data:
            raise EOFError("no pixels")
        bits = int(data.BitsAllocated)
        frames, samples = int(data.get("NumberOfFrames") or 1), int(data.SamplesPerPixel)
        size = len(data.PixelData)
        compressed = data.file_meta.TransferSyntaxUID.is_compressed
        there = {name: data.get(name) for name in ("ImageOrientationPatient", "ImagePositionPatient", "PixelSpacing")}
        placed = {name: np.array([float(v) for v in value]) for name, value in there.items() if value}
        one = Slice(
            path,
            data,
            uid=str(data.get("SeriesInstanceUID", "")),
            shape=(int(data.Columns), int(data.Rows)),
            axes=placed.get("ImageOrientationPatient", np.zeros(6)).reshape(2, 3).T,
            corner=placed.get("ImagePositionPatient", np.zeros(3)).reshape(3),
            pixel_mm=_pair(placed.get("PixelSpacing", np.ones(2))),
            slope=float(data.get("RescaleSlope") or 1),
            intercept=float(data.get("RescaleIntercept") or 0),
            thickness_mm=float(data.get("SpacingBetweenSlices") or data.get("SliceThickness") or 1.0),
        )
    except EOFError as error:
        raise Truncated(case_id, f"{path.name} must hold its pixels", str(error).splitlines()[0], AGAIN) from None
    except Exception as error:  # pydicom raises many kinds for a file that makes no sense
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise Unreadable(case_id, f"{path.name} must be a DICOM image", reason, AGAIN) from None
    if frames != 1 or samples != 1:
        got = f"{frames} frames of {samples} samples"
        raise Unreadable(case_id, f"{path.name} must hold one grey slice", got, "convert the series to NIfTI")
    check_size(one.shape, bits // 8, path.name, case_id)
    expected = one.shape[0] * one.shape[1] * bits // 8
    if (size < expected and not compressed) or size == 0:
        raise Truncated(case_id, f"{path.name} must hold {expected} bytes of pixels", f"{size}", AGAIN)
    missing = [name for name in there if name not in placed]
    if missing:
        raise BadGeometry(case_id, f"{path.name} must say where it lies", f"no {missing[0]}", AGAIN)
    return one


def _is_deflated(path: Path) -> bool:
    return str(read_file_meta_info(path).get("TransferSyntaxUID", "")) == DeflatedExplicitVRLittleEndian


def _pair(spacing: np.ndarray) -> tuple[float, float]:
    """PixelSpacing is (y, x)."""
    y, x = spacing
    return float(x), float(y)


def _in_plane(slices: Sequence[Slice], name: str, case_id: str) -> tuple[np.ndarray, tuple[float, float]]:
    """Axes of columns and rows (3, 2) in LPS, and their spacing (x, y); the same for all slices."""
    first = slices[0]
    odd = [one for one in slices if one.shape != first.shape or not np.allclose(one.axes, first.axes, atol=1e-3)
           or not np.allclose(one.pixel_mm, first.pixel_mm, rtol=1e-3)]  # fmt: skip
    if odd:
        rule = f"the slices of {name} must share size, spacing and direction"
        raise GridMismatch(case_id, rule, f"{odd[0].path.name} apart", "give each series a folder of its own")
    axes, pixel_mm = slices[0].axes, slices[0].pixel_mm
    if not np.isfinite(axes).all() or abs(axes[:, 0] @ axes[:, 1]) > 0.01 or abs(np.linalg.norm(axes) ** 2 - 2) > 0.02:
        raise BadGeometry(case_id, f"{name} must have axes at right angles", "a sheared or singular one", AGAIN)
    if not np.isfinite(pixel_mm).all() or min(pixel_mm) <= 0:
        raise BadGeometry(case_id, f"{name} must have a positive voxel size", f"{pixel_mm} mm", "repair its header")
    if not all(np.isfinite(one.corner).all() for one in slices):
        raise BadGeometry(case_id, f"the slices of {name} must say where they lie", "a position not finite", AGAIN)
    return axes, pixel_mm


def _gap(heights: np.ndarray, thickness_mm: float, name: str, case_id: str) -> float:
    """Distance of neighbouring slices in mm, from their positions: the thickness in the header leaves gaps out."""
    if len(heights) == 1:
        return thickness_mm
    gaps = np.diff(heights)
    middle = float(np.median(gaps))
    if gaps.min() < GAP_TOLERANCE_MM:
        again = "remove the repeated slices"
        raise DoubledCase(case_id, f"each slice of {name} must be there once", "two at one position", again)
    if gaps.max() - gaps.min() > max(GAP_TOLERANCE_MM, 0.02 * middle):
        got = f"gaps of {gaps.min():.3g} to {gaps.max():.3g} mm"
        raise BadGeometry(case_id, f"the slices of {name} must be evenly spaced", got, "restore the missing slices")
    return middle


def _pixels(one: Slice, case_id: str) -> np.ndarray:
    """Pixels (X, Y) in the units of the scanner."""
    try:
        stored = one.data.pixel_array
    except Exception:  # a compression that pydicom has no decoder for; SimpleITK applies the slope itself
        try:
            return sitk.GetArrayFromImage(sitk.ReadImage(str(one.path)))[0].T.astype(np.float32)  # type: ignore[no-any-return]
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise Unreadable(case_id, f"{one.path.name} must hold pixels that can be decoded", reason, AGAIN) from None
    return (stored.astype(np.float64) * one.slope + one.intercept).T  # type: ignore[no-any-return]
