"""`segcal plan`: what a sweep will take, before it takes it."""

__all__ = ["add_place_arguments", "add_plan", "add_sweep_arguments", "given_settings", "load_sweep"]

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segcal.cli.verb import add_verb, say, seconds_of
from segcal.errors import UsageError
from segcal.progress import bars
from segcal.sweep.estimate import Span, duration

if TYPE_CHECKING:
    from segcal.sweep.plan import Plan
    from segcal.sweep.plan_sweep import SweepPlan


def add_plan(verbs: Any) -> None:
    """The verb; it takes what `segcal sweep` takes."""
    verb = add_verb(
        verbs, "plan", _plan, "time a few steps of each recipe; say how long the sweep takes and what it stores",
        "segcal plan --task brain --data BraTS17/ --scale paper --within 48h",
    )  # fmt: skip
    add_sweep_arguments(verb)
    verb.add_argument("--members", type=int, metavar="N", help="members of each recipe (default: the sweep's seeds)")
    verb.add_argument("--cpus", type=int, metavar="N", help="cores to plan for (default: this machine's)")
    verb.add_argument(
        "--gpus", type=int, metavar="N", help="GPUs to plan for, of this machine's kind (default: its own)"
    )
    verb.add_argument("--within", metavar="TIME", help="warn if the sweep takes longer: 24h, 90m, 2d, or hours")


def add_sweep_arguments(verb: argparse.ArgumentParser) -> None:
    """Which sweep: the same arguments for `segcal sweep` and `segcal plan`."""
    verb.add_argument("file", nargs="?", help="sweep file; without one, the task's own below sweeps/")
    verb.add_argument("--task", help="a built-in task or the path of a task's YAML file")
    verb.add_argument("--data", default="embedded", metavar="DIR", help="folder of images (default: the embedded data)")
    verb.add_argument("--ood", metavar="DIR", help="folder of the cohort that is only tested on, such as PROMISE12")
    verb.add_argument("--scale", help="a scale of the sweep file: demo, study, paper (default: demo, where it has one)")
    verb.add_argument("--experiment", help="MLflow experiment (default: the sweep file's, calib)")
    verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings",
                      help="replace a value of the sweep file: seeds=2, epochs=10, recipes.ce.lr=0.01; "
                      "several in one are separated by ;")  # fmt: skip


def add_place_arguments(verb: argparse.ArgumentParser) -> None:
    """Where a sweep's records are and where it is trained: the same for all verbs that train."""
    verb.add_argument("--storage", metavar="URI", help="folder or URI of the records, seen by all machines that train "
                      "(default: $SEGCAL_STORAGE, or beside the tracking store)")  # fmt: skip
    verb.add_argument("--address", help="address of a Ray cluster (default: $RAY_ADDRESS, or a Ray of this machine)")


def load_sweep(arguments: argparse.Namespace) -> "Plan":
    """The sweep that the arguments name. Raises UsageError for the first thing that is wrong."""
    from segcal.sweep.plan import load_plan

    return load_plan(
        Path(arguments.file) if arguments.file else None,
        arguments.task or None,
        arguments.scale or None,
        arguments.experiment or None,
        given_settings(arguments),
    )


def given_settings(arguments: argparse.Namespace) -> list[str]:
    """The values of --set. `mlflow run` passes every parameter; one that was not given is empty."""
    return [part.strip() for text in arguments.settings for part in text.split(";") if part.strip()]


def within_seconds(text: str) -> float:
    """Seconds of a time such as 24h, 90m, 30s, 2d, or a number of hours. Raises UsageError for any other text."""
    seconds = seconds_of(text)
    if not seconds or not math.isfinite(seconds):
        raise UsageError(f"--within must be a time above 0, got '{text}'; write 24h, 90m, 30s, 2d, or hours")
    return seconds


def _plan(arguments: argparse.Namespace) -> None:
    within_s = within_seconds(arguments.within) if arguments.within else None
    plan = load_sweep(arguments)
    from segcal.sweep.plan_sweep import Request, plan_sweep

    request = Request(arguments.members, arguments.cpus, arguments.gpus, within_s)
    result = plan_sweep(plan, arguments.data, request, say, ood=arguments.ood or None, progress=bars(say))
    print(json.dumps(asdict(result)) if arguments.json else "\n".join(_lines(result)))
    for warning in result.warnings:
        say(f"warning: {warning}")


def _lines(plan: "SweepPlan") -> list[str]:
    whole = plan.estimate
    head = ("recipe", "trials", f"{plan.items}/s", "s/epoch", "epochs", "a trial", "all its trials")
    rows = [head] + [
        (
            cost.label,
            str(cost.trials),
            f"{cost.items_per_s:.3g}",
            f"{cost.epoch_s:.3g}",
            _range(cost.epochs, lambda n: f"{n:.0f}"),
            _range(cost.trial_s, duration),
            _range(cost.total_s, duration),
        )
        for cost in whole.recipes
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        f"{row[0]:{widths[0]}}  "
        + "  ".join(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in rows
    ]
    scale = f" (scale {plan.scale})" if plan.scale else ""
    first = (
        f"{plan.task}{scale} into experiment '{plan.experiment}': {whole.trials} trials to train, "
        f"{whole.trained} trained already"
    )
    return [first, "", *table, "", *_summary(plan)]


def _summary(plan: "SweepPlan") -> list[str]:
    whole = plan.estimate
    stored = whole.storage
    counts = _range(stored.checkpoints, lambda n: f"{n:.0f}")
    free = f"; {size(plan.free_bytes)} are free there" if plan.free_bytes is not None else ""
    members = sum(cost.members for cost in whole.recipes)
    tested = plan.cases["test"] + plan.cases.get("ood", 0)
    lines = {
        "wall time": f"{_range(whole.wall_s, duration)}: {whole.at_once} at a time on {plan.slots}",
        "trial time": f"{_range(whole.trial_s, duration)}, one after another",
        "checkpoints": f"{_range(stored.checkpoint_bytes, size)}: {counts} of them"
        f", in {plan.artifacts or 'the tracking server'}{free}",
        "database": _range(stored.database_bytes, size),
        "prepared data": f"{size(plan.prepared_bytes)}, there already: {plan.prepared}",
        "report": f"{duration(whole.report_s)} to predict {tested} test cases with all {members} members; "
        "scoring comes on top",
    }
    if plan.within:
        lines[f"within {duration(plan.within.limit_s)}"] = plan.within.verdict
    return [f"{name:14} {text}" for name, text in lines.items()]


def size(count: float) -> str:
    """Bytes in powers of 1000."""
    limits = {"kB": (1e3, 1e6), "MB": (1e6, 1e9), "GB": (1e9, 1e12), "TB": (1e12, math.inf)}
    unit = next(name for name, (_, limit) in limits.items() if count < limit)
    value = count / limits[unit][0]
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"


def _range(span: Span, told: Callable[[float], str]) -> str:
    """`4 to 9 (about 6)`; one value where they read the same."""
    least, most = told(span.least), told(span.most)
    if least == most:
        return str(least)
    about = f" (about {told(span.expected)})" if span.expected is not None else ""
    return f"{least} to {most}{about}"
