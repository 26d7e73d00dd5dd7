"""What every verb has."""

__all__ = ["add_verb", "say", "seconds_of"]

import argparse
import re
import sys
from collections.abc import Callable
from typing import Any

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "": 3600}


def add_verb(
    verbs: Any, name: str, run: Callable[[argparse.Namespace], None], text: str, example: str
) -> argparse.ArgumentParser:
    """A verb with its help, an example and `--json`."""
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text, epilog=f"example: {example}")
    verb.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    verb.set_defaults(run=run)
    return verb


def seconds_of(text: str) -> float | None:
    """Seconds of a time such as 24h, 90m, 30s, 2d, or a number of hours; None for any other text."""
    parts = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([smhd]?)\s*", text)
    return float(parts[1]) * _SECONDS[parts[2]] if parts else None


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)
