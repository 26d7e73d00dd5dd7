"""How all figures look: colours, sizes of text, wrapped titles."""

__all__ = [
    "COLOURS", "INK", "LARGEST", "PROBABILITY", "SMALL", "SOFT", "STYLE", "TITLE", "WIDEST", "colour", "dash", "plain",
    "signed", "tidy", "wrapped",
]  # fmt: skip

import textwrap
from typing import Any

from matplotlib.axes import Axes

# Okabe and Ito: safe for colour-blind eyes
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", ":")
INK, SOFT = "#1d2733", "#5c6b7a"
PROBABILITY = "plasma"
WIDEST = 10.8  # inches
LARGEST = 2.3  # inches, side of a picture
TITLE, SMALL = 8.5, 7.0  # points
STYLE: dict[Any, Any] = {
    "font.size": 8.0,
    "axes.titlesize": TITLE,
    "axes.labelsize": 8.0,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "text.color": INK,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
}
EM = 0.56  # mean width of a letter over the size of the font


def colour(index: int) -> str:
    """The colour of the n-th thing; from the seventh on they come again, with another dash."""
    return COLOURS[index % len(COLOURS)]


def dash(index: int) -> str:
    """The line style that goes with `colour`."""
    return DASHES[index // len(COLOURS) % len(DASHES)]


def wrapped(text: str, inches: float, points: float = TITLE) -> str:
    """The text on as many lines as it needs to be no wider than `inches`."""
    letters = max(int(inches * 72 / (EM * points)), 6)
    return "\n".join(line for part in plain(text).split("\n") for line in textwrap.wrap(part, letters) or [""])


def plain(text: str) -> str:
    """Names as they are: a dollar of theirs begins no formula."""
    return text.replace("$", r"\$")


def signed(text: str) -> str:
    """Numbers with a true minus, as matplotlib writes its ticks."""
    return text.replace("-", "\N{MINUS SIGN}")


def tidy(axes: Axes) -> None:
    """No frame on top and on the right, small ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL, length=2.5, width=0.6)
