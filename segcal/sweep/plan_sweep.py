"""A plan before spending: prepare the data, see what is trained already, time a few steps, reckon the whole."""

__all__ = ["Request", "SweepPlan", "plan_sweep"]

import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from segcal.data.cohort import OOD
from segcal.data.parallel import cores
from segcal.data.prepared import PreparedCohort
from segcal.errors import UsageError
from segcal.learn.fit import build
from segcal.ledger.location import tracking_uri
from segcal.ledger.read import held
from segcal.progress import Progress
from segcal.records import ModelRef
from segcal.sweep.estimate import (
    Estimate,
    Pending,
    RecipeCost,
    Speed,
    Within,
    Workload,
    duration,
    estimate,
    in_time,
    recipe_cost,
    slots,
)
from segcal.sweep.plan import Plan, Resources, trials
from segcal.sweep.probe import ProbeJob, side_by_side
from segcal.sweep.sweep_data import SweepData, check_data, left, prepare_data
from segcal.trial import TrialConfig

GB = 1e9
WAITED = 0.1  # share of the time above which it is worth a word


@dataclass(frozen=True)
class Request:
    """What is asked beside the sweep itself."""

    members: int | None = None  # of each recipe; None: as in the sweep file
    cpus: int | None = None  # None: this machine's
    gpus: int | None = None
    within_s: float | None = None  # what the sweep must end in


@dataclass(frozen=True)
class SweepPlan:
    """The answer."""

    task: str
    scale: str
    experiment: str
    data_digest: str
    cases: dict[str, int]  # by split
    items: str  # what the speeds count: slices or volumes
    slots: str  # the resources in words
    estimate: Estimate
    within: Within | None
    prepared: str  # folder
    prepared_bytes: int
    artifacts: str | None  # where the checkpoints go
    free_bytes: int | None  # there; None: not on this machine
    waited: float  # share of the probe's time in which other programs had its cores
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Machine:
    """Where the trials are to run, and how many side by side."""

    at_once: int
    here: int  # that this machine has room for
    gpus_here: int
    words: str


def plan_sweep(
    plan: Plan,
    data: str,
    request: Request,
    say: Callable[[str], None],
    ood: str | None = None,
    progress: Progress | None = None,
) -> SweepPlan:
    """Say what `run_sweep` with the same arguments would take. Writes the prepared data, which the sweep then uses,
    and nothing to MLflow.

    Raises UsageError for a request that cannot be met and BadData for faulty data; SegcalError where a recipe does not
    survive a few steps.
    """
    check_data(plan, data)
    _check(request)
    machine = _machine(plan.resources, request)
    if request.members is not None:
        plan = with_members(plan, request.members)
    found = prepare_data(plan, data, say, ood, progress)
    configs = trials(plan, found.cohort.digest, found.cohort.class_voxels)
    store = held(tracking_uri(), plan.experiment)
    todo = left(configs, {ref.key for ref in store.members})
    recipes = [next(config for config in configs if config.label == label) for label in plan.recipes]
    job = ProbeJob(
        found.cohort.folder,
        threads=max(1, int(plan.resources.cpus)),
        at_once=min(machine.here, max(1, len(todo))),
        gpus=machine.gpus_here,
        share=min(1.0, plan.resources.gpus),
    )
    say(f"timing {len(recipes)} recipes for a few seconds each, {job.at_once} side by side")
    probed = side_by_side(recipes, job, say)
    costs = _costs(plan, found, recipes, probed.speeds, todo, store.members)
    pending = [Pending(config.label, plan.seeds[config.label].index(config.seed)) for config in todo]
    whole = estimate(costs, pending, machine.at_once)
    within = in_time(costs, pending, machine.at_once, request.within_s) if request.within_s else None
    free = _free_bytes(store.artifacts)
    warnings = [
        *_of_time(plan.resources, machine, whole, within),
        *_of_the_machine(plan.resources, request, whole, probed.waited),
        *_of_space(whole, free),
    ]
    return SweepPlan(
        plan.task.name, plan.scale, plan.experiment, found.cohort.digest,
        found.cohort.counts() | ({OOD: found.ood.counts()[OOD]} if found.ood else {}),
        "volumes" if plan.task.dims == 3 else "slices", machine.words, whole, within, str(found.cohort.folder),
        _prepared_bytes(found), store.artifacts, free, probed.waited, tuple(warnings),
    )  # fmt: skip


def _costs(
    plan: Plan,
    found: SweepData,
    recipes: Sequence[TrialConfig],
    speeds: Sequence[Speed],
    todo: Sequence[TrialConfig],
    members: Sequence[ModelRef],
) -> list[RecipeCost]:
    """What each recipe costs; members: those that the experiment holds, with the epochs they took."""
    work = _workload(found, plan.task.dims)
    return [
        recipe_cost(
            config, speed, work,
            members=len(plan.seeds[config.label]),
            trials=sum(config.label == other.label for other in todo),
            best_epochs=[ref.epoch for ref in members if ref.recipe == config.recipe],
            weights_bytes=_weights_bytes(config),
        )
        for config, speed in zip(recipes, speeds, strict=True)
    ]  # fmt: skip


def with_members(plan: Plan, members: int) -> Plan:
    """The plan with so many seeds of every recipe: its own first, then the lowest that it does not have."""

    def seeds(own: Sequence[int]) -> tuple[int, ...]:
        others = (seed for seed in range(members + len(own)) if seed not in own)
        return (*own[:members], *(next(others) for _ in range(members - len(own))))

    return replace(plan, seeds={label: seeds(own) for label, own in plan.seeds.items()})


def _check(request: Request) -> None:
    for name in ("members", "cpus", "gpus"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name} must be at least 1, got {value}; leave it out for the sweep's or machine's own")


def _machine(resources: Resources, request: Request) -> _Machine:
    there = torch.cuda.device_count() if resources.gpus else 0
    if request.gpus and not there:
        got = "none" if resources.gpus else "trials that ask for none (resources: gpus)"
        raise UsageError(f"--gpus needs a GPU here to measure on, got {got}; leave it out")
    gpus = (request.gpus or there) if there else 0
    # Who asks for other GPUs and says nothing of cores means GPUs with enough of them.
    cpus = request.cpus or (None if request.gpus else cores())
    at_once = slots(cpus, gpus, resources.cpus, resources.gpus)
    try:
        here = slots(cores(), there, resources.cpus, resources.gpus)
    except UsageError:
        here = 1
    of = f"{gpus} {torch.cuda.get_device_name(0)}" if gpus else f"{cpus} {'core' if cpus == 1 else 'cores'}"
    return _Machine(at_once, min(here, at_once), min(there, gpus), of)


def _workload(found: SweepData, dims: int) -> Workload:
    def items(cohort: PreparedCohort, split: str) -> int:
        cases = cohort.cases(split)
        return len(cases) if dims == 3 else sum(len(case.truth) for case in cases)

    tested = items(found.cohort, "test") + (items(found.ood, OOD) if found.ood else 0)
    return Workload(items(found.cohort, "train"), items(found.cohort, "val"), tested)


def _weights_bytes(config: TrialConfig) -> int:
    return sum(value.numel() * value.element_size() for value in build(config).state_dict().values())


def _prepared_bytes(found: SweepData) -> int:
    folders = [cohort.folder for cohort in (found.cohort, found.ood) if cohort]
    return sum(path.stat().st_size for folder in folders for path in folder.iterdir())


def _free_bytes(artifacts: str | None) -> int | None:
    """Free space where the checkpoints go; None where that is no folder of this machine."""
    path = Path((artifacts or "").removeprefix("file://"))
    if not path.is_absolute():
        return None
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def _of_time(resources: Resources, machine: _Machine, whole: Estimate, within: Within | None) -> list[str]:
    if within is None or within.verdict == "fits":
        return []
    limit, wall = duration(within.limit_s), whole.wall_s
    if within.verdict == "cannot finish":
        said = f"cannot finish within {limit}: it takes at least {duration(wall.least)}"
    else:
        said = f"may not finish within {limit}: it takes up to {duration(wall.most)}"
    sure = wall.least == wall.most
    given = "" if sure else " with all epochs" if wall.expected is None else " with the expected epochs"
    return [f"{said}; {_what_would(resources, machine, within, given)}"]


def _of_the_machine(resources: Resources, request: Request, whole: Estimate, waited: float) -> list[str]:
    warnings = []
    if waited > WAITED and whole.trials:
        idle = duration((1 - waited) * whole.wall_s.likely)
        warnings.append(
            f"other programs had the cores for {waited:.0%} of the time that was measured; were they idle, the sweep "
            f"would take about {idle}"
        )
    if resources.cpus > cores():
        warnings.append(
            f"a trial takes {resources.cpus:g} cores, this machine has {cores()}: it was measured slower than it is"
        )
    if os.environ.get("RAY_ADDRESS") and not (request.cpus or request.gpus):
        warnings.append("RAY_ADDRESS is set, the plan is for this machine; name the cluster's --cpus or --gpus")
    return warnings


def _of_space(whole: Estimate, free: int | None) -> list[str]:
    stored = whole.storage
    if free is None or stored.most <= free:
        return []
    will = "may" if stored.checkpoint_bytes.least + stored.database_bytes.least <= free else "will"
    return [
        f"the checkpoints {will} not fit: up to {stored.most / GB:.3g} GB, {free / GB:.3g} GB are free; start from a "
        "folder on another disk"
    ]


def _what_would(resources: Resources, machine: _Machine, within: Within, given: str) -> str:
    remedies = []
    if within.members:
        remedies.append(f"{within.members} {'member' if within.members == 1 else 'members'} of each recipe")
    if within.at_once and machine.gpus_here:
        each = 1 / int(1 / resources.gpus + 1e-9) if resources.gpus <= 1 else resources.gpus
        remedies.append(f"{math.ceil(within.at_once * each - 1e-9)} GPUs")
    elif within.at_once:
        remedies.append(f"{within.at_once * resources.cpus:g} cores")
    if not remedies:
        return f"nothing would{given}: not even one trial ends by then"
    return f"what would{given}: {', or '.join(remedies)}"
