"""How long steps tell how far they are: a bar on a terminal, a line for each step elsewhere (logs, `mlflow run`)."""

__all__ = ["Progress", "bars", "lines", "silent"]

import sys
from collections.abc import Callable
from typing import Any

# (what is done, steps done, steps in all, name of the last one); steps done count from 1
Progress = Callable[[str, int, int, str], None]


def silent(what: str, done: int, total: int, name: str) -> None:
    """No progress."""


def lines(say: Callable[[str], None]) -> Progress:
    """A line for each step."""
    return lambda what, done, total, name: say(f"{what} {done}/{total}: {name}")


def bars(say: Callable[[str], None]) -> Progress:
    """A bar for each `what` on a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        return lines(say)
    from tqdm import tqdm

    drawn: list[tqdm[Any]] = []

    def step(what: str, done: int, total: int, name: str) -> None:
        if not drawn:
            drawn.append(tqdm(desc=what, total=total, unit="case", file=sys.stderr, dynamic_ncols=True))
        drawn[0].set_postfix_str(name, refresh=False)
        drawn[0].update(done - drawn[0].n)
        if done == total:
            drawn.pop().close()

    return step
