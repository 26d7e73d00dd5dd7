"""What there is: experiments, members, ensembles, reports and their cases, read out of MLflow and kept for a while.

Answers that may change are kept for seconds, a finished report for as long as there is room. Many threads may ask.
"""

__all__ = [
    "CaseEntry", "Catalogue", "EnsembleEntry", "Experiment", "LoadedReport", "RecipeEntry", "nearest_of",
]  # fmt: skip

import json
import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, TypeVar, cast

import pandas as pd

from segcal.analysis.build_report import OF_BOTH
from segcal.data.prepared import PreparedCohort, open_prepared
from segcal.environment import home
from segcal.errors import BadData, UnknownName, nearest
from segcal.ledger.ensemble_version import find_version, read_card, versions_of
from segcal.ledger.names import tag
from segcal.ledger.read import models
from segcal.ledger.report_run import ReportRun, find_reports, report_file
from segcal.ledger.store import Store
from segcal.records import ModelRef
from segcal.volume import Case

FRESH_S = 5.0  # how long an answer that may change is taken for true
STALE_S = 10.0  # how old the list of experiments may be that readers get while a new one is made
LOADED = 12  # reports in memory
COHORTS = 8  # prepared cohorts that are open
FEW = 12  # names that an error lists; of more, only the nearest
_OOD = "ood"

T = TypeVar("T")

log = logging.getLogger("segcal.service")


@dataclass(frozen=True)
class Experiment:
    """An experiment of segcal's and what it holds."""

    name: str
    experiment_id: str
    models: int
    tasks: tuple[str, ...]
    reports: int
    newest_ms: int  # when the newest of its models and reports was made, since 1970; 0: neither


@dataclass(frozen=True)
class RecipeEntry:
    """All members of a recipe on the same data."""

    recipe: str
    label: str
    task: str
    data_digest: str
    members: int
    val_dice_mean: float


@dataclass(frozen=True)
class EnsembleEntry:
    """A version of a registered ensemble."""

    name: str
    version: int
    task: str
    label: str
    members: int
    aliases: tuple[str, ...]
    created_ms: int
    run_id: str | None
    description: str  # in a sentence; the whole is its model card
    experiment: str = ""  # whose members it has


@dataclass(frozen=True)
class LoadedReport:
    """A finished report of one task: report.json and the scores of every case."""

    run: ReportRun
    task: str
    content: dict[str, Any]
    frame: pd.DataFrame


@dataclass(frozen=True)
class CaseEntry:
    """A case that a report scored."""

    case_id: str
    split: str  # test or ood
    domain: str  # source or target
    site: str


class Catalogue:
    """Reads of one tracking store. Raises UnknownName for unknown names, StoreUnreachable where the store is away."""

    def __init__(self, client: Store) -> None:
        self.client = client
        self._kept = _Kept()
        self._loaded = _Kept(LOADED)
        self._cohorts = _Kept(COHORTS)
        self._cards = _Kept()

    def experiments(self) -> list[Experiment]:
        """Those that hold a model or a report of segcal's, or a sweep; the newest first."""
        return self._kept.get("experiments", self._experiments, FRESH_S, STALE_S)

    def refs(self, experiment: str) -> list[ModelRef]:
        """Members of an experiment, by recipe and seed; none where nothing is trained yet."""
        return self._kept.get(("refs", experiment), lambda: self._refs(experiment), FRESH_S)

    def recipes(self, experiment: str) -> list[RecipeEntry]:
        """Recipes of an experiment, by task and label."""
        groups: dict[tuple[str, str, str, str], list[float]] = {}
        for ref in self.refs(experiment):
            groups.setdefault((ref.task, ref.label, ref.recipe, ref.data_digest), []).append(ref.val_dice)
        return [
            RecipeEntry(recipe, label, task, digest, len(dice), sum(dice) / len(dice))
            for (task, label, recipe, digest), dice in sorted(groups.items())
        ]

    def ensembles(self) -> list[EnsembleEntry]:
        """Every version of every registered ensemble, the newest first."""
        return self._kept.get("ensembles", self._ensembles, FRESH_S)

    def ensemble(self, name: str, version: str) -> tuple[EnsembleEntry, str]:
        """A version of a registered ensemble and its model card, Markdown. Raises BadData where the card is gone."""
        entries = {f"{entry.name}/{entry.version}": entry for entry in self.ensembles()}
        wanted = f"{name}/{version}"
        if wanted not in entries:
            raise UnknownName(f"no ensemble '{wanted}'; {nearest_of(wanted, entries)}")
        uri = f"models:/{wanted}"
        return entries[wanted], self._cards.get(uri, lambda: read_card(self.client, find_version(self.client, uri)))

    def reports(self, experiment: str) -> list[ReportRun]:
        """Reports of an experiment, the newest first."""
        self._known(experiment)
        return [report for report in self._reports() if report.experiment == experiment]

    def report_run(self, run_id: str) -> ReportRun:
        """The run of a report, on its way or done."""
        for seconds in (FRESH_S, 0.0):  # one that was begun just now is asked for again
            reports = self._reports(seconds)
            for report in reports:
                if report.run_id == run_id:
                    return report
        raise UnknownName(f"no report '{run_id}'; {nearest_of(run_id, (report.run_id for report in reports))}")

    def report(self, run_id: str, task: str) -> LoadedReport:
        """A finished report of a task. Raises UnknownName for one that is not finished, and for another task."""
        return self._loaded.get((run_id, task), lambda: self._report(run_id, task))

    def cases(self, run_id: str, task: str) -> list[CaseEntry]:
        """The cases that a report scored: test cases, then those out of distribution, by name."""
        frame = self.report(run_id, task).frame
        named = frame[["case_id", "split", "domain", "site"]].astype(str).drop_duplicates("case_id")
        entries = [CaseEntry(*row) for row in named.itertuples(index=False)]
        return sorted(entries, key=lambda entry: (entry.split == _OOD, entry.case_id))

    def case(self, run_id: str, task: str, case_id: str) -> tuple[Case, str]:
        """The prepared arrays of a case of a report, and its split.

        Raises UnknownName for a case that the report did not score, BadData where the prepared arrays are not there.
        """
        entries = self.cases(run_id, task)
        entry = next((entry for entry in entries if entry.case_id == case_id), None)
        if entry is None:
            raise UnknownName(
                f"no case '{case_id}' in this report; {nearest_of(case_id, (e.case_id for e in entries))}"
            )
        digest = self._digest(self.report(run_id, task), entry.split)
        cohort = self._cohorts.get(digest, lambda: _cohort(digest))
        for case in cohort.cases(entry.split):
            if case_id in (case.case_id, f"{case.case_id}{OF_BOTH}"):
                return replace(case, case_id=case_id), entry.split
        raise BadData(f"prepared data {digest} must hold the case {case_id}, got none; prepare them again")

    def _digest(self, report: LoadedReport, split: str) -> str:
        digest = report.content["data_digest"] if split != _OOD else report.content.get("ood_digest")
        if not digest:
            run_id = report.run.run_id
            raise BadData(f"{run_id}: the report must name its out-of-distribution data, got none; make it again")
        return str(digest)

    def _experiments(self) -> list[Experiment]:
        reports: dict[str, list[ReportRun]] = {}
        for report in self._reports():
            reports.setdefault(report.experiment, []).append(report)
        every = self.client.search_experiments()
        found, swept = [], self._swept([str(known.experiment_id) for known in every])
        for known in every:
            name, refs, mine = str(known.name), self.refs(str(known.name)), reports.get(str(known.name), [])
            if refs or mine or str(known.experiment_id) in swept:
                times = [ref.created for ref in refs] + [report.started_ms for report in mine]
                tasks = tuple(sorted({ref.task for ref in refs}))
                newest = max(times, default=0)
                found.append(Experiment(name, str(known.experiment_id), len(refs), tasks, len(mine), newest))
        return sorted(found, key=lambda experiment: (-experiment.newest_ms, experiment.name))

    def _swept(self, ids: list[str]) -> set[str]:
        """Those of the experiments that have a sweep, trained or not."""
        runs = self.client.search_runs(ids, f"tags.`{tag('kind')}` = 'sweep'", max_results=1000) if ids else []
        return {str(run.info.experiment_id) for run in runs}

    def _refs(self, experiment: str) -> list[ModelRef]:
        self._known(experiment)
        try:
            return models(self.client, experiment)
        except BadData:  # nothing trained
            return []

    def _known(self, experiment: str) -> None:
        for seconds in (FRESH_S, 0.0):
            names = self._kept.get("names", self._names, seconds)
            if experiment in names:
                return
        raise UnknownName(f"no experiment named '{experiment}'; {nearest_of(experiment, names)}")

    def _names(self) -> set[str]:
        return {str(known.name) for known in self.client.search_experiments()}

    def _reports(self, seconds: float = FRESH_S) -> list[ReportRun]:
        return self._kept.get("reports", lambda: find_reports(self.client), seconds)

    def _report(self, run_id: str, task: str) -> LoadedReport:
        run = self.report_run(run_id)
        if run.status != "FINISHED":
            raise UnknownName(f"report '{run_id}' must be finished to be read, got {run.status.lower()}")
        if task not in run.tasks:
            raise UnknownName(f"no task '{task}' in report '{run_id}'; {nearest_of(task, run.tasks)}")
        folder = f"{run.tasks[task]}/" if run.tasks[task] else ""
        content = json.loads(report_file(self.client, run_id, f"{folder}report.json").read_text(encoding="utf-8"))
        frame = pd.read_parquet(report_file(self.client, run_id, f"{folder}cases.parquet"))
        return LoadedReport(run, task, content, frame)

    def _ensembles(self) -> list[EnsembleEntry]:
        return [
            EnsembleEntry(
                name=v.name, version=v.version, task=v.task, label=v.label, members=v.members, aliases=v.aliases,
                created_ms=v.created_ms, run_id=v.run_id or None, description=v.description, experiment=v.experiment,
            )
            for v in versions_of(self.client)
        ]  # fmt: skip


class _Kept:
    """Answers by key, each made once whoever asks at the same time; the oldest go when there are too many."""

    def __init__(self, limit: int = 1000) -> None:
        self._limit = limit
        self._renewed: set[Hashable] = set()  # by threads of their own
        self._answers: OrderedDict[Hashable, tuple[float, Any]] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}
        self._waiting: Counter[Hashable] = Counter()
        self._lock = threading.Lock()

    def get(self, key: Hashable, make: Callable[[], T], seconds: float = float("inf"), stale: float = 0.0) -> T:
        """The answer that is kept, if it is no older than `seconds`, else a new one. What `make` raises is not kept.

        An answer that is older than that, but no older than `stale` seconds, is given once more, and a thread makes a
        new one for those who come later.

        While somebody makes a new one, the others get the old one, so that readers do not queue; with seconds=0 all
        wait for the new one.
        """
        with self._lock:
            made, answer = self._answers.get(key, (float("-inf"), None))
            if seconds < time.monotonic() - made <= stale:
                if key not in self._renewed:
                    self._renewed.add(key)
                    threading.Thread(target=self._renew, args=(key, make, seconds), daemon=True).start()
                return cast(T, answer)
            making = self._making.setdefault(key, threading.Lock())
            self._waiting[key] += 1
        try:
            if not making.acquire(blocking=False):
                with self._lock:
                    if key in self._answers and seconds > 0:
                        return cast(T, self._answers[key][1])
                making.acquire()
            try:
                return self._fresh(key, make, seconds)
            finally:
                making.release()
        finally:
            with self._lock:
                self._waiting[key] -= 1
                if not self._waiting[key]:
                    del self._waiting[key], self._making[key]

    def _renew(self, key: Hashable, make: Callable[[], Any], seconds: float) -> None:
        try:
            self.get(key, make, seconds)
        except Exception:  # who comes when the old answer is too old meets it
            log.debug("%s could not be made anew", key, exc_info=True)
        finally:
            with self._lock:
                self._renewed.discard(key)

    def _fresh(self, key: Hashable, make: Callable[[], T], seconds: float) -> T:
        with self._lock:
            if key in self._answers and time.monotonic() - self._answers[key][0] <= seconds:
                self._answers.move_to_end(key)
                return cast(T, self._answers[key][1])
        answer = make()
        with self._lock:
            self._answers[key] = (time.monotonic(), answer)
            self._answers.move_to_end(key)
            while len(self._answers) > self._limit:
                self._answers.popitem(last=False)
        return answer


def nearest_of(name: str, known: Iterable[str]) -> str:
    """As `segcal.errors.nearest`; of many names only the nearest are listed."""
    names = sorted(known)
    if not names:
        return "there is none yet"
    if len(names) <= FEW:
        return nearest(name, names)
    close = get_close_matches(name, names, n=FEW, cutoff=0.4)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}nearest of {len(names)}: {', '.join(close or names[:FEW])}"


def _cohort(digest: str) -> PreparedCohort:
    return open_prepared(home() / "prepared" / digest)
