"""One trial from config to the weights of its best epoch, on disk. Plain functions: no Ray, no MLflow."""

__all__ = ["Assignment", "OutOfGpuMemory", "larger_share", "run_trial", "train", "trial_device"]

import contextlib
import platform
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from segcal.data.slices import items
from segcal.journal.reading import trial_storage
from segcal.journal.storage import Storage
from segcal.journal.trial import Superseded, TrialJournal
from segcal.learn.fit import fit
from segcal.learn.fold import folded
from segcal.learn.predict import sampling, segment
from segcal.learn.unet import UNet
from segcal.measure.overlap import dice
from segcal.plugins import check_installed
from segcal.records import EpochRecord
from segcal.sweep.share_data import obtain
from segcal.sweep.stopping import Pruned, Stopped, StopRequest
from segcal.tasks import TaskSpec
from segcal.trial import TrialConfig
from segcal.volume import Case

SPARE = 0.05  # of a shared GPU's memory: what CUDA itself takes in each process


@dataclass(frozen=True)
class Assignment:
    """A trial and where it belongs; all a worker needs."""

    config: TrialConfig
    task: TaskSpec
    storage: Storage  # of the sweep
    code_version: str
    prepared: Path | None = None  # where the data are; None: in the sweep's storage, or in this machine's own folder
    lease: str = ""  # the driver's token: a trial stops where the driver asks it to, or is no longer the driver
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
    """Train a trial to its end, from where an earlier attempt left it. A failure is on record with its reason."""
    for record in train(assignment):
        report(record)


def train(assignment: Assignment) -> Iterator[EpochRecord]:
    """Every epoch of a trial: those that are on record, then those it still takes. It is finished when they end.

    Leave it early and it is stopped: the next attempt goes on from there. Raises Stopped where the sweep asks for that,
    and PluginMismatch, before anything is put on record, where this machine has not the plug-ins of the config.
    Pruned that is thrown into it ends it so; it may be gone on with all the same.
    """
    config = assignment.config
    check_installed(config.plugins)
    torch.set_num_threads(assignment.threads)
    device = trial_device(assignment.gpus)
    journal = TrialJournal(trial_storage(assignment.storage, config.key))
    stop = StopRequest(assignment.storage, assignment.lease)
    stop.check()
    software = _software(device, assignment.threads)
    journal.begin(config.key, asdict(config), asdict(assignment.task), assignment.code_version, software)
    try:
        yield from journal.epochs
        yield from journal.log.during(_new_epochs(assignment, journal, stop, device))
        journal.finish()
    except (Stopped, Pruned, GeneratorExit) as reason:  # between two epochs
        with contextlib.suppress(OSError):
            journal.commit()
            journal.end("pruned" if isinstance(reason, Pruned) else "stopped")
        raise
    except Superseded:
        raise
    except Exception as error:
        journal.log.write(traceback.format_exc())
        if _out_of_gpu_memory(error):
            raise _fail_for_memory(journal, assignment) from error
        _failed(journal, f"{type(error).__name__}: {error}"[:500])
        raise


def _new_epochs(
    assignment: Assignment, journal: TrialJournal, stop: StopRequest, device: torch.device
) -> Iterator[EpochRecord]:
    config = assignment.config
    cohort = obtain(config.data_digest, assignment.prepared, assignment.storage)
    validation = cohort.cases("val")
    items_ = items(cohort.cases("train"), config.dims)
    validate = partial(validation_dice, config=config, cases=validation, device=device)
    for record in fit(config, items_, validate, device, journal.state):
        journal.epoch(record)
        yield record
        stop.check()


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


def _fail_for_memory(journal: TrialJournal, assignment: Assignment) -> OutOfGpuMemory:
    """End the trial; its error is returned, because one that the caller's frame held would hold its tensors too."""
    error = OutOfGpuMemory(assignment.gpus, assignment.config.batch)
    _failed(journal, str(error), {"again_with_gpus": f"{error.again:g}"} if error.again else {})
    return error


def _failed(journal: TrialJournal, reason: str, tags: Mapping[str, str] | None = None) -> None:
    with contextlib.suppress(OSError):  # a full disk takes no reason either; the driver has it
        journal.end("failed", reason, tags)


def _software(device: torch.device, threads: int) -> dict[str, str]:
    return {
        "torch": torch.__version__,
        "device": _device_name(device),
        "threads": str(threads),
        "host": platform.node(),
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()}"
