"""From a cohort on disk to memory-mapped arrays with a manifest. Nothing unfinished is ever taken for prepared.

The folder is named by the digest of everything the arrays depend on: the sources' sha256, the task's preparation
fields and the splits. It is built beside its final name and renamed when complete; a killed preparation goes on
where it stopped.
"""

__all__ = ["prepare"]

import fcntl
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from segcal.data.case_files import CaseFiles
from segcal.data.cohort import OOD, SPLITS, assign_splits
from segcal.data.faults import DoubledCase
from segcal.data.layouts import LAYOUTS, find_cases
from segcal.data.parallel import in_parallel
from segcal.data.prepare_case import prepare_case
from segcal.data.prepared import MANIFEST, PreparedCohort, is_whole, open_prepared
from segcal.data.source_files import file_digests
from segcal.environment import home
from segcal.errors import BadData
from segcal.progress import Progress, silent
from segcal.tasks import TaskSpec

FORMAT = 2  # of the prepared arrays; a change makes every digest a new one
_PREPARATION_FIELDS = (
    "layout", "channels", "spacing_mm", "crop", "orientation", "intensity", "intensity_inside", "label_resampling",
)  # fmt: skip

log = logging.getLogger(__name__)


def prepare(root: Path, task: TaskSpec, progress: Progress = silent, *, ood: bool = False) -> PreparedCohort:
    """Read, check and prepare a cohort, or open it where it is prepared already.

    progress is called after each case. ood: the cohort is only tested on; all its cases are in the split "ood".
    Raises the DataFault of the first faulty case (`segcal data check` lists all).
    """
    found = find_cases(root, task)
    if found.faults:
        raise found.faults[0]
    splits = {case.case_id: OOD for case in found.cases} if ood else assign_splits(found.cases, task)
    cases = [case for case in found.cases if case.case_id in splits]
    sources = dict(zip([case.case_id for case in cases], in_parallel(_source_digests, cases), strict=True))
    parameters = {name: getattr(task, name) for name in _PREPARATION_FIELDS} | {"labels": list(task.labels.items())}
    _check_doubles(sources, splits)
    told = {case.case_id: _told(case, task.layout) for case in cases}
    identity = {"format": FORMAT, "parameters": parameters, "splits": splits, "sources": sources, "told": told}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    folder = home() / "prepared" / digest
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{digest}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two sweeps that start together prepare once
        if folder.exists():
            try:
                return open_prepared(folder)
            except BadData as error:
                log.warning("%s; they are prepared anew", str(error).partition(";")[0])
                shutil.rmtree(folder)
        _build(folder, cases, task, identity | {"digest": digest, "root": str(root.absolute())}, progress)
    return open_prepared(folder)


def _told(case: CaseFiles, layout: str) -> list[object]:
    """What decides the arrays, or stands in the manifest, beside the files; segcal's layouts fix the last by name."""
    own_grid = case.label_has_own_grid and layout not in LAYOUTS.built_in
    return [case.site, case.group, list(case.label_values.items()), *(["label has its own grid"] if own_grid else [])]


def _build(folder: Path, cases: list[CaseFiles], task: TaskSpec, manifest: dict[str, Any], progress: Progress) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(exist_ok=True)

    def one(case: CaseFiles) -> dict[str, Any]:
        done = partial / f"{case.case_id}.case.json"
        if not (done.exists() and is_whole(partial, json.loads(done.read_text()))):
            image, truth, entry = prepare_case(case, task)
            for name, array in (("image", image), ("truth", truth)):
                entry[f"{name}_bytes"] = _save(partial / f"{case.case_id}.{name}.npy", array)
            _write(done, lambda file: file.write(json.dumps(entry).encode()))
        written: dict[str, Any] = json.loads(done.read_text())
        return written | {"split": manifest["splits"][case.case_id], "sources": manifest["sources"][case.case_id]}

    entries = []
    for entry in in_parallel(one, cases):
        entries.append(entry)
        progress("prepared", len(entries), len(cases), f"{entry['case_id']} ({entry['split']})")
    _warn_of_losses(entries)
    learned = [entry["class_voxels"] for entry in entries if entry["split"] in SPLITS[:-1]]
    learned = learned or [[0] * task.n_classes]
    whole = {key: manifest[key] for key in ("format", "digest", "root", "parameters")}
    whole |= {"class_voxels": np.sum(learned, axis=0).tolist(), "cases": entries}
    _write(partial / MANIFEST, lambda file: file.write(json.dumps(whole, indent=1).encode()))
    partial.rename(folder)


def _check_doubles(sources: dict[str, dict[str, str]], splits: dict[str, str]) -> None:
    """Raise DoubledCase where two splits have the same image: a network would be tested on what it has seen."""
    seen: dict[str, str] = {}
    for case_id, digests in sources.items():
        for name, digest in digests.items():
            other = seen.setdefault(digest, case_id)
            if splits[other] != splits[case_id] and not name.startswith("label") and not name.endswith(" is"):
                got = f"{name} of {other} ({splits[other]}) and {case_id} ({splits[case_id]})"
                raise DoubledCase(case_id, "an image must be in one split", got, "remove one of the two")


def _save(path: Path, array: np.ndarray) -> int:
    """Write an array; returns the size of the file."""
    _write(path, lambda file: np.save(file, array))
    return path.stat().st_size


def _write(path: Path, write: Callable[[Any], Any]) -> None:
    """A file that is there whole or not at all."""
    unfinished = path.with_name(f".{path.name}")
    with unfinished.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def _warn_of_losses(entries: list[dict[str, Any]]) -> None:
    cut = {entry["case_id"]: entry["cropped_away"] for entry in entries if entry["cropped_away"] > 0.001}
    if cut:
        worst = max(cut, key=lambda case_id: cut[case_id])
        log.warning(
            "the crop cuts labels of %d of %d cases (most: %.1f%% of %s); a larger `crop` would keep them",
            len(cut), len(entries), 100 * cut[worst], worst,
        )  # fmt: skip


def _source_digests(case: CaseFiles) -> dict[str, str]:
    """sha256 of every file of the case, by channel; further files of a channel are numbered."""
    digests = {}
    for channel, files in file_digests(case.images, case.root, case.case_id).items():
        image = case.images[channel]
        for number, file in enumerate(files, start=1):
            digests[channel if number == 1 else f"{channel} {number}"] = file["sha256"]
        if image.component is not None or image.series:
            digests[f"{channel} is"] = f"component {image.component}, series {image.series}"
    return digests
