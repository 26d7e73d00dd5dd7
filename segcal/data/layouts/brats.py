"""BraTS, as its years lay it out. Channels are found by name, never by order.

- 2017, 2018: `HGG|LGG/<id>/<id>_{t1,t1ce,t2,flair,seg}.nii.gz`; the site stands in the id (`Brats17_CBICA_AAB_1`)
- 2020, 2021: the same files in flat folders, `.nii` or `.nii.gz`, without site and grade; one label file of 2020 is
  misnamed (`W39_1998.09.19_Segm.nii`)
- 2023 and later: `<id>/<id>-{t1n,t1c,t2w,t2f,seg}.nii.gz`; enhancing tumour is 3, not 4
- 2015: `HGG|LGG/<id>/VSD.Brain.XX.O.MR_{Flair,T1,T1c,T2}.<n>/….mha`; non-enhancing core is 3 beside necrosis 1
"""

__all__ = ["CHANNELS", "find", "recognise", "write_case"]

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from segcal.data.case_files import CaseFiles, Found, ImageFile
from segcal.data.faults import DoubledCase, MissingCase, MissingChannel
from segcal.data.layouts.listing import files, folders
from segcal.data.voxels.nifti import write_nifti
from segcal.tasks import TaskSpec
from segcal.volume import Volume

CHANNELS = ("t1", "t1ce", "t2", "flair")
GRADES = ("HGG", "LGG")
_ENDS = (".nii.gz", ".nii")
_NAMES_2023 = {"t1": "t1n", "t1ce": "t1c", "t2": "t2w", "flair": "t2f", "seg": "seg"}
_NAMES_2015 = {"t1": "MR_T1.", "t1ce": "MR_T1c.", "t2": "MR_T2.", "flair": "MR_Flair.", "seg": "OT."}
_SITE = re.compile(r"^brats(?:1[789])?_([a-z]+|\d+)\d*_", re.IGNORECASE)  # TCIA01, TCIA02, ... are TCIA
# The last number counts a patient's scans.
_PATIENT = re.compile(r"^(brats1[789]_\w+?|brats_\w+_pat\d+|brats-\w+-\d+)[_-]\d+$", re.IGNORECASE)


def recognise(root: Path) -> bool:
    """Whether this looks like a BraTS folder."""
    return any(True for _ in _case_folders(root))


def find(root: Path, task: TaskSpec) -> Found:
    """All cases below the root, sorted by name, and every fault of their names and files."""
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
    return found


def write_case(
    root: Path, case_id: str, group: str, channels: Mapping[str, np.ndarray], truth: np.ndarray,
    spacing_mm: tuple[float, float, float],
) -> None:  # fmt: skip
    """Write arrays (Z, Y, X) as one case of the 2017 layout, oriented LPS as the challenge's files are."""
    folder = root / group / case_id
    z, y, x = spacing_mm
    affine = np.diag([-x, -y, z, 1.0])
    affine[1, 3] = y * (truth.shape[1] - 1)
    for name, array in {**channels, "seg": truth}.items():
        kind = np.uint8 if name == "seg" else np.int16
        voxels = Volume(np.rint(array).astype(kind), spacing_mm, affine)
        write_nifti(folder / f"{case_id}_{name}.nii.gz", voxels)


def _case_folders(root: Path, depth: int = 2) -> list[tuple[Path, str]]:
    """Case folders with their grade; archives wrap them in one or two folders that are called BraTS too."""
    found = []
    for entry in folders(root):
        if entry.name in GRADES:
            found += [(case, entry.name) for case in folders(entry)]
        elif _is_case(entry):
            found.append((entry, root.name if root.name in GRADES else ""))
        elif depth and "brats" in entry.name.lower():
            found += _case_folders(entry, depth - 1)
    return found


def _is_case(folder: Path) -> bool:
    """Whether it holds images of a case, or is called like one and holds no folders."""
    ends = {path.name[len(folder.name) :].partition(".")[0].lower() for path in files(folder, _ENDS)}
    known = {f"_{name}" for name in (*CHANNELS, "seg")} | {f"-{name}" for name in _NAMES_2023.values()}
    if ends & known or any(folder.glob("VSD.Brain*")):
        return True
    return folder.name.lower().startswith("brats") and not folders(folder)


def _add_case(found: Found, root: Path, folder: Path, group: str, task: TaskSpec) -> None:
    case_id = folder.name
    if not files(folder, _ENDS) and not any(folder.glob("VSD.Brain*")):
        remedy = "restore its files or remove the folder"
        found.faults.append(MissingCase(case_id, "a case folder must hold images", "an empty folder", remedy))
        return
    images: dict[str, ImageFile] = {}
    for name in (*task.channels, "seg"):
        candidates = _candidates(folder, name)
        if len(candidates) == 1:
            images[name] = ImageFile((candidates[0],))
        elif candidates:
            both = " and ".join(path.name for path in candidates)
            found.faults.append(DoubledCase(case_id, f"channel {name} must be there once", both, "remove one of them"))
        else:
            rule = f"channels {', '.join((*task.channels, 'seg'))} must be there"
            remedy = f"add {case_id}_{name}.nii.gz, or leave '{name}' out of the task's channels"
            found.faults.append(MissingChannel(case_id, rule, f"no {name}", remedy))
    if len(images) == len(task.channels) + 1:
        label = images.pop("seg")
        site, patient = _SITE.match(case_id), _PATIENT.match(case_id)
        found.cases.append(
            CaseFiles(
                case_id, root, images, label,
                site=site.group(1).upper() if site else "",
                group=group,
                patient=patient.group(1) if patient else "",
                label_values=_label_values(label, task),
            )
        )  # fmt: skip


def _candidates(folder: Path, name: str) -> list[Path]:
    """The files that may be this channel of the case; exactly one should be."""
    names = [f"{folder.name}_{name}", f"{folder.name}-{_NAMES_2023[name]}"]
    found = [path for stem in names for end in _ENDS if (path := folder / f"{stem}{end}").exists()]
    found += sorted(folder.glob(f"VSD.Brain*{_NAMES_2015[name]}*/*{_NAMES_2015[name]}*.mha"))
    if name == "seg" and not found:
        found = sorted(path for end in _ENDS for path in folder.glob(f"*_Segm{end}"))
    return found


def _label_values(label: ImageFile, task: TaskSpec) -> dict[int, int]:
    """The values of 2015 and 2023 as those of 2017 (1, 2, 4), where the task speaks of these."""
    if 4 not in task.labels or 3 in task.labels:
        return {}
    if label.name.endswith(".mha"):
        return {1: 1, 2: 2, 3: 1, 4: 4}
    return {1: 1, 2: 2, 3: 4} if "-seg." in label.name else {}
