"""The command line: parse and dispatch. Progress goes to stderr, `--json` to stdout.

Exit codes: 0 ok, 1 failure, 2 usage, 3 some trials failed, 4 bad data, 5 tracking store unreachable, 130 interrupted.
"""

__all__ = ["main"]

import argparse
import errno
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.contrib.logging import logging_redirect_tqdm

from segcal import __version__
from segcal.cli.data import add_data
from segcal.cli.ensemble import add_ensemble
from segcal.cli.gc import add_gc
from segcal.cli.plan import add_place_arguments, add_plan, add_sweep_arguments, load_sweep
from segcal.cli.plugins import add_plugins
from segcal.cli.predict import add_predict
from segcal.cli.search import add_search
from segcal.cli.serve import add_serve
from segcal.cli.status import add_status
from segcal.cli.verb import add_verb, say
from segcal.errors import SegcalError, StoreUnreachable, TrialsFailed, UsageError
from segcal.progress import bars

if TYPE_CHECKING:
    from segcal.sweep.run_sweep import View

# Heavy libraries are imported by the verb that needs them, so that --help is quick.


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    arguments = _parser().parse_args(argv)
    try:
        with logging_redirect_tqdm():  # warnings stand above a progress bar, not in it
            arguments.run(arguments)
        return 0
    except SegcalError as error:
        print(f"segcal: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        what = str(interrupt) or "the same command goes on where it stopped"
        print(f"segcal: interrupted; {what}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        full = error.errno == errno.ENOSPC or "free space" in str(error)  # numpy says it without a number
        remedy = "; free some, or set SEGCAL_HOME to another disk" if full else ""
        if error.errno in (errno.EACCES, errno.EROFS):
            remedy = "; work in a folder that is yours, or name one with --out"
        print(f"segcal: {error.strerror or error}{where}{remedy}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segcal", description="How far can the probabilities of medical segmentation networks be trusted?"
    )
    parser.add_argument("--version", action="version", version=f"segcal {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    add_plan(verbs)
    _add_sweep(verbs)
    add_search(verbs)
    add_status(verbs)
    _add_report(verbs)
    add_ensemble(verbs)
    add_predict(verbs)
    add_serve(verbs)
    add_data(verbs)
    _add_task(verbs)
    add_plugins(verbs)
    add_gc(verbs)
    _add_doctor(verbs)
    return parser


def _add_sweep(verbs: Any) -> None:
    verb = add_verb(
        verbs, "sweep", _sweep, "train every recipe with every seed, keep all of it in MLflow",
        "segcal sweep --task brain --data BraTS17/ --scale paper",
    )  # fmt: skip
    add_sweep_arguments(verb)
    add_place_arguments(verb)
    verb.add_argument("--reconcile", action="store_true", help="train nothing: tell MLflow all that is on record, and "
                      "close the runs that a killed sweep left open")  # fmt: skip


def _add_report(verbs: Any) -> None:
    verb = add_verb(
        verbs, "report", _report, "assemble ensembles, compare recipes, write the report",
        "segcal report --experiment calib --out reports/calib",
    )  # fmt: skip
    verb.add_argument("--experiment", default="calib", help="MLflow experiment with trained models (default: calib)")
    verb.add_argument("--out", metavar="DIR", help="folder of the report (default: reports/EXPERIMENT)")
    verb.add_argument("--task", action="append", default=[], metavar="TASK", dest="tasks",
                      help="a task of the experiment, more than one if repeated (default: the newest's)")  # fmt: skip
    verb.add_argument("--method", action="append", default=[], metavar="RECIPE", dest="methods",
                      help="only this recipe, by its label; more than one if repeated")  # fmt: skip
    verb.add_argument("--sizes", metavar="M,M", help="sizes M of ensembles on the curve (default: the task's)")
    verb.add_argument("--draws", type=int, metavar="N", help="ensembles drawn for each M (default: the task's)")
    verb.add_argument("--digest", help="report on the models of this data digest, where there are several")
    verb.add_argument("--seed", type=int, default=0, help="seed of draws and resampling (default: 0)")
    verb.add_argument("--resamples", type=int, default=10_000, help="bootstrap resamples (default: 10000)")
    verb.add_argument("--memory-gb", type=float, default=4.0, metavar="GB", help="memory for scoring (default: 4)")
    verb.add_argument("--compare-paper", action="store_true", help="put the paper's numbers beside ours")


def _add_task(verbs: Any) -> None:
    task = verbs.add_parser("task", help="show a task, as a file to start your own from")
    nouns = task.add_subparsers(required=True, metavar="VERB")
    show = add_verb(nouns, "show", _task_show, "print a task as YAML, every field explained",
                 "segcal task show brain > mytask.yaml")  # fmt: skip
    show.add_argument("name", help="a task by its name, a YAML file, or a folder of data in a layout that tells it")
    add_verb(nouns, "list", _task_list, "the built-in tasks, and those of plug-ins", "segcal task list")


def _add_doctor(verbs: Any) -> None:
    verb = add_verb(verbs, "doctor", _doctor, "versions, cores and GPUs, tracking store, disk, and what would run",
                 "segcal doctor")  # fmt: skip
    verb.add_argument("--task", default="brain", help="task whose sweep to look at (default: brain)")


def _sweep(arguments: argparse.Namespace) -> None:
    plan = load_sweep(arguments)  # before Ray's and MLflow's imports: a wrong request is answered at once
    from segcal.sweep.run_sweep import reconcile, run_sweep

    if arguments.reconcile:
        untold = reconcile(plan.experiment, say, arguments.storage or None)
        if arguments.json:
            print(json.dumps({"experiment": plan.experiment, "untold": untold}))
        _check_told(untold)
        return
    result = run_sweep(
        plan, arguments.data, say, ood=arguments.ood or None, progress=bars(say), storage=arguments.storage or None,
        address=arguments.address or None, view=_view_of(plan.experiment),
    )  # fmt: skip
    if arguments.json:
        print(json.dumps(asdict(result)))
    if result.unfinished:
        raise KeyboardInterrupt
    _check_told(result.untold)
    if result.failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in result.failed.items())
        raise TrialsFailed(f"{len(result.failed)} of {result.trials} trials failed, the others finished: {reasons}")
    say(f"done: {result.trials} trained models in experiment '{result.experiment}'")
    say(f"next: segcal report --experiment {result.experiment}   or browse: mlflow ui")


def _view_of(experiment: str) -> "View | None":
    """A live view where stderr is a terminal that can redraw; None: lines."""
    if not sys.stderr.isatty():
        return None
    from rich.console import Console

    from segcal.sweep.live import LiveView

    console = Console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        return None
    return lambda assignments: LiveView(assignments, experiment, console)


def _check_told(untold: Mapping[str, str]) -> None:
    from segcal.sweep.project import AWAY

    if untold:
        reason = next((reason for reason in untold.values() if reason != AWAY), AWAY)
        raise (StoreUnreachable if reason == AWAY else SegcalError)(
            f"MLflow must be told of every trial, got {len(untold)} that it was not told of ({reason}); all are on "
            "disk: call `segcal sweep --reconcile` when that is over"
        )


def _report(arguments: argparse.Namespace) -> None:
    from segcal.analysis.request import Request
    from segcal.analysis.run_analysis import make_report

    out = Path(arguments.out or Path("reports") / arguments.experiment)
    request = Request(
        arguments.experiment, tuple(arguments.tasks), tuple(arguments.methods), _sizes(arguments.sizes),
        arguments.draws, arguments.digest, arguments.seed, arguments.resamples, arguments.memory_gb,
        arguments.compare_paper,
    )  # fmt: skip
    result = make_report(request, out, say)
    if arguments.json:
        print(json.dumps(result))
    for page in result["pages"]:
        say(f"report: {page}")


def _sizes(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(",")) if text else ()
    except ValueError:
        raise UsageError(f"--sizes must be numbers with commas between, such as 1,2,5, got '{text}'") from None


def _task_show(arguments: argparse.Namespace) -> None:
    from segcal.data.taskfile import load_task, task_yaml

    task = load_task(arguments.name)
    print(json.dumps(asdict(task)) if arguments.json else task_yaml(task), end="")


def _task_list(arguments: argparse.Namespace) -> None:
    from segcal.tasks import TASKS

    if arguments.json:
        print(json.dumps(list(TASKS)))
    else:
        for task in TASKS.values():
            of = f" (plug-in {plugin.distribution})" if (plugin := TASKS.plugin(task.name)) else ""
            print(f"{task.name}: {', '.join(task.channels)} -> {', '.join(task.structures)}{of}")


def _doctor(arguments: argparse.Namespace) -> None:
    from segcal.doctor import examine

    findings = examine(arguments.task)
    if arguments.json:
        print(json.dumps(findings))
    else:
        for name, finding in findings.items():
            print(f"{name:18} {finding}")
    if not findings["store answers"]:
        raise StoreUnreachable(findings["store says"])
