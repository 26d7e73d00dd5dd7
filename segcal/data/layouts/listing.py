"""What lies in a folder, sorted, without what operating systems leave there (.DS_Store, ._image, __MACOSX)."""

__all__ = ["files", "files_below", "folders", "read_json", "read_table", "stem", "whole_number"]

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from segcal.data.faults import BadInfo
from segcal.data.voxels.read import FORMATS
from segcal.errors import nearest


def folders(root: Path) -> list[Path]:
    """The folders in a folder."""
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not _hidden(entry))


def files(root: Path, ends: tuple[str, ...] = FORMATS) -> list[Path]:
    """The files in a folder whose names end in one of `ends`, in any case; none where there is no such folder."""
    if not root.is_dir():
        return []
    inside = (entry for entry in root.iterdir() if entry.name.lower().endswith(ends) and not _hidden(entry))
    return sorted(entry for entry in inside if not entry.is_dir())


def files_below(root: Path, ends: tuple[str, ...] = FORMATS) -> Iterator[Path]:
    """All such files at any depth, folder by folder. Links to folders are not followed."""
    yield from files(root, ends)
    for folder in folders(root):
        if not folder.is_symlink():
            yield from files_below(folder, ends)


def stem(path: Path) -> str:
    """The file's name without .nii.gz, .mhd and so on."""
    end = next((end for end in FORMATS if path.name.lower().endswith(end)), path.suffix)
    return path.name[: len(path.name) - len(end)]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises BadInfo."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise BadInfo(path.name, "it must be JSON", str(error).splitlines()[0], "correct it") from None
    if not isinstance(content, dict):
        raise BadInfo(path.name, "it must hold an object", type(content).__name__, "correct it")
    return content


def read_table(path: Path, columns: Sequence[str]) -> dict[int, dict[str, str]]:
    """The rows of a CSV file by their line number, as column -> cell; empty lines and those that start with # are none.

    Raises BadInfo for a file that is no table, or that lacks one of the columns.
    """
    try:
        text = path.read_text(encoding="utf-8-sig").splitlines()
        lines = [(number, line) for number, line in enumerate(text, 1) if line.strip() and not line.startswith("#")]
        table = csv.DictReader(line for _, line in lines)
        names = [name.strip() for name in table.fieldnames or []]
        if len(set(names)) < len(names):
            raise BadInfo(path.name, "its columns must differ", ", ".join(names), "rename or remove one")
        table.fieldnames = names
        rows = {}
        for row in table:
            rows[lines[table.line_num - 1][0]] = {name: (row.get(name) or "").strip() for name in names}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInfo(path.name, "it must be a table of text", str(error), "save it as CSV in UTF-8") from None
    for column in columns:
        if column not in names:
            remedy = f"add it; {nearest(column, names)}"
            raise BadInfo(path.name, f"it must have the column '{column}'", ", ".join(names) or "none", remedy)
    return rows


def whole_number(text: object) -> int | None:
    """The number that a text is, 0 or above; None where it is none. 1.0 is 1; ², which str.isdigit accepts, is none."""
    try:
        number = float(str(text)) if str(text).isascii() else -1.0
    except ValueError:
        return None
    return int(number) if number >= 0 and number.is_integer() else None


def _hidden(path: Path) -> bool:
    return path.name.startswith((".", "__MACOSX"))
