"""`segcal search`: look for a better recipe, and write it as a sweep file."""

__all__ = ["add_search"]

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segcal.cli.plan import add_place_arguments, add_sweep_arguments, given_settings
from segcal.cli.verb import add_verb, say
from segcal.errors import StoreUnreachable, TrialsFailed, needs
from segcal.progress import bars

if TYPE_CHECKING:
    from segcal.search.run_search import SearchResult


def add_search(verbs: Any) -> None:
    """The verb; it takes what `segcal sweep` takes."""
    verb = add_verb(
        verbs, "search", _search, "look for better settings of one recipe; the winner becomes a sweep file",
        "segcal search sweeps/brain-search.yaml --data BraTS17/ --scale paper",
    )  # fmt: skip
    add_sweep_arguments(verb)
    add_place_arguments(verb)
    verb.add_argument("--out", metavar="FILE", help="the winner's sweep file (default: EXPERIMENT-winner.yaml here)")


def _search(arguments: argparse.Namespace) -> None:
    from segcal.search.space import load_search

    plan = load_search(
        Path(arguments.file) if arguments.file else None,
        arguments.task or None,
        arguments.scale or None,
        arguments.experiment or None,
        given_settings(arguments),
    )
    with needs("search", "segcal search"):
        from segcal.search.run_search import run_search

    out = Path(arguments.out or f"{plan.plan.experiment}-winner.yaml")
    source = f"segcal search {arguments.file or ''}".strip()
    result = run_search(
        plan, arguments.data, out, source, say, ood=arguments.ood or None, progress=bars(say),
        storage=arguments.storage or None, address=arguments.address or None,
    )  # fmt: skip
    if arguments.json:
        print(json.dumps(asdict(result)))
    for line in result.top:
        say(line)
    _check(result)
    say(f"done: {result.candidates} candidates; {result.winner} won with a mean validation Dice of {result.score}")
    say(f"next: segcal sweep {result.file} --data {arguments.data}   with --set seeds=N for more seeds")


def _check(result: "SearchResult") -> None:
    if result.unfinished:
        raise KeyboardInterrupt
    if result.untold:
        reason = next(iter(result.untold.values()))
        raise StoreUnreachable(
            f"the tracking store must be told of every trial, got no answer for {len(result.untold)} ({reason}); all "
            "of them are on disk: call the search again when it answers"
        )
    if result.failed:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in result.failed.items())
        raise TrialsFailed(
            f"{len(result.failed)} of {result.candidates} candidates failed, the same command tries them again: "
            f"{reasons}"
        )
    if not result.winner:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in list(result.diverged.items())[:3])
        raise TrialsFailed(
            f"a search must have a candidate that is trained to its end, got {result.candidates} without: {reasons}"
        )
