"""Errors a user can act on: one line with the rule, the value and the remedy, and the exit code of the command line."""

__all__ = [
    "BadData", "SegcalError", "StoreUnreachable", "SweepHeld", "TrialsFailed", "UnknownName", "UsageError", "nearest",
]  # fmt: skip

import difflib
from collections.abc import Iterable


class SegcalError(Exception):
    """A failure with a message for the user; anything else that escapes is a defect of segcal."""

    exit_code = 1


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
    """The tracking store does not answer."""

    exit_code = 5


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an "unknown name" message: the nearest known name where there is one, and all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}known: {', '.join(names)}"
