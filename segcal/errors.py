"""Errors a user can act on: one line with the rule, the value and the remedy, and the exit code of the command line."""

__all__ = [
    "BadData", "MissingExtra", "SegcalError", "StoreUnreachable", "SweepHeld", "TrialsFailed", "UnknownName",
    "UsageError", "first_line", "nearest", "needs",
]  # fmt: skip

import contextlib
import difflib
from collections.abc import Iterable, Iterator


class SegcalError(Exception):
    """A failure with a message for the user; anything else that escapes is a defect of segcal."""

    exit_code = 1


class MissingExtra(SegcalError):
    """A library that comes with one of segcal's extras is not installed."""


class SweepHeld(SegcalError):
    """Another driver works on the sweep."""


class UsageError(SegcalError):
    """The request itself cannot be carried out: an unknown name, a value out of range."""

    exit_code = 2


class UnknownName(UsageError):
    """An experiment, recipe, model, case ... that is not there; the message ends with the nearest names."""


class TrialsFailed(SegcalError):
    """Some trials failed; all others finished."""

    exit_code = 3


class BadData(SegcalError):
    """The images, labels, models or records at hand break a rule."""

    exit_code = 4


class StoreUnreachable(SegcalError):
    """The tracking store does not answer, or is of another MLflow."""

    exit_code = 5


@contextlib.contextmanager
def needs(extra: str, what: str) -> Iterator[None]:
    """A block that imports what only an extra brings: MissingExtra where that is not installed.

    >>> with needs("search", "segcal search"):
    ...     import optuna
    """
    try:
        yield
    except ImportError as error:  # fsspec raises its own, with the import that failed as its cause
        cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
        if cause.name and cause.name.partition(".")[0] == "segcal":
            raise  # a defect of segcal
        missing = cause.name if isinstance(cause, ModuleNotFoundError) and cause.name else f"more ({error})"
        remedy = f'pip install "segcal[{extra}]"'
        raise MissingExtra(f"{what} needs {missing}, which is not installed: {remedy}") from None


def first_line(error: BaseException) -> str:
    """What an error of somebody else says, without the lines that follow; its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an "unknown name" message: the nearest known name where there is one, and all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}known: {', '.join(names)}"
