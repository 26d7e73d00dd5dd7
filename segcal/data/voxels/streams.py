"""Bytes of image files: paths that stay inside, sizes that are capped before anything is read, whole streams."""

__all__ = ["AGAIN", "MAX_BYTES", "MAX_VOXELS", "check_path", "check_size", "inflate"]

import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from segcal.data.faults import Corrupt, EmptyFile, MissingChannel, TooLarge, Truncated, Unreadable, UnsafePath

MAX_VOXELS = 512**3
MAX_BYTES = 4 * MAX_VOXELS
MAX_FILE_BYTES = 2 * MAX_BYTES  # with headers, and components that are not read
AGAIN = "copy the file again from its source"


def check_path(path: Path, root: Path, case_id: str) -> None:
    """Raise a DataFault for a file outside the root, absent, empty, or larger than any image."""
    try:
        there, inside = path.is_file(), path.resolve().is_relative_to(root.resolve())
    except (OSError, ValueError) as error:  # too long, or with a character that no name has
        got = getattr(error, "strerror", None) or str(error)
        raise MissingChannel(case_id, "its files must have names that can be opened", got, "rename them") from None
    if not inside:
        raise UnsafePath(case_id, f"files must lie below {root}", str(path.resolve()), "copy the file into the folder")
    if not there:
        raise MissingChannel(case_id, f"{path.name} must be there", "no file", AGAIN)
    if path.stat().st_size > MAX_FILE_BYTES:
        got = f"{path.stat().st_size}"
        raise TooLarge(case_id, f"{path.name} must hold at most {MAX_FILE_BYTES} bytes", got, "crop it to the organ")
    if path.stat().st_size == 0:
        raise EmptyFile(case_id, f"{path.name} must hold an image", "0 bytes", AGAIN)


def check_size(shape: Sequence[int], itemsize: int, name: str, case_id: str) -> int:
    """Bytes of an image of that shape; raises TooLarge above the caps, Unreadable for a side below 1."""
    shown = "x".join(map(str, shape))
    if not shape or min(shape) < 1:
        raise Unreadable(case_id, f"{name} must have sides of at least 1 voxel", shown or "none", AGAIN)
    voxels = int(np.prod(shape, dtype=np.float64))
    if voxels > MAX_VOXELS:
        rule = f"{name} must hold at most {MAX_VOXELS} voxels"
        raise TooLarge(case_id, rule, f"{voxels} ({shown})", "crop it to the organ")
    if voxels * itemsize > MAX_BYTES:
        rule = f"{name} must hold at most {MAX_BYTES} bytes"
        raise TooLarge(case_id, rule, f"{voxels * itemsize}", "store it with fewer bytes a voxel, or crop it")
    return voxels * itemsize


def inflate(packed: bytes, n_bytes: int, name: str, case_id: str) -> bytes:
    """The n_bytes that a zlib or gzip stream must hold; reading it to its end is what checks its checksum."""
    stream = zlib.decompressobj(wbits=47)  # either header
    try:
        content = stream.decompress(packed, n_bytes + 1)
    except zlib.error as error:
        raise Corrupt(case_id, f"{name} must match its checksum", str(error).split(": ")[-1], AGAIN) from None
    if len(content) > n_bytes:
        raise Unreadable(case_id, f"{name} must hold {n_bytes} bytes of voxels", "more", "repair its header")
    if not stream.eof:
        raise Truncated(case_id, f"{name} must be a whole compressed stream", "an early end", AGAIN)
    if len(content) < n_bytes:
        raise Truncated(case_id, f"{name} must hold {n_bytes} bytes of voxels", f"{len(content)}", AGAIN)
    return content
