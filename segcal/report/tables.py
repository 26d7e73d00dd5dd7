"""Tables in every format: HTML, Markdown, LaTeX (booktabs), CSV."""

__all__ = ["cell_text", "csv_text", "latex", "markdown"]

import csv
import io
import math

from segcal.records import Cell, Interval, Table


def number(value: float) -> str:
    """Three significant digits as a table shows them; n/a for NaN."""
    if math.isnan(value):
        return "n/a"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def interval(ends: Interval, dash: str = "–") -> str:
    """low–high; empty where there is none."""
    return "" if math.isnan(ends.low) else f"{number(ends.low)}{dash}{number(ends.high)}"


def cell_text(cell: Cell | str, dash: str = "–") -> str:
    """`0.29 (0.11–0.71)`: the mean and the spread of the patients; `[…]` the CI of the mean."""
    if isinstance(cell, str):
        return cell.replace("\n", " ")
    spread, ci = interval(cell.spread, dash), interval(cell.ci, dash)
    text = number(cell.point) + (f" ({spread})" if spread else "") + (f" [{ci}]" if ci else "")
    return text + (f" n={cell.n}" if cell.excluded else "")


def markdown(table: Table) -> str:
    """A GitHub table with its title and caption."""
    lines = [f"### {table.title}", "", table.caption, "", f"| | {' | '.join(table.columns)} |"]
    lines.append("|---" * (len(table.columns) + 1) + "|")
    for title, cells in table.rows:
        texts = [f"**{cell_text(c)}**" if isinstance(c, Cell) and c.best else cell_text(c) for c in cells]
        lines.append(f"| {title} | {' | '.join(texts)} |")
    return "\n".join(lines) + "\n"


def latex(table: Table) -> str:
    """A booktabs table; needs \\usepackage{booktabs}."""
    columns = " & ".join(_tex(column) for column in table.columns)
    lines = [
        r"\begin{table}", r"\centering", rf"\caption{{{_tex(table.title)}. {_tex(table.caption)}}}",
        rf"\label{{tab:{table.key}}}", rf"\begin{{tabular}}{{l{'l' * len(table.columns)}}}", r"\toprule",
        rf" & {columns} \\", r"\midrule",
    ]  # fmt: skip
    for title, cells in table.rows:
        texts = [_tex(cell_text(cell, dash="--")) for cell in cells]
        texts = [rf"\textbf{{{t}}}" if isinstance(c, Cell) and c.best else t for t, c in zip(texts, cells, strict=True)]
        lines.append(rf"{_tex(title)} & {' & '.join(texts)} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def csv_text(tables: tuple[Table, ...]) -> str:
    """Every numeric cell as one row, with spread and ci as columns of their own."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["table", "method", "column", "mean", "spread_low", "spread_high", "ci_low", "ci_high", "patients",
                   "excluded", "best"])  # fmt: skip
    for table in tables:
        for title, cells in table.rows:
            for column, cell in zip(table.columns, cells, strict=True):
                if isinstance(cell, Cell):
                    rows.writerow([table.key, title, column, cell.point, cell.spread.low, cell.spread.high,
                                   cell.ci.low, cell.ci.high, cell.n, cell.excluded, cell.best])  # fmt: skip
    return text.getvalue()


def _tex(text: str) -> str:
    for plain, escaped in {
        "\\": r"\textbackslash{}",
        "%": r"\%",
        "_": r"\_",
        "&": r"\&",
        "#": r"\#",
        "<": "$<$",
    }.items():
        text = text.replace(plain, escaped)
    return text
