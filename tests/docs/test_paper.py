"""docs/paper.md: the numbers it shows are the paper's, and where it sends the reader, a report has something."""

import fnmatch
import re
from pathlib import Path

import pytest

from segcal.analysis.paper import paper_values
from segcal.report.page import ORDER
from segcal.report.tables import DAGGER

PAGE = (Path(__file__).parents[2] / "docs" / "paper.md").read_text(encoding="utf-8")
NAMES = {
    "CE": "CE", "MC dropout CE": "MCDO CE", "ensemble CE": "EN CE",
    "Dice": "DSC", "MC dropout Dice": "MCDO DSC", "ensemble Dice": "EN DSC",
}  # fmt: skip


def rows(heading):
    """Cells of the first table below a heading, without its head."""
    section = PAGE.split(f"## {heading}\n", 1)[1]
    table = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)[0]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table.splitlines()[2:]]


def printed(task, method, quantity):
    (value,) = [v for v in paper_values(task) if (v.table, v.method, v.quantity) == ("II", method, quantity)]
    return f"{value.mean:.2f}" + (f" {DAGGER}" if value.suspect else "")


@pytest.mark.parametrize(("name", "method"), NAMES.items())
def test_the_numbers_are_those_of_table_ii(name, method):
    (row,) = [cells for cells in rows("What to expect") if cells[0] == name]
    wanted = [printed(task, method, of) for task in ("brain", "heart", "prostate") for of in ("nll", "ece")]
    assert row[1:] == wanted


def test_every_table_and_figure_it_names_has_a_place_in_the_report():
    known = [name for _, names in ORDER for name in names]
    named = [name for cells in rows("Every table and figure") for name in re.findall(r"`(\w+)`", cells[1])]
    assert len(named) >= 15
    assert [name for name in named if not any(fnmatch.fnmatch(name, pattern) for pattern in known[:-1])] == []
