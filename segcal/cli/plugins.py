"""`segcal plugins`: what other packages add, where it comes from, and why something of it cannot be used."""

__all__ = ["add_plugins"]

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from segcal.cli.verb import add_verb

if TYPE_CHECKING:
    from segcal.plugins import Plugin


def add_plugins(verbs: Any) -> None:
    """The verb; it ends with 0 whatever state the plug-ins are in, because everything else works."""
    add_verb(
        verbs, "plugins", _plugins, "tasks, losses, layouts and metrics: what is there, from where, and why not",
        "segcal plugins",
    )  # fmt: skip


def _plugins(arguments: argparse.Namespace) -> None:
    from segcal.data.layouts import LAYOUTS
    from segcal.learn.losses import LOSSES
    from segcal.measure.metric import METRICS
    from segcal.tasks import TASKS

    found = [plugin for group in (TASKS, LOSSES, LAYOUTS, METRICS) for plugin in group.listed()]
    if arguments.json:
        print(json.dumps([asdict(plugin) for plugin in found]))
        return
    titles = ("group", "name", "from", "object", "state")
    rows = [titles, *(_row(plugin) for plugin in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(titles) - 1)]
    for row in rows:
        print("  ".join([*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]]))


def _row(plugin: "Plugin") -> tuple[str, ...]:
    state = f"{plugin.state}: {plugin.reason}" if plugin.reason else plugin.state
    return plugin.group, plugin.name, f"{plugin.distribution} {plugin.version}", plugin.object or "-", state
