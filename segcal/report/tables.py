"""Tables in every format: HTML's pieces, Markdown, LaTeX (booktabs), CSV."""

__all__ = [
    "DAGGER", "cell_text", "csv_text", "difference_lines", "interval", "key", "latex", "markdown", "number", "p_text",
    "row_title", "table_csv",
]  # fmt: skip

import csv
import io
import math
import re

from segcal.records import Cell, Difference, Interval, Table

DAGGER = "†"
WIDE = 110  # letters in a row; a LaTeX table of more is scaled to the width of the page
TEX = str.maketrans({
    "\\": r"\textbackslash{}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$", "–": "--", "—": "---",
    "−": "$-$", "…": r"\ldots{}", "×": r"$\times$", "±": r"$\pm$", "·": r"$\cdot$", "≤": r"$\leq$", "≥": r"$\geq$",
    "≈": r"$\approx$", "→": r"$\rightarrow$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "°": r"$^{\circ}$",
    "²": "$^2$", "³": "$^3$", "½": r"$\frac{1}{2}$", "†": r"$^{\dagger}$", "Ŝ": r"$\hat{S}$", "ŷ": r"$\hat{y}$",
    "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$", "δ": r"$\delta$", "Δ": r"$\Delta$", "ε": r"$\varepsilon$",
    "κ": r"$\kappa$", "λ": r"$\lambda$", "μ": r"$\mu$", "µ": r"$\mu$", "π": r"$\pi$", "ρ": r"$\rho$", "σ": r"$\sigma$",
    "Σ": r"$\Sigma$", "τ": r"$\tau$", "“": "``", "”": "''", "‘": "`", "’": "'", "\u00a0": "~",
})  # fmt: skip


def number(value: float) -> str:
    """About three digits, at most three places, and what would be 0.000 as a power of ten; n/a for NaN."""
    size = abs(value)
    if math.isnan(value):
        return "n/a"
    if 0 < size < 0.0005:
        return f"{value:.1e}"
    return f"{value:.3f}" if size < 1 else f"{value:.2f}" if size < 100 else f"{value:.0f}"


def p_text(p: float) -> str:
    """p<0.001, p=0.004, or p n/a."""
    return "p n/a" if math.isnan(p) else "p<0.001" if p < 0.001 else f"p={p:.3f}"


def interval(ends: Interval, dash: str = "–") -> str:
    """low–high, or `low to high` where a minus would meet the dash; empty where there is none."""
    if math.isnan(ends.low):
        return ""
    return f"{number(ends.low)}{' to ' if min(ends.low, ends.high) < 0 else dash}{number(ends.high)}"


def difference_lines(cell: Difference) -> list[str]:
    """`+0.012`, `[-0.003, +0.027]`, `p=0.004, d=0.8`: the difference, its ci, its test and its effect size."""
    lines = [_signed(cell.point)]
    if not math.isnan(cell.ci.low):
        lines.append(f"[{_signed(cell.ci.low)}, {_signed(cell.ci.high)}]")
    effect = "" if math.isnan(cell.effect) else f", d={round(cell.effect, 1) + 0.0:.1f}"
    return [*lines, p_text(cell.p) + effect]


def cell_text(cell: Cell | Difference | str, dash: str = "–") -> str:
    """`0.29 (0.11–0.71)`: the mean and the spread of the patients; `[…]` the CI of the mean."""
    if isinstance(cell, str):
        return " ".join(cell.split("\n"))
    if isinstance(cell, Difference):
        return " ".join(difference_lines(cell))
    spread, ci = interval(cell.spread, dash), interval(cell.ci, dash)
    text = number(cell.point) + (f" ({spread})" if spread else "") + (f" [{ci}]" if ci else "")
    return text + (f" n={cell.n}" if cell.excluded else "")


def row_title(table: Table, index: int) -> str:
    """The title of a row, with a dagger where it must not be taken at its word."""
    title = table.rows[index][0]
    return f"{title} {DAGGER}" if index in table.marked else title


def key(table: Table) -> str:
    """What the brackets, the bold and the dagger of a table mean; nothing for a table of plain text."""
    cells = [cell for _, row in table.rows for cell in row]
    parts = []
    if any(isinstance(cell, Cell) for cell in cells):
        parts.append("Each entry: mean (spread) [ci]; n: patients that count, where some are left out.")
    if any(isinstance(cell, Difference) for cell in cells):
        parts.append(
            "Difference [ci: 95% confidence interval], p after Holm's correction, and d: the mean of the paired "
            "differences over their standard deviation."
        )
    if table.marked:
        parts.append(f"{DAGGER} Not to be taken at its word.")
    return " ".join(parts)


def markdown(table: Table) -> str:
    """A GitHub table with its title and caption."""
    columns = [_md(column) for column in table.columns]
    caption = " ".join(part for part in (table.caption, key(table)) if part)
    lines = [f"### {table.title}", "", caption, "", f"| | {' | '.join(columns)} |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for index, (_, cells) in enumerate(table.rows):
        texts = [_md(cell_text(cell)) for cell in cells]
        texts = [f"**{t}**" if isinstance(c, Cell) and c.best else t for t, c in zip(texts, cells, strict=True)]
        lines.append(f"| {_md(row_title(table, index))} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    """A booktabs table in ASCII; needs \\usepackage{booktabs}, and graphicx where it is wider than a page."""
    caption = " ".join(part for part in (f"{table.title}. {table.caption}", key(table)) if part)
    body = []
    for index, (_, cells) in enumerate(table.rows):
        texts = [_tex(cell_text(cell)) for cell in cells]
        texts = [rf"\textbf{{{t}}}" if isinstance(c, Cell) and c.best else t for t, c in zip(texts, cells, strict=True)]
        body.append(rf"{_tex(row_title(table, index))} & {' & '.join(texts)} \\")
    wide = max((len(line) for line in body), default=0) > WIDE
    lines = [
        r"\begin{table}", r"\centering", rf"\caption{{{_tex(caption)}}}", rf"\label{{tab:{table.key}}}",
        *([r"\resizebox{\linewidth}{!}{%"] if wide else []),
        rf"\begin{{tabular}}{{l{'l' * len(table.columns)}}}", r"\toprule",
        rf" & {' & '.join(_tex(column) for column in table.columns)} \\", r"\midrule", *body, r"\bottomrule",
        r"\end{tabular}" + ("}" if wide else ""), r"\end{table}",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def csv_text(tables: tuple[Table, ...]) -> str:
    """Every numeric cell as one row, with spread and ci as columns of their own."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["table", "method", "column", "mean", "spread_low", "spread_high", "ci_low", "ci_high", "patients",
                   "excluded", "best", "p", "effect"])  # fmt: skip
    for table in tables:
        for index, (_, cells) in enumerate(table.rows):
            for column, cell in zip(table.columns, cells, strict=True):
                where = [table.key, row_title(table, index), column]
                if isinstance(cell, Cell):
                    rows.writerow([*where, cell.point, cell.spread.low, cell.spread.high, cell.ci.low, cell.ci.high,
                                   cell.n, cell.excluded, cell.best, "", ""])  # fmt: skip
                elif isinstance(cell, Difference):
                    rows.writerow([*where, cell.point, "", "", cell.ci.low, cell.ci.high, "", "", "", cell.p,
                                   cell.effect])  # fmt: skip
    return text.getvalue()


def table_csv(table: Table) -> str:
    """One table as it is read, a column for each thing that has a name: `NLL`, `NLL spread`, `NLL ci`."""
    columns = list(zip(*(cells for _, cells in table.rows), strict=True)) or [()] * len(table.columns)
    parts = [_parts(cells) for cells in columns]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    named = [name + part for name, of in zip(table.columns, parts, strict=True) for part in of]
    rows.writerow(["", *named])
    for index, (_, cells) in enumerate(table.rows):
        texts = [_part_text(cell, part) for cell, of in zip(cells, parts, strict=True) for part in of]
        rows.writerow([row_title(table, index), *texts])
    return text.getvalue()


def _parts(cells: tuple[Cell | Difference | str, ...]) -> tuple[str, ...]:
    kinds = {type(cell) for cell in cells}
    found = ("", *((" spread",) if Cell in kinds else ()), *((" ci",) if kinds & {Cell, Difference} else ()))
    return (*found, " p", " effect") if Difference in kinds else found


def _part_text(cell: Cell | Difference | str, part: str) -> str:
    if isinstance(cell, str):
        return "" if part else cell_text(cell)
    if isinstance(cell, Cell):
        known = {"": number(cell.point), " spread": interval(cell.spread), " ci": interval(cell.ci)}
    else:
        known = {
            "": _signed(cell.point),
            " ci": interval(cell.ci),
            " p": number(cell.p),
            " effect": number(cell.effect),
        }
    return known.get(part, "")


def _signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)


def _md(text: str) -> str:
    return " ".join(text.split("\n")).replace("|", r"\|")


def _tex(text: str) -> str:
    """Text as LaTeX reads it: what is special there is escaped, what is not ASCII is named, a minus is a minus."""
    pieces = re.split(r"(?<![\w.)-])-(?=\d)", text)
    return "$-$".join(piece.replace("\n", " ").translate(TEX) for piece in pieces)
