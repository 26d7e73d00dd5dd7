"""The analyses of a service: asked for, queued, computed, cancelled, found again after a restart.

What is under way stands in MLflow: an analysis is an open run of kind "report" from the moment it is accepted. This
process only remembers which of them are its own.
"""

__all__ = ["Analysis", "Jobs", "state_of"]

import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from segcal.analysis.request import Request, Resolved, missing_checkpoints, resolve
from segcal.analysis.word import me, progress_of
from segcal.errors import SegcalError, UnknownName
from segcal.ledger.report_run import ReportRun, begin_report, end_report, find_reports, tell_report
from segcal.ledger.store import Store, is_away, patiently
from segcal.service.errors import Refusal
from segcal.service.holding import FREE, Holding
from segcal.service.recent import Recent
from segcal.service.settings import Settings
from segcal.service.work import Cluster, RayDied, Task

State = Literal["queued", "running", "finished", "failed", "cancelled"]
STATES: dict[str, State] = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "cancelled"}
FRESH_S = 1.0  # how old a reading may be that many share
BEAT_S = 10.0  # between two words of waiting analyses, and two looks for those that others left
GRACE_S = 5.0  # between asking a task to stop and stopping it
WAITING = 200  # analyses that may wait

_log = logging.getLogger("segcal.service")


@dataclass
class Analysis:
    """An analysis that this service has accepted, or taken over."""

    analysis_id: str
    run_id: str
    request: Request
    resolved: Resolved | None = None  # None: of another process, to be asked for again
    running: bool = False
    cancelled: threading.Event = field(default_factory=threading.Event)


class Jobs:
    """Accepts, computes and finds analyses. Threads are started by `start` and ended by `close`."""

    def __init__(
        self, settings: Settings, client: Store, told: Callable[[str, State], None], say: Callable[[str], None]
    ) -> None:
        self._settings, self._client, self._told, self._say = settings, client, told, say
        self._holding = Holding(me())
        self._mine: dict[str, Analysis] = {}  # by run id, in the order of acceptance
        self._changed = threading.Condition()
        self._asking = threading.Lock()  # two equal requests are one
        self._cancelled: set[str] = set()  # runs: a list read a moment ago may still call them RUNNING
        self._closing = threading.Event()
        self._recent = Recent(FRESH_S)
        self._threads: list[threading.Thread] = []
        self.cluster = Cluster(say, settings.address)

    def start(self) -> None:
        """Take over what a dead service left, and compute."""
        loops = [self._keep, *[self._work] * self._settings.jobs]
        self._threads = [threading.Thread(target=loop, name="segcal-jobs", daemon=True) for loop in loops]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Leave what is under way to the next service, and stop Ray."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(GRACE_S)
        for job in list(self._mine.values()):
            with contextlib.suppress(Exception):  # a store that is away: the holder is dead soon
                tell_report(self._client, job.run_id, progress_of(FREE, "queued"))
        self.cluster.close()

    @property
    def closing(self) -> bool:
        """Whether the service stops."""
        return self._closing.is_set()

    def stop(self) -> None:
        """What is computed and who listens is let go; `close` follows."""
        self._closing.set()

    def submit(self, request: Request) -> ReportRun:
        """The analysis that answers a request: computed before, under way, or accepted now.

        Raises what `resolve` raises, and Refusal where members are gone (409) or too many analyses wait (429).
        """
        resolved = resolve(self._client, request)
        if (known := self._known(resolved.id)) is not None:
            return known
        if missing := missing_checkpoints(self._client, resolved):
            raise Refusal(409, f"all members' files must be there, got none of {', '.join(missing)}; train them again")
        with self._asking:
            if (known := self._known(resolved.id)) is not None:
                return known
            if len(self._waiting()) >= WAITING:
                raise Refusal(429, f"at most {WAITING} analyses may wait; ask later", {"Retry-After": "60"})
            return self._accept(resolved)

    def find(self, analysis_id: str) -> ReportRun:
        """The newest run of an analysis, a finished one first. Raises UnknownName."""
        run = self._recent.get(analysis_id, lambda: self._newest(analysis_id))
        if run is None:
            raise UnknownName(f"no analysis '{analysis_id}'; `GET /v1/analyses` lists them")
        return run

    def all(self) -> list[ReportRun]:
        """Every analysis, the newest first; runs of the same question once."""
        return self._recent.get("", self._all)

    def place(self, run_id: str) -> int | None:
        """How many analyses are computed before this one; None where it does not wait here."""
        waiting = [job.run_id for job in self._waiting()]
        return waiting.index(run_id) if run_id in waiting else None

    def cancel(self, analysis_id: str) -> ReportRun:
        """Stop an analysis; again, nothing happens. Raises Refusal (409) for one that is over or computed elsewhere."""
        run = self._newest(analysis_id) or self.find(analysis_id)
        if run.status == "KILLED":
            return run
        if run.status != "RUNNING":
            raise Refusal(409, f"an analysis must be under way to be cancelled, got one that is {state_of(run)}")
        with self._changed:
            job = self._mine.get(run.run_id)
            if job is None:
                raise Refusal(409, "an analysis is cancelled where it is computed, got one of another process")
            job.cancelled.set()
            self._cancelled.add(run.run_id)
            waits = not job.running
        if waits:
            self._end(job, "KILLED")
        return self._forget(analysis_id)

    def _waiting(self) -> list[Analysis]:
        """What is not computed yet, the first one first."""
        return [job for job in list(self._mine.values()) if not job.running and not job.cancelled.is_set()]

    def _accept(self, resolved: Resolved) -> ReportRun:
        request = resolved.request
        name = f"report {', '.join(part.task for part in resolved.parts)}"
        run_id = begin_report(
            self._client, request.experiment, name, resolved.id, asdict(request), self._holding.holder
        )  # fmt: skip
        tell_report(self._client, run_id, progress_of(self._holding.holder, "queued"))
        others = [run for run in self._runs(resolved.id) if run.status == "RUNNING" and self._counts(run)]
        first = min(others, key=lambda run: (run.started_ms, run.run_id))
        if first.run_id != run_id:  # another service was asked the same in this moment
            end_report(self._client, run_id, "KILLED", f"the same analysis is run {first.run_id}")
            return first
        self._put(Analysis(resolved.id, run_id, request, resolved))
        return self._forget(resolved.id)

    def _put(self, job: Analysis) -> None:
        self._told(job.analysis_id, "queued")
        with self._changed:
            self._mine[job.run_id] = job
            self._changed.notify()

    def _known(self, analysis_id: str) -> ReportRun | None:
        """A run that answers the question, or will."""
        run = self._newest(analysis_id)
        return run if run and (run.status == "FINISHED" or (run.status == "RUNNING" and self._counts(run))) else None

    def _counts(self, run: ReportRun) -> bool:
        """Whether somebody who can be asked computes it, to its end: us, another process, or who takes over from it."""
        return run.run_id not in self._cancelled and bool(run.holder or run.progress.get("holder"))

    def _runs(self, analysis_id: str) -> list[ReportRun]:
        return find_reports(self._client, analysis_id=analysis_id)

    def _newest(self, analysis_id: str) -> ReportRun | None:
        return min(self._runs(analysis_id), key=_rank, default=None)

    def _all(self) -> list[ReportRun]:
        by_id: dict[str, list[ReportRun]] = {}
        for run in find_reports(self._client):
            if run.analysis_id:
                by_id.setdefault(run.analysis_id, []).append(run)
        chosen = [min(runs, key=_rank) for runs in by_id.values()]
        return sorted(chosen, key=lambda run: (-run.started_ms, run.run_id))

    def _forget(self, analysis_id: str) -> ReportRun:
        """Read anew what has just changed."""
        self._recent.forget(analysis_id)
        self._recent.forget("")
        return self.find(analysis_id)

    def _work(self) -> None:
        """Compute one analysis after another."""
        while not self._closing.is_set():
            with self._changed:
                job = next(iter(self._waiting()), None)
                if job is None:
                    self._changed.wait(BEAT_S)
                    continue
                job.running = True
            self._told(job.analysis_id, "running")
            try:
                self._run(job)
            except SegcalError as error:
                self._fail(job, error)
            except Exception as error:
                _log.exception("analysis %s failed", job.analysis_id)
                self._fail(job, error)

    def _run(self, job: Analysis) -> None:
        resolved = job.resolved or patiently(lambda: resolve(self._client, job.request), self._pause)
        if resolved.id != job.analysis_id:  # models were added, or the code is newer: another question
            reason = f"models, data or code have changed since it was asked: it is analysis {resolved.id} now"
            self._end(job, "FAILED", reason)
            self.submit(job.request)
            return
        url = self._settings.public_url or f"http://{self._settings.host}:{self._settings.port}"
        task = self.cluster.analyse(self._settings.tracking_uri, resolved, job.run_id, self._holding.holder, url)
        if not self._wait(task, job):
            return
        try:
            task.result()
        except RayDied:
            self.cluster.renew()
            raise
        self._end(job, "FINISHED")

    def _wait(self, task: Task, job: Analysis) -> bool:
        """Whether the task came to its end; it does not where the analysis is cancelled or the service stops."""
        while not task.wait(0.5):
            if self._closing.is_set():
                task.cancel(force=True)
                task.wait(GRACE_S / 2)
                return False
            if job.cancelled.is_set():
                task.cancel(force=False)
                if not task.wait(GRACE_S):
                    task.cancel(force=True)
                    task.wait(GRACE_S)
                self._end(job, "KILLED")
                return False
        return True

    def _fail(self, job: Analysis, error: Exception) -> None:
        if self._closing.is_set():  # the next service does it
            return
        told = isinstance(error, SegcalError)
        reason = str(error) if told else "the analysis failed; the service's log says why"
        with contextlib.suppress(Exception):  # a store that is away: the run stays open, and is taken up again
            if job.cancelled.is_set():
                self._end(job, "KILLED")
            else:
                self._end(job, "FAILED", reason)

    def _end(self, job: Analysis, status: str, reason: str = "") -> None:
        """Close a run as it ended; what its task has said already stays."""

        def close() -> str:
            run = next(run for run in self._runs(job.analysis_id) if run.run_id == job.run_id)
            if run.status == "RUNNING" or (status == "KILLED" and run.status == "FAILED"):
                end_report(self._client, job.run_id, status, reason)
                return status
            return run.status

        try:
            ended = patiently(close, self._pause)
        finally:
            with self._changed:
                self._mine.pop(job.run_id, None)
        self._told(job.analysis_id, STATES[ended])
        self._recent.forget(job.analysis_id)
        self._recent.forget("")

    def _pause(self, seconds: float) -> None:
        self._closing.wait(seconds)

    def _keep(self) -> None:
        """Renew what waits here, and take over what others left."""
        while not self._closing.is_set():
            try:
                for job in self._waiting():
                    tell_report(self._client, job.run_id, progress_of(self._holding.holder, "queued"))
                self._take_over()
            except Exception as error:
                if not is_away(error):
                    _log.exception("looking for analyses that were left failed")
            self._closing.wait(BEAT_S)

    def _take_over(self) -> None:
        with self._asking:  # what is being accepted is not in `_mine` yet
            known = set(self._mine)  # before the list is read: what ends meanwhile may stand in it as RUNNING
            running = find_reports(self._client, statuses=("RUNNING",))
            mine = [run for run in running if self._holding.is_mine(run) and run.run_id not in known]
        for run in reversed(mine):  # the store was away when it should have been told how it ended
            self._put(Analysis(run.analysis_id, run.run_id, request_of(run)))
        left = [run for run in running if self._holding.is_left(run)]
        for run in reversed(left):  # the oldest first
            tell_report(self._client, run.run_id, dict(run.progress) | progress_of(self._holding.holder, "queued"))
        if not left or self._closing.wait(1.0):  # another service may have said the same: who spoke last has it
            return
        for run in reversed(left):
            now = self._by_run(run)
            if now is not None and now.status == "RUNNING" and self._holding.is_mine(now):
                self._say(f"analysis {run.analysis_id} of '{run.experiment}' was left under way: going on")
                self._put(Analysis(run.analysis_id, run.run_id, request_of(run)))

    def _by_run(self, run: ReportRun) -> ReportRun | None:
        return next((found for found in self._runs(run.analysis_id) if found.run_id == run.run_id), None)


def state_of(run: ReportRun) -> State:
    """The state of an analysis, in the words of the API."""
    if run.status != "RUNNING":
        return STATES[run.status]
    return "queued" if run.progress.get("state") == "queued" else "running"


def request_of(run: ReportRun) -> Request:
    """What a run was asked for; names of another version are left out."""
    known = {entry.name for entry in fields(Request)}
    asked: dict[str, Any] = {name: value for name, value in run.spec.items() if name in known}
    lists = {name: tuple(asked[name]) for name in ("tasks", "methods", "sizes") if name in asked}
    return Request(**({"experiment": run.experiment} | asked | lists))


def _rank(run: ReportRun) -> tuple[int, int, str]:
    """Finished before under way before given up; the newest of each."""
    order = {"FINISHED": 0, "RUNNING": 1}
    return order.get(run.status, 2), -run.started_ms, run.run_id
