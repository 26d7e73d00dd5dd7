"""A table of paths, `cases.csv`: for images that lie as no other layout has it.

Columns: `case`, `label`, one for each channel of the task; and, where wanted, `split` (train, val, test), `site`,
`patient` (cases of one patient are never divided). Paths are relative to the table and stay below its folder.
"""

__all__ = ["TABLE", "find", "recognise"]

import re
from pathlib import Path

from segcal.data.case_files import CaseFiles, Found, ImageFile
from segcal.data.cohort import SPLITS
from segcal.data.faults import BadInfo, DataFault, DoubledCase, MissingChannel, UnsafePath
from segcal.data.layouts.listing import read_table
from segcal.tasks import TaskSpec

TABLE = "cases.csv"
MAX_NAME = 100
_NAME = re.compile(rf"[^./\\\x00-\x1f][^/\\\x00-\x1f]{{0,{MAX_NAME - 1}}}")  # it becomes the name of files


def recognise(root: Path) -> bool:
    """Whether the folder holds such a table."""
    return (root / TABLE).is_file()


def find(root: Path, task: TaskSpec) -> Found:
    """The cases of the table, in its order."""
    found = Found()
    if not recognise(root):
        return found
    try:
        rows = read_table(root / TABLE, ("case", *task.channels, "label"))
    except DataFault as fault:
        return Found([], [fault])
    seen: set[str] = set()
    for number, row in rows.items():
        try:
            case = _case(root, task, row, number)
            if case.case_id in seen:
                raise DoubledCase(case.case_id, "a case must stand in one line", f"line {number}", "remove one of them")
        except DataFault as fault:
            found.faults.append(fault)
            continue
        seen.add(case.case_id)
        found.cases.append(case)
    return found


def _case(root: Path, task: TaskSpec, cells: dict[str, str], number: int) -> CaseFiles:
    case_id = cells["case"]
    if not _NAME.fullmatch(case_id):
        rule = f"line {number} must name its case with 1 to {MAX_NAME} characters, no / and no leading ."
        raise BadInfo(TABLE, rule, f"'{case_id[:40]}'", "correct the line")
    split = cells.get("split", "")
    if split and split not in SPLITS:
        raise BadInfo(case_id, f"split in {TABLE} must be train, val or test", f"'{split}'", "correct the line")
    images = {name: _path(root, case_id, name, cells[name]) for name in (*task.channels, "label")}
    label = images.pop("label")
    return CaseFiles(
        case_id, root, images, label, site=cells.get("site", ""), patient=cells.get("patient", ""), split=split
    )


def _path(root: Path, case_id: str, column: str, cell: str) -> ImageFile:
    if not cell:
        raise MissingChannel(case_id, f"column '{column}' must hold a path", "an empty cell", "add it")
    if Path(cell).is_absolute() or ".." in Path(cell).parts:
        rule = f"column '{column}' must hold a path below {root}, relative and without '..'"
        raise UnsafePath(case_id, rule, cell, "copy or move the file into the folder")
    path = root / cell
    if _is_folder(path):  # the slices of a DICOM series
        slices = tuple(sorted(entry for entry in path.iterdir() if entry.is_file() and not entry.name.startswith(".")))
        if not slices:
            raise MissingChannel(case_id, f"the folder {cell} must hold DICOM slices", "an empty folder", "restore it")
        return ImageFile(slices)
    return ImageFile((path,))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # no name that a file can have; told when it is read
        return False
