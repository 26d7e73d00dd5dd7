"""`segcal ensemble`: members of one recipe as a registered model that predicts, and says how far to trust it."""

__all__ = ["add_ensemble"]

import argparse
import datetime
import json
from dataclasses import asdict
from typing import Any

from segcal.cli.verb import add_verb, say


def add_ensemble(verbs: Any) -> None:
    """The verb and its nouns."""
    ensemble = verbs.add_parser("ensemble", help="register ensembles of trained members, and promote them")
    nouns = ensemble.add_subparsers(required=True, metavar="VERB")
    _add_create(nouns)
    listed = add_verb(nouns, "list", _list, "the registered ensembles, the newest first", "segcal ensemble list")
    listed.add_argument("--task", help="of this task only")
    show = add_verb(nouns, "show", _show, "the model card of an ensemble, or with --json its manifest",
                    "segcal ensemble show models:/segcal-brain-ensemble@candidate")  # fmt: skip
    promote = add_verb(nouns, "promote", _promote, "make an ensemble the champion of its task, which users load",
                       "segcal ensemble promote segcal-brain-ensemble/3")  # fmt: skip
    for verb in (show, promote):
        verb.add_argument("uri", metavar="URI", help="models:/NAME@ALIAS, models:/NAME/VERSION, or without models:/")


def _add_create(nouns: Any) -> None:
    verb = add_verb(
        nouns, "create", _create, "choose members of one recipe, score them together, register them as one model",
        "segcal ensemble create --experiment calib --recipe dice --members 10",
    )  # fmt: skip
    verb.add_argument("--experiment", default="calib", help="MLflow experiment with trained models (default: calib)")
    verb.add_argument("--recipe", required=True, help="label or id of the recipe")
    verb.add_argument("--members", type=int, metavar="N", help="how many; not with --select all")
    verb.add_argument("--select", default="best", metavar="HOW",
                      help="best (by validation Dice), random or all (default: best)")  # fmt: skip
    verb.add_argument("--task", help="task of the recipe, where the experiment has several")
    verb.add_argument("--digest", help="data digest, where the recipe was trained on several data")
    verb.add_argument("--seed", type=int, default=0, help="seed of a random choice and of resampling (default: 0)")
    verb.add_argument(
        "--alias", default="candidate", help="alias that the version gets; empty: none (default: candidate)"
    )
    verb.add_argument("--promote", action="store_true", help="make it the champion as well")
    verb.add_argument("--memory-gb", type=float, default=4.0, metavar="GB", help="memory for scoring (default: 4)")


def _create(arguments: argparse.Namespace) -> None:
    from segcal.ensemble.create import EnsembleRequest, create_ensemble

    result = create_ensemble(
        EnsembleRequest(
            arguments.experiment, arguments.recipe, arguments.members, arguments.select, arguments.task,
            arguments.digest, arguments.seed, arguments.alias, arguments.promote, memory_gb=arguments.memory_gb,
        ),
        say,
    )  # fmt: skip
    if arguments.json:
        print(json.dumps(result))
    also = f" ({', '.join(result['aliases'])})" if result["aliases"] else ""
    say(f"{'registered' if result['created'] else 'known'}: {result['uri']}{also}")
    say(f"next: segcal ensemble show {result['uri']}   or: segcal predict --model {result['uri']} IMAGE... --out DIR")


def _list(arguments: argparse.Namespace) -> None:
    from segcal.ledger.ensemble_version import versions_of
    from segcal.ledger.store import open_store

    found = [v for v in versions_of(open_store(new=False)) if arguments.task in (None, v.task)]
    if arguments.json:
        print(json.dumps([asdict(version) | {"uri": version.uri} for version in found]))
        return
    if not found:
        say("no ensemble is registered; `segcal ensemble create` makes one")
    rows = [
        (
            f"{v.name}/{v.version}", ", ".join(v.aliases) or "-", f"{v.members} x {v.label}", v.select, v.experiment,
            f"{datetime.datetime.fromtimestamp(v.created_ms / 1000):%Y-%m-%d %H:%M}",
        )
        for v in found
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip())


def _show(arguments: argparse.Namespace) -> None:
    from segcal.ensemble.manifest import from_json
    from segcal.ledger.ensemble_version import find_version, read_card, read_manifest
    from segcal.ledger.store import open_store

    client = open_store(new=False)
    version = find_version(client, arguments.uri)
    if arguments.json:
        manifest = from_json(read_manifest(client, version), version.title)
        print(json.dumps(asdict(version) | {"uri": version.uri, "manifest": asdict(manifest)}))
        return
    aliases = f" ({', '.join(version.aliases)})" if version.aliases else ""
    say(f"{version.uri}{aliases}, run {version.run_id}")
    print(read_card(client, version))


def _promote(arguments: argparse.Namespace) -> None:
    from segcal.ledger.ensemble_version import CHAMPION, find_version, give_alias, versions_of
    from segcal.ledger.store import open_store

    client = open_store(new=False)
    version = find_version(client, arguments.uri)
    before = next((v for v in versions_of(client, version.name) if CHAMPION in v.aliases), None)
    version = give_alias(client, version, CHAMPION)
    if arguments.json:
        print(json.dumps(asdict(version) | {"uri": version.uri, "before": before.version if before else None}))
    instead = f", instead of version {before.version}" if before and before.version != version.version else ""
    say(f"{version.title} is the champion{instead}")
