"""The subset grid: all single models and drawn ensembles of a pool, on one core, against NumPy's loop and torch's GEMM.

Needs numpy, scipy, numba and torch only. Times are of the process (CPU time): everything here runs in one thread.
"""

__all__ = ["measure", "memory_of_a_volume"]

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import describe
from benchmarks.made_up import MadeUp
from benchmarks.table import Row
from benchmarks.timing import interleaved, one_core
from segcal.measure.calibration import CLIP, binned_error
from segcal.measure.case import CaseTally
from segcal.measure.grid import GridSums, VoxelOrder, score_grid
from segcal.measure.regions import dilated_box
from segcal.measure.sums import N_BINS, coarse
from segcal.tasks import TASKS
from segcal.volume import Prediction

MEMBERS = 100
SIZES = (2, 5, 10, 25, 50)
DRAWS = 50
SHARE = 5  # NumPy's loop runs over every fifth subset of each size; its time is multiplied
CHUNK = 1024  # voxels in torch's GEMM: of 256 to 16384 the fastest
SLAB = 8
CLASSES = 4
BANDS_MM = (6.0, 10.0, 15.5)  # 3% of the slab is foreground
GOAL = "8x NumPy, 2.5x torch"

Subsets = list[tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Pool:
    """A slab of a case as all members see it."""

    probs: np.ndarray  # (members, K, voxels) float32
    truth: np.ndarray  # (voxels,) uint8
    inside: np.ndarray  # (voxels,) bool: the box
    subsets: Subsets


@dataclass(frozen=True, eq=False)
class Found:
    """What every way computes, for each subset; regions are the box and the whole."""

    nll: np.ndarray  # (2, S)
    brier: np.ndarray  # (2, S)
    ece: np.ndarray  # (2, S)
    ece_classwise: np.ndarray  # (2, S)
    predicted: np.ndarray  # (S, F) voxels of the predicted structures
    common: np.ndarray  # (S, F) voxels that truth and prediction share
    entropy: np.ndarray  # (S, F) mean binary entropy over a predicted structure, NaN without a voxel

    def picked(self, at: np.ndarray) -> "Found":
        """Of some subsets."""
        return Found(
            self.nll[:, at], self.brier[:, at], self.ece[:, at], self.ece_classwise[:, at],
            self.predicted[at], self.common[at], self.entropy[at],
        )  # fmt: skip


def measure() -> list[Row]:
    """All rows."""
    copied = describe().copy_gb_per_s
    pool = _pool()
    shared = np.arange(0, len(pool.subsets), SHARE)
    part = Pool(pool.probs, pool.truth, pool.inside, [pool.subsets[s] for s in shared])
    found = _ours(pool)
    errors = _agreement(found.picked(shared), part, _torch(pool).picked(shared))
    ways = {"ours": lambda: _ours(pool), "numpy": lambda: _numpy(part), "torch": lambda: _torch(pool)}
    with one_core():
        seconds = interleaved(ways, clock=time.process_time)
    limit_s = pool.probs.nbytes / copied / 1e9
    share = f"float32, {len(shared)} of the subsets (each {SHARE}th of a size), times {SHARE}"
    what = f"{len(pool.subsets)} subsets, {MEMBERS} members, {pool.truth.size} voxels, K={CLASSES}"
    return [
        Row(f"{what}: NumPy", seconds["ours"], SHARE * seconds["numpy"], limit_s, "8x NumPy", f"{share}; {errors}"),
        Row("  the same: torch, W @ P and element-wise", seconds["ours"], seconds["torch"], limit_s, "2.5x torch",
            f"float32, {CHUNK} voxels at a time, 1 thread; limit: reading the probabilities once"),
        Row("  compilation, once a machine", _compilation_s()),
        _memory(),
    ]  # fmt: skip


def _pool() -> Pool:
    shape = (SLAB, 160, 160)
    made_up = MadeUp.of(shape, (2.0, 1.0, 1.0), BANDS_MM)
    probs = np.stack([made_up.prediction(m, 0, SLAB).probs for m in range(MEMBERS)]).reshape(MEMBERS, CLASSES, -1)
    inside = np.zeros(shape, bool)
    inside[dilated_box(made_up.case.truth, made_up.case.spacing_mm, 8.0, 2)] = True
    return Pool(probs, made_up.case.truth.ravel(), inside.ravel(), _subsets())


def _subsets() -> Subsets:
    rng = np.random.default_rng(0)
    drawn = [tuple(np.sort(rng.choice(MEMBERS, size, replace=False)).tolist()) for size in SIZES for _ in range(DRAWS)]
    return [(member,) for member in range(MEMBERS)] + drawn


def _ours(pool: Pool) -> Found:
    sums = GridSums.zeros(len(pool.subsets), CLASSES)
    score_grid(pool.probs, VoxelOrder.of(pool.truth, pool.inside, CLASSES), pool.subsets, sums)
    regions = [(sums.box(), int(sums.voxels[0])), (sums.whole(), int(sums.voxels.sum()))]
    won = sums.winners.sum(axis=(0, 3))[:, 1:]
    with np.errstate(invalid="ignore"):
        entropy = sums.segment_entropy[:, 1:] / won[..., 0]
    return Found(
        np.array([part["nll"] / n for part, n in regions]),
        np.array([part["brier"] / n for part, n in regions]),
        np.array([binned_error(coarse(part["winners"].sum(axis=1), N_BINS), n) for part, n in regions]),
        np.array([binned_error(coarse(part["classwise"], N_BINS), n).mean(axis=-1) for part, n in regions]),
        won[..., 0], won[..., 2], entropy,
    )  # fmt: skip


def _numpy(pool: Pool) -> Found:
    """The loop that one would write."""
    found = [_numpy_one(pool.probs[list(subset)].mean(axis=0), pool) for subset in pool.subsets]
    nll, brier, ece, classwise, *segments = (np.array(column) for column in zip(*found, strict=True))
    return Found(nll.T, brier.T, ece.T, classwise.T, *segments)


def _numpy_one(p: np.ndarray, pool: Pool) -> tuple[list[float] | np.ndarray, ...]:
    """p (K, voxels): the ensemble's probabilities."""
    winner, confidence = p.argmax(axis=0), p.max(axis=0)
    picked = np.take_along_axis(p, pool.truth[np.newaxis].astype(np.intp), axis=0)[0]
    nll = -np.log(np.maximum(picked, CLIP))
    one_hot = np.arange(CLASSES)[:, np.newaxis] == pool.truth
    brier = np.square(p - one_hot).sum(axis=0)
    correct = winner == pool.truth
    regions: tuple[np.ndarray | slice, ...] = (pool.inside, slice(None))
    ece = [_numpy_ece(confidence[where], correct[where]) for where in regions]
    classwise = [
        float(np.mean([_numpy_ece(p[k][where], one_hot[k][where]) for k in range(CLASSES)])) for where in regions
    ]
    predicted, common, entropy = [], [], []
    for k in range(1, CLASSES):
        segment = winner == k
        inside = confidence[segment].astype(np.float64)
        other = 1 - inside
        predicted.append(segment.sum())
        common.append((segment & one_hot[k]).sum())
        ln_other = np.log(other, out=np.zeros_like(other), where=other > 0)
        entropy.append(-(inside * np.log(inside) + other * ln_other).mean() if inside.size else np.nan)
    return (
        [float(nll[where].mean(dtype=np.float64)) for where in regions],
        [float(brier[where].mean(dtype=np.float64)) for where in regions],
        ece, classwise, np.array(predicted), np.array(common), np.array(entropy),
    )  # fmt: skip


def _numpy_ece(p: np.ndarray, correct: np.ndarray) -> float:
    edges = (np.arange(1, N_BINS) / N_BINS).astype(p.dtype)
    index = np.digitize(p, edges, right=True)
    gaps = np.bincount(index, weights=p, minlength=N_BINS) - np.bincount(index, weights=correct, minlength=N_BINS)
    return float(np.abs(gaps).sum() / p.size)


def _torch(pool: Pool) -> Found:
    """All subsets of a chunk of voxels by one product of matrices; sums of a chunk float32, of chunks float64."""
    count = len(pool.subsets)
    weights = torch.zeros(count, MEMBERS)
    for s, subset in enumerate(pool.subsets):
        weights[s, list(subset)] = 1 / len(subset)
    probs, truth = torch.from_numpy(pool.probs), torch.from_numpy(pool.truth).long()
    box = torch.from_numpy(pool.inside).long()
    edges = (torch.arange(1, N_BINS, dtype=torch.float64) / N_BINS).float()
    scores = torch.zeros(2, 2, count, dtype=torch.float64)  # outside and inside; NLL and Brier
    top = torch.zeros(3, 2 * count * N_BINS, dtype=torch.float64)
    by_class = torch.zeros(3, 2 * count * CLASSES * N_BINS, dtype=torch.float64)
    segments = torch.zeros(3, count * CLASSES, dtype=torch.float64)
    row = torch.arange(count)[:, None]
    rows = row[..., None] * CLASSES + torch.arange(CLASSES)[:, None]
    for start in range(0, truth.numel(), CHUNK):
        here = slice(start, start + CHUNK)
        t, b = truth[here], box[here]
        flat = probs[:, :, here].reshape(MEMBERS, -1)
        q = (weights @ flat).view(count, CLASSES, -1)
        p_true = q.gather(1, t.expand(count, 1, -1))[:, 0]
        nll = -p_true.clamp_min(CLIP).log()
        brier = q.square().sum(dim=1) - 2 * p_true + 1
        regions = torch.stack([1 - b, b], dim=1).float()
        scores += torch.stack([nll @ regions, brier @ regions]).permute(2, 0, 1)
        confidence, winner = q.max(dim=1)
        correct = (winner == t).float()
        index = ((b * count + row) * N_BINS + torch.bucketize(confidence, edges)).ravel()
        _scatter(top, index, confidence, correct)
        index = ((b * count * CLASSES + rows) * N_BINS + torch.bucketize(q, edges)).ravel()
        is_class = (t == torch.arange(CLASSES)[:, None]).float().expand(count, -1, -1)
        _scatter(by_class, index, q, is_class)
        entropy = torch.special.entr(confidence) + torch.special.entr(1 - confidence)
        _scatter(segments, (row * CLASSES + winner).ravel(), entropy, correct)
    inside, voxels = int(pool.inside.sum()), pool.truth.size
    both = torch.stack([scores[1] / inside, scores.sum(dim=0) / voxels]).numpy()  # (box and whole, NLL and Brier, S)
    tops = top.view(3, 2, count, N_BINS)
    classes = by_class.view(3, 2, count, CLASSES, N_BINS)
    gaps = [(tops[1] - tops[2], ()), (classes[1] - classes[2], (-1,))]
    errors = []
    for gap, over in gaps:
        error = torch.stack([gap[1].abs().sum(-1) / inside, gap.sum(dim=0).abs().sum(-1) / voxels])
        errors.append((error.mean(over) if over else error).numpy())
    won = segments.view(3, count, CLASSES)[:, :, 1:].numpy()
    with np.errstate(invalid="ignore"):
        return Found(both[:, 0], both[:, 1], errors[0], errors[1], won[0], won[2], won[1] / won[0])


def _scatter(sums: torch.Tensor, index: torch.Tensor, value: torch.Tensor, correct: torch.Tensor) -> None:
    """Adds to rows of `sums`: how many, the sum of a value, how many are correct."""
    length = sums.shape[1]
    sums[0] += torch.bincount(index, minlength=length)
    sums[1] += torch.bincount(index, weights=value.ravel(), minlength=length)
    sums[2] += torch.bincount(index, weights=correct.reshape(-1), minlength=length)


def _agreement(found: Found, pool: Pool, by_torch: Found) -> str:
    """The largest relative errors of NLL and Brier against float64; all ways must agree, counts to the voxel."""
    means = (pool.probs[list(subset)].mean(axis=0, dtype=np.float64) for subset in pool.subsets)
    exact = [_numpy_one(mean, pool) for mean in means]
    nll, brier = (np.array([row[i] for row in exact]).T for i in (0, 1))
    errors = [float((np.abs(a - b) / b).max()) for a, b in ((found.nll, nll), (found.brier, brier))]
    counts = ((4, found.predicted), (5, found.common))
    different = sum(int((np.array([row[i] for row in exact]) != mine).sum()) for i, mine in counts)
    by_numpy = _numpy(pool)
    for name, other in (("NumPy", by_numpy), ("torch", by_torch)):
        for metric in ("nll", "brier", "ece", "ece_classwise", "entropy"):
            ours, theirs = getattr(found, metric), getattr(other, metric)
            if not np.allclose(ours, theirs, rtol=1e-3, atol=1e-6, equal_nan=True):
                worst = np.nanmax(np.abs(ours - theirs))
                raise SystemExit(f"{metric} must agree with {name}, differs by up to {worst:.2g}")
        if np.abs(found.predicted - other.predicted).max() > 2:  # float32 means may turn a tie
            raise SystemExit(f"predicted voxels must agree with {name} but for ties")
    return f"NLL and Brier within {errors[0]:.0e} and {errors[1]:.0e} of float64; {different} counts of Dice differ"


def _compilation_s() -> float:
    """Of a process that finds nothing compiled: its first call; the second takes no time on so few voxels."""
    code = (
        "import time; import numpy as np\n"
        "from segcal.measure.grid import GridSums, VoxelOrder, score_grid\n"
        "order = VoxelOrder.of(np.zeros(8, np.uint8), np.ones(8, bool), 2)\n"
        "started = time.process_time()\n"
        "score_grid(np.full((2, 2, 8), 0.5, np.float32), order, [(0,), (0, 1)], GridSums.zeros(2, 2))\n"
        "print(time.process_time() - started)"
    )
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"NUMBA_CACHE_DIR": folder}
        return float(_output(code, environment))


def _memory() -> Row:
    """A process of its own scores a brain volume."""
    started = time.perf_counter()
    needed_gb, slab_gb = map(float, _output("from benchmarks.grid import memory_of_a_volume as m; print(*m())").split())
    note = f"{needed_gb:.2f} GB beside the imports, {slab_gb:.2f} GB of it a slab's probabilities; makes them up, HD95"
    what = f"memory: 240x240x78, {MEMBERS} members, slabs of {SLAB}"
    return Row(what, time.perf_counter() - started, goal="1 GB", note=note)


def memory_of_a_volume() -> tuple[float, float]:
    """GB that scoring one brain volume adds to this process at its peak, and GB of one slab's probabilities.

    Label maps, and with them distances, are asked for as a report does: of single models and the largest ensembles.
    """
    _score_volume((SLAB, 64, 64), (6.0, 10.0, 15.0), members=2, subsets=[(0,), (0, 1)])  # compiles
    before_gb = _status_gb("VmRSS")
    slab_gb = _score_volume((78, 240, 240), (12.0, 20.0, 36.0), MEMBERS, _subsets())
    return _status_gb("VmHWM") - before_gb, slab_gb


def _score_volume(shape: tuple[int, int, int], bands_mm: tuple[float, ...], members: int, subsets: Subsets) -> float:
    made_up = MadeUp.of(shape, (2.0, 1.0, 1.0), bands_mm)
    full = np.array([len(subset) in (1, SIZES[-1]) for subset in subsets])
    tally = CaseTally(made_up.case, TASKS["brain"], subsets, full)
    largest = 0.0

    def predicted(first: int) -> Iterator[Prediction]:
        return (made_up.prediction(m, first, min(first + SLAB, shape[0])) for m in range(members))

    for first in range(0, shape[0], SLAB):
        slab = tally.slab(first, predicted(first), members)
        largest = max(largest, slab.probs.nbytes / 1e9)
        tally.add(slab)
        del slab
    tally.scores()
    return largest


def _output(code: str, environment: dict[str, str] | None = None) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout


def _status_gb(name: str) -> float:
    status = Path("/proc/self/status").read_text()  # its own; ru_maxrss would be the parent's
    return int(status.partition(f"{name}:")[2].split()[0]) * 1024 / 1e9
