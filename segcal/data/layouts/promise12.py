"""PROMISE12: `CaseNN.mhd`, `CaseNN.raw` and `CaseNN_segmentation.mhd`, anywhere below the root.

Half of its cases were imaged with an endorectal coil. Which ones is not part of the data: a file `coil.csv` (case,
coil) in the root says so where it is there, the list shipped with segcal otherwise; the coil is the case's site.
"""

__all__ = ["find", "recognise", "write_case"]

import itertools
import logging
import re
from importlib import resources
from pathlib import Path

import numpy as np

from segcal.data.case_files import CaseFiles, Found, ImageFile
from segcal.data.faults import BadInfo, DataFault, DoubledCase, MissingChannel
from segcal.data.layouts.listing import files_below, read_table
from segcal.data.voxels.itk_files import write_itk
from segcal.tasks import TaskSpec
from segcal.volume import Volume

CHANNEL = "t2"
COIL_LIST = "coil.csv"  # the user's own
SHIPPED_LIST = "promise12_coil.csv"
ENDS = (".mhd", ".mha")
COILS = ("endorectal", "phased-array", "unknown")
_IMAGE = re.compile(r"^Case\d+\.(mhd|mha)$", re.IGNORECASE)

log = logging.getLogger(__name__)


def recognise(root: Path) -> bool:
    """Whether this looks like a PROMISE12 folder."""
    return any(_IMAGE.match(path.name) for path in itertools.islice(files_below(root, ENDS), 200))


def find(root: Path, task: TaskSpec) -> Found:
    """All labelled cases, sorted by name. A folder without any labels is a test set and left out."""
    found = Found()
    coils = _coils(root, found)
    every = list(files_below(root, ENDS))
    lies = {(path.parent, path.name.lower()): path for path in every}
    unlabelled = []
    seen: dict[str, Path] = {}
    for path in sorted((path for path in every if _IMAGE.match(path.name)), key=lambda path: path.stem):
        names = [(path.parent, _label(path, end).name.lower()) for end in ENDS]
        label = next((lies[name] for name in names if name in lies), None)
        if label is None:
            unlabelled.append(path)
        elif path.stem in seen:
            where = f"{seen[path.stem].relative_to(root)} and {path.relative_to(root)}"
            found.faults.append(DoubledCase(path.stem, "a case must be there once", where, "remove one of them"))
        else:
            seen[path.stem] = path
            site = coils.get(path.stem, "unknown")
            if not task.groups or site in task.groups:
                images = {CHANNEL: ImageFile((path,))}
                found.cases.append(CaseFiles(path.stem, root, images, ImageFile((label,)), site, site))
    for path in every:
        case_id = path.stem.removesuffix("_segmentation")
        if path.stem != case_id and _IMAGE.match(f"{case_id}.mhd") and case_id not in seen:
            rule, remedy = f"{path.name} must have its image beside it", f"restore {case_id}.mhd"
            found.faults.append(MissingChannel(case_id, rule, "none", remedy))
    labelled = {path.parent for path in seen.values()}
    for path in unlabelled:
        if path.parent in labelled:
            rule = f"{_label(path, '.mhd').name} must be there"
            found.faults.append(MissingChannel(path.stem, rule, "none", "restore it, or move the image elsewhere"))
    left_out = sum(path.parent not in labelled for path in unlabelled)
    if left_out:
        log.warning("%d images in folders without any labels are left out (a test set?)", left_out)
    return found


def write_case(root: Path, case_id: str, image: Volume, label: Volume) -> None:
    """Write one case."""
    kinds = {f"{case_id}.mhd": (image, np.int16), f"{case_id}_segmentation.mhd": (label, np.int8)}
    for name, (volume, kind) in kinds.items():
        voxels = Volume(np.rint(volume.array).astype(kind), volume.spacing_mm, volume.affine)
        write_itk(root / name, voxels)


def _label(path: Path, end: str) -> Path:
    return path.with_name(f"{path.stem}_segmentation{end}")


def _coils(root: Path, found: Found) -> dict[str, str]:
    """Coil of each case: the user's list, or the shipped one."""
    own = root / COIL_LIST
    with resources.as_file(resources.files(__package__) / SHIPPED_LIST) as shipped:
        try:
            rows = read_table(own if own.is_file() else shipped, ("case", "coil"))
        except DataFault as fault:
            found.faults.append(fault)
            return {}
    coils = {}
    for row in rows.values():
        case, coil = row["case"], row["coil"]
        if coil not in COILS:
            rule = f"coil in {COIL_LIST} must be {', '.join(COILS)}"
            found.faults.append(BadInfo(case or COIL_LIST, rule, f"'{coil}'", "correct the line"))
        coils[case] = coil
    return coils
