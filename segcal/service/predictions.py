"""Predictions of uploaded images: kept on this machine only, and not for long.

A prediction is a folder below home()/predictions: state.json, the images while they are needed, and the results. They
are removed after some hours, or when they are asked to be. Nothing of it is told to MLflow.
"""

__all__ = ["Prediction", "Predictions", "Upload"]

import contextlib
import json
import logging
import os
import re
import shutil
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from segcal.analysis.word import me
from segcal.environment import home
from segcal.errors import SegcalError, UnknownName
from segcal.ledger.store import open_store
from segcal.service.errors import Refusal
from segcal.service.holding import is_alive, is_gone
from segcal.service.settings import Settings
from segcal.service.work import Cluster, RayDied, Task

SUFFIXES = (".nii", ".nii.gz", ".mha", ".nrrd", ".dcm")  # those that one file is enough for
CASE = "case"  # what an uploaded case is called: its files' names may name a patient
LOOK_S = 60.0  # between two looks for what has expired, or was left
TORN_S = 3600.0  # after which a folder without a state is one that nobody fills

_log = logging.getLogger("segcal.service")


@dataclass
class Upload:
    """A file of a request. Its name is never a path: only its suffix is read."""

    channel: str  # of the task, or "image"
    name: str
    content: BinaryIO

    @property
    def suffix(self) -> str:
        """Raises Refusal (422) for what is no image that can be read alone."""
        found = [suffix for suffix in SUFFIXES if self.name.lower().endswith(suffix)]
        if not found:
            raise Refusal(
                422, f"{self.channel}: an image must be a file {', '.join(SUFFIXES)}, got {self.name[-60:]!r}"
            )
        return max(found, key=len)


@dataclass
class Prediction:
    """What state.json holds."""

    id: str
    model: str
    channels: dict[str, list[str]]  # channel -> files below `images`
    status: Literal["queued", "running", "finished", "failed"] = "queued"
    holder: str = ""
    error: str = ""
    created_ms: int = field(default_factory=lambda: _now_ms())
    ended_ms: int | None = None
    files: list[str] = field(default_factory=list)  # below `results`


class Predictions:
    """Accepts, computes, finds and removes predictions. One is computed at a time."""

    def __init__(self, settings: Settings, cluster: Cluster, told: Callable[[Literal["finished", "failed"]], None]):
        self._settings, self._cluster, self._told = settings, cluster, told
        self._holder = me()
        self._folder = home() / "predictions"
        self._queue: list[Prediction] = []  # the first one is computed
        self._removed: set[str] = set()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Take over what a dead service left, and compute."""
        loops = (self._work, self._expire)
        self._threads = [threading.Thread(target=loop, name="segcal-predictions", daemon=True) for loop in loops]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """What is under way is left to the next service."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(5)

    def accept(self, model: str, uploads: Sequence[Upload]) -> Prediction:
        """Keep the images and queue their prediction; several files of a named channel are a DICOM series.

        Nothing stays of one that is refused. Raises Refusal: 422 for what is no image, 429 where too many wait.
        """
        _check_channels(uploads)
        self.check_room()
        made = Prediction(uuid.uuid4().hex, model, {}, holder=self._holder)
        folder = self._folder / made.id
        suffixes = [upload.suffix for upload in uploads]
        (folder / "images").mkdir(parents=True, mode=0o700)
        try:
            channels = list(dict.fromkeys(upload.channel for upload in uploads))
            for number, (upload, suffix) in enumerate(zip(uploads, suffixes, strict=True)):
                path = f"{channels.index(upload.channel):02d}/{number:04d}{suffix}"
                (folder / "images" / path).parent.mkdir(exist_ok=True)
                with (folder / "images" / path).open("xb") as file:
                    shutil.copyfileobj(upload.content, file, 1 << 20)
                made.channels.setdefault(upload.channel, []).append(path)
            self._write(made)
            with self._changed:
                self.check_room()  # others came meanwhile
                self._put(made)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return made

    def check_room(self) -> None:
        """Raises Refusal (429) where too many predictions wait: to be asked before gigabytes are read."""
        with self._changed:
            if len(self._queue) >= self._settings.predictions:
                raise Refusal(429, f"at most {self._settings.predictions} predictions may wait", {"Retry-After": "60"})

    def find(self, name: str) -> Prediction:
        """Raises UnknownName for one that never was, has expired or was removed."""
        try:
            return Prediction(**json.loads((self._folder / name / "state.json").read_text()))
        except (OSError, ValueError, TypeError):
            raise UnknownName(f"no prediction '{name}'; its results may have been removed") from None

    def expires_ms(self, made: Prediction) -> int | None:
        """When its results go."""
        return None if made.ended_ms is None else made.ended_ms + self._keep_ms

    @property
    def _keep_ms(self) -> int:
        return round(self._settings.keep_h * 3_600_000)

    def file(self, name: str, path: str) -> Path:
        """A file of the results. Raises UnknownName for any but those that the prediction has written."""
        made = self.find(name)
        if path not in made.files:
            raise UnknownName(
                f"no file '{path[:100]}' in prediction '{name}'; known: {', '.join(made.files) or 'none yet'}"
            )
        return self._folder / name / "results" / CASE / path

    def remove(self, name: str) -> None:
        """Stop it where it is under way, and remove all of it. Raises UnknownName."""
        self.find(name)
        with self._changed:
            waiting = [made.id for made in self._queue]
            if waiting[:1] == [name]:
                self._removed.add(name)  # its worker stops
            self._queue[1:] = [made for made in self._queue[1:] if made.id != name]
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def _put(self, made: Prediction) -> None:
        with self._changed:
            self._queue.append(made)
            self._changed.notify_all()

    def _work(self) -> None:
        while not self._closing.is_set():
            with self._changed:
                if not self._queue:
                    self._changed.wait(10)
                    continue
                made = self._queue[0]
            try:
                self._run(made)
            except Exception:
                _log.exception("prediction %s failed", made.id)
            if not self._closing.is_set():
                with self._changed:
                    self._queue.pop(0)
                    self._removed.discard(made.id)

    def _run(self, made: Prediction) -> None:
        folder = self._folder / made.id
        images = {channel: [folder / "images" / name for name in names] for channel, names in made.channels.items()}
        made.status = "running"
        try:
            self._write(made)
            shutil.rmtree(folder / "results", ignore_errors=True)
            task = self._cluster.call(
                predict_upload, self._settings.tracking_uri, made.model, images, folder / "results"
            )  # fmt: skip
            if not self._wait(task, made):
                return
            task.result()
            made.status = "finished"
        except SegcalError as error:
            if isinstance(error, RayDied):
                self._cluster.renew()
            made.status, made.error = "failed", str(error)
        except Exception as error:
            _log.warning("prediction %s failed", made.id, exc_info=error)
            made.status, made.error = "failed", "the prediction failed; the service's log says why"
        if self._closing.is_set() and made.status == "failed":
            return
        self._end(made)

    def _wait(self, task: Task, made: Prediction) -> bool:
        """Whether it came to its end; it does not where it is removed or the service stops."""
        while not task.wait(0.25):
            if self._closing.is_set() or made.id in self._removed:
                task.cancel(force=True)
                task.wait(5)
                shutil.rmtree(self._folder / made.id / "results", ignore_errors=True)
                if made.id in self._removed:
                    shutil.rmtree(self._folder / made.id, ignore_errors=True)
                return False
        return True

    def _end(self, made: Prediction) -> None:
        """The images go; of a failed one the results go as well."""
        folder = self._folder / made.id
        shutil.rmtree(folder / "images", ignore_errors=True)
        if made.status == "failed":
            shutil.rmtree(folder / "results", ignore_errors=True)
        results = folder / "results" / CASE
        made.files = sorted(str(path.relative_to(results)) for path in results.rglob("*") if path.is_file())
        made.ended_ms = _now_ms()
        if made.id in self._removed or not folder.exists():
            shutil.rmtree(folder, ignore_errors=True)
            return
        self._write(made)
        self._told("finished" if made.status == "finished" else "failed")

    def _write(self, made: Prediction) -> None:
        path = self._folder / made.id / "state.json"
        partial = path.with_name(f".state.{uuid.uuid4().hex[:8]}")
        partial.write_text(json.dumps(asdict(made)))
        os.replace(partial, path)

    def _take_over(self) -> None:
        for made in sorted(self._all(), key=lambda made: made.created_ms):
            if made.status in ("queued", "running") and made.holder != self._holder and is_gone(made.holder):
                made.holder, made.status = self._holder, "queued"
                self._write(made)
                self._put(made)

    def _all(self) -> list[Prediction]:
        found = []
        for name in self._names():
            with contextlib.suppress(UnknownName):
                found.append(self.find(name))
        return found

    def _names(self) -> list[str]:
        return [folder.name for folder in self._folder.glob("*") if re.fullmatch("[0-9a-f]{32}", folder.name)]

    def _expire(self) -> None:
        """Take over what a dead service left; remove what is old, or was being written when a service was killed."""
        while not self._closing.is_set():
            try:
                self._take_over()
                for name in self._names():
                    if self._is_over(name):
                        shutil.rmtree(self._folder / name, ignore_errors=True)
            except OSError:
                _log.exception("looking for predictions that were left failed")
            self._closing.wait(LOOK_S)

    def _is_over(self, name: str) -> bool:
        try:
            made = self.find(name)
        except UnknownName:
            with contextlib.suppress(FileNotFoundError):
                return time.time() - (self._folder / name).stat().st_mtime > TORN_S
            return False
        if made.ended_ms is None:  # its holder may be one of another container, and gone
            mine = made.holder == self._holder
            with self._changed:
                awaited = name in [waiting.id for waiting in self._queue] if mine else is_alive(made.holder)
            return not awaited and made.created_ms + self._keep_ms < _now_ms()
        return made.ended_ms + self._keep_ms < _now_ms()


def predict_upload(model: str, images: Mapping[str, Sequence[Path]], out: Path) -> None:
    """Predict one case into OUT/case, in a process of its own. Raises SegcalError for what cannot be predicted."""
    from segcal.data.unlabelled import case_of_files
    from segcal.ensemble.loaded import load_ensemble
    from segcal.ensemble.predict import predict_case

    ensemble = load_ensemble(open_store(), model)
    root = out.parent / "images"
    if set(images) == {"image"}:  # in the task's order
        case = case_of_files(_series(images["image"]), ensemble.task, CASE, root)
    else:
        case = case_of_files({name: _series(paths)[0] for name, paths in images.items()}, ensemble.task, CASE, root)
    predict_case(ensemble, case, out)


def _check_channels(uploads: Sequence[Upload]) -> None:
    """Raises Refusal (422) for no image, and for two files of one channel that are no DICOM slices."""
    if not uploads:
        raise Refusal(422, "a prediction must have an image, got none; send a file a channel, or one called image")
    counts = Counter(upload.channel for upload in uploads if upload.channel != "image")
    single = {upload.channel for upload in uploads if upload.suffix != ".dcm"}
    doubled = [channel for channel, count in counts.items() if count > 1 and channel in single]
    if doubled:
        raise Refusal(422, f"a channel must have one file, or DICOM slices, got {counts[doubled[0]]} of {doubled[0]!r}")
    if counts and any(upload.channel == "image" for upload in uploads):
        raise Refusal(422, "files must be called by their channels or all of them image, got both")


def _series(paths: Sequence[Path]) -> list[Path]:
    """The folder of several DICOM slices; other files as they are."""
    slices = len(paths) > 1 and all(path.suffix == ".dcm" for path in paths)
    return [paths[0].parent] if slices else list(paths)


def _now_ms() -> int:
    return int(time.time() * 1000)
