import csv
import io

from segcal.records import Cell, Interval, Table
from segcal.report.tables import cell_text, csv_text, latex, markdown, number

NAN = float("nan")


def cell(point=0.29, best=False, excluded=0, low=0.11, high=0.71):
    return Cell(point, Interval(low, high, "spread"), Interval(0.25, 0.33, "ci"), 8 - excluded, excluded, best)


TABLE = Table("box", "Box & Dice", "100% of p<0.01", ("NLL", "ECE %"), (("ce_1", (cell(best=True), "x")),), ("low", ""))


def test_numbers_keep_the_places_a_reader_needs():
    assert [number(v) for v in (0.2914, 1.2345, 12.346, 123.4, -0.5)] == ["0.291", "1.23", "12.35", "123", "-0.500"]
    assert number(NAN) == "n/a"


def test_cell_shows_mean_spread_ci_and_what_was_left_out():
    assert cell_text(cell()) == "0.290 (0.110–0.710) [0.250–0.330]"
    assert cell_text(cell(excluded=2)).endswith(" n=6")
    lonely = Cell(0.5, Interval(NAN, NAN, "spread"), Interval(NAN, NAN, "ci"), 1, 0)
    assert cell_text(lonely) == "0.500"


def test_markdown_marks_the_best():
    assert "| ce_1 | **0.290 (0.110–0.710) [0.250–0.330]** | x |" in markdown(TABLE)


def test_latex_is_booktabs_with_escaped_text():
    text = latex(TABLE)
    assert r"\toprule" in text
    assert r"\bottomrule" in text
    assert r"ce\_1 & \textbf{0.290 (0.110--0.710) [0.250--0.330]} & x \\" in text
    assert r"Box \& Dice. 100\% of p$<$0.01" in text


def test_csv_has_spread_and_ci_as_columns():
    (row,) = csv.DictReader(io.StringIO(csv_text((TABLE,))))
    assert (row["method"], row["column"], row["spread_low"], row["ci_high"], row["best"]) == (
        "ce_1", "NLL", "0.11", "0.33", "True",
    )  # fmt: skip
