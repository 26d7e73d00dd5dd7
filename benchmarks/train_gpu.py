"""Training on a GPU: the plain loop against compiled and captured steps, trials that share the GPU, and the full study.

Not run to its end on any GPU yet. Needs torch and numpy only (and what torch.compile needs).
"""

__all__ = ["measure"]

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.machine import describe
from benchmarks.networks import CONFIGS, images_of
from benchmarks.processes import opened
from benchmarks.steps import as_graph, stepper
from benchmarks.table import Row
from benchmarks.timing import interleaved
from segcal.learn.batches import laid_out
from segcal.learn.fit import build, channels_last
from segcal.learn.losses import bind
from segcal.learn.step import Step, optimiser_of, plain
from segcal.trial import TrialConfig

DEVICE = torch.device("cuda")
BATCH = 32
STEPS = 50  # in one measurement
MB_PER_SLICE = 118  # that a step in bf16 reads and writes: every activation, forwards and backwards
TRIALS = (1, 2, 4, 8)
STUDY = 1290 * 5000 * 150  # models, slices, epochs
GOAL = "4x plain"


def measure() -> list[Row]:
    """All rows; seconds are of a step, or of as many slices."""
    config = replace(CONFIGS["prostate"], batch=BATCH)
    limit_s = BATCH * MB_PER_SLICE / describe().copy_gb_per_s / 1e3
    ways = _ways(config)
    seconds = {name: s / STEPS for name, s in interleaved(ways).items()}
    plain_s = seconds.pop("plain")
    rows = [_row(f"train, batch {BATCH}, {name}", s, plain_s, limit_s) for name, s in seconds.items()]
    ways.clear()
    torch.cuda.empty_cache()
    shared = [(f"{n} trials share the GPU", _processes(n)) for n in TRIALS]
    streams = [(f"{n} trials on streams of one process", _streams(config, n)) for n in TRIALS[1:]]
    rows += [_row(f"train, batch {BATCH}, {what}", s, plain_s, limit_s) for what, s in shared + streams]
    best = min(row.seconds for row in rows if row.seconds) / BATCH
    note = f"goal of the step: {GOAL}; {1 / best:.0f} slices/s, plain {BATCH / plain_s:.0f}; hours, not seconds"
    study = Row("the full study (1,290 models x 5,000 slices x 150 epochs)", STUDY * best / 3600,
                STUDY * plain_s / BATCH / 3600, STUDY * limit_s / BATCH / 3600, "24 h", note)  # fmt: skip
    return [*rows, study]


def _row(what: str, step_s: float, plain_s: float, limit_s: float) -> Row:
    return Row(what, step_s, plain_s, limit_s, GOAL, f"{BATCH / step_s:.0f} slices/s; limit: {MB_PER_SLICE} MB a slice")


def _ways(config: TrialConfig) -> dict[str, Callable[[], object]]:
    steppers = {name: stepper(name, config.task, BATCH) for name in ("plain", "fp32", "bf16", "captured")}
    steppers["compiled"] = _compiled(config, capture=False)
    steppers["compiled and captured"] = _compiled(config, capture=True)
    return {name: _repeated(step) for name, step in steppers.items()}


def _repeated(step: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        for _ in range(STEPS):
            step()

    return run


def _compiled(config: TrialConfig, capture: bool) -> Callable[[], object]:
    """The network and its loss by torch.compile, in bf16."""
    net = channels_last(build(config), DEVICE).train()
    optimiser, loss_of = optimiser_of(net, config.lr, DEVICE), bind(config, DEVICE)

    @torch.compile(fullgraph=True, dynamic=False)
    def loss_at(images: Tensor, truth: Tensor) -> Tensor:
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            logits = net(images)
        return loss_of(logits, truth)

    def step(images: Tensor, truth: Tensor) -> Tensor:
        loss = loss_at(images, truth)
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
        return loss.detach()

    batch = _batch(config)
    chosen: Step = step
    if capture:
        chosen = as_graph(net, optimiser, step, batch)
    return lambda: chosen(*batch)


def _processes(count: int) -> float:
    """Seconds for one step's slices where so many processes share the GPU, as trials with a share of it do."""
    given, cores = {"task": "prostate", "batch": BATCH}, sorted(os.sched_getaffinity(0))
    with contextlib.ExitStack() as stack:
        trials = [
            stack.enter_context(opened(["captured"], "benchmarks.steps:stepper", given, [cores[n % len(cores)]]))[
                "captured"
            ]
            for n in range(count)
        ]

        def together() -> None:
            for trial in trials:
                trial.begin(STEPS)
            for trial in trials:
                trial.end()

        return interleaved({"together": together})["together"] / (STEPS * count)


def _streams(config: TrialConfig, count: int) -> float:
    """The same with so many captured steps on streams of one process: what `members_per_trial` would be."""
    streams = [torch.cuda.Stream() for _ in range(count)]  # type: ignore[no-untyped-call]
    batch, steps = _batch(config), []
    for _ in range(count):
        net = channels_last(build(config), DEVICE).train()
        optimiser = optimiser_of(net, config.lr, DEVICE)
        steps.append(as_graph(net, optimiser, plain(net, bind(config, DEVICE), optimiser, "bf16"), batch))

    def together() -> None:
        for _ in range(STEPS):
            for stream, step in zip(streams, steps, strict=True):
                with torch.cuda.stream(stream):
                    step(*batch)

    return interleaved({"together": together})["together"] / (STEPS * count)


def _batch(config: TrialConfig) -> tuple[Tensor, Tensor]:
    images, truth = (torch.from_numpy(part).to(DEVICE) for part in images_of(config, config.batch))
    return laid_out(images), truth
