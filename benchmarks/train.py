"""Training against the plain loop: a core's steps, two trials side by side, reading data; on a GPU see train_gpu.

Ways train in processes of their own, a step each in turn on the same core. Needs torch and numpy only.
"""

__all__ = ["measure"]

import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks import train_gpu
from benchmarks.machine import describe
from benchmarks.networks import CONFIGS, SIDE, flop_of
from benchmarks.processes import opened
from benchmarks.steps import mapped
from benchmarks.table import Row
from benchmarks.timing import interleaved, one_core
from segcal.learn.batches import Streamed

STEPPER = "benchmarks.steps:stepper"
CPU_WAYS = ("plain", "plain malloc", "fp32", "bf16")


def measure() -> list[Row]:
    """All rows."""
    if torch.cuda.is_available():
        return train_gpu.measure()
    rows = [row for task, batch in (("prostate", 4), ("prostate", 16), ("brain", 32)) for row in _a_core(task, batch)]
    note = "not measured yet: no GPU at hand; the same command measures it on one"
    return [*rows, _side_by_side("prostate", 16), _reading("prostate", 16), Row("train on a GPU", None, note=note)]


def _a_core(task: str, batch: int) -> list[Row]:
    """A step of each way, in turn, on one core."""
    with opened(CPU_WAYS, STEPPER, {"task": task, "batch": batch}) as ways:
        seconds = interleaved(ways)
    machine, config = describe(), CONFIGS[task]
    flop = batch * flop_of(config, training=True)
    goals = {"fp32": "1.7x", "bf16": "2.5x"} if batch == 16 else {"fp32": "", "bf16": ""}
    what = f"train {task}, {config.in_channels}x{SIDE}x{SIDE}, batch {batch}, a core"
    rows = [
        Row(
            f"{what}, {way}", seconds[way], seconds["plain"], flop / machine.gemm_gflop_per_s[way] / 1e9, goals[way],
            f"{batch / seconds[way]:.1f} slices/s, plain {batch / seconds['plain']:.1f}; limit: GEMM in {way}",
        )
        for way in ("fp32", "bf16")
    ]  # fmt: skip
    kept = "plain: the same step in a process that gives what it frees back to the kernel"
    return [*rows, Row("  memory kept by the process, fp32", seconds["fp32"], seconds["plain malloc"], note=kept)]


def _side_by_side(task: str, batch: int) -> Row:
    """Two trials of one thread against one of two threads that makes twice the steps."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    what = f"train {task}, batch {batch}: two trials side by side"
    if len(cores) < 2:
        return Row(what, None, note="not measured: needs 2 cores")
    given = {"task": task, "batch": batch}
    with (
        opened(["fp32"], STEPPER, given, cores[:1]) as one,
        opened(["fp32"], STEPPER, given, cores[1:]) as other,
        opened(["fp32"], STEPPER, given, cores) as both,
    ):
        pair = (one["fp32"], other["fp32"])

        def together() -> None:
            for trial in pair:
                trial.begin(2)
            for trial in pair:
                trial.end()

        seconds = interleaved({"pair": together, "both": lambda: both["fp32"](4)})
    return Row(what, seconds["pair"], seconds["both"], goal="1.2x", note="plain: one trial with two threads, fp32")


def _reading(task: str, batch: int) -> Row:
    """Putting a mini-batch together from mapped files, against torch's DataLoader."""
    config = replace(CONFIGS[task], batch=batch)
    with tempfile.TemporaryDirectory() as folder:
        items = mapped(config, Path(folder))
        count = len(cast(Any, items))
        order = np.random.default_rng(0).permutation(count).tolist()
        streamed = Streamed(items, torch.device("cpu"))
        with opened(["fp32"], STEPPER, {"task": task, "batch": batch}) as step, one_core():
            seconds = interleaved(
                {
                    "ours": lambda: [streamed.read(order[at : at + batch]) for at in range(0, count, batch)],
                    "plain": lambda: list(DataLoader(items, batch_size=batch, sampler=order)),
                    **step,
                }
            )
    per_batch = {name: seconds[name] * batch / count for name in ("ours", "plain")}
    share = per_batch["ours"] / seconds["fp32"]
    note = f"{share:.1%} of a step in fp32, read ahead by a thread; plain: DataLoader, in NCHW"
    return Row(
        f"  reading a mini-batch of {batch}", per_batch["ours"], per_batch["plain"], goal="3% of a step", note=note
    )
