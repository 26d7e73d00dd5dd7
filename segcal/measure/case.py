"""All metrics of a case, for one prediction or every subset of a pool, from slabs of probabilities.

A column of scores is named metric@where: nll@box, ece@whole, dice@edema.
"""

__all__ = [
    "N_BINS", "REGIONS", "CaseScores", "CaseTally", "RegionSums", "Slab", "StructureSums", "column", "columns",
    "score_case",
]  # fmt: skip

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from segcal.measure.grid import GridSums, VoxelOrder, score_grid
from segcal.measure.metric import metrics_of, region_values, structure_values
from segcal.measure.regions import dilated_box
from segcal.measure.sums import N_BINS, RegionSums, StructureSums, coarse
from segcal.measure.surface import SurfaceDistances, TruthSurface
from segcal.tasks import TaskSpec
from segcal.volume import Case, Prediction

REGIONS = ("box", "whole")


def column(metric: str, where: str) -> str:
    """The name of a metric in a region or of a structure."""
    return f"{metric}@{where}"


def columns(task: TaskSpec) -> list[str]:
    """Every metric of a case of this task, those of plug-ins too."""
    regions = [column(metric, region) for region in REGIONS for metric in metrics_of("region")]
    return regions + [column(metric, name) for name in task.structures for metric in metrics_of("structure")]


@dataclass(frozen=True)
class Slab:
    """Some slices, predicted by every member of a pool."""

    first: int
    probs: np.ndarray  # (members, K, z, Y, X) float32
    exact_nll: np.ndarray  # (2, members): in the box, outside; of members whose log-probabilities are known, else NaN


@dataclass(frozen=True)
class CaseScores:
    """Every metric of every subset; and, of the subsets that are `full`, bins that can be pooled over cases."""

    metrics: dict[str, np.ndarray]  # column -> (S,), NaN where not defined or not asked for
    top: np.ndarray  # (full, 2, N_BINS, 3) float64: box and whole; voxels, sum of confidence, correct
    classwise: np.ndarray  # (full, 2, K, N_BINS, 3)
    segments: np.ndarray  # (full, F, FINE) voxels of each predicted structure by their probability, whole volume


@dataclass
class CaseTally:
    """Collects the predictions of a case slab by slab, so that no more than a slab of probabilities is ever held.

    full (S,) bool: subsets whose label maps are kept, for surface distances, and whose bins are returned; all by
    default. decomposed (S,) bool: subsets whose members' variance and entropies are summed; none by default.
    """

    case: Case
    task: TaskSpec
    subsets: Sequence[Sequence[int]] = ((0,),)
    full: np.ndarray | None = None
    decomposed: np.ndarray | None = None
    surfaces: dict[int, TruthSurface | None] = field(default_factory=dict)  # the truth's; tallies of a case share it

    def __post_init__(self) -> None:
        truth = self.case.truth
        box = dilated_box(truth, self.case.spacing_mm, self.task.box_margin_mm, self.task.box_margin_slices)
        self._inside = np.zeros(truth.shape, dtype=bool)
        self._inside[box] = True
        self._full = np.ones(len(self.subsets), bool) if self.full is None else np.asarray(self.full, bool)
        self._sums = GridSums.zeros(len(self.subsets), self.task.n_classes)
        self._taken = np.zeros(len(truth), dtype=np.int64)
        self._exact: np.ndarray | None = None
        self._buffer = np.empty(0, np.float32)
        # The voxels of each full subset's label map that are not background, slab by slab: position and class.
        self._segments: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(int(self._full.sum()))]

    def slab(self, first: int, predictions: Iterable[Prediction], members: int) -> Slab:
        """Slices first, first + 1, ... of every member; only one member's log-probabilities are held at a time.

        The next slab of the same shape lies in the same memory: add one before the next is made.
        """
        probs, exact = None, np.full((2, members), np.nan)
        for member, prediction in enumerate(predictions):
            if probs is None:
                shape = (members, *prediction.probs.shape)
                if self._buffer.shape != shape:
                    self._buffer = np.empty(shape, np.float32)
                probs = self._buffer
                # Where the true class's probabilities lie, the box first.
                here = slice(first, first + prediction.probs.shape[1])
                truth, inside = self.case.truth[here].ravel().astype(np.int64), self._inside[here].ravel()
                at = truth * truth.size + np.arange(truth.size)
                order, in_box = np.concatenate([at[inside], at[~inside]]), int(np.count_nonzero(inside))
            probs[member] = prediction.probs
            if prediction.log_probs is not None:
                log_true = np.ascontiguousarray(prediction.log_probs).reshape(-1).take(order)
                exact[:, member] = [-part.sum(dtype=np.float64) for part in (log_true[:in_box], log_true[in_box:])]
        if probs is None:
            raise ValueError("predictions must hold at least 1 member's, got 0")
        return Slab(first, probs, exact)

    def add(self, slab: Slab) -> None:
        """Take a slab; every slice once."""
        members, classes, depth = slab.probs.shape[:3]
        expected = (self.task.n_classes, *self.case.truth.shape[1:])
        if (classes, *slab.probs.shape[3:]) != expected:
            raise ValueError(
                f"probs must have {expected} classes, rows and columns of {self.case.case_id}, "
                f"got {(classes, *slab.probs.shape[3:])}"
            )
        here = slice(slab.first, slab.first + depth)
        self._taken[here] += 1
        truth = self.case.truth[here]
        order = VoxelOrder.of(truth, self._inside[here], classes)
        flat = slab.probs.reshape(members, classes, -1)
        labels = score_grid(flat, order, self.subsets, self._sums, self._full, self.decomposed)
        self._exact = slab.exact_nll if self._exact is None else self._exact + slab.exact_nll
        start = slab.first * truth[0].size
        for parts, row in zip(self._segments, labels, strict=True):
            found = np.flatnonzero(row)
            parts.append(((found + start).astype(np.int32), row[found]))

    def scores(self) -> CaseScores:
        """Every metric of what was collected."""
        if (self._taken != 1).any():
            raise ValueError(f"every slice must be added once, got counts {np.unique(self._taken).tolist()}")
        metrics: dict[str, np.ndarray] = {}
        regions = {name: self._region(name) for name in REGIONS}
        for name, region in regions.items():
            for metric in metrics_of("region"):
                nothing = np.full(len(self.subsets), np.nan)
                metrics[column(metric, name)] = region_values(metric, region) if region.voxels else nothing
        distances = self._distances()
        for label, structure in enumerate(self.task.structures, start=1):
            measured = self._structure(label, distances[label])
            for metric in metrics_of("structure"):
                metrics[column(metric, structure)] = structure_values(metric, measured)
        pooled = [regions[name] for name in REGIONS]
        return CaseScores(
            metrics,
            np.stack([coarse(region.top[self._full], N_BINS) for region in pooled], axis=1),
            np.stack([coarse(region.classwise[self._full], N_BINS) for region in pooled], axis=1),
            self._sums.winners[..., 0].sum(axis=0)[self._full, 1:],
        )

    def _region(self, name: str) -> RegionSums:
        parts = self._sums.box() if name == "box" else self._sums.whole()
        voxels = int(parts.pop("voxels"))
        if self._exact is not None:  # single models are scored by their log-softmax, where it is known
            exact = self._exact[0] if name == "box" else self._exact.sum(axis=0)
            for s, subset in enumerate(self.subsets):
                if len(subset) == 1 and np.isfinite(exact[subset[0]]):
                    parts["nll"][s], parts["clipped"][s] = exact[subset[0]], 0
        asked = np.zeros(len(self.subsets), bool) if self.decomposed is None else self.decomposed
        for decomposition in ("variance", "entropy", "member_entropy"):
            parts[decomposition] = np.where(asked, parts[decomposition], np.nan)
        return RegionSums(voxels, **{f.name: parts[f.name] for f in fields(RegionSums) if f.name != "voxels"})

    def _distances(self) -> dict[int, list[SurfaceDistances | None]]:
        """Surface distances of every structure; one label map is held at a time."""
        classes = range(1, self.task.n_classes)
        found: dict[int, list[SurfaceDistances | None]] = {label: [None] * len(self.subsets) for label in classes}
        for s, parts in zip(np.flatnonzero(self._full), self._segments, strict=True):
            flat = np.zeros(self.case.truth.size, np.uint8)
            for where, winners in parts:
                flat[where] = winners
            labels = flat.reshape(self.case.truth.shape)
            for label in classes:
                surface, mask = self._surface(label), labels == label
                found[label][s] = surface.distances(mask) if surface is not None and mask.any() else None
        return found

    def _surface(self, label: int) -> TruthSurface | None:
        if label not in self.surfaces:
            mask = self.case.truth == label
            self.surfaces[label] = TruthSurface.of(mask, self.case.spacing_mm) if mask.any() else None
        return self.surfaces[label]

    def _structure(self, label: int, distances: list[SurfaceDistances | None]) -> StructureSums:
        won = self._sums.winners[:, :, label]
        return StructureSums(
            truth=int(np.count_nonzero(self.case.truth == label)),
            predicted=won[..., 0].sum(axis=(0, -1)),
            common=won[..., 2].sum(axis=(0, -1)),
            entropy=self._sums.segment_entropy[:, label],
            distances=tuple(distances),
            full=self._full,
            diagonal_mm=float(np.linalg.norm(np.multiply(self.case.truth.shape, self.case.spacing_mm))),
        )


def score_case(prediction: Prediction, case: Case, task: TaskSpec) -> dict[str, float]:
    """Every metric of one whole prediction of one case, by column.

    probs (K, Z, Y, X) against truth (Z, Y, X). A metric that is not defined (an empty region, segment or structure)
    has the value NaN.
    """
    tally = CaseTally(case, task)
    tally.add(tally.slab(0, [prediction], 1))
    return {name: float(values[0]) for name, values in tally.scores().metrics.items()}
