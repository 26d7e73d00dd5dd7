"""All metrics of a case, for one prediction or every subset of a pool. A metric is one function and one line here.

A column of scores is named metric@where: nll@box, ece@whole, dice@edema.
"""

__all__ = [
    "N_BINS", "REGIONS", "CaseScores", "CaseTally", "RegionSums", "Slab", "StructureSums", "column", "columns",
    "score_case",
]  # fmt: skip

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from segcal.measure.calibration import binned_error
from segcal.measure.grid import FINE, GridSums, VoxelOrder, score_grid
from segcal.measure.regions import dilated_box
from segcal.measure.surface import SurfaceDistances, TruthSurface, hd95_of, hd95_pooled
from segcal.tasks import TaskSpec
from segcal.volume import Case, Prediction

N_BINS = 10
REGIONS = ("box", "whole")


@dataclass(frozen=True)
class RegionSums:
    """Sums over the voxels of a region, a row a subset; every calibration metric follows from them."""

    voxels: int
    nll: np.ndarray  # (S,)
    nll_loose: np.ndarray
    brier: np.ndarray
    p_true: np.ndarray
    clipped: np.ndarray
    winners: np.ndarray  # (S, K, FINE, 3)
    classwise: np.ndarray  # (S, K, FINE, 3)
    variance: np.ndarray  # (S,), NaN where not asked for
    entropy: np.ndarray
    member_entropy: np.ndarray

    @property
    def top(self) -> np.ndarray:
        """Bins of the most probable class's probability, (S, FINE, 3)."""
        bins: np.ndarray = self.winners.sum(axis=1)
        return bins


def _ece(n_bins: int) -> Callable[[RegionSums], np.ndarray]:
    return lambda r: binned_error(coarse(r.top, n_bins), r.voxels)


REGION_METRICS: dict[str, Callable[[RegionSums], np.ndarray]] = {
    "voxels": lambda r: np.full(r.nll.shape, float(r.voxels)),
    "nll": lambda r: r.nll / r.voxels,
    "brier": lambda r: r.brier / r.voxels,
    "ece": _ece(N_BINS),
    "ece15": _ece(15),
    "ece20": _ece(20),
    "ece30": _ece(30),
    "ece_classwise": lambda r: binned_error(coarse(r.classwise, N_BINS), r.voxels).mean(axis=-1),
    "accuracy": lambda r: r.top[..., 2].sum(axis=-1) / r.voxels,
    "confidence": lambda r: r.top[..., 1].sum(axis=-1) / r.voxels,
    "p_true": lambda r: r.p_true / r.voxels,
    "clipped": lambda r: r.clipped,
    "nll_loose": lambda r: r.nll_loose / r.voxels,
    "variance": lambda r: r.variance / r.voxels,
    "entropy": lambda r: r.entropy / r.voxels,
    "member_entropy": lambda r: r.member_entropy / r.voxels,
}


@dataclass(frozen=True)
class StructureSums:
    """One structure in every subset's label map: sizes in voxels, and distances of the subsets that are `full`."""

    truth: int
    predicted: np.ndarray  # (S,)
    common: np.ndarray  # (S,) voxels of both
    entropy: np.ndarray  # (S,) sum of the binary entropy over the predicted segment
    distances: tuple[SurfaceDistances | None, ...]  # (S,), None where not full, or absent in one or both
    full: np.ndarray  # (S,) bool
    diagonal_mm: float

    @property
    def absent(self) -> np.ndarray:
        """In neither map: the tables leave it out, although its distance is 0 by convention."""
        absent: np.ndarray = (self.predicted == 0) & (self.truth == 0)
        return absent


def _dice(s: StructureSums) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        value: np.ndarray = 2.0 * s.common / (s.predicted + s.truth)
    return value


def _entropy(s: StructureSums) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        value: np.ndarray = s.entropy / s.predicted
    return value


def _distance(rule: Callable[[SurfaceDistances], float], s: StructureSums) -> np.ndarray:
    return np.array([np.nan if d is None else rule(d) for d in s.distances])


def _worst(s: StructureSums) -> np.ndarray:
    missed = s.full & ~s.absent & np.array([d is None for d in s.distances])
    worst: np.ndarray = np.where(missed, s.diagonal_mm, _distance(hd95_of, s))
    return worst


STRUCTURE_METRICS: dict[str, Callable[[StructureSums], np.ndarray]] = {
    "dice": _dice,
    "entropy": _entropy,
    "hd95": lambda s: _distance(hd95_of, s),
    "hd95_pooled": lambda s: _distance(hd95_pooled, s),
    "hd95_worst": _worst,
}


def column(metric: str, where: str) -> str:
    """The name of a metric in a region or of a structure."""
    return f"{metric}@{where}"


def columns(task: TaskSpec) -> list[str]:
    """Every metric of a case of this task."""
    regions = [column(metric, region) for region in REGIONS for metric in REGION_METRICS]
    return regions + [column(metric, name) for name in task.structures for metric in STRUCTURE_METRICS]


def coarse(bins: np.ndarray, n_bins: int) -> np.ndarray:
    """Fewer bins (..., n_bins, 3) out of the fine ones (..., FINE, 3); n_bins must divide FINE."""
    united: np.ndarray = bins.reshape(*bins.shape[:-2], n_bins, FINE // n_bins, 3).sum(axis=-2)
    return united


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
            for metric, function in REGION_METRICS.items():
                nothing = np.full(len(self.subsets), np.nan)
                metrics[column(metric, name)] = function(region) if region.voxels else nothing
        distances = self._distances()
        for label, structure in enumerate(self.task.structures, start=1):
            measured = self._structure(label, distances[label])
            for metric, of in STRUCTURE_METRICS.items():
                metrics[column(metric, structure)] = of(measured)
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
