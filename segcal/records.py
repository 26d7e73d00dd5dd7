"""What the rooms hand to each other: records of training, models, scores, and the finished report. No behaviour."""

__all__ = [
    "CaseScore", "Cell", "Curve", "EpochRecord", "Interval", "LawCheck", "Method", "ModelRef", "Overlay",
    "Point", "ReliabilityBins", "Report", "Scatter", "SheetRow", "Table",
]  # fmt: skip

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch. `weights` is there when this epoch has the best mean validation Dice so far."""

    epoch: int  # from 1
    train_loss: float
    val_dice: float
    val_dice_by_structure: tuple[float, ...]
    lr: float
    seconds: float
    weights: Mapping[str, np.ndarray] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class ModelRef:
    """One registered member: where it is and what it was made from."""

    name: str  # registered model, segcal-<task>-<recipe>
    version: int
    model_id: str
    run_id: str
    task: str
    recipe: str
    label: str
    seed: int
    data_digest: str
    code_version: str
    key: str
    weights_sha256: str
    val_dice: float
    epoch: int
    created: int  # ms since 1970


@dataclass(frozen=True)
class Method:
    """A row of the tables: one recipe, alone or as an ensemble of `size` members."""

    recipe: str
    label: str
    size: int

    @property
    def title(self) -> str:
        return self.label if self.size == 1 else f"{self.label}, ensemble of {self.size}"


@dataclass(frozen=True)
class CaseScore:
    """One number: a metric of one prediction of one case, in one region or for one structure (long format)."""

    recipe: str
    label: str
    size: int  # members in the ensemble
    draw: int  # which subset of that size
    seeds: tuple[int, ...]
    case_id: str
    site: str
    region: str  # "box", "whole", or "" for metrics of a structure
    structure: str  # "" for metrics of a region
    metric: str
    value: float  # NaN: not defined for this case (excluded and counted)


@dataclass(frozen=True)
class Interval:
    """Two ends and what they mean: `spread` of the patients, or `ci` of their mean."""

    low: float
    high: float
    kind: Literal["spread", "ci"]


@dataclass(frozen=True)
class Cell:
    """One entry of a table: the mean over patients with both intervals."""

    point: float
    spread: Interval
    ci: Interval
    n: int  # patients that count
    excluded: int  # patients for whom the metric is not defined
    best: bool = False  # best of its column, and significantly better than every other row


@dataclass(frozen=True)
class Table:
    """Rows of cells, or of plain text and numbers. `better` holds per column "low", "high" or ""."""

    key: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | str, ...]], ...]
    better: tuple[str, ...] = ()


@dataclass(frozen=True)
class Curve:
    """A metric against the number of members M: mean over draws with the percentile interval over draws."""

    label: str
    region: str
    metric: str
    sizes: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    draws: tuple[int, ...]


@dataclass(frozen=True)
class ReliabilityBins:
    """Bins of a reliability diagram (Eq. 5), pooled over cases."""

    title: str
    region: str
    edges: np.ndarray  # (n_bins + 1,)
    count: np.ndarray  # (n_bins,) voxels
    confidence: np.ndarray  # (n_bins,) mean confidence, NaN where empty
    accuracy: np.ndarray  # (n_bins,)
    ece: float


@dataclass(frozen=True)
class Point:
    """One predicted segment: its mean entropy H(S) (Eq. 7) and the logit of its Dice."""

    case_id: str
    structure: str
    entropy: float
    logit_dice: float


@dataclass(frozen=True)
class Scatter:
    """H(S) against logit Dice for one method."""

    title: str
    points: tuple[Point, ...]
    pearson_r: float
    pearson_p: float
    slope: float
    intercept: float
    clipped: int  # Dice values outside [0.001, 0.999]
    empty: int  # segments without a voxel or without a Dice


@dataclass(frozen=True)
class Overlay:
    """One slice of one case: image, truth, and each method's probability of any structure."""

    case_id: str
    rank: str  # best, median, worst
    dice: float
    slice_index: int
    spacing_mm: tuple[float, float]  # (y, x)
    image: np.ndarray  # (Y, X)
    truth: np.ndarray  # (Y, X) classes
    probability: tuple[tuple[str, np.ndarray], ...]  # title, (Y, X)


@dataclass(frozen=True)
class SheetRow:
    """One case of a contact sheet: some of its slices with their labels, or what is wrong with it."""

    case_id: str
    caption: str
    aspect: float  # height of a pixel over its width
    slices: tuple[tuple[int, np.ndarray, np.ndarray], ...] = ()  # index, image (Y, X) in [0, 1], classes (Y, X)
    fault: str = ""


@dataclass(frozen=True)
class LawCheck:
    """A law that holds for every correct computation, and how often it was checked and broken."""

    law: str
    checked: int
    broken: int
    worst: str = ""


@dataclass(frozen=True)
class Report:
    """Everything a report says, ready to be drawn; rendering computes nothing."""

    experiment: str
    task: str
    data_digest: str
    code_version: str
    created: str
    seed: int
    n_resamples: int
    structures: tuple[str, ...]
    test_cases: tuple[str, ...]
    members: tuple[ModelRef, ...]
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    conventions: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]
    curves: tuple[Curve, ...]
    reliability: tuple[ReliabilityBins, ...]
    scatters: tuple[Scatter, ...]
    overlays: tuple[Overlay, ...]
    laws: tuple[LawCheck, ...]
