"""PROSTATEx: DICOM studies below `ProstateX-NNNN/`, and one annotation of the gland for each patient, anywhere below.

A patient has several axial T2 series. Which one was annotated is told, in this order, by a DICOM-SEG's reference, by
`references.csv` (case, series_uid) in the root, by the key ReferencedSeriesInstanceUID in the annotation's header, or
by a UID in its file name; only a patient with one axial T2 series needs none of these. Annotations are files
`ProstateX-NNNN*` (NRRD, NIfTI, MetaImage) or DICOM-SEG; they are drawn on a grid of their own. Patients without one
are left out.
"""

__all__ = ["CHANNEL", "find", "recognise", "write_case"]

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segcal.data.case_files import CaseFiles, Found, ImageFile
from segcal.data.faults import AmbiguousSeries, DataFault, DoubledCase, MissingCase
from segcal.data.layouts.listing import files_below, folders, read_table
from segcal.data.voxels.dicom import SeriesHeader, peek, write_series
from segcal.data.voxels.itk_files import header_field, write_itk
from segcal.data.voxels.read import FORMATS
from segcal.data.voxels.streams import check_path
from segcal.tasks import TaskSpec
from segcal.volume import Volume

CHANNEL = "t2"
REFERENCES = "references.csv"
REFERENCE_KEY = "ReferencedSeriesInstanceUID"
_PATIENT = re.compile(r"^(ProstateX-\d{4})", re.IGNORECASE)
_UID = re.compile(r"\d+(?:\.\d+){5,}")
_DICOM = (".dcm", ".ima")
_DRAWN = tuple(end for end in FORMATS if end != ".dcm")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Series:
    """The slices of one series, and what its first one says."""

    header: SeriesHeader
    paths: tuple[Path, ...]


def recognise(root: Path) -> bool:
    """Whether this looks like a PROSTATEx folder: patients with DICOM below them."""
    return any(next(files_below(folder, _DICOM), None) for tree in _patients(root).values() for folder in tree)


def find(root: Path, task: TaskSpec) -> Found:
    """Every annotated patient with the series that was annotated, sorted by name."""
    found = Found()
    patients = _patients(root)
    drawn: dict[str, list[Path]] = {}
    for path in files_below(root, _DRAWN):
        if match := _PATIENT.match(path.name):
            drawn.setdefault(match.group(1).lower(), []).append(path)
    try:
        references = _references(root)
    except DataFault as fault:
        return Found([], [fault])
    without = 0
    for case_id, tree in patients.items():
        if task.ids and case_id not in task.ids:
            continue
        try:
            case = _case(root, case_id, tree, drawn.get(case_id.lower(), []), references.get(case_id.lower(), ""), task)
        except DataFault as fault:
            found.faults.append(fault)
            continue
        if case:
            found.cases.append(case)
        else:
            without += 1
    for name in sorted(set(drawn) - {case_id.lower() for case_id in patients}):
        rule, remedy = "an annotated patient must have DICOM images", "download them, or remove the annotation"
        found.faults.append(MissingCase(drawn[name][0].name, rule, "none", remedy))
    if without:
        log.warning("%d patients without an annotation are left out", without)
    return found


def write_case(
    root: Path, case_id: str, series: dict[str, Volume], uids: dict[str, str], label: Volume, annotated: str
) -> None:
    """Write one patient: series by their description, and the gland as NRRD on its own grid with its reference."""
    study = uids[annotated].rpartition(".")[0]
    for number, (description, volume) in enumerate(series.items(), start=3):
        folder = root / "PROSTATEx" / case_id / "1-MR prostate" / f"{number}.000000-{description}-{number:05d}"
        write_series(folder, volume, uids[description], case_id, study, description)
    gland = Volume(label.array.astype(np.uint8), label.spacing_mm, label.affine)
    write_itk(root / "annotations" / f"{case_id}.nrrd", gland, {REFERENCE_KEY: uids[annotated]})


def _patients(root: Path) -> dict[str, list[Path]]:
    """Folders of each patient that hold no other such folder, by name; at most three levels down."""
    found: dict[str, list[Path]] = {}

    def look(folder: Path, depth: int) -> None:
        for entry in folders(folder):
            if _PATIENT.fullmatch(entry.name):
                found.setdefault(entry.name, []).append(entry)
            elif depth < 3 and not entry.is_symlink():
                look(entry, depth + 1)

    look(root, 1)
    return dict(sorted(found.items()))


def _case(
    root: Path, case_id: str, tree: list[Path], drawn: list[Path], reference: str, task: TaskSpec
) -> CaseFiles | None:
    series = _series(tree, thorough=not drawn)  # a DICOM-SEG may lie between the slices of a series
    segmentations = [path for one in series.values() if one.header.modality == "SEG" for path in one.paths]
    annotations = drawn + segmentations
    if not annotations:
        return None
    if len(annotations) > 1:
        both = " and ".join(str(path.relative_to(root)) for path in annotations[:3])
        raise DoubledCase(case_id, "a patient must have one annotation", both, "remove the others")
    label = annotations[0]
    check_path(label, root, case_id)
    images = {uid: one for uid, one in series.items() if one.header.modality != "SEG"}
    if not images:
        raise MissingCase(case_id, "an annotated patient must have DICOM images", "none", "download them")
    of_label = next((one.header.references for one in series.values() if label in one.paths), ())
    named = _UID.findall(label.name)
    key = header_field(label, case_id, REFERENCE_KEY)
    wanted = next((uid for uid in (*of_label, reference, key, *named) if uid), "")
    chosen = _chosen(case_id, images, tree, wanted)
    values = {}
    if len(task.structures) == 1 and label in segmentations:
        values = dict.fromkeys(range(1, 33), next(iter(task.labels)))  # zones make the gland
    image = ImageFile(chosen.paths, series=chosen.header.uid)
    return CaseFiles(case_id, root, {CHANNEL: image}, ImageFile((label,)), label_values=values, label_has_own_grid=True)


def _chosen(case_id: str, images: dict[str, Series], tree: list[Path], wanted: str) -> Series:
    """The series that was annotated."""
    if wanted:
        if wanted not in images:
            images = {uid: one for uid, one in _series(tree, thorough=True).items() if one.header.modality != "SEG"}
        if wanted not in images:
            rule = f"the annotated series {wanted} must be among the patient's"
            raise MissingCase(case_id, rule, f"{len(images)} others", "download the whole study")
        return images[wanted]
    t2 = {uid: one for uid, one in images.items() if one.header.axial and _is_t2(one.header)}
    if len(t2) != 1:
        names = ", ".join(sorted(one.header.description for one in t2.values())) or "none"
        remedy = f"name its SeriesInstanceUID in {REFERENCES} (columns case, series_uid)"
        rule = "without a reference there must be one axial T2 series"
        raise AmbiguousSeries(case_id, rule, f"{len(t2)} ({names})", remedy)
    return next(iter(t2.values()))


def _is_t2(header: SeriesHeader) -> bool:
    return "t2" in header.description.lower()


def _series(tree: list[Path], thorough: bool = False) -> dict[str, Series]:
    """Series of a patient by UID. The first and last file of a folder speak for it; thorough: every file for itself."""
    headers: dict[str, SeriesHeader] = {}
    paths: dict[str, list[Path]] = {}
    by_folder: dict[Path, list[Path]] = {}
    for folder in tree:
        for path in files_below(folder, _DICOM):
            by_folder.setdefault(path.parent, []).append(path)
    for inside in by_folder.values():
        ends = [peek(path) for path in dict.fromkeys((inside[0], inside[-1]))]
        mixed = thorough or len({end.uid if end else "" for end in ends}) > 1
        told = list(zip(inside, map(peek, inside) if mixed else [ends[0]] * len(inside), strict=True))
        here = dict.fromkeys(header.uid for _, header in told if header)
        for path, header in told:
            if header:
                headers.setdefault(header.uid, header)
            for uid in [header.uid] if header else here:  # a slice that does not say is judged when it is read
                paths.setdefault(uid, []).append(path)
    return {uid: Series(headers[uid], tuple(sorted(paths[uid]))) for uid in headers}


def _references(root: Path) -> dict[str, str]:
    """The user's list: case (lower case) -> SeriesInstanceUID."""
    path = root / REFERENCES
    if not path.is_file():
        return {}
    rows = read_table(path, ("case", "series_uid")).values()
    return {row["case"].lower(): row["series_uid"] for row in rows}
