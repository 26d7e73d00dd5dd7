"""Scores every single model and every drawn ensemble on every case. The case is the outer loop.

Members are predicted together, a slab of slices at a time; no probability map outlives its slab. What the cache knows
is not computed again, and each case of a recipe is kept as soon as it is done: an interrupted evaluation goes on.
"""

__all__ = ["Evaluation", "evaluate"]

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from segcal.analysis.ensembles import Subset
from segcal.analysis.members import Member
from segcal.analysis.score_cache import ScoreCache, Stored
from segcal.analysis.variants import PLAIN, VARIANTS
from segcal.analysis.workers import run_jobs
from segcal.errors import UsageError
from segcal.learn.predict import SLAB, predict_together, slabs_of
from segcal.measure.case import CaseScores, CaseTally
from segcal.measure.metric import added_metrics, require_metrics
from segcal.measure.surface import TruthSurface
from segcal.progress import Progress, silent
from segcal.tasks import TaskSpec
from segcal.volume import Case, Prediction

GB = 1e9
PROCESS_GB = 0.7  # what Python, torch and the networks take beside the probabilities


@dataclass(frozen=True)
class Job:
    """Some subsets of one recipe on one case."""

    case: Case
    task: TaskSpec
    shared: str  # names the members; many jobs have the same
    subsets: tuple[Subset, ...]  # of positions in these members
    keys: tuple[bytes, ...]
    members: int
    cost: float  # voxels to predict
    gigabytes: float = math.inf  # for the members' probabilities
    plugins: tuple[tuple[str, str, str], ...] = ()  # the `added_metrics` that every worker must have


@dataclass(frozen=True)
class Evaluation:
    """What is known of every case: subset's key -> scores."""

    keys: dict[Subset, bytes]
    cases: dict[str, dict[bytes, Stored]]


def evaluate(
    cases: Sequence[Case],
    task: TaskSpec,
    pool: dict[str, list[Member]],
    subsets: Sequence[Subset],
    cache: ScoreCache,
    memory_gb: float,
    say: Callable[[str], None],
    progress: Progress = silent,
) -> Evaluation:
    """Score all subsets of the pool (recipe -> members) on all cases, never with more than `memory_gb` in memory.

    Raises UsageError where a slab of all members does not fit.
    """
    names = {recipe: [member.name for member in members] for recipe, members in pool.items()}
    keys = {s: cache.key([names[s.recipe][m] for m in s.members], s.variant, s.full, s.decomposed) for s in subsets}
    known = {case.case_id: cache.read(case.case_id) for case in cases}
    jobs, shared = _jobs(cases, task, pool, subsets, keys, known)
    total = len(cases) * len(pool)
    say(f"scores: {total - len(jobs)} of {total} (case, recipe) pairs are known, {len(jobs)} to compute")
    if jobs:
        need = max(_need_gb(job) for job in jobs)
        if need + PROCESS_GB > memory_gb:
            raise UsageError(
                f"memory must be at least {math.ceil(10 * (need + PROCESS_GB)) / 10:g} GB for this many members of "
                f"task {task.name}, got {memory_gb:g}; raise --memory-gb"
            )
        at_once = int(memory_gb // (need + PROCESS_GB))
        jobs = [replace(job, gigabytes=memory_gb / at_once - PROCESS_GB) for job in jobs]
        told = _Progress(jobs, say, progress)
        for job, scores in run_jobs(score_job, jobs, shared, at_once, say):
            cache.write(job.case.case_id, job.keys, [s.full for s in job.subsets], scores)
            told.done(job)
        for case_id in {job.case.case_id for job in jobs}:
            known[case_id] = cache.read(case_id)
    return Evaluation(keys, known)


def score_job(job: Job, members: Sequence[Member]) -> CaseScores:
    """Predict slab by slab and score every subset, reading by reading.

    Raises PluginMismatch where this machine has not the metrics of plug-ins that the asking one has.
    """
    require_metrics(job.plugins)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tallies = []
    surfaces: dict[int, TruthSurface | None] = {}
    for variant in dict.fromkeys(subset.variant for subset in job.subsets):
        mine = [subset for subset in job.subsets if subset.variant == variant]
        tally = CaseTally(
            job.case, job.task, [subset.members for subset in mine],
            np.array([subset.full for subset in mine]), np.array([subset.decomposed for subset in mine]), surfaces,
        )  # fmt: skip
        tallies.append((variant, tally))
    read: np.ndarray | None = None
    for first, streams in _slabs(job, members, device):
        slab = tallies[0][1].slab(first, streams, len(members))
        for variant, tally in tallies:
            if variant == PLAIN:
                tally.add(slab)
            else:
                read = VARIANTS[variant].read(slab.probs, members[0].config, read)
                tally.add(replace(slab, probs=read, exact_nll=np.full_like(slab.exact_nll, np.nan)))
    parts = [tally.scores() for _, tally in tallies]
    return CaseScores(
        {name: np.concatenate([part.metrics[name] for part in parts]) for name in parts[0].metrics},
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("top", "classwise", "segments")),
    )


def _slabs(job: Job, members: Sequence[Member], device: torch.device) -> Iterator[tuple[int, Iterator[Prediction]]]:
    """First slice of each slab, and every member's prediction of it, one after another."""
    nets, case = [member.net(device) for member in members], job.case
    head = members[0].config.head
    samples = [member.sampling(case.case_id) for member in members]
    for first, slab in slabs_of(case.image, job.task.dims, device):
        if job.task.dims == 2:
            yield first, predict_together(nets, head, slab, first, samples)
            continue
        # A network over volumes predicts all slices at once. Where all members' do not fit, they are predicted again
        # for each band of slices.
        depth = len(case.truth)
        thickness = math.ceil(depth / max(1, math.ceil(_volume_gb(job) / job.gigabytes)))
        for start in range(0, depth, thickness):
            whole = predict_together(nets, head, slab, first, samples)
            yield start, (_cut(prediction, start, start + thickness) for prediction in whole)


def _cut(prediction: Prediction, first: int, last: int) -> Prediction:
    log_probs = None if prediction.log_probs is None else prediction.log_probs[:, first:last]
    return Prediction(prediction.probs[:, first:last], log_probs)


def _jobs(
    cases: Sequence[Case],
    task: TaskSpec,
    pool: dict[str, list[Member]],
    subsets: Sequence[Subset],
    keys: dict[Subset, bytes],
    known: dict[str, dict[bytes, Stored]],
) -> tuple[list[Job], dict[str, tuple[Member, ...]]]:
    """What is not known yet, with the members that it needs only."""
    jobs, shared = [], {}
    plugins = added_metrics()
    by_recipe = {recipe: [s for s in subsets if s.recipe == recipe] for recipe in pool}
    for case in cases:
        for recipe, members in pool.items():
            missing = [s for s in by_recipe[recipe] if keys[s] not in known[case.case_id]]
            if not missing:
                continue
            missing.sort(key=lambda s: s.variant)  # readings one after another: the order of a job's scores
            used = sorted({m for subset in missing for m in subset.members})
            position = {m: at for at, m in enumerate(used)}
            renamed = tuple(replace(s, members=tuple(position[m] for m in s.members)) for s in missing)
            name = f"{recipe} {used}"
            shared[name] = tuple(members[m] for m in used)
            # A Monte Carlo sample costs about 0.7 of a whole pass: the rest is the prefix they share.
            passes = sum(max(1.0, 0.7 * m.config.mc_samples) if m.config.sampled else 1.0 for m in shared[name])
            cost = passes * case.truth.size
            computed = tuple(keys[s] for s in missing)
            jobs.append(Job(case, task, name, renamed, computed, len(used), cost, plugins=plugins))
    return jobs, shared


def _slice_gb(job: Job) -> float:
    """Of one slice of all members: probabilities in float32, once more for another reading, and label maps."""
    full = sum(subset.full for subset in job.subsets)
    readings = 2 if any(subset.variant for subset in job.subsets) else 1
    voxels = job.case.truth[0].size
    return float(voxels) * (4 * job.members * job.task.n_classes * readings + 2 * full + 200) / GB


def _volume_gb(job: Job) -> float:
    return _slice_gb(job) * len(job.case.truth)


def _need_gb(job: Job) -> float:
    """The least that a job needs: a slab of slices; or a volume as a network holds it, and a band of two slices."""
    depth = len(job.case.truth)
    labels = 0.05 * 5 * sum(subset.full for subset in job.subsets) * job.case.truth.size / GB  # sparse label maps
    if job.task.dims == 2:
        return labels + _slice_gb(job) * min(SLAB, depth) + 0.3
    activations = job.case.truth.size * 4 * 60 / GB
    return labels + activations + 2 * _slice_gb(job)


class _Progress:
    """A line a finished (case, recipe), with the time that is left."""

    def __init__(self, jobs: Sequence[Job], say: Callable[[str], None], progress: Progress) -> None:
        self._say, self._progress, self._count, self._done = say, progress, len(jobs), 0
        self._left = self._all = sum(job.cost for job in jobs)
        self._started = time.monotonic()

    def done(self, job: Job) -> None:
        self._done += 1
        self._left -= job.cost
        seconds = round((time.monotonic() - self._started) * self._left / max(self._all - self._left, 1.0))
        eta = (
            f"ETA {seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}" if self._done < self._count else "done"
        )
        what = f"{job.case.case_id}, {job.subsets[0].label}, {eta}"
        self._say(f"scored {self._done}/{self._count}: {what}")
        self._progress("scored", self._done, self._count, what)
