"""One trial from config to registered model. A plain function: no Ray, any process can run it."""

__all__ = ["Assignment", "OutOfGpuMemory", "larger_share", "run_trial", "trial_device"]

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from segcal.data.prepared import open_prepared
from segcal.data.slices import items
from segcal.learn.fit import fit
from segcal.learn.fold import folded
from segcal.learn.predict import sampling, segment
from segcal.learn.unet import UNet
from segcal.ledger.store import open_store
from segcal.ledger.write import SweepRun, TrialRun
from segcal.measure.overlap import dice
from segcal.records import EpochRecord
from segcal.tasks import TaskSpec
from segcal.trial import TrialConfig
from segcal.volume import Case

SPARE = 0.05  # of a shared GPU's memory: what CUDA itself takes in each process


@dataclass(frozen=True)
class Assignment:
    """A trial and where it belongs; all a worker needs."""

    config: TrialConfig
    task: TaskSpec
    prepared: Path
    sweep: SweepRun
    tracking_uri: str
    code_version: str
    threads: int = 1
    gpus: float = 1.0  # share of a GPU's memory that it may take


class OutOfGpuMemory(Exception):
    """A trial needs more memory than its share of a GPU has; `again` is the share to try next, 0 after a whole GPU."""

    def __init__(self, share: float, batch: int) -> None:
        self.again = larger_share(share) if 0 < share < 1 else 0.0
        if self.again:
            super().__init__(f"out of GPU memory with a share of {share:g}; again with {self.again:g}")
        else:
            super().__init__(
                f"a trial must fit into the memory of a whole GPU, got more with batch {batch}; lower `batch`"
            )


def larger_share(share: float) -> float:
    """The share of a GPU that half as many trials have; a whole one at most."""
    return min(2 * share, 1.0)


def run_trial(assignment: Assignment, report: Callable[[EpochRecord], None] = lambda record: None) -> None:
    """Train, log every epoch and checkpoint, register the best one. A failure is logged with its reason and raised."""
    config = assignment.config
    torch.set_num_threads(assignment.threads)
    device = trial_device(assignment.gpus)
    cohort = open_prepared(assignment.prepared)
    facts = {"torch": torch.__version__, "device": _device_name(device), "threads": str(assignment.threads)}
    client = open_store(assignment.tracking_uri)
    run = TrialRun(client, assignment.sweep, config, assignment.task, cohort.manifest, assignment.code_version, facts)
    try:
        validation = cohort.cases("val")
        train = items(cohort.cases("train"), config.dims)
        for record in fit(config, train, lambda net: validation_dice(net, config, validation, device), device):
            run.epoch(record)
            report(record)
        run.finish()
    except KeyboardInterrupt:
        run.fail("interrupted", "KILLED")
        raise
    except Exception as error:
        if _out_of_gpu_memory(error):
            raise _fail_for_memory(run, assignment) from error
        run.fail(f"{type(error).__name__}: {error}"[:500])
        raise


def validation_dice(net: UNet, config: TrialConfig, cases: list[Case], device: torch.device) -> list[float]:
    """Mean over cases of each structure's Dice in 3-D; NaN where no case has the structure."""
    table, net = [], folded(net)
    for case in cases:
        # Random numbers of the seed and the case: the masks are the same in every epoch, so that epochs compare.
        monte_carlo = sampling(config, f"seed {config.seed}", case.case_id) if config.mc_validation else None
        labels = segment(net, config.head, case.image, device, monte_carlo)
        table.append([dice(labels, case.truth, label) for label in range(1, config.n_classes)])
    columns = np.array(table).T
    return [float(np.nanmean(column)) if np.isfinite(column).any() else float("nan") for column in columns]


def trial_device(share: float) -> torch.device:
    """The GPU where there is one, of whose memory torch then takes no more than this process's share."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.empty_cache()  # of a trial before, in a process that is used again
    torch.cuda.set_per_process_memory_fraction(share * (1 - SPARE) if 0 < share < 1 else 1.0)
    return torch.device("cuda", torch.cuda.current_device())


def _out_of_gpu_memory(error: Exception) -> bool:
    text = str(error).lower()  # libraries that CUDA calls raise a plain RuntimeError
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "cuda" in text and "out of memory" in text
    )


def _fail_for_memory(run: TrialRun, assignment: Assignment) -> OutOfGpuMemory:
    """End the run; its error is returned, because one that the caller's frame held would hold its tensors too."""
    error = OutOfGpuMemory(assignment.gpus, assignment.config.batch)
    run.fail(str(error), **({"again_with_gpus": f"{error.again:g}"} if error.again else {}))
    return error


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()}"
