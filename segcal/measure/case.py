"""All metrics of one prediction of one case, as rows. A metric is one function and one line here."""

__all__ = ["N_BINS", "CaseTally", "Score", "score_case"]

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from segcal.measure.calibration import CLIP, confidence_bins, reliability_of_bins
from segcal.measure.overlap import dice
from segcal.measure.regions import dilated_box
from segcal.measure.surface import hd95
from segcal.measure.uncertainty import binary_entropy
from segcal.tasks import TaskSpec
from segcal.volume import Case, Prediction

N_BINS = 10


@dataclass(frozen=True)
class Score:
    """One metric's value for a region or a structure of the case."""

    region: str
    structure: str
    metric: str
    value: float


@dataclass
class RegionTally:
    """Sums over the voxels of a region, in float64; every calibration metric follows from them."""

    voxels: int = 0
    nll_sum: float = 0.0
    brier_sum: float = 0.0
    p_true_sum: float = 0.0
    clipped: int = 0
    bins: np.ndarray = field(default_factory=lambda: np.zeros((3, N_BINS)))  # voxels, confidence, correct

    def __add__(self, other: "RegionTally") -> "RegionTally":
        return RegionTally(
            self.voxels + other.voxels,
            self.nll_sum + other.nll_sum,
            self.brier_sum + other.brier_sum,
            self.p_true_sum + other.p_true_sum,
            self.clipped + other.clipped,
            self.bins + other.bins,
        )


REGION_METRICS: dict[str, Callable[[RegionTally], float]] = {
    "nll": lambda t: t.nll_sum / t.voxels,
    "brier": lambda t: t.brier_sum / t.voxels,
    "ece": lambda t: reliability_of_bins(*t.bins).ece,
    "accuracy": lambda t: float(t.bins[2].sum()) / t.voxels,
    "confidence": lambda t: float(t.bins[1].sum()) / t.voxels,
    "p_true": lambda t: t.p_true_sum / t.voxels,
    "clipped": lambda t: float(t.clipped),
}


class CaseTally:
    """Collects a prediction slab by slab, so that no more than a slab of probabilities is ever held."""

    def __init__(self, case: Case, task: TaskSpec) -> None:
        self._task, self._truth, self._spacing_mm = task, case.truth, case.spacing_mm
        box = dilated_box(case.truth, case.spacing_mm, task.box_margin_mm, task.box_margin_slices)
        self._in_box = np.zeros(case.truth.shape, dtype=bool)
        self._in_box[box] = True
        self._diagonal_mm = float(np.linalg.norm(np.multiply(case.truth.shape, case.spacing_mm)))
        self.labels = np.zeros(case.truth.shape, dtype=np.uint8)
        self._taken = np.zeros(len(case.truth), dtype=np.int64)
        self._inside, self._outside = RegionTally(), RegionTally()
        self._entropy_sum = np.zeros(task.n_classes)
        self._segment_size = np.zeros(task.n_classes, dtype=np.int64)

    def add(self, slab: Prediction, first_slice: int) -> None:
        """Take the prediction of slices first_slice, first_slice + 1, ...; every slice once."""
        slices = slice(first_slice, first_slice + slab.probs.shape[1])
        self._taken[slices] += 1
        truth, in_box = self._truth[slices], self._in_box[slices]
        winner = slab.probs.argmax(axis=0)
        confidence = slab.probs.max(axis=0)
        p_true = np.take_along_axis(slab.probs, truth[np.newaxis].astype(np.intp), axis=0)[0].astype(np.float64)
        if slab.log_probs is None:
            log_true, clipped = np.log(np.maximum(p_true, CLIP)), p_true < CLIP
        else:
            log_true = np.take_along_axis(slab.log_probs, truth[np.newaxis].astype(np.intp), axis=0)[0]
            clipped = np.zeros(truth.shape, dtype=bool)
        squared = np.square(slab.probs, dtype=np.float64).sum(axis=0) - 2 * p_true + 1
        correct = winner == truth
        for tally, where in ((self._inside, in_box), (self._outside, ~in_box)):
            tally.voxels += int(np.count_nonzero(where))
            tally.nll_sum -= float(log_true[where].sum(dtype=np.float64))
            tally.brier_sum += float(squared[where].sum())
            tally.p_true_sum += float(p_true[where].sum())
            tally.clipped += int(np.count_nonzero(clipped[where]))
            tally.bins += confidence_bins(confidence[where], correct[where], N_BINS)
        self.labels[slices] = winner
        for label in range(1, self._task.n_classes):
            p = slab.probs[label][winner == label]
            self._entropy_sum[label] += binary_entropy(p).sum()
            self._segment_size[label] += p.size

    def regions(self) -> dict[str, RegionTally]:
        """The sums of each region."""
        return {"box": self._inside, "whole": self._inside + self._outside}

    def scores(self) -> list[Score]:
        """Every metric of the collected prediction."""
        if (self._taken != 1).any():
            raise ValueError(f"every slice must be added once, got counts {np.unique(self._taken).tolist()}")
        rows = []
        for region, tally in self.regions().items():
            for metric, function in REGION_METRICS.items():
                rows.append(Score(region, "", metric, function(tally) if tally.voxels else float("nan")))
        for label, structure in enumerate(self._task.structures, start=1):
            prediction, truth = self.labels == label, self._truth == label
            size, entropy = self._segment_size[label], self._entropy_sum[label]
            # The tables leave a structure out that is in neither map, although its distance is 0 by convention.
            absent = not prediction.any() and not truth.any()
            distance = float("nan") if absent else hd95(prediction, truth, self._spacing_mm)
            missed = np.isnan(distance) and not absent
            rows += [
                Score("", structure, "dice", dice(self.labels, self._truth, label)),
                Score("", structure, "hd95", distance),
                Score("", structure, "hd95_worst", self._diagonal_mm if missed else distance),
                Score("", structure, "entropy", float(entropy / size) if size else float("nan")),
            ]
        return rows


def score_case(prediction: Prediction, case: Case, task: TaskSpec) -> list[Score]:
    """Every metric of one whole prediction of one case: calibration by region, the rest by structure.

    probs (K, Z, Y, X) against truth (Z, Y, X). A metric that is not defined (an empty region, segment or structure)
    has the value NaN.
    """
    if prediction.probs.shape != (task.n_classes, *case.truth.shape):
        expected = (task.n_classes, *case.truth.shape)
        raise ValueError(f"probs must have the shape {expected} of {case.case_id}, got {prediction.probs.shape}")
    tally = CaseTally(case, task)
    tally.add(prediction, 0)
    return tally.scores()
