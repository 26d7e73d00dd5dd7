"""What a segmentation task is: its channels, structures, grid, splits and boxes. Data, not behaviour.

A user's own task is a YAML file of the same fields (`segcal task show brain` prints one to start from), or a plug-in
that brings a TaskSpec.
"""

__all__ = ["TASKS", "TaskSpec", "task_digest"]

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from segcal.plugins import Extensions


def _help(text: str, **default: Any) -> Any:
    return field(metadata={"help": text}, **default)


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """One segmentation task. Axes are (z, y, x); class 0 is the background, class j the j-th entry of `labels`."""

    __pydantic_config__ = {"extra": "forbid"}

    name: str = _help("name of the task; part of every registered model's name")
    layout: str = _help(
        "how the cohort lies on disk: brats, acdc, prostatex, promise12, msd, nnunet, csv, or a plug-in's"
    )
    ood_layout: str = _help("layout of the out-of-distribution cohort, where the task has one", default="")
    channels: tuple[str, ...] = _help("input channels, by their name in the layout, in the order the network sees them")
    labels: dict[int, str] = _help(
        "value in the label files -> structure; the order gives the classes 1, 2, ...; equal names are one structure"
    )
    spacing_mm: tuple[float | None, float | None, float | None] = _help(
        "grid (z, y, x) in mm that images are resampled to; null keeps an axis as it was acquired"
    )
    crop: tuple[int, ...] = _help(
        "size in voxels after the centre crop or pad, multiples of 16: (y, x) for networks over slices, (z, y, x) for "
        "networks over volumes"
    )
    batch: int = _help("slices (or volumes) in a mini-batch")
    orientation: Literal["lps", "stored"] = _help(
        "order of the axes: turned to the nearest of left-posterior-superior without touching a voxel, or as stored "
        "(short-axis stacks)",
        default="lps",
    )
    structure_weights: dict[str, float] = _help(
        "weight of each structure in the Dice loss (Eq. 2); 1 where not given", default_factory=dict
    )
    groups: tuple[str, ...] = _help("parts of the cohort to use, such as HGG or training; empty takes all", default=())
    ids: tuple[str, ...] = _help("cases to use; empty takes all", default=())
    split_sites: dict[str, str] = _help(
        "split -> site, where the cases of a cohort name their site; empty: split by seed", default_factory=dict
    )
    split_counts: dict[str, int] = _help(
        "cases expected in each split; also the ratio of splits that share a site", default_factory=dict
    )
    split_fractions: tuple[float, float, float] = _help(
        "shares of train, val and test of a cohort without sites", default=(0.6, 0.2, 0.2)
    )
    split_seed: int = _help("seed of every random split", default=2020)
    intensity: Literal["percentile", "minmax"] = _help(
        "scaling of each channel to [0, 1]: 1st to 99th percentile, or minimum to maximum",
        default="percentile",
    )
    intensity_inside: Literal["all", "nonzero"] = _help(
        "voxels whose percentiles or extremes count: all, or those above 0 (skull-stripped images)", default="all"
    )
    label_resampling: Literal["linear", "nearest"] = _help(
        "labels: one-hot, linear, argmax; or nearest neighbour", default="linear"
    )
    box_margin_mm: float = _help("in-plane margin of the evaluation box around the foreground", default=8.0)
    box_margin_slices: int = _help("through-plane margin of the evaluation box", default=2)
    ensemble_sizes: tuple[int, ...] = _help("sizes M on the ensemble curve", default=(1, 2, 5, 10, 25, 50))
    curve_draws: int = _help("random subsets drawn for each M", default=50)

    @property
    def structures(self) -> tuple[str, ...]:
        """Names of the classes 1, 2, ..."""
        return tuple(dict.fromkeys(self.labels.values()))

    @property
    def n_classes(self) -> int:
        """Classes with the background."""
        return len(self.structures) + 1

    @property
    def classes(self) -> dict[int, int]:
        """Value in the label files -> class."""
        return {value: self.structures.index(name) + 1 for value, name in self.labels.items()}

    @property
    def dims(self) -> int:
        """2 for networks over slices, 3 for networks over volumes."""
        return len(self.crop)


def task_digest(task: TaskSpec) -> str:
    """Hash of every field of the task (16 hex digits); the order of `labels` counts, because it numbers the classes."""
    fields = asdict(task) | {"labels": list(task.labels.items())}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


def _accept(name: str, given: Any) -> TaskSpec:
    """A plug-in's task; what lists show of it. Its values are checked where it is read, as those of a file are."""
    if not isinstance(given, TaskSpec):
        raise ValueError(f"a task must be a segcal.tasks.TaskSpec, got {type(given).__name__}")
    if given.name != name:
        raise ValueError(f"a task must have the name of its entry point, '{name}', got '{given.name}'")
    if not isinstance(given.channels, tuple | list) or not isinstance(given.labels, dict):
        got = f"{given.channels!r} and {given.labels!r}"
        raise ValueError(f"a task must have channels ('t2', ...) and labels {{1: 'tumour', ...}}, got {got}")
    shown = (*given.channels, *given.labels.values())
    if not all(isinstance(name, str) for name in shown):
        raise ValueError(f"a task's channels and structures must be names, got {', '.join(map(repr, shown))}")
    return given


_PROSTATE = TaskSpec(
    name="prostate",
    layout="prostatex",
    ood_layout="promise12",
    channels=("t2",),
    labels={1: "prostate"},
    spacing_mm=(None, 0.5, 0.5),
    crop=(224, 224),
    batch=16,
    structure_weights={"prostate": 1.0},
    split_counts={"train": 16, "val": 4, "test": 20},
    split_fractions=(0.4, 0.1, 0.5),
)

# Mehrtash et al. 2020, section IV and Table I.
_BUILT_IN = {
    # BraTS17, high-grade cases: CBICA to learn from and TCIA to test on.
    "brain": TaskSpec(
        name="brain",
        layout="brats",
        channels=("t1ce", "t2", "flair"),
        labels={1: "non-enhancing", 2: "edema", 4: "enhancing"},
        spacing_mm=(2.0, 1.0, 1.0),
        crop=(224, 224),
        batch=32,
        structure_weights={"non-enhancing": 1.0, "edema": 1.0, "enhancing": 1.0},
        groups=("HGG",),
        split_sites={"train": "CBICA", "val": "CBICA", "test": "TCIA"},
        split_counts={"train": 66, "val": 22, "test": 102},
        intensity_inside="nonzero",
        curve_draws=10,
    ),
    # ACDC, the end-diastolic frame of the 100 training patients; the myocardium, a thin ring, counts three times.
    "heart": TaskSpec(
        name="heart",
        layout="acdc",
        channels=("cine",),
        labels={1: "right ventricle", 2: "myocardium", 3: "left ventricle"},
        spacing_mm=(None, 2.0, 2.0),
        crop=(224, 224),
        batch=32,
        orientation="stored",
        structure_weights={"right ventricle": 1.0, "myocardium": 3.0, "left ventricle": 1.0},
        groups=("training",),
        split_counts={"train": 40, "val": 10, "test": 50},
        split_fractions=(0.4, 0.1, 0.5),
    ),
    # PROSTATEx, resampled in-plane only; PROMISE12 is tested on and never learnt from.
    "prostate": _PROSTATE,
    # Appendix F: volumes instead of slices.
    "prostate3d": replace(_PROSTATE, name="prostate3d", spacing_mm=(1.0, 1.0, 1.0), crop=(112, 112, 112)),
}

TASKS: Extensions[TaskSpec] = Extensions("tasks", "task", _BUILT_IN, _accept)
