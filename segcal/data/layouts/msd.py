"""Medical Segmentation Decathlon: `TaskNN_Name/{imagesTr,labelsTr}/<case>.nii.gz`, 4-D for several channels.

dataset.json orders the components ("modality") and names the labels. Two tasks are known by these names: Task01 (brain
tumours, other label numbers than BraTS, no site in the names) and Task05 (prostate: T2, ADC, two zones make the gland).
"""

__all__ = ["find", "recognise", "task"]

from pathlib import Path

from segcal.data.case_files import CaseFiles, Found, ImageFile
from segcal.data.faults import DataFault, MissingChannel
from segcal.data.layouts import nnunet
from segcal.data.layouts.listing import files, stem
from segcal.data.layouts.nnunet import DATASET, Dataset, check_names, read_dataset
from segcal.errors import UsageError, nearest
from segcal.tasks import TaskSpec

# Names of the decathlon's files -> ours, where they differ
ALIASES = {"t1w": "t1", "t1gd": "t1ce", "t2w": "t2"}
# Structures of the decathlon's dataset.json -> value of our task's labels
KNOWN_LABELS = {
    "edema": 2, "non-enhancing tumor": 1, "enhancing tumour": 4,  # Task01
    "pz": 1, "tz": 1,  # Task05: both zones are gland
}  # fmt: skip


def recognise(root: Path) -> bool:
    """Whether this looks like a task of the decathlon: labels named as their images, without channel numbers."""
    labelled = files(root / "labelsTr") if (root / DATASET).is_file() else []
    return bool(labelled) and (root / "imagesTr" / labelled[0].name).is_file()


def task(root: Path) -> TaskSpec:
    """The task that the dataset suggests, to start from. Raises a DataFault."""
    return nnunet.task(root, "msd")


def find(root: Path, task: TaskSpec) -> Found:
    """Every labelled case, sorted by name."""
    if not (root / DATASET).is_file():
        return Found()
    try:
        dataset = read_dataset(root)
    except DataFault as fault:
        return Found([], [fault])
    components = {}
    names = [ALIASES.get(name, name) for name in dataset.channels]
    for name in task.channels:
        at = names.index(name.lower()) if name.lower() in names else None
        at = dataset.channels.index(name.lower()) if at is None and name.lower() in dataset.channels else at
        if at is None:
            raise UsageError(f"task {task.name}: no channel named '{name}' in {DATASET}; {nearest(name, names)}")
        components[name] = at if len(names) > 1 else None
    try:
        values = _label_values(dataset, task)
        if not values:
            check_names(dataset, task)
    except DataFault as fault:
        return Found([], [fault])
    found = Found()
    labels = {path.name: path for path in files(root / "labelsTr")}
    for path in files(root / "imagesTr"):
        case_id = stem(path)
        if path.name not in labels:
            rule, remedy = f"{path.name} must have its labels in labelsTr", "add them, or move the image to imagesTs"
            found.faults.append(MissingChannel(case_id, rule, "none", remedy))
            continue
        channels = {name: ImageFile((path,), component) for name, component in components.items()}
        label = ImageFile((labels.pop(path.name),))
        found.cases.append(CaseFiles(case_id, root, channels, label, label_values=values))
    for path in labels.values():
        rule = f"labels must have their image, imagesTr/{path.name}"
        found.faults.append(MissingChannel(stem(path), rule, "none", "add it"))
    return found


def _label_values(dataset: Dataset, task: TaskSpec) -> dict[int, int]:
    """Value in the label files -> the task's, where the decathlon's names tell it; else empty."""
    values = {value: KNOWN_LABELS.get(name.lower(), 0) for value, name in dataset.labels().items()}
    return values if set(values.values()) == set(task.labels) else {}
