"""MetaImage and NRRD: SimpleITK reads the header; the voxels are read here, because it fills what is missing with 0."""

__all__ = ["header_field", "read_metaimage", "read_nrrd", "voxel_file", "write_itk"]

import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from segcal.data.faults import BadGeometry, MissingChannel, Truncated, Unreadable, UnsafePath
from segcal.data.voxels.raw import Raw, affine_of_lps, place
from segcal.data.voxels.streams import AGAIN, check_path, check_size, inflate
from segcal.volume import Volume

_MAX_HEADER = 1 << 16
_META, _NRRD = (".mhd", ".mha"), (".nrrd", ".nhdr")
_TYPES = {
    sitk.sitkInt8: "i1", sitk.sitkUInt8: "u1", sitk.sitkInt16: "i2", sitk.sitkUInt16: "u2", sitk.sitkInt32: "i4",
    sitk.sitkUInt32: "u4", sitk.sitkInt64: "i8", sitk.sitkUInt64: "u8", sitk.sitkFloat32: "f4", sitk.sitkFloat64: "f8",
}  # fmt: skip


def read_metaimage(path: Path, root: Path, case_id: str) -> Raw:
    """A .mha file, or a .mhd file and the voxel file that it names."""
    fields, end = _fields(path, case_id)
    if fields.get("headersize", "0") != "0":
        remedy = "write it as one .mha file"
        raise Unreadable(case_id, f"{path.name} must have voxels without a header", fields["headersize"], remedy)
    if fields.get("binarydata", "true").lower() != "true":
        raise Unreadable(case_id, f"{path.name} must hold binary voxels", "text", "write it as a binary file")
    packed = fields.get("compresseddata", "false").lower() == "true"
    big = fields.get("elementbyteordermsb", fields.get("binarydatabyteordermsb", "false")).lower() == "true"
    return _read(path, _beside(path, fields, root, case_id), end, packed, big, case_id)


def read_nrrd(path: Path, root: Path, case_id: str) -> Raw:
    """A .nrrd file, or a .nhdr file and the voxel file that it names."""
    fields, end = _fields(path, case_id)
    encoding = fields.get("encoding", "raw").lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise Unreadable(case_id, f"{path.name} must be raw or gzip encoded", encoding, "write it with gzip encoding")
    skips = [key for key in ("byte skip", "byteskip", "line skip", "lineskip") if fields.get(key, "0") != "0"]
    if skips:
        got = f"{skips[0]} {fields[skips[0]]}"
        raise Unreadable(case_id, f"{path.name} must have voxels without a header", got, "write it as one .nrrd file")
    big = fields.get("endian", "little").lower() == "big"
    return _read(path, _beside(path, fields, root, case_id), end, encoding != "raw", big, case_id)


def voxel_file(path: Path, root: Path, case_id: str) -> Path | None:
    """The file beside a header that holds its voxels; None where they follow the header, and for other formats."""
    if path.suffix.lower() not in (*_META, *_NRRD):
        return None
    return _beside(path, _fields(path, case_id)[0], root, case_id)


def header_field(path: Path, case_id: str, name: str) -> str:
    """A key of the header of a MetaImage or NRRD file, such as one that a user added; "" where there is none."""
    if path.suffix.lower() not in (*_META, *_NRRD):
        return ""
    return _fields(path, case_id)[0].get(name.lower(), "").lstrip("=").strip()


def write_itk(path: Path, volume: Volume, fields: Mapping[str, str] | None = None) -> None:
    """Write a volume as .mhd with its .raw, as .mha or as .nrrd; a file appears whole or not at all.

    fields: further keys of the header.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.array))
    place(image, volume)
    for key, value in (fields or {}).items():
        image.SetMetaData(key, value)
    # The header names the voxel file, so both keep their names in a folder of their own until they are whole.
    with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as partial:
        sitk.WriteImage(image, str(Path(partial) / path.name), useCompression=path.suffix == ".nrrd")
        for written in sorted(Path(partial).iterdir(), reverse=True):  # voxels first, then the header
            written.replace(path.with_name(written.name))


def _read(path: Path, beside: Path | None, end: int, packed: bool, big: bool, case_id: str) -> Raw:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO("MetaImageIO" if path.suffix.lower() in _META else "NrrdImageIO")
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1].split("): ")[-1]
        if "irection" in reason or "pacing" in reason:
            raise BadGeometry(case_id, f"{path.name} must have axes at right angles", reason, "repair it") from None
        raise Unreadable(case_id, f"{path.name} must have a header that makes sense", reason, AGAIN) from None
    shape = tuple(reader.GetSize())
    axes = len(shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or reader.GetNumberOfComponents() != 1 or reader.GetPixelID() not in _TYPES:
        got = f"{'x'.join(map(str, shape))} of {reader.GetNumberOfComponents()} components"
        raise Unreadable(case_id, f"{path.name} must be one 3-D image of numbers", got, "split its channels")
    kind = np.dtype(_TYPES[reader.GetPixelID()]).newbyteorder(">" if big else "<")
    n_bytes = check_size(shape, kind.itemsize, path.name, case_id)
    source = beside or path
    with source.open("rb") as file:
        file.seek(0 if beside else end)
        content = file.read() if packed else file.read(n_bytes)
    if packed:
        content = inflate(content, n_bytes, source.name, case_id)
    elif len(content) < n_bytes:
        raise Truncated(case_id, f"{source.name} must hold {n_bytes} bytes of voxels", f"{len(content)}", AGAIN)
    array = np.frombuffer(content, dtype=kind).reshape(shape, order="F").astype(np.float32)
    spacing = np.asarray(reader.GetSpacing())
    direction = np.asarray(reader.GetDirection()).reshape(axes, axes)[:3, :3]
    affine = affine_of_lps(direction, spacing[:3], np.asarray(reader.GetOrigin())[:3])
    return Raw(array, affine, (float(spacing[0]), float(spacing[1]), float(spacing[2])))


def _beside(path: Path, fields: Mapping[str, str], root: Path, case_id: str) -> Path | None:
    """The voxel file that a header's fields name."""
    if path.suffix.lower() in _META:
        named = fields.get("elementdatafile", "")
        if not named or named.split()[0] == "LIST" or "%" in named:
            remedy = "write it as one .mha file"
            raise Unreadable(case_id, f"{path.name} must name one voxel file", named or "none", remedy)
        return None if named.upper() == "LOCAL" else _companion(path, named, root, case_id)
    named = fields.get("data file", fields.get("datafile", ""))
    if "%" in named or named.upper().startswith("LIST"):
        raise Unreadable(case_id, f"{path.name} must name one voxel file", named, "write it as one .nrrd file")
    return _companion(path, named, root, case_id) if named else None


def _companion(path: Path, named: str, root: Path, case_id: str) -> Path:
    """The voxel file beside a header."""
    if Path(named).is_absolute() or ".." in Path(named).parts:
        raise UnsafePath(case_id, f"{path.name} must name a voxel file beside it", named, "copy it into the folder")
    source = path.parent / named
    if not source.exists():
        raise MissingChannel(case_id, f"{path.name} needs its voxel file {named}", "no file", f"add {named}")
    check_path(source, root, case_id)
    return source


def _fields(path: Path, case_id: str) -> tuple[dict[str, str], int]:
    """Lower-case keys and values of a text header, and where it ends: after MetaImage's last key, or an empty line."""
    separator, last = ("=", "elementdatafile") if path.suffix.lower() in _META else (":", "")
    with path.open("rb") as file:
        head = file.read(_MAX_HEADER)
    fields: dict[str, str] = {}
    position = 0
    while position < len(head):
        end = head.find(b"\n", position)
        end = len(head) if end < 0 else end
        line = head[position:end].decode("latin-1").strip()
        position = end + 1
        if not line and not last:
            break
        key, found, value = line.partition(separator)
        if found and not line.startswith("#"):
            fields[key.strip().lower()] = value.strip()
        if last and key.strip().lower() == last:
            break
    if not fields:
        raise Unreadable(case_id, f"{path.name} must have a text header", "none", AGAIN)
    return fields, position
