import csv
import io
from dataclasses import replace

import pytest

from segcal.records import Cell, Difference, Interval, Table
from segcal.report.tables import (
    cell_text,
    csv_text,
    difference_lines,
    interval,
    latex,
    markdown,
    number,
    p_text,
    table_csv,
)

NAN = float("nan")


def cell(point=0.29, best=False, excluded=0, low=0.11, high=0.71):
    return Cell(point, Interval(low, high, "spread"), Interval(0.25, 0.33, "ci"), 8 - excluded, excluded, best)


TABLE = Table("box", "Box & Dice", "100% of p<0.01", ("NLL", "ECE %"), (("ce_1", (cell(best=True), "x")),), ("low", ""))
DIFFERENCE = Difference(0.012, Interval(-0.003, 0.027, "ci"), 0.004, 0.8)
DIFFERENCES = Table("differences", "Differences", "First less second.", ("NLL",), (("a − b", (DIFFERENCE,)),))
MARKED = replace(TABLE, rows=(TABLE.rows[0], ("ce_2", (cell(), "y"))), marked=frozenset({1}))


def test_numbers_keep_the_places_a_reader_needs():
    assert [number(v) for v in (0.2914, 1.2345, 12.346, 123.4, -0.5)] == ["0.291", "1.23", "12.35", "123", "-0.500"]
    assert [number(v) for v in (0.0, 0.0042, 0.00042)] == ["0.000", "0.004", "4.2e-04"]
    assert number(NAN) == "n/a"
    assert [p_text(p) for p in (0.0004, 0.0198, 1.0, NAN)] == ["p<0.001", "p=0.020", "p=1.000", "p n/a"]


def test_cell_shows_mean_spread_ci_and_what_was_left_out():
    assert cell_text(cell()) == "0.290 (0.110–0.710) [0.250–0.330]"
    assert cell_text(cell(excluded=2)).endswith(" n=6")
    lonely = Cell(0.5, Interval(NAN, NAN, "spread"), Interval(NAN, NAN, "ci"), 1, 0)
    assert cell_text(lonely) == "0.500"


def test_a_minus_never_meets_the_dash():
    assert interval(Interval(-0.9, -0.7, "ci")) == "-0.900 to -0.700"
    assert interval(Interval(0.1, 0.2, "ci"), dash="--") == "0.100--0.200"


def test_difference_shows_its_ci_its_test_and_its_size():
    assert "\n".join(difference_lines(DIFFERENCE)) == "+0.012\n[-0.003, +0.027]\np=0.004, d=0.8"
    assert cell_text(replace(DIFFERENCE, p=NAN)) == "+0.012 [-0.003, +0.027] p n/a, d=0.8"
    assert cell_text(replace(DIFFERENCE, effect=NAN)) == "+0.012 [-0.003, +0.027] p=0.004"
    assert cell_text(replace(DIFFERENCE, effect=-0.04)).endswith("d=0.0")
    assert cell_text(Difference(-0.2, Interval(NAN, NAN, "ci"))) == "-0.200 p n/a"
    assert cell_text(Difference(NAN, Interval(NAN, NAN, "ci"))) == "n/a p n/a"


def test_markdown_marks_the_best_and_says_what_is_what():
    text = markdown(TABLE)
    assert "| ce_1 | **0.290 (0.110–0.710) [0.250–0.330]** | x |" in text
    assert "Each entry: mean (spread) [ci]" in text
    assert "| a − b | +0.012 [-0.003, +0.027] p=0.004, d=0.8 |" in markdown(DIFFERENCES)
    assert "Difference [ci: 95% confidence interval]" in markdown(DIFFERENCES)
    plain = Table("data", "Data", "Cases.", ("a|b",), (("x|y", ("1\n2",)),))
    assert markdown(plain) == "### Data\n\nCases.\n\n| | a\\|b |\n|---|---|\n| x\\|y | 1 2 |\n"


def test_latex_is_booktabs_with_escaped_text():
    text = latex(TABLE)
    assert r"\toprule" in text
    assert r"\bottomrule" in text
    assert r"ce\_1 & \textbf{0.290 (0.110--0.710) [0.250--0.330]} & x \\" in text
    assert r"Box \& Dice. 100\% of p$<$0.01" in text
    assert r"mean (spread) [ci]" in text
    assert r"a $-$ b & +0.012 [$-$0.003, +0.027] p=0.004, d=0.8 \\" in latex(DIFFERENCES)


@pytest.mark.parametrize(
    ("plain", "escaped"),
    [
        ("50% a_b & #1", r"50\% a\_b \& \#1"),
        ("1 < 2 > 0, |x|", r"1 $<$ 2 $>$ 0, $|$x$|$"),
        ("$5 {a} ~ ^ \\", r"\$5 \{a\} \textasciitilde{} \textasciicircum{} \textbackslash{}"),
        ("1–2 × 3 ± σ ρ", r"1--2 $\times$ 3 $\pm$ $\sigma$ $\rho$"),
        ("H(Ŝ) ≤ ln 2 …", r"H($\hat{S}$) $\leq$ ln 2 \ldots{}"),
        ("-0.5 to -0.2, T2-weighted, 1e-05", r"$-$0.5 to $-$0.2, T2-weighted, 1e-05"),
    ],
)
def test_latex_escapes_what_is_special(plain, escaped):
    text = latex(Table("t", "T", "C", ("x",), ((plain, (plain,)),)))
    assert rf"{escaped} & {escaped} \\" in text


def test_a_latex_table_wider_than_a_page_is_scaled():
    wide = Table("t", "T", "C", tuple("abcd"), (("row", (cell(),) * 4),))
    assert "\\resizebox{\\linewidth}{!}{%\n\\begin{tabular}{lllll}" in latex(wide)
    assert "\\end{tabular}}\n\\end{table}" in latex(wide)
    assert "resizebox" not in latex(TABLE)
    assert latex(wide).isascii()


def test_marked_rows_have_a_dagger_everywhere():
    assert "| ce_2 † |" in markdown(MARKED)
    assert "† Not to be taken at its word." in markdown(MARKED)
    assert r"ce\_2 $^{\dagger}$ & " in latex(MARKED)
    assert "\nce_2 †," in table_csv(MARKED)
    assert "box,ce_2 †,NLL," in csv_text((MARKED,))
    for text in (markdown(MARKED), table_csv(MARKED), csv_text((MARKED,))):
        assert "ce_1 †" not in text
    assert "dagger" not in latex(TABLE)


def test_csv_has_spread_and_ci_as_columns():
    row, difference = csv.DictReader(io.StringIO(csv_text((TABLE, DIFFERENCES))))  # and no text
    assert list(row) == [
        "table", "method", "column", "mean", "spread_low", "spread_high", "ci_low", "ci_high", "patients", "excluded",
        "best", "p", "effect",
    ]  # fmt: skip
    assert (row["method"], row["column"], row["spread_low"], row["ci_high"], row["best"]) == (
        "ce_1", "NLL", "0.11", "0.33", "True",
    )  # fmt: skip
    assert (row["p"], row["effect"]) == ("", "")
    assert difference == {
        "table": "differences", "method": "a − b", "column": "NLL", "mean": "0.012", "spread_low": "",
        "spread_high": "", "ci_low": "-0.003", "ci_high": "0.027", "patients": "", "excluded": "", "best": "",
        "p": "0.004", "effect": "0.8",
    }  # fmt: skip


def test_csv_of_one_table_has_named_columns():
    assert table_csv(TABLE) == ",NLL,NLL spread,NLL ci,ECE %\nce_1,0.290,0.110–0.710,0.250–0.330,x\n"
    assert table_csv(DIFFERENCES) == ",NLL,NLL ci,NLL p,NLL effect\na − b,+0.012,-0.003 to 0.027,0.004,0.800\n"
    mixed = Table("m", "M", "", ("NLL",), (("a", (cell(),)), ("b", ("1.4 (1–2)",))))
    assert table_csv(mixed) == ",NLL,NLL spread,NLL ci\na,0.290,0.110–0.710,0.250–0.330\nb,1.4 (1–2),,\n"
    assert table_csv(Table("e", "E", "", ("x", "y"), ())) == ",x,y\n"
