"""What every verb has."""

__all__ = ["add_verb", "say"]

import argparse
import sys
from collections.abc import Callable
from typing import Any


def add_verb(
    verbs: Any, name: str, run: Callable[[argparse.Namespace], None], text: str, example: str
) -> argparse.ArgumentParser:
    """A verb with its help, an example and `--json`."""
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text, epilog=f"example: {example}")
    verb.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    verb.set_defaults(run=run)
    return verb


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)
