"""The house and its floors, drawn out of what holds them: the layers of pyproject.toml and the rooms' own first lines.

python docs/figures/house.py       writes house.svg beside this file
"""

__all__ = ["draw", "write"]

import ast
import textwrap
import tomllib
from html import escape
from pathlib import Path

PROJECT = Path(__file__).parents[2]
# A floor begins with the layer that has this room.
FLOORS = {
    "cli": ("DOORS", "what people and programs call"),
    "search": ("ERRANDS", "what is done for them"),
    "data": ("WORKSHOPS", "crafts that do not know each other"),
    "tasks": ("GROUND", "what all others use"),
}

WIDTH, MARGIN, GUTTER, GAP, PAD = 1000, 24, 184, 8, 10
LEFT, RIGHT = MARGIN + GUTTER, WIDTH - MARGIN  # of the rooms
SIGN = MARGIN + 22  # where the names of the floors begin
LINE, LETTER = 17, 6.6  # height of a line and mean width of a letter of a room's text, in pixels
NARROW, DOOR = 210, 38  # a room's least width; the height of a layer with a single room
ROOF = 92

# Colours (band, frame of a room) of each floor, in light and in dark.
LIGHT = {"doors": ("#fbe3d0", "#dca57c"), "errands": ("#fdf0c8", "#d8be6a"),
         "workshops": ("#d6eadf", "#86b89d"), "ground": ("#d9e4f2", "#93b0d3")}  # fmt: skip
DARK = {"doors": ("#4a3324", "#a9744c"), "errands": ("#463d1f", "#9a8440"),
        "workshops": ("#21402f", "#558a6c"), "ground": ("#24364c", "#557aa5")}  # fmt: skip
STYLE = """
text { font: 12.5px system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; fill: #33404d }
.title { font-size: 22px; font-weight: 700; fill: #ffffff }
.under { font-size: 13px; fill: #dfe6ee }
.floor { font-size: 15px; font-weight: 700; letter-spacing: 1.2px; fill: #1f2a35 }
.said { font-size: 12px; fill: #5a6875 }
.name { font: 700 14px ui-monospace, 'DejaVu Sans Mono', monospace; fill: #16202a }
.sky { fill: #f7f8fa }
.roof { fill: #34495e }
.room { fill: #ffffff }
.arrow { stroke: #5a6875; stroke-width: 1.6; fill: none }
.head { fill: #5a6875 }
.rule { stroke: #c6ced6 }
"""
STYLE_IN_THE_DARK = """
text { fill: #c8d1da }
.floor, .name { fill: #eef3f7 }
.said { fill: #98a4b0 }
.sky { fill: #161b22 }
.roof { fill: #2f4358 }
.room { fill: #1d242c }
.arrow { stroke: #98a4b0 }
.head { fill: #98a4b0 }
.rule { stroke: #38424d }
"""


def write(path: Path) -> None:
    """Draw the house into an SVG file."""
    path.write_text(draw(), encoding="utf-8")


def draw() -> str:
    """The picture as SVG: the same text for the same pyproject.toml and the same first lines."""
    contracts = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layered, *rules = sorted(contracts, key=lambda contract: contract["type"] != "layers")
    y, floor = float(MARGIN + ROOF), ""
    parts: list[str] = []
    for layer in layered["layers"]:
        rooms = [room.strip().removeprefix("segcal.") for room in layer.split("|")]
        begun = next((name for name in FLOORS if name in rooms), None)
        if begun:
            floor, said = FLOORS[begun]
            y += GAP if parts else 0
            parts += _sign(y + 24, floor, said)
        height, drawn = _layer(rooms, y)
        parts.append(f'<g class="{floor.lower()}">\n{drawn}\n</g>')
        y += height + GAP
    parts.append(_arrow(MARGIN + 6, MARGIN + ROOF + 8, y - GAP))
    parts += _lines(SIGN, y - 30, "imports run down, never up or sideways")
    parts.append(f'<path class="rule" d="M{MARGIN} {y + 14:g}H{RIGHT}"/>')
    parts += _sign(y + 46, "RULES", "of pyproject.toml, held by a test")
    parts += [_text(LEFT + 6, y + 46 + 19 * number, rule["name"]) for number, rule in enumerate(rules)]
    return _page(y + 46 + 19 * len(rules) + MARGIN - 8, parts)


def first_line(room: str) -> str:
    """The first sentence of a room's docstring, as plain text."""
    path = PROJECT / "segcal" / f"{room}.py"
    path = path if path.exists() else PROJECT / "segcal" / room / "__init__.py"
    told = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()
    return told[0].partition(". ")[0].rstrip(".").replace("`", "") if told else ""


def _layer(rooms: list[str], y: float) -> tuple[float, str]:
    """A band with its rooms, and its height: one alone is a line, several stand in rows of equal width."""
    if len(rooms) == 1:
        return _door(rooms[0], y)
    most = max(1, min(int((RIGHT - LEFT) // NARROW), len(rooms)))
    rows = -(-len(rooms) // most)
    most = -(-len(rooms) // rows)
    parts, top = [], y + 6
    for start in range(0, len(rooms), most):
        row = rooms[start : start + most]
        wide = (RIGHT - LEFT - 12 - GAP * (len(row) - 1)) / len(row)
        texts = [_wrapped(first_line(room), wide - 2 * PAD) for room in row]
        tall = 32 + LINE * max(map(len, texts))
        for place, (room, lines) in enumerate(zip(row, texts, strict=True)):
            x = LEFT + 6 + place * (wide + GAP)
            parts += [_box(x, top, wide, tall, "room"), _text(x + PAD, top + 21, room, "name")]
            parts += [_text(x + PAD, top + 40 + LINE * n, line) for n, line in enumerate(lines)]
        top += tall + GAP
    height = top - GAP + 6 - y
    return height, "\n".join([_box(LEFT, y, RIGHT - LEFT, height, "layer"), *parts])


def _door(room: str, y: float) -> tuple[float, str]:
    """A layer with a single room: its name, and beside it what it is."""
    lines = _wrapped(first_line(room), RIGHT - LEFT - 117 - PAD)
    height = DOOR + LINE * (len(lines) - 1)
    parts = [_box(LEFT, y, RIGHT - LEFT, height, "layer")]
    parts.append(_box(LEFT + 5, y + 5, RIGHT - LEFT - 10, height - 10, "room"))
    parts.append(_text(LEFT + 5 + PAD, y + 24, room, "name"))
    parts += [_text(LEFT + 112, y + 24 + LINE * n, line) for n, line in enumerate(lines)]
    return height, "\n".join(parts)


def _page(height: float, parts: list[str]) -> str:
    """The whole picture around its parts; the colours follow what the reader's screen prefers."""
    middle = (LEFT + RIGHT) / 2
    roof = f"M{LEFT - 14} {MARGIN + ROOF - 12}L{LEFT + 70} {MARGIN}H{RIGHT - 70}L{RIGHT + 14} {MARGIN + ROOF - 12}Z"
    dark = f"@media (prefers-color-scheme: dark) {{{STYLE_IN_THE_DARK}{_colours(DARK)}}}"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" '
        'role="img" aria-labelledby="title">',
        '<title id="title">The rooms of segcal on their floors; an import runs down, never up or sideways</title>',
        f"<style>{STYLE}{_colours(LIGHT)}{dark}</style>",
        f'<rect class="sky" width="{WIDTH}" height="{height:g}" rx="10"/>',
        f'<path class="roof" d="{roof}"/>',
        _text(middle, MARGIN + 38, "segcal", "title", "middle"),
        _text(middle, MARGIN + 60, first_line("__init__").removeprefix("segcal: "), "under", "middle"),
        *parts,
        "</svg>\n",
    ])  # fmt: skip


def _colours(colours: dict[str, tuple[str, str]]) -> str:
    lines = [f".{name} .layer {{ fill: {band} }}\n.{name} .room {{ stroke: {frame} }}\n"
             for name, (band, frame) in colours.items()]  # fmt: skip
    return "".join(lines)


def _sign(y: float, name: str, said: str) -> list[str]:
    """The name of a floor and what it is, left of its rooms."""
    return [_text(SIGN, y, name, "floor"), *_lines(SIGN, y + 18, said)]


def _wrapped(text: str, width: float) -> list[str]:
    return textwrap.wrap(text, int(width / LETTER))


def _lines(x: float, y: float, text: str) -> list[str]:
    return [_text(x, y + 15 * n, line, "said") for n, line in enumerate(_wrapped(text, LEFT - x - 14))]


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "") -> str:
    kind, anchor = kind and f' class="{kind}"', anchor and f' text-anchor="{anchor}"'
    return f'<text{kind} x="{x:g}" y="{y:g}"{anchor}>{escape(text, quote=False)}</text>'


def _box(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="5"/>'


def _arrow(x: float, top: float, bottom: float) -> str:
    tip = f"M{x - 5} {bottom - 9}L{x} {bottom}L{x + 5} {bottom - 9}Z"
    return f'<path class="arrow" d="M{x} {top:g}V{bottom - 8:g}"/><path class="head" d="{tip}"/>'


if __name__ == "__main__":
    write(Path(__file__).with_suffix(".svg"))
