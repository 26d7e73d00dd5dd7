import json
import re
from dataclasses import replace

import pandas as pd
import pytest

from segcal.records import Cell, Interval, Table
from segcal.report.figures import FIGURES
from segcal.report.page import sections, write_report
from tests.service.browser import browser  # noqa: F401 (a fixture)

NAN = float("nan")
SCORES = pd.DataFrame({"case_id": ["Case00", "Case01"], "nll": [0.1, NAN]})


@pytest.fixture(scope="module")
def folder(full_report, tmp_path_factory):
    out = tmp_path_factory.mktemp("reports") / "calib"
    write_report(full_report, SCORES, out)
    return out


def page(folder, name="report.html"):
    return (folder / name).read_text(encoding="utf-8")


def visible(html):
    return re.sub(r"\s+", " ", re.sub(r"<style.*?</style>|<[^>]+>", " ", html, flags=re.S))


def bare(report):
    return replace(
        report, tables=(), curves=(), reliability=(), scatters=(), plates=(), laws=(), effects=(), members=(), notes=()
    )


def test_every_file_is_there(full_report, folder):
    assert {path.name for path in folder.iterdir()} == {
        "report.html", "laws.html", "report.md", "report.json", "table.csv", "cases.parquet", "tables", "figures",
    }  # fmt: skip
    assert {path.name for path in (folder / "figures").iterdir()} == {
        f"{name}.{kind}" for name in FIGURES for kind in ("png", "pdf")
    }
    assert {path.name for path in (folder / "tables").iterdir()} == {
        f"{table.key}.{kind}" for table in full_report.tables for kind in ("tex", "csv")
    }
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "cases.parquet"), SCORES)
    assert [path.name for path in folder.parent.iterdir()] == ["calib"]  # nothing unfinished is left


def test_pages_need_nothing_but_each_other(folder):
    for name, other in {"report.html": "laws.html", "laws.html": "report.html"}.items():
        html = page(folder, name)
        links = re.findall(r'(?:src|href)="(?!data:|#)([^"]*)"', html)
        assert set(links) == {other}
        assert "<script" not in html
        assert "http" not in re.sub(r"base64,[^\"]*", "", html)
        anchors = re.findall(r'\bid="([^"]*)"', html)
        assert len(anchors) == len(set(anchors))
        assert set(re.findall(r'href="#([^"]*)"', html)) <= set(anchors)


def test_tables_and_figures_stand_in_order(full_report, folder):
    found = re.findall(r'<(?:h2|h3|figure) id="([^"]*)"', page(folder))
    assert found == [
        "section-calibration-and-segmentation", "box", "figure_2", "figure_1", "reliability", "whole", "hd95",
        "differences", "recipes", "section-uncertainty-of-a-segment", "figure_3", "figure_3_cases", "figure_s8",
        "segments", "ood", "section-how-many-members", "figure_s4", "curve", "members_dice", "members_ce",
        "section-cases", "methods", "confidence", "section-sensitivity", "sensitivity", "pooled",
        "section-beside-the-paper", "paper_table_2", "section-data-and-members", "data", "members", "section-further",
        "unheard_of", "notes", "laws", "conventions", "models",
    ]  # fmt: skip


def test_a_section_without_content_has_no_heading(full_report):
    volumes = Table("volumes", "3-D", "Table S-III.", ("NLL",), (("CE", ("0.1",)),))
    (one,) = sections(replace(full_report, tables=(volumes,)), ())
    assert (one.title, one.items) == ("Calibration and segmentation", (volumes,))
    (new,) = sections(replace(full_report, tables=()), ("a_new_figure",))
    assert (new.title, new.items) == ("Further", ("a_new_figure",))


def test_cells_name_spread_and_ci(folder):
    html = page(folder)
    assert '0.200<span class="more">spread 0.110–0.710</span><span class="more">ci 0.250–0.330</span>' in html
    assert '+0.012<span class="more">ci [-0.003, +0.027]</span><span class="more">p=0.004, d=0.8</span>' in html
    assert '-0.200<span class="more">p n/a</span>' in html
    assert "1 of 8 left out" in html
    assert '<tr class="marked"><th>Brain (L_DSC) †</th>' in html
    assert "Ensembles lower the NLL &amp; more." in html


def wide(structures, spread):
    """The first table of a task with so many structures, its cells as wide as they become."""
    cell = Cell(0.543, Interval(*spread, "spread"), Interval(*spread, "ci"), n=12, excluded=0)
    columns = ("NLL", "Brier", "ECE %", "class-wise ECE %", *(f"Dice non-enhancing {n}" for n in range(structures)))
    rows = tuple((title, (cell,) * len(columns)) for title in ("ce_mc, MC dropout", "dice, ensemble of 50"))
    return Table("box", "Calibration in the box, and Dice", "Means.", columns, rows, ("low",) * len(columns))


@pytest.mark.parametrize(("structures", "fits"), [(3, True), (12, False)])
def test_a_table_fits_the_screen_or_scrolls_beside_its_first_column(full_report, tmp_path, request, structures, fits):
    look = request.getfixturevalue("browser")
    write_report(replace(bare(full_report), tables=(wide(structures, (0.266, 0.750)),)), SCORES, tmp_path / "out")
    look.size(1280, 900)
    look.open((tmp_path / "out" / "report.html").as_uri())
    measure = """const box = document.querySelector(".scroll"); box.scrollLeft = 9999;
        return [box.scrollWidth <= box.clientWidth, document.documentElement.scrollWidth,
                box.querySelector("tbody th").getBoundingClientRect().left - box.getBoundingClientRect().left]"""
    assert look.js(measure) == [fits, 1280, 0]
    look.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        look.size(1032, 700)  # A4 on its side, without its margins
        assert look.js("return document.documentElement.scrollWidth") == 1032 or not fits
    finally:
        look.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_laws_have_a_page_and_a_summary(full_report, folder):
    laws = page(folder, "laws.html")
    assert re.findall(r'<span class="badge (\w+)">', laws) == [e.verdict for e in full_report.effects]
    assert "Law 1 says a &gt; b" in laws
    assert '0.100<span class="more">[0.050–0.200]</span>' in laws
    assert "ECE(15) &lt;= ECE(30)" in laws
    text = visible(page(folder))
    assert "The paper's empirical laws: 6 of 8 hold here, 1 failed, 1 inconclusive." in text
    assert "all 2 laws hold on all rows" in text


def test_a_broken_law_is_said(full_report, tmp_path):
    broken = replace(full_report.laws[0], broken=3, worst="Case01, 0.2 > 0.1")
    write_report(replace(bare(full_report), laws=(broken, full_report.laws[1])), SCORES, tmp_path / "out")
    assert "1 of 2 laws are broken : ECE(15) &lt;= ECE(30)." in visible(page(tmp_path / "out"))
    assert "Case01, 0.2 &gt; 0.1" in page(tmp_path / "out", "laws.html")
    assert "| 96 | 3 | Case01, 0.2 > 0.1 |" in page(tmp_path / "out", "report.md")


def test_json_has_everything_but_pixels(full_report, folder):
    content = json.loads(page(folder, "report.json"))
    assert content["plates"][0] == {
        "key": "figure_1",
        "views": [
            {"case_id": "Case00", "caption": "best, mean Dice 0.91", "domain": "source", "slice_index": 7},
            {"case_id": "Case01", "caption": "median, mean Dice 0.71", "domain": "target", "slice_index": 7},
        ],
    }
    assert content["curves"][0]["error"] == [0.008, 0.006, 0.004, 0.003, 0.003, None]
    (paper,) = (table for table in content["tables"] if table["key"] == "paper_table_2")
    assert paper["marked"] == [0]
    assert content["effects"][7]["verdict"] == "INCONCLUSIVE"
    assert content["ood_cases"] == ["Other00", "Other01"]
    assert len(page(folder, "report.json")) < 200_000


def test_markdown_has_sections_figures_and_laws(folder):
    text = page(folder, "report.md")
    assert text.index("## Calibration and segmentation") < text.index("### In the box") < text.index("## Cases")
    assert "![figure_2](figures/figure_2.png)\n\nFigure 2. " in text
    assert "| L3 | Law 3 says a > b | the difference of a and b | 0.300 [0.150–0.600] | FAIL |" in text
    assert r"| \|conf - acc\| <= ECE | 96 | 0 |  |" in text
    assert text.count(" version ") == 6


def test_an_earlier_report_vanishes(full_report, tmp_path):
    out = tmp_path / "out"
    for stale in ("figures/old.png", "tables/old.tex"):
        (out / stale).parent.mkdir(parents=True, exist_ok=True)
        (out / stale).write_text("old")
    (out / "report.html").write_text("old")
    write_report(bare(full_report), SCORES, out)
    assert list((out / "figures").iterdir()) == list((out / "tables").iterdir()) == []
    assert "calib" in page(out)


def test_many_models_are_folded_away(full_report, make, folder, tmp_path):
    assert page(folder).count("<details open>") == 2  # a registered model each, of three versions
    report = replace(bare(full_report), members=make.report(members=200).members)
    write_report(report, SCORES, tmp_path / "out")
    html = page(tmp_path / "out")
    assert "<details open>" not in html
    assert re.findall(r"<summary>(.*?)</summary>", html) == [
        "segcal-prostate-cross_entropy: 200 versions", "segcal-prostate-soft_dice: 200 versions",
    ]  # fmt: skip


def test_one_case_without_intervals(full_report, make, tmp_path):
    lonely = make.cell(0.5, NAN, NAN)
    lonely = replace(lonely, ci=replace(lonely.ci, low=NAN, high=NAN), n=1)
    table = Table("box", "Box", "One patient.", ("NLL",), (("CE", (lonely,)), ("none", (replace(lonely, point=NAN),))))
    report = replace(
        full_report, tables=(table,), test_cases=("Case00",), ood_cases=(), plates=full_report.plates[:1],
        scatters=(), curves=(),
    )  # fmt: skip
    write_report(report, SCORES[:1], tmp_path / "out")
    html = page(tmp_path / "out")
    assert '<td class="">0.500</td>' in html
    assert '<td class="">n/a</td>' in html
    assert "out-of-distribution patients" not in html
    assert "| CE | 0.500 |" in page(tmp_path / "out", "report.md")
