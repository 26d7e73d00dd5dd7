"""The explorer in a real browser: sort a table, choose, click a point and land on its case; dark and light.

Pictures: browser-screenshots/report-*.png.
"""

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from segcal.ledger.names import tag
from segcal.ledger.report_run import end_report, keep_report
from tests.fresh_store import fresh_store
from tests.service.browser import LAPTOP, serving
from tests.service.made_report import CASES, ENSEMBLE, SINGLE, explorer, fill

pytest.importorskip("selenium", reason="selenium is not installed")

VIEWS = {"overview": "", "table": "/table", "curve": "/curve", "reliability": "/reliability", "scatter": "/scatter",
         "cases": "/cases"}  # fmt: skip
PLOTS = {"curve": 2, "reliability": 2, "scatter": 1}


@pytest.fixture(scope="module")
def site(browser, tmp_path_factory, tiny_task):
    """Address of a served explorer, and of its report. The browser comes first: without it nothing is made."""
    store = fresh_store(tmp_path_factory.mktemp("store"))
    ids = fill(store, tmp_path_factory.mktemp("made"), tiny_task)
    with serving(explorer(store)) as url:
        yield url, f"{url}/reports/{ids['FINISHED']}/tiny"


def first_column(browser):
    return [cell.text for cell in browser.all("#view tbody th")]


def query(browser):
    return {key: values[0] for key, values in parse_qs(urlsplit(browser.driver.current_url).query).items()}


def drawn(browser, count):
    """Wait until so many plots have been drawn."""
    browser.wait(lambda: len(browser.all(".plot .main-svg:first-child")) >= count, f"{count} plots")


def dark(browser):
    """Whether the ground of the page, and that of every plot, is dark."""
    script = """
        const luminance = (text) => text.match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b) / 3;
        const grounds = [getComputedStyle(document.body).backgroundColor];
        for (const svg of document.querySelectorAll(".plot .main-svg:first-child")) grounds.push(svg.style.background);
        return grounds.map((ground) => luminance(ground) < 128);"""
    return browser.js(script)


def test_a_table_is_sorted_by_mouse_and_by_key(page, site):
    _, report = site
    page.open(f"{report}/table?table=box")
    assert first_column(page) == [SINGLE, ENSEMBLE, "prior †"]
    page.js("window.same = true")  # the page stays, the table alone is exchanged
    page.one("#sort-1").click()
    page.wait(lambda: first_column(page) == [ENSEMBLE, "prior †", SINGLE], "the table to be sorted by NLL")
    assert query(page) == {"table": "box", "sort": "1", "dir": "asc"}
    assert page.js("return window.same") is True
    assert page.one("#sort-1").find_element("xpath", "..").get_attribute("aria-sort") == "ascending"
    page.one("#sort-1").send_keys("\n")
    page.wait(lambda: first_column(page) == [SINGLE, "prior †", ENSEMBLE], "the order to be turned by Enter")
    assert page.js("return document.activeElement.id") == "sort-1"
    page.picture("report-table-sorted")
    page.driver.back()
    page.wait(lambda: first_column(page) == [ENSEMBLE, "prior †", SINGLE], "the order before")
    page.driver.refresh()
    page.wait(lambda: first_column(page) == [ENSEMBLE, "prior †", SINGLE], "the order of the URL")


def test_a_click_on_a_point_opens_its_case(page, site):
    _, report = site
    page.open(f"{report}/scatter")
    drawn(page, 1)
    assert len(page.all(".plot .points .point")) == len(CASES) * 2
    point = page.wait(lambda: next(iter(page.all(".plot .points .point")), None), "a point")
    box = page.js(
        "const r = arguments[0].getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]", point
    )
    page.move_and_click(*box)
    page.wait(lambda: "/cases/" in page.driver.current_url, "the page of the case")
    assert urlsplit(page.driver.current_url).path == f"{urlsplit(report).path}/cases/a%201"
    assert query(page) == {"method": ENSEMBLE, "structure": "core"}
    page.driver.back()
    page.wait(lambda: page.driver.current_url == f"{report}/scatter", "the scatter again")


def test_a_point_is_opened_by_keyboard(page, site):
    _, report = site
    page.open(f"{report}/scatter?method={SINGLE}&sort=4&dir=asc")
    page.one("#view tbody a").send_keys("\n")
    page.wait(lambda: "/cases/d-4" in page.driver.current_url, "the page of the case")
    assert query(page) == {"method": SINGLE, "structure": "edema"}


def test_a_choice_changes_the_url_and_the_plot(page, site):
    _, report = site
    page.open(f"{report}/reliability")
    drawn(page, 2)
    page.js("""const s = document.querySelector("select[name=method]"); s.value = arguments[0];
               s.dispatchEvent(new Event("change", {bubbles: true}))""", ENSEMBLE)  # fmt: skip
    page.wait(lambda: query(page).get("method") == ENSEMBLE, "the choice in the URL")
    drawn(page, 1)
    assert len(page.all(".plot")) == 1
    page.driver.back()
    page.wait(lambda: len(page.all(".plot")) == 2, "all diagrams again")
    assert page.one("select[name=method]").get_attribute("value") == "all"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_view_fits_a_laptop_in_light_and_dark(page, site, scheme):
    url, report = site
    page.prefer(scheme)
    views = {"experiments": url, "experiment": f"{url}/experiments/exp", **{n: report + v for n, v in VIEWS.items()}}
    for name, address in views.items():
        page.open(address)
        drawn(page, PLOTS.get(name, 0))
        assert page.js("return document.documentElement.scrollWidth") == LAPTOP[0], name
        assert dark(page) == [scheme == "dark"] * (1 + PLOTS.get(name, 0)), name
        page.picture(f"report-{name}-{scheme}")


def test_the_switch_turns_page_and_plots_and_is_remembered(page, site):
    _, report = site
    page.open(f"{report}/scatter")
    drawn(page, 1)
    assert dark(page) == [False, False]
    page.one("#theme").click()
    page.wait(lambda: dark(page) == [True, True], "the dark")
    page.open(f"{report}/curve")
    drawn(page, 2)
    assert dark(page) == [True] * 3
    page.one("#theme").click()
    page.wait(lambda: dark(page) == [False] * 3, "the light")
    page.js("localStorage.clear()")


def test_paper_is_white(page, site):
    _, report = site
    page.open(f"{report}/scatter")
    drawn(page, 1)
    page.one("#theme").click()
    page.wait(lambda: dark(page) == [True, True], "the dark")
    page.js("window.dispatchEvent(new Event('beforeprint'))")
    page.wait(lambda: dark(page) == [False, False], "the light, for paper")
    page.js("window.dispatchEvent(new Event('afterprint'))")
    page.wait(lambda: dark(page) == [True, True], "the dark again")
    page.js("localStorage.clear()")


def test_tables_scroll_and_pages_do_not_in_a_narrow_window(page, site):
    url, report = site
    page.size(400, 800)
    try:
        for address in (url, f"{url}/experiments/exp", *(report + path for path in VIEWS.values())):
            page.open(address)
            assert page.js("return document.documentElement.scrollWidth") == 400, address
    finally:
        page.size(*LAPTOP)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_and_fields_stand_out(page, site, scheme):
    """WCAG 2, 1.4.11: graphics and the edges of fields have three times the luminance of the ground, or a third."""
    url, _ = site
    page.prefer(scheme)
    page.open(f"{url}/experiments/exp")
    names = ["--edge", "--accent", "--good", "--bad", *(f"--c{n}" for n in range(6))]
    ground, *marks = page.js(
        """
        const luminance = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255)
          .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4))
          .reduce((sum, part, n) => sum + part * [0.2126, 0.7152, 0.0722][n], 0);
        const style = getComputedStyle(document.documentElement);
        return ["--back", ...arguments[0]].map((name) => luminance(style.getPropertyValue(name).trim()));""",
        names,
    )
    contrast = {n: (max(m, ground) + 0.05) / (min(m, ground) + 0.05) for n, m in zip(names, marks, strict=True)}
    assert {name: round(value, 2) for name, value in contrast.items() if value < 3} == {}


def test_the_first_key_skips_to_the_content(page, site):
    _, report = site
    page.open(report)
    page.press("Tab")
    assert page.js("return document.activeElement.className") == "skip"
    assert page.js("return document.activeElement.getBoundingClientRect().left") == 0
    page.press("Enter")
    page.wait(lambda: page.js("return document.activeElement.id") == "main", "the focus on the content")


def test_who_waits_for_a_report_gets_it(page, tmp_path, tiny_task, monkeypatch):
    monkeypatch.setattr("segcal.service.catalogue.FRESH_S", 0.1)
    store = fresh_store(tmp_path)
    run_id = fill(store, tmp_path / "made", tiny_task)["RUNNING"]
    with serving(explorer(store)) as url:
        page.open(f"{url}/reports/{run_id}")
        assert page.one("progress").get_attribute("value") == "3"
        store.set_tag(run_id, tag("progress"), json.dumps({"line": "drawing"}))
        page.wait(lambda: page.one("#run .empty").text == "drawing", "the news")
        keep_report(store, run_id, tmp_path / "made" / "out", {"tiny": ""}, {}, {})
        end_report(store, run_id, "FINISHED")
        page.wait(lambda: page.driver.current_url == f"{url}/reports/{run_id}/tiny", "the report")
        assert page.one(".findings").text == "An ensemble of 3 is better & <b>cheaper</b>."


def test_the_form_asks_and_shows_the_answer(page, site):
    url, _ = site
    page.open(f"{url}/experiments/exp")
    page.js("""window.fetch = async (url, options) => {
        window.asked = JSON.parse(options.body);
        return new Response(JSON.stringify({error: {message: "M must be at most 3, got 5"}}), {status: 422});
    }""")
    page.one("input[name=methods]").click()
    page.one("input[name=M]").send_keys("1, 5")
    page.one("#analysis button").click()
    page.wait(lambda: page.one("#analysis-answer").text == "M must be at most 3, got 5", "the answer")
    assert page.js("return window.asked") == {"experiment": "exp", "methods": [SINGLE], "M": [1, 5]}
