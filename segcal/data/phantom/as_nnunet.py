"""Generated patients as an nnU-Net raw folder: a stand-in for a user's own data, with two new images to predict."""

__all__ = ["NEW_CASES", "nnunet_writer"]

import shutil
from collections.abc import Callable
from pathlib import Path

from segcal.data.layouts import find_cases, nnunet
from segcal.data.prepare_case import read_case
from segcal.tasks import TASKS

NEW_CASES = 2  # the last ones; they lie in imagesTs and have no label

Writer = Callable[[Path, int, int, int, int], str]


def nnunet_writer(write: Writer, task_name: str) -> Writer:
    """A writer of the same patients, write(out, index, cases, size, seed) -> case id, in the nnU-Net layout.

    Each is written in its own layout first and read from there: one grid for images and label, no site, no traps.
    """
    task = TASKS[task_name]

    def write_as_nnunet(out: Path, index: int, cases: int, size: int, seed: int) -> str:
        scratch = out / f".{index}"
        write(scratch, index, cases, size, seed)
        volumes, label = read_case(find_cases(scratch, task).cases[0], task)
        shutil.rmtree(scratch)
        case_id = f"{task_name}_{index + 1:03d}"
        nnunet.write_case(out, case_id, volumes, label if index < cases - NEW_CASES else None)
        if index == 0:
            nnunet.write_dataset(out, task.channels, task.structures, cases - NEW_CASES)
        return case_id

    return write_as_nnunet
