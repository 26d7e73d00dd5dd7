"""Predicts images nobody has labelled: to the task's grid, through the ensemble, back to the grid they came on.

A case's folder appears whole or not at all; a case that cannot be predicted stops no other.
"""

__all__ = ["Failure", "Predictions", "predict_case", "predict_images"]

import fcntl
import itertools
import json
import logging
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segcal.data.faults import Unreadable
from segcal.data.native import probs_to_native
from segcal.data.orient import orient
from segcal.data.prepare_case import prepare_image, read_channels, scale_intensity
from segcal.data.source_files import file_digests, is_placed
from segcal.data.unlabelled import RESULT, UnlabelledCase, find_unlabelled
from segcal.data.voxels.nifti import write_nifti
from segcal.ensemble.loaded import Ensemble
from segcal.ensemble.result import Outcome, case_result, label_values, warnings_of
from segcal.errors import BadData, UsageError
from segcal.measure.uncertainty import total_entropy
from segcal.progress import Progress, silent
from segcal.report.figures.check_picture import CheckPicture, Finding, draw_check
from segcal.volume import Volume

_NAME = re.compile(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,149}")  # it becomes the name of a folder
_PARTIAL = ".predict-"  # a folder of this name holds what is not finished
_ABANDONED_S = 60  # its call has taken hold of it long before
_SLUG = re.compile(r"[^A-Za-z0-9]+")
_CODES = (("R", "L"), ("A", "P"), ("I", "S"))  # an axis that runs along LPS: where it begins and ends

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """A case without a prediction."""

    case: str
    fault: str  # its kind
    message: str


@dataclass(frozen=True)
class Predictions:
    """What became of the images."""

    results: list[dict[str, Any]]  # as their result.json
    failures: list[Failure]


def predict_images(
    ensemble: Ensemble,
    arguments: Sequence[str],
    out: Path,
    progress: Progress = silent,
    done: Callable[[dict[str, Any]], None] = lambda result: None,
) -> Predictions:
    """Predict every case that the arguments stand for (`find_unlabelled`) into OUT/CASE, one after another.

    done is called with each result as soon as its folder is there. Raises UsageError where two cases have one name or
    OUT is no folder, before anything is written; what a case breaks is among the failures.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out must be a folder, got the file {out}; give another")
    found = [find_unlabelled(argument, ensemble.task) for argument in arguments]
    cases = [case for part in found for case in part.cases]
    names = [case.case_id for case in cases]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        both = [str(next(iter(case.channels.values())).paths[0]) for case in cases if case.case_id == twice][:2]
        remedy = "predict them in two calls, with another --out each"
        raise UsageError(f"each case must have a name of its own, got '{twice}' for {' and '.join(both)}; {remedy}")
    failures = [Failure(fault.case_id, type(fault).__name__, str(fault)) for part in found for fault in part.faults]
    results: list[dict[str, Any]] = []
    _remove_abandoned(out)
    for number, case in enumerate(cases, start=1):
        before = len(failures)
        try:
            results.append(predict_case(ensemble, case, out))
            done(results[-1])
        except (BadData, UsageError) as fault:  # such as a name that no folder can have
            failures.append(Failure(case.case_id, type(fault).__name__, str(fault)))
        except MemoryError:
            message = (
                f"{case.case_id}: its prediction must fit into memory, got too little; crop the image to the organ"
            )
            failures.append(Failure(case.case_id, "MemoryError", message))
        progress("predicted", number, len(cases), case.case_id + " (failed)" * (len(failures) - before))
    return Predictions(results, failures)


def predict_case(ensemble: Ensemble, case: UnlabelledCase, out: Path) -> dict[str, Any]:
    """Predict one case into OUT/CASE, in the place of an older prediction; returns the content of its result.json.

    Written are labels, entropy (nats) and a probability map for each class, NIfTI on the grid of the first channel;
    check.png and result.json. Raises a DataFault or BadData for images that break a rule, and UsageError where OUT/CASE
    is no older prediction or holds the images, and writes nothing then.
    """
    if not _NAME.fullmatch(case.case_id):
        raise UsageError(f"a case's name must do for a folder, got '{case.case_id[:60]}'; rename its files")
    _check_place(case, out / case.case_id)
    try:
        with _warnings() as told:
            volumes = read_channels(case.channels, case.root, case.case_id)
        sources = file_digests(case.channels, case.root, case.case_id)
    except OSError as error:
        got = f"{error.strerror or error} ({error.filename})"
        raise Unreadable(case.case_id, "its files must be readable", got, "check who may read them") from None
    image, way_back = prepare_image(volumes, ensemble.task, case.case_id)
    found = ensemble.predict(image, case.case_id)
    first = next(iter(volumes.values()))
    # Labels are the argmax of the native probabilities, not the prepared labels resampled: so the files agree voxel by
    # voxel, and borders lie where the classes are equally probable instead of on the steps of the coarser grid.
    probs = np.clip(probs_to_native(found.probs, way_back), 0, 1)
    classes = Volume(probs.argmax(axis=0).astype(np.uint8), first.spacing_mm, first.affine)
    entropy = Volume(total_entropy(probs), first.spacing_mm, first.affine)
    outcome = Outcome(case.case_id, found, way_back, classes, sources)
    warnings = [*_odd_images(case, volumes), *warnings_of(ensemble, outcome)]
    for text in warnings:
        log.warning("%s: %s", case.case_id, text)
    warnings = [*told, *warnings]  # what was told in reading is on stderr already
    with _whole_folder(out, case.case_id) as folder:
        files = _write_maps(folder, ensemble, classes, probs, entropy)
        result = case_result(ensemble, outcome, files, warnings)
        draw_check(_picture(ensemble, result, volumes, classes, entropy), folder / files["check"])
        text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
        (folder / RESULT).write_text(text + "\n", encoding="utf-8")
    return result


def _check_place(case: UnlabelledCase, folder: Path) -> None:
    """Raises UsageError where writing would replace anything but an older prediction: the images themselves, say."""
    rule, remedy = f"{case.case_id}: what is replaced must be an older prediction", "give another --out"
    if folder.exists() and not (folder / RESULT).is_file():
        raise UsageError(f"{rule}, got {folder} without {RESULT}; {remedy}")
    files = (path.resolve() for image in case.channels.values() for path in image.paths)
    if any(path.is_relative_to(folder.resolve()) for path in files):
        raise UsageError(f"{rule}, got {folder} that holds its images; {remedy}")


def _odd_images(case: UnlabelledCase, volumes: dict[str, Volume]) -> list[str]:
    """What is no fault of an image and yet nothing to be silent about."""
    lost = [image.name for image in case.channels.values() if not is_placed(image, case.case_id)]
    told = [f"{lost[0]} does not say how the patient lies in it: left and right may be swapped"] if lost else []
    flat = [name for name, volume in volumes.items() if volume.array.min() == volume.array.max()]
    told += [f"every voxel of {name} has one value" for name in flat]
    pairs = itertools.combinations([name for name in volumes if name not in flat], 2)
    same = [pair for pair in pairs if np.array_equal(volumes[pair[0]].array, volumes[pair[1]].array)]
    return told + [f"{one} and {other} are the same image, voxel by voxel" for one, other in same]


def _write_maps(
    folder: Path, ensemble: Ensemble, classes: Volume, probs: np.ndarray, entropy: Volume
) -> dict[str, Any]:
    """Write the label map and the maps of floats; returns their names.

    Probabilities are a 3-D file a class: every viewer lays such a file over an image, while 4-D files open as a time
    series in some and with their first class alone in others; and each file says which structure it is of.
    """
    values = label_values(ensemble)
    kind = np.uint8 if max(values.values()) <= np.iinfo(np.uint8).max else np.int32
    lookup = np.array([values[number] for number in range(ensemble.task.n_classes)], dtype=kind)
    write_nifti(folder / "labels.nii.gz", Volume(lookup[classes.array], classes.spacing_mm, classes.affine))
    write_nifti(folder / "entropy.nii.gz", entropy)
    names: dict[str, str] = {}
    for number, name in enumerate(("background", *ensemble.task.structures)):
        slug = _SLUG.sub("-", name).strip("-").lower() or str(number)
        slug = f"{slug}-{number}" if f"probability-{slug}.nii.gz" in names.values() else slug
        key = name if name not in names else f"{name} {number}"
        names[key] = f"probability-{slug}.nii.gz"
        write_nifti(folder / names[key], Volume(probs[number], classes.spacing_mm, classes.affine))
    return {"labels": "labels.nii.gz", "entropy": "entropy.nii.gz", "probabilities": names, "check": "check.png"}


def _picture(
    ensemble: Ensemble, result: dict[str, Any], volumes: dict[str, Volume], classes: Volume, entropy: Volume
) -> CheckPicture:
    task = ensemble.task
    shown = dict.fromkeys((task.channels[-1], task.channels[0]))
    images = {}
    for channel in shown:
        turned, _ = orient(volumes[channel], task.orientation)
        images[channel] = scale_intensity(turned.array, "percentile", task.intensity_inside)
    findings = tuple(
        Finding(name, of["volume_ml"], of["segment_entropy_nats"], of["predicted_dice"])
        for name, of in result["structures"].items()
    )
    members = len(ensemble.manifest.members)
    return CheckPicture(
        case_id=result["case"],
        model=f"{ensemble.name} version {ensemble.version}: {members} x {ensemble.manifest.label}",
        images=images,
        classes=orient(classes, task.orientation)[0].array,
        entropy=orient(entropy, task.orientation)[0].array,
        spacing_mm=turned.spacing_mm,
        ends=_ends(turned.affine),
        findings=findings,
        novelty=result["out_of_distribution"],
        no_novelty=result["out_of_distribution_reason"] or "",
        warnings=tuple(result["warnings"]),
    )


def _ends(affine: np.ndarray) -> tuple[tuple[str, str], ...]:
    """Where the axes (z, y, x) of a grid begin and end in the patient, to the nearest direction."""
    lps = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3]
    ends = []
    for column in (2, 1, 0):
        world = int(np.abs(lps[:, column]).argmax())
        first, last = _CODES[world]
        ends.append((first, last) if lps[world, column] > 0 else (last, first))
    return tuple(ends)


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """What segcal logs as a warning within the block, in this thread, without the case's name before it."""
    heard: list[str] = []
    thread = threading.get_ident()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                heard.append(record.getMessage().partition(": ")[2] or record.getMessage())

    listener = Listener(logging.WARNING)
    logging.getLogger("segcal").addHandler(listener)
    try:
        yield heard
    finally:
        logging.getLogger("segcal").removeHandler(listener)


@contextmanager
def _whole_folder(out: Path, name: str) -> Iterator[Path]:
    """A folder to write into, which takes its name when the block ends without an error, else leaves nothing."""
    out.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=out))
    held = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_SH)  # it ends with this process, however that ends
        folder = partial / "new"
        folder.mkdir()
        yield folder
        if (out / name).exists():
            (out / name).rename(partial / "old")
        folder.rename(out / name)
    except BaseException:
        if (partial / "old").exists() and not (out / name).exists():
            (partial / "old").rename(out / name)
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(held)


def _remove_abandoned(out: Path) -> None:
    """Remove what killed calls left unfinished; not what another call writes, nor an older prediction."""
    for partial in out.glob(f"{_PARTIAL}*"):
        with suppress(OSError):  # another call was quicker, or a file system without locks
            held = os.open(partial, os.O_RDONLY)
            try:
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - partial.stat().st_mtime > _ABANDONED_S and not (partial / "old").exists():
                    shutil.rmtree(partial)
            finally:
                os.close(held)
