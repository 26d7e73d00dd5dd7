"""The picture to look at before the numbers of a prediction are used: three planes, outlines, entropy, findings."""

__all__ = ["CheckPicture", "Finding", "draw_check"]

import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib.patheffects as effects
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from segcal.report.contact_sheet import INNER, OUTLINES
from segcal.report.figures.theme import plain

WIDEST, TALLEST = 8.6, 3.3  # inches: a row of planes
SIDE = 4.9  # inches: the numbers beside them
THIN = 0.4  # inches: in a narrower plane letters would cover the image
GAP, TOP, CAPTION, FOOT = 0.12, 0.5, 0.2, 0.62  # inches
LINE, BLOCK = 0.18, 0.34  # inches: from one line of text to the next, and from one structure to the next
LETTERS = 60  # of a line of text
SHOWN = 6  # warnings
PALEST = 0.3  # share of the largest entropy from which it is painted fully
MARGIN = 4  # voxels around what is not empty
WHITE, GREY, SOFT, WARN, FLAG, FINE = "#f2f2f2", "#b4bac2", "#7d8792", "#ffb454", "#ff7b72", "#7ee787"
HEATMAP = "inferno"
SHADE = [effects.withStroke(linewidth=2, foreground="black")]  # letters on bright tissue


@dataclass(frozen=True)
class Finding:
    """One structure in numbers."""

    name: str
    volume_ml: float
    entropy_nats: float | None
    dice: Mapping[str, Any] | None  # point, low, high, level, extrapolated


@dataclass(frozen=True)
class CheckPicture:
    """What the picture shows. Arrays are (Z, Y, X) of one grid, turned as people look at them."""

    case_id: str
    model: str
    images: Mapping[str, np.ndarray]  # one or two channels in [0, 1]: under the outlines, and under the entropy
    classes: np.ndarray
    entropy: np.ndarray  # nats
    spacing_mm: tuple[float, float, float]  # (z, y, x)
    ends: tuple[tuple[str, str], ...]  # where each axis begins and ends: ("I", "S") of z
    findings: tuple[Finding, ...]  # of the classes 1, 2, ...
    novelty: Mapping[str, Any] | None
    no_novelty: str = ""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plane:
    """One plane: its place along its axis, and which axes go down and to the right."""

    axis: int
    index: int
    down: int
    right: int


def draw_check(picture: CheckPicture, path: Path) -> None:
    """Write the picture as PNG: above the outlines, below the entropy, in the planes where most is predicted.

    Without any prediction the planes go through the middle.
    """
    box = _not_empty(picture)
    planes = [_plane(picture.classes, box, *axes) for axes in ((0, 1, 2), (1, 0, 2), (2, 0, 1))]
    side_mm = [(part.stop - part.start) * mm for part, mm in zip(box, picture.spacing_mm, strict=True)]
    width_mm = sum(side_mm[plane.right] for plane in planes)
    scale = min((WIDEST - 2 * GAP) / width_mm, TALLEST / max(side_mm[plane.down] for plane in planes))
    row = max(max(side_mm[plane.down] for plane in planes) * scale, 1.9)
    left = max(width_mm * scale + 4 * GAP, 4.0)
    told = _told(picture)
    numbers = 0.3 + BLOCK * len(picture.findings) + 0.5 + LINE * len(told) + FOOT
    width, height = left + SIDE, max(TOP + 2 * (CAPTION + row + GAP) + FOOT, numbers)
    figure = Figure(figsize=(width, height), facecolor="black")
    channels = list(picture.images)
    for line, channel in enumerate((channels[0], channels[-1])):
        top = height - TOP - line * (CAPTION + row + GAP)
        what = "predicted outlines" if line == 0 else "entropy"
        figure.text(GAP / width, (top - 0.02) / height, plain(f"{what} on {_short(channel, 30)}"), color=GREY,
                    fontsize=7.5, va="top")  # fmt: skip
        x = GAP
        for plane in planes:
            w, h = side_mm[plane.right] * scale, side_mm[plane.down] * scale
            bottom = top - CAPTION - row / 2 - h / 2
            axes = figure.add_axes((x / width, bottom / height, w / width, h / height))
            _paint(axes, picture, plane, box, channel, outlines=line == 0, letters=line == 0 and min(w, h) >= THIN)
            x += w + GAP
    figure.text(GAP / width, 1 - 0.16 / height, plain(_short(picture.case_id, 60)), color=WHITE, fontsize=13,
                fontweight="bold", va="top")  # fmt: skip
    _bar(figure, width, height, left, math.log(len(picture.findings) + 1))
    _numbers(figure, picture, told, left, width, height)
    figure.savefig(path, dpi=130, facecolor="black")


def _not_empty(picture: CheckPicture) -> tuple[slice, slice, slice]:
    """The part of the grid that holds anything, with a margin; all of it where nothing does."""
    there = (picture.classes > 0) | np.any([image > 0.02 for image in picture.images.values()], axis=0)
    parts = []
    for axis in range(3):
        line = np.flatnonzero(there.any(axis=tuple(other for other in range(3) if other != axis)))
        size = there.shape[axis]
        first, last = (line[0], line[-1]) if len(line) else (0, size - 1)
        parts.append(slice(max(int(first) - MARGIN, 0), min(int(last) + MARGIN + 1, size)))
    return parts[0], parts[1], parts[2]


def _plane(classes: np.ndarray, box: tuple[slice, ...], axis: int, down: int, right: int) -> Plane:
    areas = np.count_nonzero(classes, axis=(down, right))
    middle = (box[axis].start + box[axis].stop - 1) // 2
    largest = np.flatnonzero(areas == areas.max())
    return Plane(axis, int(largest[len(largest) // 2]) if areas.any() else middle, down, right)


def _paint(
    axes: Axes, picture: CheckPicture, plane: Plane, box: tuple[slice, ...], channel: str, outlines: bool, letters: bool
) -> None:
    view = tuple(plane.index if axis == plane.axis else box[axis] for axis in range(3))
    origin: Literal["lower", "upper"] = "lower" if plane.down == 0 else "upper"  # the first slice lies below
    aspect = picture.spacing_mm[plane.down] / picture.spacing_mm[plane.right]
    image = picture.images[channel][view]
    axes.imshow(image if outlines else 0.75 * image, cmap="gray", vmin=0, vmax=1, aspect=aspect, origin=origin)
    classes = picture.classes[view]
    if outlines:
        for number in range(1, len(picture.findings) + 1):
            inside = classes == number
            if inside.any() and not inside.all():
                axes.contour(inside, levels=[INNER], colors=[_colour(number)], linewidths=1.0)
    else:
        most = math.log(len(picture.findings) + 1)
        share = np.clip(picture.entropy[view] / most, 0, 1)
        layer = colormaps[HEATMAP](share)
        layer[..., 3] = np.clip(share / PALEST, 0, 1)  # the image shows where the networks are sure
        axes.imshow(layer, aspect=aspect, origin=origin)
    axes.set_axis_off()
    first, last = picture.ends[plane.right]
    top, bottom = picture.ends[plane.down][:: 1 if origin == "upper" else -1]
    mark: dict[str, Any] = {"color": WHITE, "fontsize": 7, "transform": axes.transAxes, "path_effects": SHADE}
    if letters:
        axes.text(0.01, 0.5, first, ha="left", va="center", **mark)
        axes.text(0.99, 0.5, last, ha="right", va="center", **mark)
        axes.text(0.5, 0.99, top, ha="center", va="top", **mark)
        axes.text(0.5, 0.01, bottom, ha="center", va="bottom", **mark)
    axes.text(0.99, 0.01, f"{'zyx'[plane.axis]} {plane.index}", ha="right", va="bottom", **mark)


def _bar(figure: Figure, width: float, height: float, left: float, most: float) -> None:
    axes = figure.add_axes((GAP / width, 0.36 / height, min(3.0, left - 2 * GAP) / width, 0.09 / height))
    axes.imshow(np.linspace(0, 1, 256)[None], cmap=HEATMAP, aspect="auto", extent=(0, most, 0, 1), norm=Normalize(0, 1))
    axes.set_yticks([])
    axes.set_xticks([0, most / 2, most], ["0", f"{most / 2:.2f}", f"{most:.2f} nats"])
    axes.tick_params(colors=GREY, labelsize=7, length=2, width=0.5, pad=1.5)
    axes.set_frame_on(False)
    axes.get_xticklabels()[0].set_horizontalalignment("left")
    axes.get_xticklabels()[-1].set_horizontalalignment("right")
    axes.set_title("entropy", color=GREY, fontsize=7.5, loc="left", pad=2)


def _numbers(
    figure: Figure, picture: CheckPicture, told: list[tuple[str, str]], left: float, width: float, height: float
) -> None:
    """The column beside the planes: a block a structure, the verdict, the warnings."""
    y = height - 0.3
    at = left + 0.15

    def write(text: str, x: float = at, colour: str = WHITE, size: float = 9.0, **how: Any) -> None:
        figure.text(x / width, y / height, plain(text), color=colour, fontsize=size, va="center", **how)

    for text, x, side in (("structure", at, "left"), ("ml", at + 1.8, "right"), ("H(S), nats", at + 2.5, "right"),
                          ("predicted Dice, 95%", at + 2.7, "left")):  # fmt: skip
        write(text, x, SOFT, 7.5, ha=side)
    for number, finding in enumerate(picture.findings, start=1):
        y -= BLOCK
        write(_short(finding.name, 19), colour=_colour(number), fontweight="bold")
        write(
            f"{finding.volume_ml:.3g}" if finding.volume_ml < 1000 else f"{finding.volume_ml:.0f}",
            at + 1.8,
            ha="right",
        )
        write("–" if finding.entropy_nats is None else f"{finding.entropy_nats:.2f}", at + 2.5, ha="right")
        if finding.dice is None:
            write("–", at + 2.7, SOFT)
            continue
        axes = figure.add_axes(((at + 2.7) / width, (y - 0.08) / height, 1.0 / width, 0.16 / height))
        _interval(axes, finding.dice, _colour(number))
        text = f"{finding.dice['point']:.2f} ({finding.dice['low']:.2f}–{finding.dice['high']:.2f})"
        figure.text((at + 3.78) / width, y / height, text, color=WARN if finding.dice["extrapolated"] else WHITE,
                    fontsize=7.5, va="center")  # fmt: skip
    y -= 0.5
    for index, (line, colour) in enumerate(told):
        write(line, colour=colour, **({"size": 10.0, "fontweight": "bold"} if index == 0 else {"size": 8.0}))
        y -= LINE
    figure.text((width - 0.12) / width, 0.12 / height, plain(f"{picture.model}\nresearch use: not a medical device"),
                color=SOFT, fontsize=7, ha="right", va="bottom")  # fmt: skip


def _interval(axes: Axes, dice: Mapping[str, Any], colour: str) -> None:
    axes.plot([0, 1], [0, 0], color="#3a424c", linewidth=3, solid_capstyle="butt")
    axes.plot([dice["low"], dice["high"]], [0, 0], color=colour, linewidth=3, solid_capstyle="butt")
    axes.plot([dice["point"]], [0], marker="|", color="white", markersize=9, markeredgewidth=1.6)
    axes.set(xlim=(-0.02, 1.02), ylim=(-1, 1))
    axes.set_axis_off()


def _told(picture: CheckPicture) -> list[tuple[str, str]]:
    """The verdict, its reason and the warnings, as lines and their colours."""
    novelty = picture.novelty
    if novelty is None:
        verdict, colour, reason = "novelty not judged", GREY, picture.no_novelty
    else:
        verdict, colour, sign = (
            ("OUT OF DISTRIBUTION", FLAG, ">") if novelty["flag"] else ("not flagged as out of distribution", FINE, "≤")
        )
        colour = WHITE if colour == FINE and picture.warnings else colour  # no green light beside a warning
        entropy = novelty["score_nats"]
        score = f"mean H(S) {entropy or 0:.3f} {sign} threshold {novelty['threshold_nats']:.3f} nats"
        rate = f"{novelty['false_positive_rate']:.1%} of cases like the {novelty['n_source']} it was set on"
        reason = "nothing is predicted, which is always flagged" if entropy is None else f"{score}, which flags {rate}"
    lines = [(verdict, colour), *((line, GREY) for line in textwrap.wrap(reason, LETTERS)), ("", GREY)]
    more = len(picture.warnings) - SHOWN
    texts = [f"! {text}" for text in picture.warnings[:SHOWN]]
    texts += [f"! and {more} more in result.json"] if more > 0 else []
    return lines + [(line, WARN) for text in texts for line in textwrap.wrap(text, LETTERS, subsequent_indent="   ")]


def _colour(number: int) -> str:
    return OUTLINES[(number - 1) % len(OUTLINES)]


def _short(text: str, letters: int) -> str:
    return text if len(text) <= letters else f"{text[: letters // 2]}…{text[-(letters - letters // 2 - 1) :]}"
