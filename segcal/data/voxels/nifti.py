"""NIfTI through nibabel, which alone would let flipped bits, wrong checksums and false headers pass in silence."""

__all__ = ["NiftiGrid", "peek_nifti", "read_nifti", "write_nifti"]

import gzip
import io
import logging
import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from segcal.data.faults import BadGeometry, Corrupt, Truncated, Unreadable
from segcal.data.voxels.raw import Raw
from segcal.data.voxels.streams import AGAIN, check_size
from segcal.volume import Volume

_HEADER_BYTES = 540  # NIfTI-2; NIfTI-1 has 348
_MAX_OFFSET = 1 << 26  # header extensions lie before the voxels
_SROW_X = 280  # where the sform begins in NIfTI-1

_UNITS_MM = {1: 1000.0, 3: 0.001}  # metre and micrometre; all else is taken for mm
_KINDS = "biuf"  # numbers, not colours or complex ones

log = logging.getLogger(__name__)


class _Header1(nib.Nifti1Header):  # type: ignore[misc]
    quaternion_threshold = -1e-4  # rounding by other writers is no fault


class _Header2(nib.Nifti2Header):  # type: ignore[misc]
    quaternion_threshold = -1e-4


class _Image1(nib.Nifti1Image):  # type: ignore[misc]
    header_class = _Header1


class _Image2(nib.Nifti2Image):  # type: ignore[misc]
    header_class = _Header2


@dataclass(frozen=True)
class NiftiGrid:
    """What a header says before any voxel is read."""

    shape: tuple[int, ...]  # (x, y, z, ...)
    placed: bool  # whether a qform or an sform says how the patient lies

    @property
    def components(self) -> int:
        """Images in the file: 1 of a 3-D one."""
        return math.prod(self.shape[3:])


def peek_nifti(path: Path, case_id: str) -> NiftiGrid:
    """The header of a .nii or .nii.gz file; raises the faults of reading it."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            header = _header(stream.read(_HEADER_BYTES), path, case_id)
    except EOFError:
        raise Truncated(case_id, f"{path.name} must be a whole gzip stream", "an early end", AGAIN) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise Corrupt(case_id, f"{path.name} must be a gzip stream", str(error).split(",")[0], AGAIN) from None
    placed = int(header["qform_code"]) > 0 or int(header["sform_code"]) > 0
    return NiftiGrid(tuple(int(side) for side in header.get_data_shape()), placed)


def read_nifti(path: Path, case_id: str, component: int | None = None) -> Raw:
    """A .nii or .nii.gz file; of a 4-D one the component, counted from 0."""
    content = _read_stream(path, case_id)
    header = _header(content[:_HEADER_BYTES], path, case_id)
    kind = _Image2 if isinstance(header, nib.Nifti2Header) else _Image1
    try:
        image = kind.from_bytes(content)
    except Exception as error:
        raise Unreadable(case_id, f"{path.name} must be NIfTI", str(error).splitlines()[0], AGAIN) from None
    if header.get_data_dtype().kind not in _KINDS:
        got, remedy = str(header.get_value_label("datatype")), "convert it to one number a voxel"
        raise Unreadable(case_id, f"{path.name} must hold real numbers", got, remedy)
    if component is None:
        array = np.asarray(image.dataobj, dtype=np.float32)
    else:
        array = _component(image, component, path, case_id)
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    affine, spacing_mm = _geometry(image, path, case_id)
    return Raw(array, affine, spacing_mm)


def write_nifti(path: Path, volume: Volume, sform: np.ndarray | None = None) -> None:
    """Write a volume as NIfTI; the file appears whole or not at all. sform: another than the volume's affine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.ascontiguousarray(volume.array.transpose(2, 1, 0)), volume.affine)
    image.set_qform(volume.affine, code=1)
    image.set_sform(volume.affine, code=1)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    content = bytearray(image.to_bytes())
    if sform is not None:  # nibabel itself would not write a header that contradicts the affine
        struct.pack_into("<12f", content, _SROW_X, *np.asarray(sform)[:3].ravel())
    # mtime=0: the same voxels make the same bytes, and so the same digest.
    partial.write_bytes(gzip.compress(content, compresslevel=4, mtime=0) if path.suffix == ".gz" else content)
    partial.replace(path)


def _component(image: nib.Nifti1Image, component: int, path: Path, case_id: str) -> np.ndarray:
    if len(image.shape) != 4 or not 0 <= component < image.shape[3]:
        rule = f"{path.name} must be 4-D with at least {component + 1} components"
        raise Unreadable(case_id, rule, f"shape {tuple(image.shape)}", "correct the list of channels")
    return np.asarray(image.dataobj[..., component], dtype=np.float32)


def _read_stream(path: Path, case_id: str) -> bytes:
    """The whole decompressed file; reading gzip to its end is what checks its CRC."""
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            head = stream.read(_HEADER_BYTES)
            header = _header(head, path, case_id)
            n_bytes = check_size(header.get_data_shape(), header.get_data_dtype().itemsize, path.name, case_id)
            expected = _offset(header, path, case_id) + n_bytes
            rest = stream.read(expected - len(head)) if expected > len(head) else b""
            size = len(head) + len(rest)
            if size < expected:
                raise Truncated(case_id, f"{path.name} must hold {expected} bytes of voxels", f"{size}", AGAIN)
            while stream.read(1 << 20):
                pass  # extensions after the voxels; read only for the checksum
    except EOFError:
        raise Truncated(case_id, f"{path.name} must be a whole gzip stream", "an early end", AGAIN) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        reason = str(error).split(",")[0]
        raise Corrupt(case_id, f"{path.name} must match its gzip checksum", reason, AGAIN) from None
    return head + rest


def _header(head: bytes, path: Path, case_id: str) -> nib.Nifti1Header:
    size = int.from_bytes(head[:4], "little")
    big = int.from_bytes(head[:4], "big")
    kind = _Header2 if 540 in (size, big) else _Header1
    try:
        if kind is _Header1 and 348 not in (size, big):
            raise ValueError("it does not start like one")
        header = kind.from_fileobj(io.BytesIO(head))
        if not header["magic"].item().startswith(b"n+"):
            raise ValueError("the header of a pair of files (.hdr, .img)")
        if np.isinf(header["scl_slope"]) or np.isinf(header["scl_inter"]):
            raise ValueError("a slope or intercept that is not finite")
        return header
    except Exception as error:  # nibabel raises many kinds for a header that makes no sense
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        remedy = "convert it to a single-file NIfTI"
        raise Unreadable(case_id, f"{path.name} must be NIfTI", reason, remedy) from None


def _offset(header: nib.Nifti1Header, path: Path, case_id: str) -> int:
    """Where the voxels begin; a broken header may say anything."""
    at, first = float(header["vox_offset"]), int(header.single_vox_offset)
    if not first <= at <= _MAX_OFFSET:
        rule = f"the voxels of {path.name} must begin between byte {first} and {_MAX_OFFSET}"
        raise Unreadable(case_id, rule, f"byte {at:g}", AGAIN)
    return int(at)


def _geometry(image: nib.Nifti1Image, path: Path, case_id: str) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Affine and voxel size (x, y, z) in mm. Where sform and pixdim disagree the qform and pixdim are trusted.

    An identity sform is what writers leave that know none, so a coded qform is trusted over it too.
    """
    header = image.header
    to_mm = _UNITS_MM.get(int(header["xyzt_units"]) & 7, 1.0)
    zooms = tuple(float(zoom) * to_mm for zoom in header.get_zooms()[:3])
    if len(zooms) < 3:
        raise Unreadable(case_id, f"{path.name} must be one 3-D image", f"{len(zooms)} axes", "stack its slices")
    scale = np.diag([to_mm, to_mm, to_mm, 1.0])
    affine = scale @ np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or min(zooms) <= 0 or not np.isfinite(zooms).all():
        raise BadGeometry(case_id, f"{path.name} must have a positive voxel size", f"{zooms} mm", "repair its header")
    columns = np.linalg.norm(affine[:3, :3], axis=0)
    wrong_size = not np.allclose(columns, zooms, rtol=0.01)
    if not wrong_size and header["qform_code"] == 0:
        return affine, (zooms[0], zooms[1], zooms[2])
    qform = _qform(header)
    if qform is None and wrong_size:
        rule = f"{path.name} must have an sform or a qform that agrees with its voxel size"
        raise BadGeometry(case_id, rule, "neither", "repair its header")
    qform = affine if qform is None else scale @ qform
    identity = bool(np.array_equal(header.get_sform(), np.eye(4)))
    if wrong_size:
        sides = "x".join(f"{side:.4g}" for side in columns), "x".join(f"{side:.4g}" for side in zooms)
        log.warning("%s: sform of %s says %s mm, pixdim %s mm; pixdim and qform are used", case_id, path.name, *sides)
    elif not np.allclose(affine, qform, atol=0.01 * max(zooms)):
        used = "qform" if identity else "sform"
        log.warning("%s: sform and qform of %s place it differently; the %s is used", case_id, path.name, used)
    return (qform if wrong_size or identity else affine), (zooms[0], zooms[1], zooms[2])


def _qform(header: nib.Nifti1Header) -> np.ndarray | None:
    """The qform; None for a quaternion that is none."""
    try:
        return np.asarray(header.get_qform(), dtype=np.float64)
    except ValueError:
        return None
