"""A few training steps of each recipe, timed on this machine as the sweep's trials will run: so many side by side.

Trials that run side by side share caches and memory bandwidth, so that each is slower than alone. The probe therefore
runs in as many processes as there will be trials at a time (as far as this machine has room for them), all on the same
recipe, and takes their mean. Not seen: images that do not fit into memory, and a slow tracking server.

Where other programs use the same cores, seconds on the clock scatter from one recipe to the next, seconds of the
processor hardly do. So a single-threaded trial is timed by both: the processor's say how recipes compare, and the clock
over the whole probe how much longer everything takes because the machine is shared.
"""

__all__ = ["Measured", "ProbeJob", "Probed", "probe", "side_by_side"]

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import numpy as np
import torch

from segcal.data.prepared import PreparedCohort, open_prepared
from segcal.data.slices import items
from segcal.errors import SegcalError
from segcal.learn.allocator import handed_on
from segcal.learn.fit import build, fit
from segcal.learn.predict import SLAB, predict_slabs, restore, sampling
from segcal.learn.unet import UNet
from segcal.records import EpochRecord
from segcal.sweep.estimate import Speed
from segcal.sweep.run_trial import trial_device, validation_dice
from segcal.trial import TrialConfig
from segcal.volume import Case

BATCHES = 4  # in an epoch of the probe
FEW_SAMPLES = {2: 10, 3: 3}  # of Monte Carlo dropout; the time of all follows in proportion
ENDLESS = 1000  # epochs; the clock ends the probe long before

_VALIDATED = {2: 2 * SLAB, 3: 1}  # items
_TESTED = {2: SLAB, 3: 1}

# Recipes that agree in these take the same time.
_COSTS_TIME = (
    "in_channels", "n_classes", "dims", "loss", "head", "background", "per_image", "dropout", "mc_samples",
    "mc_validation", "kernels", "precision", "batch",
)  # fmt: skip


@dataclass(frozen=True)
class ProbeJob:
    """What the probing processes have in common."""

    prepared: Path
    threads: int
    at_once: int  # processes
    gpus: int = 0  # 0: on the CPU
    share: float = 1.0  # of a GPU's memory that a trial may take
    seconds: float = 2.0  # to spend on a recipe's steps, after a warm-up
    niceness: int = 15  # that of Ray's workers, who step aside for other programs


@dataclass(frozen=True)
class Measured:
    """One recipe in one process, by the clock and by the processor."""

    clock: Speed
    processor: Speed
    clock_s: float  # spent on what was measured
    processor_s: float


@dataclass(frozen=True)
class Probed:
    """The speeds of all recipes, and the share of the time that the probe waited for a core others had."""

    speeds: tuple[Speed, ...]
    waited: float


def probe(config: TrialConfig, cohort: PreparedCohort, device: torch.device, seconds: float = 2.0) -> Measured:
    """Train for some epochs of a few batches, validate on a few slices, predict a few; the first time warms up.

    seconds: to spend on training; half of it goes to prediction. Each is measured once at least.
    """
    # The optimiser must not run away within the probe; a learning rate costs no time.
    steady = replace(config, lr=1e-6, epochs=ENDLESS, patience=ENDLESS)
    few = replace(config, mc_samples=min(config.mc_samples, FEW_SAMPLES[config.dims]))
    train = _some(cohort.cases("train"), BATCHES * config.batch, config.dims)
    validation = _some(cohort.cases("val"), _VALIDATED[config.dims], config.dims)
    tested = _some(cohort.cases("test"), _TESTED[config.dims], config.dims)
    train_s, validate_s = _epochs(steady, few, train, validation, device, seconds)
    predict_s = _prediction(few, tested, device, seconds / 2)
    more = config.mc_samples / few.mc_samples if config.sampled else 1.0
    per_item = (
        train_s / len(items(train, config.dims)),
        validate_s / _count(validation, config.dims) * (more if config.mc_validation else 1.0),
        predict_s / _count(tested, config.dims) * more,
    )
    clock, processor = (Speed(*map(float, seconds_)) for seconds_ in zip(*per_item, strict=True))
    return Measured(clock, processor, *map(float, train_s + validate_s + predict_s))


def side_by_side(configs: Sequence[TrialConfig], job: ProbeJob, say: Callable[[str], None]) -> Probed:
    """The speed of each config, measured in `job.at_once` processes at the same time; the mean over processes.

    Raises SegcalError where a process dies or a step fails. No process outlives the call.
    """
    kinds = [tuple(getattr(config, name) for name in _COSTS_TIME) for config in configs]
    known: dict[tuple[Any, ...], list[Measured]] = {}
    with _processes(job) as pipes:
        for kind, config in zip(kinds, configs, strict=True):
            if kind not in known:
                say(f"timing {config.label}")
                known[kind] = _ask(pipes, config)
    if job.gpus or job.threads > 1:  # the processor's seconds tell nothing of a GPU, nor of how threads share the work
        return Probed(tuple(_mean([one.clock for one in known[kind]]) for kind in kinds), 0.0)
    every = [one for measured in known.values() for one in measured]
    longer = sum(one.clock_s for one in every) / sum(one.processor_s for one in every)
    return Probed(
        tuple(_mean([one.processor for one in known[kind]], longer) for kind in kinds),
        max(0.0, 1 - 1 / longer),
    )


class _Watch:
    """Seconds by the clock and by the processor since it was made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._started = self._now()

    def read(self) -> np.ndarray:
        """(clock, processor)."""
        spent: np.ndarray = self._now() - self._started
        return spent

    def _now(self) -> np.ndarray:
        if self._device.type == "cuda":  # a GPU works on after the call returns
            torch.cuda.synchronize(self._device)
        return np.array([time.perf_counter(), time.process_time()])


def _epochs(
    config: TrialConfig,
    few: TrialConfig,
    train: list[Case],
    validation: list[Case],
    device: torch.device,
    seconds: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Seconds (clock, processor) of training and of validation in a mean epoch; few: the settings to validate by."""
    validations: list[np.ndarray] = []

    def validate(net: UNet) -> Sequence[float]:
        watch = _Watch(device)
        dice = validation_dice(net, few, validation, device)
        validations.append(watch.read())
        return dice

    trained: list[np.ndarray] = []
    records = cast(Generator[EpochRecord, None, None], fit(config, items(train, config.dims), validate, device))
    with closing(records):
        watch = _Watch(device)
        for _ in records:
            trained.append(watch.read() - validations[-1])
            if len(trained) > 1 and np.sum([*trained[1:], *validations[1:]], axis=0)[0] >= seconds:
                break
            watch = _Watch(device)
    return np.mean(trained[1:], axis=0), np.mean(validations[1:], axis=0)


def _prediction(config: TrialConfig, cases: list[Case], device: torch.device, seconds: float) -> np.ndarray:
    """Seconds (clock, processor) for all the cases."""
    net = restore(config, {name: value.numpy() for name, value in build(config).state_dict().items()}, device)
    rounds: list[np.ndarray] = []
    while len(rounds) < 2 or np.sum(rounds[1:], axis=0)[0] < seconds:  # the first warms up
        watch = _Watch(device)
        for case in cases:
            for _ in predict_slabs(net, config.head, case.image, device, sampling(config, "probe", case.case_id)):
                pass
        rounds.append(watch.read())
    mean: np.ndarray = np.mean(rounds[1:], axis=0)
    return mean


def _some(cases: list[Case], count: int, dims: int) -> list[Case]:
    """The first `count` slices, or volumes in 3-D; all where there are not so many."""
    if dims == 3:
        return cases[:count]
    some: list[Case] = []
    for case in cases:
        if count > 0:
            some.append(replace(case, image=case.image[:, :count], truth=case.truth[:count]))
            count -= len(some[-1].truth)
    return some


def _count(cases: list[Case], dims: int) -> int:
    return len(cases) if dims == 3 else sum(len(case.truth) for case in cases)


def _mean(speeds: Sequence[Speed], times: float = 1.0) -> Speed:
    return Speed(
        times * fmean(speed.train_s for speed in speeds),
        times * fmean(speed.validate_s for speed in speeds),
        times * fmean(speed.predict_s for speed in speeds),
    )


def _ask(pipes: Sequence[Connection], config: TrialConfig) -> list[Measured]:
    try:
        for pipe in pipes:
            pipe.send(config)
        answers: list[Measured | str] = [pipe.recv() for pipe in pipes]
    except (EOFError, OSError):
        remedy = "run fewer at a time (resources: cpus) or take a smaller batch if memory was short"
        raise SegcalError(f"the probe of recipe {config.label} must end, got a process that died; {remedy}") from None
    for answer in answers:
        if isinstance(answer, str):
            raise SegcalError(
                f"the probe of recipe {config.label} must train for a few steps, got {answer}; a trial would fail too"
            )
    return [answer for answer in answers if isinstance(answer, Measured)]


@contextmanager
def _processes(job: ProbeJob) -> Iterator[list[Connection]]:
    """The probing processes' ends of pipes: config in, speed out. Ended with the block, whatever happens in it."""
    spawn = multiprocessing.get_context("spawn")
    processes, pipes = [], []
    # Ctrl-C reaches the whole group of processes; only this one answers it, and ends the others.
    before = signal.getsignal(signal.SIGINT)
    mine = threading.current_thread() is threading.main_thread()
    try:
        if mine:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for index in range(job.at_once):
                here, there = spawn.Pipe()
                process = spawn.Process(target=_serve, args=(there, job, _visible(index, job)), daemon=True)
                with handed_on():
                    process.start()
                there.close()
                processes.append(process)
                pipes.append(here)
        finally:
            if mine:
                signal.signal(signal.SIGINT, before)
        yield pipes
    finally:
        for process in processes:
            process.kill()
        for process, pipe in zip(processes, pipes, strict=True):
            process.join()
            process.close()
            pipe.close()


def _visible(index: int, job: ProbeJob) -> str:
    """What CUDA may see in one of the processes: its share of the GPUs, filled one after another."""
    if not job.gpus:
        return ""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(job.gpus)))
    return seen.split(",")[index * job.gpus // job.at_once]


def _serve(pipe: Connection, job: ProbeJob, visible: str) -> None:
    """A probing process: answers every config with its speed, until the other end is closed."""
    os.environ["CUDA_VISIBLE_DEVICES"] = visible
    os.nice(job.niceness)
    torch.set_num_threads(job.threads)
    device = trial_device(job.share)
    with suppress(EOFError, BrokenPipeError):
        while True:
            config = pipe.recv()
            try:
                pipe.send(probe(config, open_prepared(job.prepared), device, job.seconds))
            except Exception as error:
                reason = str(error).strip().splitlines() or ["no message"]
                pipe.send(f"{type(error).__name__}: {reason[0]}")
