"""MLflow is told what the trials' records say, by a thread beside the sweep: no training ever waits for a server.

A server that does not answer is told later, from the records, in the same words: nothing is lost and nothing doubled.
"""

__all__ = ["AWAY", "Projection", "Telling"]

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from segcal.errors import BadData
from segcal.journal.checkpoint import WEIGHTS, pack, read_state
from segcal.journal.log import LOG
from segcal.journal.reading import Progress, look, trial_storage
from segcal.journal.record import CUT_SHORT, is_told, read_record, set_told
from segcal.journal.storage import Storage
from segcal.ledger.pace import wait_s
from segcal.ledger.store import Store, answers, is_away
from segcal.ledger.sweep_run import SweepRun
from segcal.ledger.trial_run import TrialRun
from segcal.trial import TrialConfig

AWAY = "the tracking store does not answer"
POLL_S, LONGEST_S = 0.5, 30.0  # between looks; between tries of a server that does not answer, at most
TRIES = 5  # of a trial that MLflow answers about, but refuses, before that is said, and given up at the end


@dataclass
class _Watched:
    key: str
    since: float
    due: float
    run: TrialRun | None = None
    refused: int = 0


class Projection:
    """Watches trials and tells MLflow of them until each has ended; started and closed by the sweep."""

    def __init__(
        self, client: Store, sweep: SweepRun, storage: Storage, say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic, lost: threading.Event | None = None,
    ) -> None:  # fmt: skip
        self._lost = lost or threading.Event()  # set from outside where another driver tells the rest
        self._client, self._sweep, self._storage, self._say, self._clock = client, sweep, storage, say, clock
        self._watched: dict[str, _Watched] = {}
        self._given_up: dict[str, str] = {}
        self._reasons: dict[str, str] = {}
        self._noted: set[tuple[str, str]] = set()
        self._away_since: float | None = None
        self._try_at = 0.0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="segcal-projection", daemon=True)

    def start(self, keys: Iterable[str] = ()) -> None:
        """Begin, with trials that have something to tell already."""
        self.watch(keys)
        self._thread.start()

    def watch(self, keys: Iterable[str]) -> None:
        """Tell MLflow of these trials, from now until they have ended."""
        now = self._clock()
        for key in keys:
            self._watched[key] = _Watched(key, now, now)  # of one that is begun again, nothing old is told any more

    def ended(self, key: str) -> None:
        """A trial that has ended need not wait for its turn.

        It is watched anew where this end is not told and nobody watches it: when a trial that was stopped begins again,
        its earlier end, which is still on record, may be told before its process has written that it goes on.
        """
        if watched := self._watched.get(key):
            watched.due = self._clock()
        elif not self._is_told(key):
            self.watch([key])

    def failed(self, key: str, reason: str) -> None:
        """A trial whose process could not write why it failed."""
        self._reasons[key] = reason

    def close(self, grace_s: float) -> dict[str, str]:
        """Tell what is left, for so long at most where the server does not answer; returns what was not told, and why.

        Trials that have not ended by then are closed as they are: their processes are gone.
        """
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        until = self._clock() + grace_s
        while self._watched and not self._lost.is_set():
            self._round(everything=True)
            if self._watched:
                if self._clock() >= until:
                    break
                time.sleep(POLL_S)
        return {} if self._lost.is_set() else {**self._given_up, **dict.fromkeys(self._watched, AWAY)}

    def leave(self) -> dict[str, str]:
        """Tell nothing more: another driver does."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        return {}

    def _run(self) -> None:
        while not self._closing.wait(POLL_S):
            self._round()

    def _round(self, everything: bool = False) -> None:
        for watched in list(self._watched.values()):
            now = self._clock()
            if now < self._try_at or self._lost.is_set():
                return
            if now < watched.due and (watched.refused or not everything):
                continue
            try:
                if self._tell(watched, everything) or everything:
                    self._forget(watched)
            except Exception as error:  # whether it arrived is not known: a new TrialRun looks what is there
                watched.run = None
                if is_away(error) and not answers(self._client):
                    self._away(error)
                    return
                self._refused(watched, error, everything)
            else:
                self._back()
                watched.refused = 0
                watched.due = now + wait_s(now - watched.since)

    def _tell(self, watched: _Watched, closing: bool) -> bool:
        """Tell all that is on record; returns whether the trial has ended."""
        trial = trial_storage(self._storage, watched.key)
        progress = look(trial)
        if progress is None:
            return False
        run = watched.run = watched.run or self._open(progress)
        record = progress.record
        epochs = progress.lines[: record.epochs] if record.state == "finished" else progress.lines
        told = [(line.record, line.time_ms) for line in epochs]
        run.epochs(told)
        self._tell_checkpoint(run, trial, progress, told)
        if record.state == "running" and not closing:
            return False
        if record.state == "finished":
            run.register(record.best_epoch, record.val_dice, record.weights_sha256)
        log = trial.read(LOG).decode(errors="replace") if trial.has(LOG) else ""
        state, error = record.state, record.error
        if state == "running":
            reason = self._reasons.get(record.key)
            state, error = ("failed", reason) if reason else ("stopped", CUT_SHORT)
        run.end(
            state,
            error,
            {**record.tags, **({"notes": "; ".join(record.notes)} if record.notes else {})},
            log,
            record.ended_ms or None,
        )
        with contextlib.suppress(OSError):  # told again next time
            set_told(trial, record)
        return True

    def _tell_checkpoint(self, run: TrialRun, trial: Storage, progress: Progress, told: list[Any]) -> None:
        """The best weights so far, where MLflow does not have them."""
        record = progress.record
        if record.state == "finished":
            if not run.has(record.best_epoch, record.weights_sha256):
                run.checkpoint(told[record.best_epoch - 1], trial.read(WEIGHTS), record.weights_sha256)
        elif progress.state and told:
            best = max(range(progress.state.epoch), key=lambda index: told[index][0].val_dice) + 1
            if not run.has(best):
                try:
                    state = read_state(trial, progress.state)
                except (FileNotFoundError, ValueError):  # a newer one took its place
                    return
                best = int(state["training.best_epoch"][0])
                weights = {name[len("best.") :]: value for name, value in state.items() if name.startswith("best.")}
                run.checkpoint(told[best - 1], *pack(weights))

    def _open(self, progress: Progress) -> TrialRun:
        record = progress.record
        for note in record.notes:
            if (record.key, note) not in self._noted:
                self._noted.add((record.key, note))
                self._say(f"{record.name}: {note}")
        config = TypeAdapter(TrialConfig).validate_python(record.config)
        try:
            manifest = json.loads(self._storage.at("data").read(f"{config.data_digest}.json"))
        except (FileNotFoundError, ValueError):
            manifest = None
        return TrialRun(
            self._client, self._sweep, config, record.task, manifest, record.code_version, record.software,
            record.started_ms,
        )  # fmt: skip

    def _away(self, error: Exception) -> None:
        now = self._clock()
        if self._away_since is None:
            self._away_since = now
            self._say(f"the tracking store does not answer ({_short(error)}): training goes on, all is kept on disk")
        self._try_at = now + min(LONGEST_S, max(1.0, (now - self._away_since) / 2))

    def _back(self) -> None:
        if self._away_since is not None:
            seconds = self._clock() - self._away_since
            self._say(f"the tracking store answers again after {seconds:.0f} s: it is told all")
            self._away_since, self._try_at = None, 0.0

    def _refused(self, watched: _Watched, error: Exception, closing: bool) -> None:
        watched.refused += 1
        watched.due = self._clock() + min(2.0**watched.refused, LONGEST_S)
        if watched.refused == TRIES:
            self._say(f"trial {watched.key}: MLflow could not be told of it: {_short(error)}")
        if closing and (watched.refused >= TRIES or isinstance(error, BadData)):
            self._given_up[watched.key] = _short(error)
            self._forget(watched)

    def _is_told(self, key: str) -> bool:
        trial = trial_storage(self._storage, key)
        try:
            record = read_record(trial)
            return record is not None and is_told(trial, record)
        except (OSError, ValueError, BadData):  # whoever tells it meets that again, and says so
            return False

    def _forget(self, watched: _Watched) -> None:
        if self._watched.get(watched.key) is watched:  # not begun again meanwhile
            del self._watched[watched.key]


class Telling:
    """The projection as a view of the sweep: it is told when a trial begins and ends."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection

    def began(self, key: str) -> None:
        self._projection.watch([key])

    def epoch(self, key: str, epoch: int, val_dice: float, step: str, best_dice: float = math.nan) -> None:
        pass

    def ended(self, key: str, how: str, why: str = "", epoch: int = 0, best_dice: float = math.nan) -> None:
        self._projection.ended(key)

    def close(self) -> None:
        pass


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
