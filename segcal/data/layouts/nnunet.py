"""nnU-Net raw: `DatasetXXX_Name/{imagesTr,labelsTr,imagesTs,labelsTs}`, `<case>_0000.nii.gz`, `dataset.json`.

The way in for a user's own data: any number of channels and labels. Both versions of dataset.json are read
(`channel_names` and labels by name; `modality` and labels by number). Test images count where their labels are there.
"""

__all__ = ["Dataset", "find", "read_dataset", "recognise", "task", "write_case", "write_dataset"]

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segcal.data.case_files import CaseFiles, Found, ImageFile
from segcal.data.faults import BadInfo, DataFault, DoubledCase, MissingCase, MissingChannel
from segcal.data.layouts.listing import files, read_json, stem, whole_number
from segcal.data.orient import orient
from segcal.data.voxels.nifti import write_nifti
from segcal.data.voxels.read import read_image
from segcal.errors import UsageError, nearest
from segcal.tasks import TaskSpec
from segcal.volume import Volume

DATASET = "dataset.json"
PARTS = ("imagesTr", "imagesTs")
_SAFE = re.compile(r"[^A-Za-z0-9]+")


@dataclass(frozen=True)
class Dataset:
    """What dataset.json says."""

    name: str
    channels: tuple[str, ...]  # lower case, in the order of the file numbers
    given_labels: object  # as they stand there: a task may do without what they say

    def labels(self) -> dict[int, str]:
        """Value -> name, of either version; background left out. Raises BadInfo."""
        return _labels(self.given_labels)


def recognise(root: Path) -> bool:
    """Whether this looks like an nnU-Net raw folder."""
    return (root / DATASET).is_file() and (root / "imagesTr").is_dir()


def read_dataset(root: Path) -> Dataset:
    """dataset.json of either version. Raises BadInfo."""
    content = read_json(root / DATASET)
    named = content.get("channel_names") or content.get("modality")
    rule = "channel_names must number the channels from 0"
    if not isinstance(named, dict) or not named:
        raise BadInfo(DATASET, rule, repr(named)[:60], 'write {"0": "T2", "1": "ADC"}')
    numbered = {whole_number(key): str(name).lower() for key, name in named.items()}
    if set(numbered) != set(range(len(named))):
        raise BadInfo(DATASET, rule, ", ".join(named), "number them anew")
    channels = tuple(numbered[number] for number in range(len(named)))
    if len(set(channels)) < len(channels):
        raise BadInfo(DATASET, "channel names must differ", ", ".join(channels), "rename them")
    return Dataset(_SAFE.sub("-", root.resolve().name).strip("-").lower(), channels, content.get("labels"))


def task(root: Path, layout: str = "nnunet") -> TaskSpec:
    """The task that a dataset suggests, to start from: its channels and labels, the grid of the first case.

    Raises a DataFault.
    """
    dataset = read_dataset(root)
    labelled = files(root / "labelsTr")
    if not labelled:
        raise MissingCase(root.name, "labelsTr must hold labels", "none", "add them")
    first, _ = orient(read_image(ImageFile((labelled[0],)), root, stem(labelled[0])), "lps")
    pixel = float(np.round(max(first.spacing_mm[1:]), 2))
    sides = zip(first.array.shape[1:], first.spacing_mm[1:], strict=True)
    return TaskSpec(
        name=dataset.name,
        layout=layout,
        channels=dataset.channels,
        labels=dataset.labels(),
        spacing_mm=(None, pixel, pixel),
        crop=tuple(16 * math.ceil(round(n * mm / pixel, 2) / 16) for n, mm in sides),
        batch=16,
    )


def find(root: Path, task: TaskSpec) -> Found:
    """Every case with labels: those of labelsTr, and those of labelsTs as the test split."""
    if not (root / DATASET).is_file():
        return Found()
    try:
        dataset = read_dataset(root)
        check_names(dataset, task)
        numbers = _numbers(dataset, task)
    except DataFault as fault:
        return Found([], [fault])
    found = Found()
    seen: dict[str, Path] = {}
    for part, split in (("Tr", ""), ("Ts", "test")):
        if set(task.groups) & set(PARTS) and f"images{part}" not in task.groups:
            continue  # a group of another layout, such as HGG, says nothing here
        images: dict[str, list[Path]] = {}
        for path in files(root / f"images{part}"):
            images.setdefault(stem(path), []).append(path)
        for label in files(root / f"labels{part}"):
            case_id = stem(label)
            try:
                if case_id in seen:
                    where = f"{seen[case_id].relative_to(root)} and {label.relative_to(root)}"
                    raise DoubledCase(case_id, "a case must have one label file", where, "remove one of them")
                seen[case_id] = label
                channels = {name: _image(images, case_id, name, number) for name, number in numbers.items()}
            except DataFault as fault:
                found.faults.append(fault)
                continue
            found.cases.append(
                CaseFiles(case_id, root, channels, ImageFile((label,)), group=f"images{part}", split=split)
            )
        if part == "Tr":
            _images_without_labels(found, images, seen)
    return found


def write_dataset(root: Path, channels: Sequence[str], structures: Sequence[str], training_cases: int) -> None:
    """Write dataset.json (version 2): channels numbered from 0, structures from 1."""
    labels = {"background": 0} | {name: value for value, name in enumerate(structures, start=1)}
    numbered = {str(number): name for number, name in enumerate(channels)}
    content = {
        "channel_names": numbered, "labels": labels, "numTraining": training_cases, "file_ending": ".nii.gz",
    }  # fmt: skip
    (root / DATASET).write_text(json.dumps(content, indent=2) + "\n")


def write_case(root: Path, case_id: str, channels: Mapping[str, Volume], label: Volume | None) -> None:
    """Write a case to imagesTr and labelsTr, one without a label to imagesTs alone; images as int16."""
    part = "Ts" if label is None else "Tr"
    for number, volume in enumerate(channels.values()):
        voxels = Volume(np.rint(volume.array).astype(np.int16), volume.spacing_mm, volume.affine)
        write_nifti(root / f"images{part}" / f"{case_id}_{number:04d}.nii.gz", voxels)
    if label is not None:
        write_nifti(root / "labelsTr" / f"{case_id}.nii.gz", label)


def _numbers(dataset: Dataset, task: TaskSpec) -> dict[str, str]:
    """File number of each channel of the task."""
    numbers = {}
    for name in task.channels:
        if name.lower() not in dataset.channels:
            raise UsageError(
                f"task {task.name}: no channel named '{name}' in {DATASET}; {nearest(name, dataset.channels)}"
            )
        numbers[name] = f"{dataset.channels.index(name.lower()):04d}"
    return numbers


def check_names(dataset: Dataset, task: TaskSpec) -> None:
    """Raise BadInfo where a name that dataset.json and the task share has other numbers in them."""
    try:
        theirs = {name.lower(): value for value, name in dataset.labels().items()}
    except DataFault:
        return  # regions; the task names the values itself
    for value, name in task.labels.items():
        other = theirs.get(name.lower(), value)
        if other != value and list(task.labels.values()).count(name) == 1:
            rule = f"label '{name}' must have the task's number {value}"
            raise BadInfo(DATASET, rule, f"{other}", "start from the folder's own task: segcal task show DIR")


def _image(images: dict[str, list[Path]], case_id: str, name: str, number: str) -> ImageFile:
    candidates = images.get(f"{case_id}_{number}", [])
    if not candidates:
        rule = f"{DATASET} lists the channel '{name}', so {case_id}_{number} must be there"
        raise MissingChannel(case_id, rule, "no file", f"add it, or take '{name}' out of {DATASET} or the task")
    if len(candidates) > 1:
        both = " and ".join(path.name for path in candidates)
        raise DoubledCase(case_id, f"channel {name} must be there once", both, "remove one of them")
    return ImageFile((candidates[0],))


def _images_without_labels(found: Found, images: dict[str, list[Path]], seen: dict[str, Path]) -> None:
    for case_id in sorted({name.rpartition("_")[0] for name in images} - set(seen)):
        remedy = "add it, or move the images to imagesTs"
        found.faults.append(
            MissingChannel(case_id, "a case of imagesTr must have its file in labelsTr", "none", remedy)
        )


def _labels(given: object) -> dict[int, str]:
    """Value -> name, of either version; background left out."""
    if not isinstance(given, dict) or not given:
        raise BadInfo(
            DATASET, "labels must name the structures", repr(given)[:60], 'write {"background": 0, "gland": 1}'
        )
    numbered = all(whole_number(key) is not None for key in given)
    labels: dict[int, str] = {}
    for key, value in given.items():
        name, number = (str(value), key) if numbered else (str(key), value)
        if isinstance(number, list):
            remedy = "name the values themselves in a task file (segcal task show brain), labels: {1: ...}"
            raise BadInfo(DATASET, f"label '{name}' must be one number", f"the region {number}", remedy)
        if name.lower() == "ignore":
            raise BadInfo(DATASET, "every voxel must have a class", "an 'ignore' label", "label those voxels")
        value = whole_number(number)
        if value is None:
            raise BadInfo(DATASET, f"label '{name}' must be one whole number", repr(number), "correct it")
        if value in labels:
            raise BadInfo(DATASET, "labels must have different numbers", f"{labels[value]} and {name}", "correct it")
        if value > 0:
            labels[value] = name
    if not labels or max(labels) > 255:
        raise BadInfo(DATASET, "labels must be numbers from 1 to 255", str(labels)[:60], "number them anew")
    return dict(sorted(labels.items()))
