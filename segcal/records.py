"""What the rooms hand to each other: records of training, models, scores, and the finished report. No behaviour."""

__all__ = [
    "CaseView", "Cell", "Curve", "Difference", "EffectCheck", "EpochRecord", "Fit", "Interval", "LawCheck", "Map",
    "Method", "ModelRef", "Plate", "Point", "ReliabilityBins", "Report", "Scatter", "SheetRow", "Table",
]  # fmt: skip

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch. `weights` is there when this epoch has the best mean validation Dice so far.

    `state` gives everything that the training needs to go on after this epoch; to be called before the next begins.
    """

    epoch: int  # from 1
    train_loss: float
    val_dice: float
    val_dice_by_structure: tuple[float, ...]
    lr: float
    seconds: float
    weights: Mapping[str, np.ndarray] | None = field(default=None, repr=False)
    step: str = "plain"  # how a step of training ran: "captured" as a CUDA graph; "plain" on a CPU; "plain: " and why
    state: Callable[[], Mapping[str, np.ndarray]] | None = field(default=None, repr=False, compare=False)


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
    """A row of the tables: one recipe, alone, sampled by MC dropout, or as an ensemble of `size` members."""

    recipe: str
    label: str
    size: int
    loss: str = ""
    mc_samples: int = 0  # of MC dropout; 0 is deterministic

    @property
    def title(self) -> str:
        """The row's title: its recipe's label, how it was sampled, and how many members."""
        sampled = f"{self.label}, MC dropout" if self.mc_samples else self.label
        return sampled if self.size == 1 else f"{sampled}, ensemble of {self.size}"


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
class Difference:
    """One entry of a table of differences: the mean over patients, its interval, its test and its size."""

    point: float
    ci: Interval
    p: float = float("nan")  # after Holm's correction over the table's family; NaN: not tested
    effect: float = float("nan")  # mean of the paired differences over their standard deviation


@dataclass(frozen=True)
class Table:
    """Rows of cells, or of plain text and numbers. `better` holds per column "low", "high" or ""."""

    key: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | Difference | str, ...]], ...]
    better: tuple[str, ...] = ()
    marked: frozenset[int] = frozenset()  # rows that must not be taken at their word


@dataclass(frozen=True)
class Curve:
    """A metric against the number of members M: mean over draws with the percentile interval over draws."""

    label: str
    region: str  # "box", "whole", or "" for Dice
    metric: str  # nll or dice
    pool: int  # members that the draws were made from
    sizes: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    draws: tuple[int, ...]
    error: tuple[float, ...]  # standard error over draws, corrected for their overlap; NaN where M is the whole pool


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
    domain: str  # "source", or "target" for out-of-distribution cases
    entropy: float
    logit_dice: float


@dataclass(frozen=True)
class Fit:
    """Correlation and least-squares line of logit Dice on H(S), over the points of a domain or of all."""

    domain: str  # "source", "target" or "all"
    n: int
    pearson_r: float
    pearson_p: float
    spearman_r: float
    spearman_p: float
    slope: float
    intercept: float
    within_r: float = float("nan")  # Pearson's r of the deviations from each structure's means


@dataclass(frozen=True)
class Scatter:
    """H(S) against logit Dice for one method."""

    title: str
    loss: str
    points: tuple[Point, ...]
    fits: tuple[Fit, ...]
    clipped: int  # Dice values outside [0.001, 0.999]
    empty: int  # segments without a voxel or without a Dice


@dataclass(frozen=True)
class Map:
    """One method's probability of any structure in a slice, and what is known of it over the case's whole volume."""

    title: str
    probability: np.ndarray  # (Y, X)
    scores: tuple[tuple[str, float], ...] = ()  # such as ("NLL", 0.05)
    reliability: ReliabilityBins | None = None
    histogram: np.ndarray | None = None  # voxels of the predicted segments by their probability, equal bins of [0, 1]


@dataclass(frozen=True)
class CaseView:
    """One slice of one case with the maps of one or more methods."""

    case_id: str
    caption: str  # why it is shown: "worst, mean Dice 0.31"
    domain: str
    slice_index: int
    spacing_mm: tuple[float, float]  # (y, x)
    image: np.ndarray  # (Y, X) in [0, 1]
    truth: np.ndarray  # (Y, X) classes
    maps: tuple[Map, ...]


@dataclass(frozen=True)
class Plate:
    """A figure of pictures: a row a view. All views of a plate have the same number of maps."""

    key: str
    views: tuple[CaseView, ...]


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
class EffectCheck:
    """One of the paper's empirical laws: what was measured here, and what that says."""

    name: str  # L1 ... L8
    statement: str
    measured: str  # the quantity that was measured, in words
    value: float
    ci: Interval
    verdict: Literal["PASS", "FAIL", "INCONCLUSIVE"]
    note: str = ""  # why nothing could be measured, or what the paper itself found


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
    ood_cases: tuple[str, ...]
    members: tuple[ModelRef, ...]
    findings: tuple[str, ...]
    notes: tuple[str, ...]
    conventions: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]
    curves: tuple[Curve, ...]
    reliability: tuple[ReliabilityBins, ...]
    scatters: tuple[Scatter, ...]
    plates: tuple[Plate, ...]
    laws: tuple[LawCheck, ...]
    effects: tuple[EffectCheck, ...]
    ood_digest: str | None = None  # of the out-of-distribution cohort's prepared data
