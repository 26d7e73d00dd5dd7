"""The one reader and writer of voxels. nibabel alone would let flipped bits, NaN and false headers pass in silence.

Order of the checks: the path, the header with caps *before* anything large is read, the whole stream with its
checksum, then finiteness and geometry.
"""

__all__ = ["check_path", "read_labels", "read_volume", "same_grid", "write_volume"]

import gzip
import io
import logging
import os
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np

from segcal.data.faults import (
    BadGeometry,
    Corrupt,
    EmptyFile,
    GridMismatch,
    MissingChannel,
    NotFinite,
    TooLarge,
    Truncated,
    UnknownLabel,
    Unreadable,
    UnsafePath,
)
from segcal.volume import Volume

MAX_VOXELS = 512**3
MAX_BYTES = 4 * MAX_VOXELS
_HEADER_BYTES = 540  # NIfTI-2; NIfTI-1 has 348
_AGAIN = "copy the file again from its source"

log = logging.getLogger(__name__)


def read_volume(path: Path, root: Path, case_id: str) -> Volume:
    """One scalar NIfTI image, checked; array (Z, Y, X) float32.

    Raises a DataFault that names the case for a file that is outside the root, absent, empty, truncated, corrupt,
    not NIfTI, too large, not finite, not three-dimensional, or without a sensible geometry.
    """
    check_path(path, root, case_id)
    image = _parse(_read_stream(path, case_id), path, case_id)
    array = np.asarray(image.dataobj, dtype=np.float32)
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise Unreadable(case_id, f"{path.name} must be one 3-D image", f"shape {array.shape}", "split its channels")
    if not np.isfinite(array).all():
        bad = int(np.count_nonzero(~np.isfinite(array)))
        raise NotFinite(case_id, f"{path.name} must hold finite voxels", f"{bad} NaN or infinite", _AGAIN)
    affine, zooms = _geometry(image, path, case_id)
    return Volume(array.transpose(2, 1, 0), (zooms[2], zooms[1], zooms[0]), affine)


def read_labels(path: Path, root: Path, case_id: str, values: tuple[int, ...]) -> Volume:
    """A label map, checked like an image; its values are 0 and `values` and nothing else. Array (Z, Y, X) int16."""
    volume = read_volume(path, root, case_id)
    allowed = (0, *values)
    odd = np.setdiff1d(np.unique(volume.array), allowed)
    if odd.size:
        rule = f"labels in {path.name} must be {', '.join(map(str, allowed))}"
        shown = ", ".join(f"{value:g}" for value in odd[:5])
        raise UnknownLabel(case_id, rule, shown, "correct the file, or the labels of the task")
    return Volume(volume.array.astype(np.int16), volume.spacing_mm, volume.affine)


def same_grid(case_id: str, name: str, volume: Volume, first_name: str, first: Volume) -> None:
    """Raise GridMismatch where two volumes of one case differ in shape or in where their voxels lie (by 0.01 mm)."""
    rule, remedy = f"{name} must lie on the grid of {first_name}", "resample it onto that grid"
    if volume.array.shape != first.array.shape:
        raise GridMismatch(case_id, rule, f"shape {volume.array.shape} against {first.array.shape}", remedy)
    gap = float(np.abs(volume.affine - first.affine).max())
    if gap > 0.01 or not np.allclose(volume.spacing_mm, first.spacing_mm, atol=1e-3):
        raise GridMismatch(case_id, rule, f"affines that differ by {gap:.3g} mm", remedy)


def write_volume(path: Path, volume: Volume) -> None:
    """Write a volume as NIfTI; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(np.ascontiguousarray(volume.array.transpose(2, 1, 0)), volume.affine)
    image.set_qform(volume.affine, code=1)
    image.set_sform(volume.affine, code=1)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    # mtime=0: the same voxels make the same bytes, and so the same digest.
    partial.write_bytes(gzip.compress(image.to_bytes(), compresslevel=4, mtime=0))
    partial.replace(path)


def check_path(path: Path, root: Path, case_id: str) -> None:
    """Raise a DataFault for a file outside the root, absent or empty."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise UnsafePath(case_id, f"files must lie below {root}", str(path.resolve()), "copy the file into the folder")
    if not path.is_file():
        raise MissingChannel(case_id, f"{path.name} must be there", "no file", _AGAIN)
    if path.stat().st_size == 0:
        raise EmptyFile(case_id, f"{path.name} must hold an image", "0 bytes", _AGAIN)


def _read_stream(path: Path, case_id: str) -> bytes:
    """The whole decompressed file; reading gzip to its end is what checks its CRC."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            head = stream.read(_HEADER_BYTES)
            expected = _expected_bytes(head, path, case_id)
            rest = stream.read(expected - len(head)) if expected > len(head) else b""
            size = len(head) + len(rest)
            if size < expected:
                raise Truncated(case_id, f"{path.name} must hold {expected} bytes of voxels", f"{size}", _AGAIN)
            while stream.read(1 << 20):
                pass  # extensions after the voxels; read only for the checksum
    except EOFError:
        raise Truncated(case_id, f"{path.name} must be a whole gzip stream", "an early end", _AGAIN) from None
    except (gzip.BadGzipFile, zlib.error) as error:
        reason = str(error).split(",")[0]
        raise Corrupt(case_id, f"{path.name} must match its gzip checksum", reason, _AGAIN) from None
    return head + rest


def _expected_bytes(head: bytes, path: Path, case_id: str) -> int:
    header = _header(head, path, case_id)
    shape = header.get_data_shape()
    voxels = int(np.prod(shape, dtype=np.float64))
    n_bytes: int = voxels * header.get_data_dtype().itemsize
    if voxels > MAX_VOXELS or n_bytes > MAX_BYTES:
        rule = f"{path.name} must hold at most {MAX_VOXELS} voxels"
        raise TooLarge(case_id, rule, f"{voxels} ({'x'.join(map(str, shape))})", "crop it to the organ")
    return int(header.get_data_offset()) + n_bytes


def _header(head: bytes, path: Path, case_id: str) -> nib.Nifti1Header:
    size = int.from_bytes(head[:4], "little")
    big = int.from_bytes(head[:4], "big")
    kind = nib.Nifti2Header if 540 in (size, big) else nib.Nifti1Header
    try:
        if kind is nib.Nifti1Header and 348 not in (size, big):
            raise ValueError("it does not start like one")
        return kind.from_fileobj(io.BytesIO(head))
    except Exception as error:  # nibabel raises many kinds for a header that makes no sense
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        remedy = "convert it to a single-file NIfTI"
        raise Unreadable(case_id, f"{path.name} must be NIfTI", reason, remedy) from None


def _parse(content: bytes, path: Path, case_id: str) -> nib.Nifti1Image:
    kind = (
        nib.Nifti2Image
        if isinstance(_header(content[:_HEADER_BYTES], path, case_id), nib.Nifti2Header)
        else (nib.Nifti1Image)
    )
    try:
        return kind.from_bytes(content)
    except Exception as error:
        raise Unreadable(case_id, f"{path.name} must be NIfTI", str(error).splitlines()[0], _AGAIN) from None


def _geometry(image: nib.Nifti1Image, path: Path, case_id: str) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Affine and voxel size (x, y, z) in mm. Where sform and pixdim disagree the qform and pixdim are trusted."""
    zooms = tuple(float(zoom) for zoom in image.header.get_zooms()[:3])
    affine = np.asarray(image.affine, dtype=np.float64)
    if not np.isfinite(affine).all() or min(zooms) <= 0 or not np.isfinite(zooms).all():
        raise BadGeometry(case_id, f"{path.name} must have a positive voxel size", f"{zooms} mm", "repair its header")
    columns = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(columns, zooms, rtol=0.01):
        log.warning("%s: sform of %s says %s mm, pixdim %s mm; pixdim and qform are used", case_id, path.name,
                    tuple(round(float(c), 4) for c in columns), zooms)  # fmt: skip
        affine = np.asarray(image.header.get_qform(), dtype=np.float64)
        columns = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / np.where(columns > 0, columns, 1)
    if abs(abs(np.linalg.det(axes)) - 1) > 0.01:
        remedy = "resample it to a grid with right angles"
        raise BadGeometry(
            case_id, f"{path.name} must have axes at right angles", "a sheared or singular affine", remedy
        )
    return affine, (zooms[0], zooms[1], zooms[2])
