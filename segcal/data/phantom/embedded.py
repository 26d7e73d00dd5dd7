"""The embedded cohorts: generated cases written through the real layouts, once, and kept."""

__all__ = ["GENERATOR_VERSION", "embedded_cohort", "write_brain_cohort", "write_cohort"]

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from segcal.data import brats
from segcal.data.phantom.brain import brain_phantom
from segcal.errors import UsageError, nearest

GENERATOR_VERSION = 1  # a change of the generator makes a new folder
CASES, SIZE, SEED = 36, 80, 2017
FIELD_OF_VIEW_MM = 192.0
SOURCE_SHARE = 2 / 3  # of the cases: CBICA-like; the others are TCIA-like


def write_brain_cohort(
    out: Path,
    cases: int = CASES,
    size: int = SIZE,
    seed: int = SEED,
    progress: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write brain phantoms as a BraTS17 folder: two thirds CBICA-like, one third TCIA-like.

    size: in-plane voxels of a field of view of 192 mm. Case i depends on the seed
    and i alone. Raises UsageError for fewer than 4 cases or a size below 32.
    """
    if cases < 4:
        raise UsageError(f"cases must be at least 4 (train, val and test), got cases={cases}")
    if size < 32:
        raise UsageError(f"size must be at least 32 voxels, got size={size}")
    n_source = round(cases * SOURCE_SHARE)
    in_plane_mm = FIELD_OF_VIEW_MM / size
    for index in range(cases):
        site = "CBICA" if index < n_source else "TCIA"
        phantom = brain_phantom(
            np.random.default_rng([seed, index]), site, (12, size, size), (8.0, in_plane_mm, in_plane_mm)
        )
        case_id = f"Brats17_{site}_P{index:02d}_1"
        brats.write_case(out, case_id, "HGG", phantom.channels, phantom.truth, phantom.spacing_mm)
        progress(f"generated {index + 1}/{cases}: {case_id}")
    return out


EMBEDDED = {"brain": write_brain_cohort}


def write_cohort(
    task: str, out: Path, cases: int, size: int, seed: int, progress: Callable[[str], None] = lambda line: None
) -> None:
    """Write a task's embedded cohort into a new folder, which appears when it is complete. Raises UsageError."""
    if task not in EMBEDDED:
        raise UsageError(f"no embedded data for task '{task}'; {nearest(task, EMBEDDED)}; or give a folder with --data")
    if out.exists():
        raise UsageError(f"--out must be a new folder, got {out}; remove it or name another")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    EMBEDDED[task](partial, cases, size, seed, progress)
    partial.rename(out)


def embedded_cohort(task: str, home: Path, progress: Callable[[str], None] = lambda line: None) -> Path:
    """The folder of a task's embedded cohort, generated on first use."""
    folder = home / "embedded" / f"{task}-v{GENERATOR_VERSION}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two sweeps that start together generate once
        if not folder.exists():
            write_cohort(task, folder, CASES, SIZE, SEED, progress)
    return folder
