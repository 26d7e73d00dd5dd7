"""From an experiment's name to a report in a folder and in MLflow: what `segcal report` and the service both run."""

__all__ = ["make_report", "open_out_of_distribution", "run_analysis"]

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from segcal.analysis.build_report import Material, build_report
from segcal.analysis.members import load_pool
from segcal.analysis.request import Part, Request, Resolved, resolve
from segcal.analysis.word import Word, me
from segcal.data.prepared import PreparedCohort, open_prepared
from segcal.environment import home
from segcal.errors import BadData
from segcal.ledger.report_run import begin_report, describe_report, end_report, keep_report
from segcal.ledger.store import Store, open_store
from segcal.progress import Progress, silent
from segcal.records import Cell, Report
from segcal.report.page import write_report
from segcal.tasks import TaskSpec

EXPLORER = "http://127.0.0.1:8350"  # where `segcal serve` answers if it is told nothing else

Say = Callable[[str], None]


def make_report(request: Request, out: Path, say: Say) -> dict[str, Any]:
    """Build, write and log the report of an experiment; returns where it is and its main numbers.

    Reports of several tasks lie in a folder each.
    """
    client = open_store(new=False)
    resolved = resolve(client, request)
    for part in resolved.parts:
        for other, count in part.left_out.items():
            say(f"left out: {count} models trained on other data, digest {other} (--digest {other} reports on them)")
        count = sum(len(recipe.members) for recipe in part.recipes)
        say(f"{count} members of {len(part.recipes)} recipes in '{request.experiment}'")
    name = f"report {', '.join(part.task for part in resolved.parts)}"
    holder = me()  # a service that is asked the same waits for this one, and goes on with it if it dies
    run_id = begin_report(client, request.experiment, name, resolved.id, asdict(request), holder)
    with Word(client, run_id, holder) as word:

        def told(line: str) -> None:
            say(line)
            word.say(line)

        return run_analysis(client, resolved, run_id, out, told, word.progress)


def run_analysis(
    client: Store, resolved: Resolved, run_id: str, out: Path, say: Say, progress: Progress = silent
) -> dict[str, Any]:
    """Build and write the report of every part, and give an open report run its files, numbers and end.

    A run whose report cannot be made ends FAILED with the reason, one that is interrupted KILLED.
    """
    status, reason = "FAILED", ""
    try:
        made = [_make(client, resolved, part, out, say, progress) for part in resolved.parts]
        folders = {part.task: _folder(resolved, part) for part in resolved.parts}
        metrics = {name: value for report in made for name, value in _metrics(report, len(made) > 1).items()}
        progress("keeping the report in MLflow", 1, 1, resolved.experiment)
        keep_report(client, run_id, out, folders, _params(made), metrics)
        describe_report(client, run_id, _description(run_id, made))
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        raise
    finally:
        end_report(client, run_id, status, reason)
    return {
        "folder": str(out.absolute()),
        "pages": [str((out / folder / "report.html").absolute()) for folder in folders.values()],
        "run_id": run_id, "analysis_id": resolved.id, "data_digest": made[0].data_digest,
        "findings": [line for report in made for line in report.findings],
        "effects": {effect.name: effect.verdict for effect in made[0].effects},
        "laws_broken": [law.law for report in made for law in report.laws if law.broken],
    }  # fmt: skip


def _make(client: Store, resolved: Resolved, part: Part, out: Path, say: Say, progress: Progress) -> Report:
    request = resolved.request
    cohort = open_prepared(home() / "prepared" / part.digest)
    ood = open_out_of_distribution(part.ood_digest, say)
    gone = f"The out-of-distribution cohort of the sweep (digest {part.ood_digest}) is not here; nothing is said of it."
    remarks = (gone,) if part.ood_digest and not ood else ()

    def loaded(done: int, total: int, name: str) -> None:
        progress("reading checkpoints", done, total, name)

    task, pool = load_pool(client, part.recipes, part.digest, loaded)
    material = Material(_asked(task, request), cohort, ood, part.recipes, pool, remarks)
    report, scores = build_report(request, material, say, progress)
    say("drawing tables and figures")
    progress("drawing tables and figures", 1, 1, task.name)
    write_report(report, scores.frame, out / _folder(resolved, part))
    return report


def _asked(task: TaskSpec, request: Request) -> TaskSpec:
    """The task with the curve that was asked for."""
    sizes = tuple(sorted({1, *request.sizes})) if request.sizes else task.ensemble_sizes
    return replace(task, ensemble_sizes=sizes, curve_draws=request.draws or task.curve_draws)


def _folder(resolved: Resolved, part: Part) -> str:
    return part.task if len(resolved.parts) > 1 else ""


def open_out_of_distribution(digest: str | None, say: Say) -> PreparedCohort | None:
    """The cohort that a sweep prepared beside its own; None where it had none, and where it is gone, which is said."""
    if digest is None:
        return None
    try:
        return open_prepared(home() / "prepared" / digest)
    except BadData as error:
        say(f"no out-of-distribution cases: {error}")
        return None


def _params(made: list[Report]) -> Mapping[str, str]:
    first = made[0]
    versions = ", ".join(f"{ref.name}/{ref.version}" for report in made for ref in report.members)
    return {
        "task": ", ".join(report.task for report in made),
        "data_digest": ", ".join(report.data_digest for report in made), "code_version": first.code_version,
        "seed": str(first.seed), "n_resamples": str(first.n_resamples), "members": versions,
    }  # fmt: skip


def _metrics(report: Report, named: bool) -> dict[str, float]:
    """Points of the score tables as metrics, named [task.]table.column.method; the laws' values by their names."""
    metrics = {}
    for table in report.tables:
        for title, cells in table.rows:
            for name, cell in zip(table.columns, cells, strict=True):
                if isinstance(cell, Cell):
                    metrics[f"{table.key}.{name}.{title}"] = cell.point
    metrics |= {f"law.{effect.name}": effect.value for effect in report.effects}
    return {f"{report.task}.{name}": value for name, value in metrics.items()} if named else metrics


def _description(run_id: str, made: list[Report]) -> str:
    """Findings, and the way to the explorer."""
    where = os.environ.get("SEGCAL_URL", EXPLORER).rstrip("/")
    lines = []
    for report in made:
        link = f"{where}/reports/{run_id}/{report.task}"
        lines += [f"**{report.task}**: [look at tables and cases]({link}) (where `segcal serve` runs)", ""]
        lines += [*(f"- {line}" for line in report.findings), ""]
    return "\n".join(lines)
