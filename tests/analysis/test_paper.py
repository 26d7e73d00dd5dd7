import math
from collections import Counter

import pytest

from segcal.analysis.paper import SEGMENTS, beside_paper, paper_values
from segcal.records import Cell, Interval
from segcal.report.tables import interval, markdown, number
from segcal.tasks import TASKS

METHODS = ["CE", "MCDO CE", "EN CE", "DSC", "MCDO DSC", "EN DSC"]
STRUCTURES = {
    "brain": ("non-enhancing", "edema", "enhancing"),
    "heart": ("right ventricle", "myocardium", "left ventricle"),
    "prostate": ("prostate",),
    "prostate3d": ("prostate",),
}
EVERY = [value for task in STRUCTURES for value in paper_values(task)]
CALIBRATION = ("nll", "brier", "ece")
HALF = 0.005  # the paper prints two decimals


def cell(point, low=float("nan"), high=float("nan"), excluded=0):
    ci = Interval(float("nan"), float("nan"), "ci")
    return Cell(point, Interval(low, high, "spread"), ci, n=20 - excluded, excluded=excluded)


def nothing(method, region, quantity, structure):
    return None


def value(table, task, method, quantity, segment=""):
    (found,) = [
        v
        for v in paper_values(task)
        if (v.table, v.method, v.quantity, v.segment) == (table, method, quantity, segment)
    ]
    return found


def rows():
    """The calibration of each row: (table, task, method) -> {quantity: value}."""
    found = {}
    for v in EVERY:
        if v.quantity in CALIBRATION:
            found.setdefault((v.table, v.task, v.method), {})[v.quantity] = v
    return found


def test_every_number_of_the_four_tables_is_there_once():
    # six methods each; II: three of calibration and a Dice a segment (3, 3, 1); S-I: three; S-II: one a segment
    per_method = {
        ("II", "brain"): 6, ("II", "heart"): 6, ("II", "prostate"): 4,
        ("S-I", "brain"): 3, ("S-I", "heart"): 3, ("S-I", "prostate"): 3,
        ("S-II", "brain"): 3, ("S-II", "heart"): 3, ("S-II", "prostate"): 1,
        ("S-III", "prostate3d"): 5,
    }  # fmt: skip
    assert Counter((v.table, v.task) for v in EVERY) == {key: 6 * count for key, count in per_method.items()}
    assert len(EVERY) == 222
    assert len({(v.table, v.task, v.method, v.quantity, v.segment) for v in EVERY}) == 222
    assert {v.method for v in EVERY} == set(METHODS)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (("II", "brain", "CE", "nll"), (0.52, 0.16, 1.66)),
        (("II", "brain", "EN CE", "ece"), (3.28, 0.52, 10.06)),
        (("II", "heart", "MCDO DSC", "dice", "II"), (0.78, 0.04, 0.89)),
        (("II", "prostate", "MCDO CE", "brier"), (0.16, 0.08, 0.30)),
        (("II", "prostate", "EN DSC", "dice", "I"), (0.90, 0.76, 0.95)),
        (("S-I", "brain", "MCDO CE", "ece"), (2.45, 0.08, 11.11)),
        (("S-I", "prostate", "DSC", "nll"), (0.26, 0.10, 0.58)),
        (("S-II", "heart", "CE", "hd95", "III"), (24.04, 2.00, 154.95)),
        (("S-II", "prostate", "EN DSC", "hd95", "I"), (5.66, 3.16, 18.71)),
    ],
)
def test_numbers_as_printed(at, expected):
    found = value(*at)
    assert (found.mean, found.low, found.high) == expected


def test_networks_over_volumes_have_means_only():
    row = [v for v in paper_values("prostate3d") if v.method == "EN DSC"]
    assert [(v.quantity, v.segment, v.region, v.mean) for v in row] == [
        ("nll", "", "box", 0.19), ("brier", "", "box", 0.08), ("ece", "", "box", 2.82),
        ("dice", "I", "", 0.90), ("hd95", "I", "", 4.61),
    ]  # fmt: skip
    assert all(math.isnan(v.low) and math.isnan(v.high) for v in paper_values("prostate3d"))


def test_the_region_follows_from_the_table():
    regions = {(v.table, v.quantity in CALIBRATION): v.region for v in EVERY}
    assert regions == {
        ("II", True): "box", ("II", False): "", ("S-I", True): "whole",
        ("S-II", False): "", ("S-III", True): "box", ("S-III", False): "",
    }  # fmt: skip


def test_means_lie_within_their_percentiles():
    assert all(v.low <= v.mean <= v.high for v in EVERY if not math.isnan(v.low))


def test_suspect_rows_are_those_that_are_doubled_or_impossible():
    # The laws hold of every patient, so of the means (1 - exp is concave), in exact numbers: HALF allows for rounding.
    impossible = {
        at
        for at, row in rows().items()
        if (row["ece"].mean - HALF) / 100 > 1 - math.exp(-(row["nll"].mean + HALF))
        or row["brier"].mean - HALF > 0.8146 * (row["nll"].mean + HALF)
    }
    assert impossible == {("II", "heart", "MCDO DSC"), ("S-I", "heart", "MCDO DSC")}
    printed = {at: tuple((v.mean, v.low, v.high) for v in row.values()) for at, row in rows().items()}
    doubled = {at for at, numbers in printed.items() if list(printed.values()).count(numbers) > 1}
    assert doubled == {("II", task, method) for task in ("brain", "heart") for method in ("DSC", "EN DSC")}
    suspect = {(v.table, v.task, v.method, v.quantity) for v in EVERY if v.suspect}
    assert suspect == {(*at, quantity) for at in impossible | doubled for quantity in CALIBRATION}


def test_the_laws_hold_of_percentiles_too_where_the_row_is_not_suspect():
    for row in rows().values():
        if row["nll"].suspect or math.isnan(row["nll"].low):
            continue
        for end in ("low", "high"):
            nll, brier, ece = (getattr(row[quantity], end) for quantity in CALIBRATION)
            assert (ece - HALF) / 100 <= 1 - math.exp(-(nll + HALF))
            assert brier - HALF <= 0.8146 * (nll + HALF)


def test_one_table_for_each_of_the_papers():
    keys = {task: [t.key for t in beside_paper(task, names, nothing)] for task, names in STRUCTURES.items()}
    three = ["paper_ii", "paper_s_i", "paper_s_ii"]
    assert keys == {"brain": three, "heart": three, "prostate": three, "prostate3d": ["paper_s_iii"]}
    box, whole, distance = beside_paper("brain", STRUCTURES["brain"], nothing)
    assert [t.title for t in (box, whole, distance)] == [f"Beside the paper: Table {n}" for n in ("II", "S-I", "S-II")]
    assert box.columns == ("NLL", "Brier", "ECE %", "Dice non-enhancing", "Dice edema", "Dice enhancing")
    assert box.better == ("low",) * 3 + ("high",) * 3
    assert whole.columns == ("NLL", "Brier", "ECE %")
    assert distance.columns == ("HD95 non-enhancing, mm", "HD95 edema, mm", "HD95 enhancing, mm")
    for table in (box, whole, distance):
        assert [method for method, _ in table.rows] == METHODS
        assert all(len(cells) == len(table.columns) == len(table.better) for _, cells in table.rows)


def test_ours_is_asked_for_by_our_names_and_stands_below_the_papers():
    known = {
        ("CE", "box", "nll", ""): cell(0.271, 0.2, 0.35),
        ("EN CE", "box", "ece", ""): cell(4.5, 1.25, 10.0),
        ("CE", "", "dice", "edema"): cell(0.625, 0.5, 0.75, excluded=2),
        ("DSC", "whole", "brier", ""): cell(0.0625),
        ("EN DSC", "", "hd95", "enhancing"): cell(7.5, 2.0, 20.0),
    }
    asked = []

    def ours(*question):
        asked.append(question)
        return known.get(question)

    def line(point, low, high):
        return f"ours {number(point)} ({interval(Interval(low, high, 'spread'))})"

    box, whole, distance = (dict(table.rows) for table in beside_paper("brain", STRUCTURES["brain"], ours))
    assert box["CE"][0] == f"paper 0.52 (0.16–1.66)\n{line(0.271, 0.2, 0.35)}"
    assert box["EN CE"][2] == f"paper 3.28 (0.52–10.06)\n{line(4.5, 1.25, 10.0)}"
    assert box["CE"][4] == f"paper 0.47 (0.07–0.82)\n{line(0.625, 0.5, 0.75)} n=18"
    assert whole["DSC"][1] == f"paper 0.02 (0.00–0.07)\nours {number(0.0625)}"  # one patient has no spread
    assert distance["EN DSC"][2] == f"paper 30.81 (2.00–94.88)\n{line(7.5, 2.0, 20.0)}"
    assert box["MCDO DSC"][0] == "paper 1.14 (0.28–4.04)\nours –"
    assert len(asked) == len(set(asked)) == 72
    assert set(known) <= set(asked)


def test_without_intervals_of_the_paper_ours_keep_theirs():
    (table,) = beside_paper("prostate3d", ("prostate",), lambda *_: cell(0.5, 0.25, 0.75))
    spread = interval(Interval(0.25, 0.75, "spread"))
    assert dict(table.rows)["CE"][0] == f"paper 0.24\nours {number(0.5)} ({spread})"
    assert "ours only" in table.caption
    assert "10 networks" in table.caption


def test_marked_rows_are_explained():
    box, whole, distance = beside_paper("heart", STRUCTURES["heart"], nothing)
    assert box.marked == {3, 4, 5}
    assert "†" in box.caption
    assert "DSC and EN DSC (identical in the Brain and Heart rows)" in box.caption
    assert "MCDO DSC (ECE above 1 - exp(-NLL); Brier above 0.8146 NLL)" in box.caption
    assert whole.marked == {4}
    assert "Brain" not in whole.caption
    assert distance.marked == frozenset()
    assert "†" not in distance.caption
    assert beside_paper("brain", STRUCTURES["brain"], nothing)[0].marked == {3, 5}
    assert all(not t.marked and "†" not in t.caption for t in beside_paper("prostate", ("prostate",), nothing))


def test_captions_say_what_the_parentheses_and_the_members_are():
    for task in ("brain", "heart", "prostate"):
        for table in beside_paper(task, STRUCTURES[task], nothing):
            assert "2.5th to 97.5th percentile of the patients: what the paper prints as its 95% CI" in table.caption
            assert "50 members" in table.caption


def test_a_task_that_is_not_the_papers_has_no_table():
    assert paper_values("liver") == ()
    assert beside_paper("liver", ("liver",), nothing) == ()
    assert beside_paper("liver", (), nothing) == ()


def test_other_structures_under_a_name_of_the_papers_are_not_compared():
    assert beside_paper("brain", ("tumour",), nothing) == ()
    assert beside_paper("prostate", ("zone", "gland"), nothing) == ()


def test_segments_are_in_the_order_of_our_structures():
    for task, names in STRUCTURES.items():
        assert TASKS[task].structures == names
        assert {v.segment for v in paper_values(task)} - {""} == set(SEGMENTS[: len(names)])


def test_both_lines_are_rendered():
    (table,) = beside_paper("prostate3d", ("prostate",), nothing)
    assert "paper 0.24" in markdown(table)
    assert "ours –" in markdown(table)
