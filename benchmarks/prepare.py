"""From files to prepared arrays, against the few lines of nibabel and SciPy that one would write otherwise.

The limit is what no reader can avoid: inflating the files and hashing them once. Ours checks everything besides.
"""

__all__ = ["measure"]

import gzip
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy import ndimage

from benchmarks.table import Row
from segcal.data.case_files import CaseFiles
from segcal.data.check import check_cohort
from segcal.data.layouts import brats, find_cases
from segcal.data.phantom.brain import brain_phantom
from segcal.data.phantom.embedded import write_cohort
from segcal.data.prepare import prepare
from segcal.data.prepare_case import prepare_case
from segcal.tasks import TASKS, TaskSpec

REPEATS = 5
COPIES = 8
MAX_MEMORY_GB = 1.5


def measure(data: Path | None, channels: tuple[str, ...]) -> list[Row]:
    """All rows; everything is written to a temporary folder. data: a BraTS folder to take the patient from."""
    task = replace(TASKS["brain"], channels=channels, split_sites={}, split_counts={}, groups=())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = data or _patient(root / "patient")
        _copies(find_cases(source, task).cases[0], root / "cohort")
        rows = [*_one_case(root / "cohort", task), *_cores(root, task)]
        return rows + [_generate(root, name) for name in ("brain", "heart", "prostate")]


def _patient(root: Path) -> Path:
    phantom = brain_phantom(np.random.default_rng(0), "CBICA", (155, 240, 240), (1.0, 1.0, 1.0))
    brats.write_case(root, "Brats17_CBICA_B00_1", "HGG", phantom.channels, phantom.truth, phantom.spacing_mm)
    return root


def _copies(case: CaseFiles, root: Path) -> None:
    for index in range(COPIES):
        folder = root / f"BraTS20_{index:03d}"
        folder.mkdir(parents=True)
        for name, image in case.images.items():
            end = "seg" if name == "label" else name
            content = bytearray(image.paths[0].read_bytes())
            content[4:8] = index.to_bytes(4, "little")  # gzip's time stamp: two splits may not hold the same file
            (folder / f"{folder.name}_{end}.nii.gz").write_bytes(content)


def _one_case(root: Path, task: TaskSpec) -> list[Row]:
    case = find_cases(root, task).cases[0]
    alone = replace(task, ids=(case.case_id,), ood_layout=task.layout)  # a single case has no splits

    def ours() -> None:
        for check in check_cohort(root, alone):
            if check.fault:
                raise SystemExit(check.message)
        prepare_case(case, task)

    seconds = _interleaved({"ours": ours, "plain": lambda: _plain(case, task), "limit": lambda: _limit(case)})
    memory = _peak_memory_gb(root, task)
    goal = f"4 s, {MAX_MEMORY_GB} GB"
    shape = "x".join(map(str, nib.load(case.label.paths[0]).shape))
    what = f"check + prepare, {shape}, {len(task.channels)} channels, 1 core"
    return [Row(what, seconds["ours"], seconds["plain"], seconds["limit"], goal, f"peak memory {memory:.2f} GB")]


def _plain(case: CaseFiles, task: TaskSpec) -> tuple[np.ndarray, np.ndarray]:
    """No checks, the same arrays up to the treatment of edges."""
    zoom = (1.0, 1.0, 0.5)
    images = []
    for image in case.channels.values():
        array = np.asarray(nib.load(image.paths[0]).get_fdata(dtype=np.float32))
        low, high = np.percentile(array[array > 0], (1, 99))
        scaled = np.where(array > 0, np.clip((array - low) / (high - low), 0, 1), 0)
        images.append(ndimage.zoom(scaled, zoom, order=1, mode="nearest", grid_mode=True))
    label = np.asarray(nib.load(case.label.paths[0]).dataobj)
    one_hot = [ndimage.zoom((label == value).astype(np.float32), zoom, order=1, mode="nearest", grid_mode=True)
               for value in (0, *task.labels)]  # fmt: skip
    side = slice(8, 232)
    return np.stack(images)[:, side, side], np.argmax(one_hot, axis=0)[side, side]


def _limit(case: CaseFiles) -> None:
    for image in case.images.values():
        packed = image.paths[0].read_bytes()
        hashlib.sha256(packed).hexdigest()
        gzip.decompress(packed)


def _interleaved(ways: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each way, in turn, on one core, after a round of warming up."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        for _ in range(REPEATS + 1):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                times[name].append(time.perf_counter() - started)
    finally:
        os.sched_setaffinity(0, before)
    return {name: float(np.median(found[1:])) for name, found in times.items()}


def _peak_memory_gb(root: Path, task: TaskSpec) -> float:
    """Of a process that does nothing but prepare one case."""
    code = (
        "import sys; from dataclasses import replace; from pathlib import Path\n"
        "from segcal.data.layouts import find_cases; from segcal.data.prepare_case import prepare_case\n"
        "from segcal.tasks import TASKS\n"
        "task = replace(TASKS['brain'], channels=tuple(sys.argv[2].split(',')))\n"
        "prepare_case(find_cases(Path(sys.argv[1]), task).cases[0], task)\n"
        "status = Path('/proc/self/status').read_text()\n"  # its own; ru_maxrss would be the parent's
        "print(status.partition('VmHWM:')[2].split()[0])"
    )
    argv = [sys.executable, "-c", code, str(root), ",".join(task.channels)]
    return int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout) * 1024 / 1e9


def _cores(root: Path, task: TaskSpec) -> list[Row]:
    """The whole preparation of several cases, on one core and on all; each time from nothing."""
    available = sorted(os.sched_getaffinity(0))
    times: dict[int, list[float]] = {1: [], len(available): []}
    for repeat in range(3):
        for cores in times:
            os.environ["SEGCAL_HOME"] = str(root / f"home-{cores}-{repeat}")
            os.sched_setaffinity(0, available[:cores])
            started = time.perf_counter()
            prepare(root / "cohort", task)
            times[cores].append(time.perf_counter() - started)
            shutil.rmtree(os.environ["SEGCAL_HOME"])
    os.sched_setaffinity(0, available)
    one, every = (float(np.median(times[cores])) for cores in times)
    what = f"prepare {COPIES} cases on {len(available)} cores (plain: on 1)"
    return [Row(what, every, one, one / len(available), "scales", "written and synced to disk")]


def _generate(root: Path, task: str) -> Row:
    started = time.perf_counter()
    write_cohort(task, root / task)
    return Row(f"generate the embedded data of {task}", time.perf_counter() - started, goal="60 s on 2 cores")
