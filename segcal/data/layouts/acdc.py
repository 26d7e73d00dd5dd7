"""ACDC: `training|testing/patientNNN/` with `Info.cfg`, cine frames and their `_gt` labels; or patients in the root.

The archive's own `database/` above the two may be there or not.

Only the end-diastolic frame is used, as in the paper. Its number stands in Info.cfg and is not always 1. Some headers
carry an identity sform beside a correct qform; the reader trusts the latter.
"""

__all__ = ["find", "recognise", "write_case"]

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segcal.data.case_files import CaseFiles, Found, ImageFile
from segcal.data.faults import BadInfo, DataFault, DoubledCase, MissingChannel
from segcal.data.layouts.listing import folders, whole_number
from segcal.data.voxels.nifti import write_nifti
from segcal.tasks import TaskSpec
from segcal.volume import Volume

CHANNEL = "cine"
GROUPS = ("training", "testing")


def recognise(root: Path) -> bool:
    """Whether this looks like an ACDC folder."""
    return any((patient / "Info.cfg").exists() for patient, _ in _patients(root))


def find(root: Path, task: TaskSpec) -> Found:
    """The end-diastolic frame of every patient, sorted by name, and every fault of names and files."""
    found = Found()
    seen: dict[str, Path] = {}
    for folder, group in _patients(root):
        if task.groups and group and group not in task.groups:
            continue
        try:
            if folder.name in seen:
                where = f"{seen[folder.name].relative_to(root)} and {folder.relative_to(root)}"
                raise DoubledCase(folder.name, "a patient must be there once", where, "remove one of them")
            seen[folder.name] = folder
            image, label = _frame(folder)
        except DataFault as fault:
            found.faults.append(fault)
            continue
        found.cases.append(CaseFiles(folder.name, root, {CHANNEL: image}, label, group=group))
    return found


def write_case(
    folder: Path, frames: Mapping[str, tuple[int, Volume, Volume]], info: Mapping[str, str], *, identity_sform: bool
) -> None:
    """Write one patient. frames: ED and ES -> number, image, labels; info: the other lines of Info.cfg.

    identity_sform: with the false header that some of the real files carry.
    """
    sform = np.eye(4) if identity_sform else None
    lines = [f"{phase}: {number}" for phase, (number, _, _) in frames.items()]
    for number, image, label in frames.values():
        name = f"{folder.name}_frame{number:02d}"
        write_nifti(folder / f"{name}.nii.gz", _as(image, np.int16), sform)
        write_nifti(folder / f"{name}_gt.nii.gz", _as(label, np.uint8), sform)
    lines += [f"{key}: {value}" for key, value in info.items()]
    (folder / "Info.cfg").write_text("\n".join(lines) + "\n")


def _as(volume: Volume, kind: type) -> Volume:
    return Volume(np.rint(volume.array).astype(kind), volume.spacing_mm, volume.affine)


def _patients(root: Path) -> list[tuple[Path, str]]:
    here = root.name.lower() if root.name.lower() in GROUPS else ""
    found = [(entry, here) for entry in folders(root) if entry.name.startswith("patient")]
    inside = [*folders(root), *(folders(root / "database") if (root / "database").is_dir() else [])]
    for group in inside:
        if group.name.lower() in GROUPS:
            found += [(entry, group.name.lower()) for entry in folders(group) if entry.name.startswith("patient")]
    return found


def _frame(folder: Path) -> tuple[ImageFile, ImageFile]:
    number = _end_diastole(folder)
    files = []
    for end in ("", "_gt"):
        name = f"{folder.name}_frame{number:02d}{end}.nii"
        candidates = [path for suffix in (".gz", "") if (path := folder / f"{name}{suffix}").exists()]
        if not candidates:
            rule = f"the end-diastolic frame of Info.cfg (ED: {number}) and its labels must be there"
            raise MissingChannel(folder.name, rule, f"no {name}.gz", "restore the file, or correct Info.cfg")
        if len(candidates) > 1:
            both = " and ".join(path.name for path in candidates)
            raise DoubledCase(folder.name, f"{name} must be there once", both, "remove one of them")
        files.append(ImageFile((candidates[0],)))
    return files[0], files[1]


def _end_diastole(folder: Path) -> int:
    path = folder / "Info.cfg"
    if not path.is_file():
        raise BadInfo(folder.name, "Info.cfg must be there", "none", "restore it: it says which frame is ED")
    lines = (line.partition(":") for line in path.read_text("utf-8-sig", errors="replace").splitlines())
    fields = {key.strip().upper(): value.strip() for key, _, value in lines}
    number = whole_number(fields.get("ED"))
    if number is None:
        got = f"ED: {fields['ED']}" if "ED" in fields else "no line ED"
        raise BadInfo(folder.name, "Info.cfg must tell the end-diastolic frame (ED: 1)", got, "add the line")
    return number
