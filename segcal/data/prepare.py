"""From a cohort on disk to memory-mapped arrays with a manifest. Nothing unfinished is ever taken for prepared.

The folder is named by the digest of everything the arrays depend on: the sources' sha256, the task's preparation
fields and the splits. It is built beside its final name and renamed when complete; a killed preparation goes on
where it stopped.
"""

__all__ = ["find_cases", "home", "prepare", "prepare_case", "read_case"]

import fcntl
import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from segcal.data import brats
from segcal.data.case_files import CaseFiles, Found
from segcal.data.cohort import SPLITS, assign_splits
from segcal.data.faults import DataFault, MissingCase
from segcal.data.prepared import MANIFEST, PreparedCohort, open_prepared
from segcal.data.resample import Spacing, crop_or_pad, resample, resample_labels
from segcal.data.voxels import check_path, read_labels, read_volume, same_grid
from segcal.tasks import TaskSpec
from segcal.volume import Volume

FORMAT = 1  # of the prepared arrays; a change makes every digest a new one
LAYOUTS: dict[str, Callable[[Path, TaskSpec], Found]] = {"brats": brats.find}
_PREPARATION_FIELDS = ("channels", "spacing_mm", "crop", "intensity", "label_resampling")


def home() -> Path:
    """Where segcal keeps generated and prepared data: $SEGCAL_HOME, or ~/.cache/segcal."""
    return Path(os.environ.get("SEGCAL_HOME") or Path.home() / ".cache" / "segcal").absolute()


def find_cases(root: Path, task: TaskSpec) -> Found:
    """The cases of a cohort in the task's layout."""
    if not root.is_dir():
        raise MissingCase(str(root), "the data must be a folder", "none there", "check the path")
    return LAYOUTS[task.layout](root.absolute(), task)


def prepare(root: Path, task: TaskSpec, progress: Callable[[str], None] = lambda line: None) -> PreparedCohort:
    """Read, check and prepare a cohort, or open it where it is prepared already.

    progress takes one line a case. Raises the DataFault of the first faulty case (`segcal data check` lists all).
    """
    found = find_cases(root, task)
    if found.faults:
        raise found.faults[0]
    splits = assign_splits(found.cases, task)
    cases = [case for case in found.cases if case.case_id in splits]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sources = dict(zip([case.case_id for case in cases], pool.map(_source_digests, cases), strict=True))
    parameters = {name: getattr(task, name) for name in _PREPARATION_FIELDS} | {"labels": list(task.labels.items())}
    identity = {"format": FORMAT, "parameters": parameters, "splits": splits, "sources": sources}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    folder = home() / "prepared" / digest
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two sweeps that start together prepare once
        if not (folder / MANIFEST).exists():
            _build(folder, cases, task, identity | {"digest": digest, "root": str(root.absolute())}, progress)
    return open_prepared(folder)


def read_case(case: CaseFiles, task: TaskSpec) -> tuple[dict[str, Volume], Volume]:
    """Channels and labels of one case, each checked and all on one grid."""
    volumes = {name: read_volume(path, case.root, case.case_id) for name, path in case.channels.items()}
    label = read_labels(case.label, case.root, case.case_id, tuple(task.labels))
    first_name, first = next(iter(volumes.items()))
    for name, volume in (*volumes.items(), ("label", label)):
        same_grid(case.case_id, name, volume, first_name, first)
    return volumes, label


def prepare_case(case: CaseFiles, task: TaskSpec) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """One checked case: image (C, Z, Y, X) float32 in [0, 1], truth (Z, Y, X) uint8, and its manifest entry."""
    volumes, label = read_case(case, task)
    first = next(iter(volumes.values()))
    z, y, x = (want or have for want, have in zip(task.spacing_mm, first.spacing_mm, strict=True))
    target_mm: Spacing = (z, y, x)
    scaled = [scale_intensity(volumes[name].array, task.intensity) for name in task.channels]
    image = np.stack([resample(array, first.spacing_mm, target_mm) for array in scaled])
    classes = np.zeros(label.array.shape, dtype=np.uint8)
    for index, value in enumerate(task.labels, start=1):
        classes[label.array == value] = index
    truth = resample_labels(classes, task.n_classes, first.spacing_mm, target_mm, task.label_resampling)
    image, offset = crop_or_pad(image, task.crop)
    truth, _ = crop_or_pad(truth, task.crop)
    entry = {
        "case_id": case.case_id,
        "site": case.site,
        "group": case.group,
        "shape": list(truth.shape),
        "spacing_mm": list(target_mm),
        "crop_offset": list(offset),
        "native": {
            "shape": list(first.array.shape),
            "spacing_mm": list(first.spacing_mm),
            "affine": first.affine.tolist(),
        },
        "class_voxels": np.bincount(truth.ravel(), minlength=task.n_classes).tolist(),
    }
    return image, truth, entry


def scale_intensity(array: np.ndarray, how: str) -> np.ndarray:
    """An image to [0, 1] by its voxels above 0 (skull-stripped images are 0 outside the brain), float32.

    `percentile` maps the 1st and 99th percentile, `minmax` the extremes. An image without a voxel above 0, or of
    one value, becomes 0.
    """
    inside = array[array > 0]
    if inside.size == 0:
        return np.zeros_like(array, dtype=np.float32)
    low, high = np.percentile(inside, (1, 99) if how == "percentile" else (0, 100))
    if high <= low:
        return np.zeros_like(array, dtype=np.float32)
    scaled: np.ndarray = np.clip((array - low) / (high - low), 0, 1).astype(np.float32)
    scaled[array <= 0] = 0
    return scaled


def _build(
    folder: Path, cases: list[CaseFiles], task: TaskSpec, manifest: dict[str, Any], progress: Callable[[str], None]
) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(exist_ok=True)

    def one(case: CaseFiles) -> dict[str, Any]:
        done = partial / f"{case.case_id}.json"
        if not done.exists():
            image, truth, entry = prepare_case(case, task)
            _write(partial / f"{case.case_id}.image.npy", lambda file: np.save(file, image))
            _write(partial / f"{case.case_id}.truth.npy", lambda file: np.save(file, truth))
            _write(done, lambda file: file.write(json.dumps(entry).encode()))
        written: dict[str, Any] = json.loads(done.read_text())
        return written | {"split": manifest["splits"][case.case_id], "sources": manifest["sources"][case.case_id]}

    entries = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for entry in pool.map(one, cases):
                entries.append(entry)
                progress(f"prepared {len(entries)}/{len(cases)}: {entry['case_id']} ({entry['split']})")
        except DataFault:
            pool.shutdown(cancel_futures=True)
            raise
    learned = [entry["class_voxels"] for entry in entries if entry["split"] != SPLITS[-1]]
    whole = {key: manifest[key] for key in ("format", "digest", "root", "parameters")}
    whole |= {"class_voxels": np.sum(learned, axis=0).tolist(), "cases": entries}
    _write(partial / MANIFEST, lambda file: file.write(json.dumps(whole, indent=1).encode()))
    partial.rename(folder)


def _write(path: Path, write: Callable[[Any], Any]) -> None:
    """A file that is there whole or not at all."""
    unfinished = path.with_name(f".{path.name}")
    with unfinished.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _source_digests(case: CaseFiles) -> dict[str, str]:
    digests = {}
    for name, path in case.sources.items():
        check_path(path, case.root, case.case_id)
        with path.open("rb") as file:
            digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
