"""A whole search: prepare the data, go on with the study, train candidates, tell MLflow, write the winner's file."""

__all__ = ["SearchResult", "run_search"]

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segcal.environment import environment
from segcal.journal.lease import Lease
from segcal.journal.reading import trial_storage
from segcal.journal.record import close_record, read_record
from segcal.ledger.location import tracking_uri
from segcal.ledger.read import held
from segcal.ledger.store import IMPATIENT, Store, is_away, open_store
from segcal.ledger.sweep_run import SweepRun
from segcal.progress import Progress
from segcal.search.candidate import Searching
from segcal.search.space import SearchPlan
from segcal.search.study import Candidate, Study, open_study
from segcal.search.view import Ending, SearchLines, SearchView
from segcal.search.winner import Score, best_first, candidates_csv, score_of, top_lines, winner_yaml
from segcal.sweep.held import given_storage, held_sweep, sweep_storage
from segcal.sweep.parent import keep_manifest, open_parent, telling
from segcal.sweep.project import Projection
from segcal.sweep.share_data import publish
from segcal.sweep.sweep_data import check_data, prepare_data
from segcal.sweep.trained import find_trained
from segcal.version import code_version


@dataclass(frozen=True)
class SearchResult:
    """What a search found. Candidates by their labels."""

    experiment: str
    run_id: str
    study: str
    candidates: int
    already_ended: int
    finished: tuple[str, ...]
    pruned: tuple[str, ...]
    diverged: dict[str, str]  # with the reason; they count as a Dice of 0
    failed: dict[str, str]  # to be trained on when the search is called again, as the unfinished are
    unfinished: tuple[str, ...]
    untold: dict[str, str]  # trials that MLflow could not be told of, with the reason
    winner: str = ""
    score: Score | None = None
    drawn: dict[str, object] = field(default_factory=dict)  # the winner's settings
    file: str = ""
    top: tuple[str, ...] = ()


def run_search(
    plan: SearchPlan,
    data: str,
    out: Path,
    source: str,
    say: Callable[[str], None],
    ood: str | None = None,
    progress: Progress | None = None,
    *,
    storage: str | None = None,
    address: str | None = None,
    view: Callable[[SearchView], SearchView] = lambda lines: lines,
) -> SearchResult:
    """Train candidates until there are as many as the plan wants, and write the best to `out`, a sweep file.

    Called again it goes on: what ended counts, what was cut short is trained on. data, ood, storage, address, say and
    progress are those of `run_sweep`. source: how the search was named, for the file's head. Raises SweepHeld where
    another driver works on the experiment.
    """
    check_data(plan.plan, data)
    uri, storage = tracking_uri(), given_storage(storage)
    client, experiment = open_store(uri), plan.plan.experiment
    records_at = sweep_storage(uri, experiment, storage)
    with held_sweep(records_at, say) as lease, environment({**IMPATIENT, "MLFLOW_TRACKING_URI": uri}):
        found = prepare_data(plan.plan, data, say, ood, progress)
        cohort, name = found.cohort, plan.study(found.cohort.digest)
        trained = find_trained(client, experiment, records_at, say)
        keep_manifest(cohort, records_at)
        if storage:
            publish(cohort, records_at)
        seen = None if storage else cohort.folder
        registered = {ref.key: ref.val_dice for ref in held(uri, experiment).members}
        searching = Searching(
            plan, cohort.digest, tuple(cohort.class_voxels), records_at, code_version(), seen, lease.token, registered
        )
        with open_study(plan.search, name, records_at) as study:
            before = [candidate for candidate in study.candidates() if candidate.state != "running"]
            say(
                f"search: {plan.search.trials} candidates of {len(plan.seeds)} seeds in experiment '{experiment}', "
                f"{len(before)} ended already; records in {records_at.uri}"
            )
            _mark_pruned(study, searching)
            sweep = open_parent(client, "search", plan.plan, plan.as_yaml(), found, records_at, lease, say)
            going_on = {key for c in study.candidates() if c.state == "running" for key in _keys(searching, c)}
            left, text = dict[str, Ending](), ""
            with telling(client, sweep, records_at, lease, say, trained.untold - going_on) as told:
                try:
                    if len(before) < plan.search.trials:
                        left = _train(study, searching, told.projection, lease, say, address, view)
                    told.projection.watch(_mark_pruned(study, searching))
                    told.status = _status(left)
                finally:
                    text = _tell(client, sweep, study, searching, data, source, say)
            ended = study.candidates()
    if text:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text)
    return _result(plan, sweep, name, ended, len(before), left, told.untold, out if text else None)


def _train(
    study: Study, searching: Searching, projection: Projection, lease: Lease, say: Callable[[str], None],
    address: str | None, view: Callable[[SearchView], SearchView],
) -> dict[str, Ending]:  # fmt: skip
    from segcal.search.schedule import run_candidates  # Ray takes seconds to import

    plan = searching.plan
    epochs = searching.assignments("candidate", _first_drawn(plan))[0].config.epochs
    lines = view(SearchLines(plan.search.trials, study.candidates(), epochs, say))
    told = _Telling(lines, projection, searching)
    return run_candidates(study, searching, plan.plan.resources, say, told, address=address, lost=lease.lost)


def _first_drawn(plan: SearchPlan) -> dict[str, object]:
    """Any point of the space."""
    return {name: d.choices[0] if d.choices else d.low for name, d in plan.search.space.items()}


class _Telling:
    """A view that has MLflow told of each candidate's trials while they are trained."""

    def __init__(self, view: SearchView, projection: Projection, searching: Searching) -> None:
        self._view, self._projection, self._searching = view, projection, searching

    def began(self, candidate: Candidate) -> None:
        self._projection.watch(_keys(self._searching, candidate))
        self._view.began(candidate)

    def round(self, candidate: Candidate) -> None:
        self._view.round(candidate)

    def ended(self, candidate: Candidate, ending: Ending) -> None:
        for key in _keys(self._searching, candidate):
            self._projection.ended(key)
            if ending.how == "failed":
                self._projection.failed(key, ending.why)
        self._view.ended(candidate, ending)

    def close(self) -> None:
        self._view.close()


def _keys(searching: Searching, candidate: Candidate) -> list[str]:
    return [given.config.key for given in searching.assignments(candidate.label, candidate.drawn)]


def _mark_pruned(study: Study, searching: Searching) -> list[str]:
    """End the trials of pruned candidates whose process was gone before it could say so itself; returns their keys."""
    marked, of = [], ("running", "stopped")
    for candidate in study.candidates():
        if candidate.state in ("pruned", "diverged"):
            for key in _keys(searching, candidate):
                trial = trial_storage(searching.storage, key)
                with contextlib.suppress(OSError, ValueError):
                    record = read_record(trial)
                    if record and record.state in of:
                        close_record(trial, "pruned", "", of)
                        marked.append(key)
    return marked


def _tell(
    client: Store, sweep: SweepRun, study: Study, searching: Searching, data: str, source: str,
    say: Callable[[str], None],
) -> str:  # fmt: skip
    """Keep the table and the winner's file with the search's run; returns the file, empty where nobody won."""
    plan, candidates = searching.plan, study.candidates()
    winner = _winner(candidates)
    text = ""
    if winner:
        config = searching.assignments("winner", winner.drawn)[0].config
        text = winner_yaml(plan, winner, config, len(candidates), data, source)
    try:
        client.log_text(sweep.run_id, candidates_csv(plan, candidates), "candidates.csv")
        if text:
            client.log_text(sweep.run_id, text, "winner.yaml")
    except Exception as error:
        if not is_away(error):
            raise
        say("the tracking store does not answer: it has no winner.yaml; call the search again for it")
    return text


def _winner(candidates: Sequence[Candidate]) -> Candidate | None:
    best = best_first(candidates)[:1]
    return best[0] if best and best[0].state == "finished" else None


def _status(left: dict[str, Ending]) -> str:
    how = {ending.how for ending in left.values()}
    return "KILLED" if "stopped" in how else "FAILED" if how else "FINISHED"


def _result(
    plan: SearchPlan, sweep: SweepRun, study: str, candidates: Sequence[Candidate], before: int,
    left: dict[str, Ending], untold: dict[str, str], file: Path | None,
) -> SearchResult:  # fmt: skip
    winner = _winner(candidates)
    by_state = {state: tuple(c.label for c in candidates if c.state == state) for state in ("finished", "pruned")}
    return SearchResult(
        plan.plan.experiment, sweep.run_id, study, len(candidates), before, by_state["finished"], by_state["pruned"],
        {c.label: c.error for c in candidates if c.state == "diverged"},
        {label: ending.why for label, ending in left.items() if ending.how == "failed"},
        tuple(label for label, ending in left.items() if ending.how == "stopped"),
        untold,
        winner.label if winner else "",
        score_of(winner) if winner else None,
        dict(winner.drawn) if winner else {},
        str(file) if file else "",
        tuple(top_lines(candidates)),
    )  # fmt: skip
