"""The BraTS layout: `[HGG|LGG/]<id>/<id>_{t1,t1ce,t2,flair,seg}.nii[.gz]` (BraTS 2017 to 2021).

The site stands in the names of 2017 and 2018 (`Brats17_CBICA_AAB_1`); the flat folders of 2021 have neither site
nor grade. Channels are found by name, never by order.
"""

__all__ = ["CHANNELS", "find", "write_case"]

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segcal.data.case_files import CaseFiles, Found
from segcal.data.faults import DoubledCase, MissingCase, MissingChannel
from segcal.data.voxels import write_volume
from segcal.errors import UsageError, nearest
from segcal.tasks import TaskSpec
from segcal.volume import Volume

CHANNELS = ("t1", "t1ce", "t2", "flair")
GRADES = ("HGG", "LGG")
_SITE = re.compile(r"^Brats1[78]_([A-Za-z0-9]+)_")


def find(root: Path, task: TaskSpec) -> Found:
    """All cases below the root, sorted by name, and every fault of their names and files."""
    for channel in task.channels:
        if channel not in CHANNELS:
            raise UsageError(f"task {task.name}: no BraTS channel named '{channel}'; {nearest(channel, CHANNELS)}")
    found = Found()
    seen: dict[str, Path] = {}
    for folder, group in _case_folders(root):
        if task.groups and group and group not in task.groups:
            continue
        case_id = folder.name
        if case_id in seen:
            where = f"{seen[case_id].relative_to(root)} and {folder.relative_to(root)}"
            found.faults.append(DoubledCase(case_id, "a case must be there once", where, "remove one of them"))
            continue
        seen[case_id] = folder
        _add_case(found, root, folder, group, task)
    if not found.cases and not found.faults:
        remedy = "expected [HGG|LGG/]<id>/<id>_flair.nii.gz and its companions below it"
        found.faults.append(MissingCase(str(root), "a BraTS folder must hold cases", "none", remedy))
    return found


def write_case(
    root: Path, case_id: str, group: str, channels: Mapping[str, np.ndarray], truth: np.ndarray,
    spacing_mm: tuple[float, float, float],
) -> None:  # fmt: skip
    """Write arrays (Z, Y, X) as one case of this layout, oriented LPS as the challenge's files are."""
    folder = root / group / case_id
    z, y, x = spacing_mm
    affine = np.diag([-x, -y, z, 1.0])
    affine[1, 3] = y * (truth.shape[1] - 1)
    for name, array in {**channels, "seg": truth}.items():
        kind = np.uint8 if name == "seg" else np.int16
        voxels = Volume(np.rint(array).astype(kind), spacing_mm, affine)
        write_volume(folder / f"{case_id}_{name}.nii.gz", voxels)


def _case_folders(root: Path) -> list[tuple[Path, str]]:
    folders = []
    for entry in _folders(root):
        if entry.name in GRADES:
            folders += [(case, entry.name) for case in _folders(entry)]
        elif entry.name.lower().startswith("brats") or any(entry.glob(f"{entry.name}_*.nii*")):
            folders.append((entry, root.name if root.name in GRADES else ""))
    return folders


def _folders(root: Path) -> list[Path]:
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _add_case(found: Found, root: Path, folder: Path, group: str, task: TaskSpec) -> None:
    case_id = folder.name
    if not any(folder.glob("*.nii*")):
        remedy = "restore its files or remove the folder"
        found.faults.append(MissingCase(case_id, "a case folder must hold images", "an empty folder", remedy))
        return
    files: dict[str, Path] = {}
    for name in (*task.channels, "seg"):
        candidates = [path for end in (".nii.gz", ".nii") if (path := folder / f"{case_id}_{name}{end}").exists()]
        if len(candidates) == 1:
            files[name] = candidates[0]
        elif candidates:
            both = " and ".join(path.name for path in candidates)
            found.faults.append(DoubledCase(case_id, f"channel {name} must be there once", both, "remove one of them"))
        else:
            rule = f"channels {', '.join((*task.channels, 'seg'))} must be there"
            remedy = f"add {case_id}_{name}.nii.gz, or leave '{name}' out of the task's channels"
            found.faults.append(MissingChannel(case_id, rule, f"no {name}", remedy))
    if len(files) == len(task.channels) + 1:
        label = files.pop("seg")
        site = _SITE.match(case_id)
        found.cases.append(CaseFiles(case_id, root, files, label, site.group(1) if site else "", group))
