"""The explorer's pages as a reader without scripts gets them."""

import gzip
import json
import re
from html import unescape
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from segcal.ledger.report_run import begin_report, end_report
from segcal.measure.case import columns
from segcal.service.catalogue import EnsembleEntry
from segcal.service.explorer.page_data import case_rows, chosen_method, numeric, read_tables, row_order
from segcal.service.render import POLICY, Kept, PageCache
from tests.fresh_store import fresh_store
from tests.service.made_report import CASES, ENSEMBLE, SINGLE, explorer, fill, make_frame

VIEWS = ("", "/table", "/curve", "/reliability", "/scatter", "/cases")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return fresh_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def ids(store, tmp_path_factory, tiny_task):
    return fill(store, tmp_path_factory.mktemp("made"), tiny_task)


@pytest.fixture(scope="module")
def reader(store, ids):
    return TestClient(explorer(store, mlflow_url="http://mlflow.here/", public_url="https://segcal.here"))


@pytest.fixture(scope="module")
def base(ids):
    return f"/reports/{ids['FINISHED']}/tiny"


def rows(html, which=0):
    """Text of the cells of a page's table, row by row; the numbers under a value are joined by a bar."""
    body = re.findall(r"<tbody>(.*?)</tbody>", html, re.S)[which]
    cells = [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in re.findall(r"<tr.*?>(.*?)</tr>", body, re.S)
    ]
    return [[text(cell) for cell in row] for row in cells]


def text(html):
    """What is read of a piece of HTML."""
    return unescape(re.sub(r"<[^>]+>", "", html.replace('<span class="more">', "|"))).strip()


def data(html):
    """The JSON that a page has for its script."""
    return json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', html, re.S)[1])


def test_an_empty_store_says_what_to_do_first(tmp_path):
    page = TestClient(explorer(fresh_store(tmp_path))).get("/").text
    assert "Nothing is here yet" in page
    assert "segcal sweep --task brain --experiment calib" in page
    assert "<table" not in page


def test_experiments(reader):
    page = reader.get("/").text
    ((name, tasks, models, reports, newest),) = rows(page)
    assert (name, tasks, models, reports) == ("exp", "tiny", "3", "3")
    assert re.match(r"20\d\d-\d\d-\d\d", newest)
    assert 'href="/experiments/exp"' in page
    assert "of somebody else" not in page


def test_an_experiment(reader, ids):
    page = reader.get("/experiments/exp").text
    states = {row[1]: row for row in rows(page)}
    assert set(states) == {"finished", "failed", "running"}
    assert states["failed"][3] == "the disk <full>"
    assert states["finished"][2] == "tiny"
    assert states["finished"][3].split() == ["methods", "ce;", "M", "1,", "3"]
    assert re.sub(r"\s+", " ", states["running"][3]) == "scores 3 of 12: a 1"
    assert f"http://mlflow.here/#/experiments/1/runs/{ids['FAILED']}" in page
    assert rows(page, 1) == [[SINGLE, "tiny", "3", "0.600", "segcal-tiny-cross_entropy-abc", "d" * 16]]
    assert 'hx-trigger="every 3s"' in page  # while one is running
    assert f'value="{SINGLE.replace("<", "&lt;").replace(">", "&gt;")}"' in page  # a method of the form


@pytest.mark.parametrize(("resamples", "told"), [(10_000, ""), (500, "resamples 500")])
def test_what_a_report_was_asked_says_nothing_of_what_is_usual(tmp_path, resamples, told):
    store = fresh_store(tmp_path)
    store.create_experiment("exp")
    run_id = begin_report(store, "exp", "r", "q", {"methods": [], "draws": None, "n_resamples": resamples})
    end_report(store, run_id, "FINISHED")
    assert rows(TestClient(explorer(store)).get("/experiments/exp").text)[0][3] == told


def test_an_ensemble_shows_its_card(store, monkeypatch):
    app = explorer(store)
    entry = EnsembleEntry("segcal-tiny-ensemble", 2, "tiny", "ce", 3, ("champion",), 0, None, "3 networks", "exp")
    monkeypatch.setattr(app.state.catalogue, "ensembles", lambda: [entry])
    monkeypatch.setattr(app.state.catalogue, "ensemble", lambda name, version: (entry, "# A <card>"))
    reader = TestClient(app)
    assert rows(reader.get("/experiments/exp").text, 2) == [
        ["segcal-tiny-ensemble version 2|3 networks", "ce", "3", "champion", "1970-01-01 00:00 UTC"]
    ]
    page = reader.get("/ensembles/segcal-tiny-ensemble/2").text
    assert "# A &lt;card&gt;" in page
    assert '<a href="/experiments/exp">' in page


def test_reports_on_their_way(reader, ids, base):
    running = reader.get(f"/reports/{ids['RUNNING']}").text
    assert 'hx-trigger="every 2s"' in running
    assert '<progress max="12" value="3"' in running
    failed = reader.get(f"/reports/{ids['FAILED']}").text
    assert "the disk &lt;full&gt;" in failed
    assert "hx-trigger" not in failed
    answer = reader.get(f"/reports/{ids['FINISHED']}", follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, base)
    waited = reader.get(f"/reports/{ids['FINISHED']}", headers={"hx-request": "true"}, follow_redirects=False)
    assert (waited.status_code, waited.headers["hx-redirect"], waited.text) == (200, base, "")
    assert (
        reader.get(f"/reports/{ids['RUNNING']}/tiny").text.replace(f"{ids['RUNNING']}/tiny", ids["RUNNING"]) == running
    )
    assert reader.get(f"/reports/{ids['RUNNING']}/tiny/table").status_code == 404


def test_an_experiment_may_be_called_anything(tmp_path):
    store, name = fresh_store(tmp_path), "team/a b? <i>é%"
    store.create_experiment(name)
    begin_report(store, name, "r", "q", {})
    reader = TestClient(explorer(store))
    assert "team/a b? &lt;i&gt;é%" in reader.get(f"/experiments/{quote(name)}").text
    assert f'href="/experiments/{quote(name)}"' in reader.get("/").text


def test_the_overview(reader, base, ids):
    page = reader.get(base).text
    assert "An ensemble of 3 is better &amp; &lt;b&gt;cheaper&lt;/b&gt;." in page
    for view in VIEWS:
        assert f'href="{base}{view}"' in page
    assert f"http://mlflow.here/#/experiments/1/runs/{ids['FINISHED']}" in page
    assert f'href="https://segcal.here{base}"' in page
    assert f'href="{base}/report.html"' in page


def test_a_table_has_what_the_report_says(reader, base):
    page = reader.get(f"{base}/table?table=box").text
    assert rows(page) == [
        [SINGLE, "0.900|spread 0.500–1.30|ci 0.700–1.10", "0.250|spread 0.100–0.500|ci 0.175–0.375"],
        [ENSEMBLE, "0.100|spread 0.050–0.150|ci 0.075–0.125",
         "0.750|spread 0.500–0.900|ci 0.625–0.825|1 of 4 left out"],
        ["prior †", "0.500|spread 0.400–0.600|ci 0.450–0.550", "n/a"],
    ]  # fmt: skip
    assert page.count('class="best"') == 1
    assert re.search(r'<td class="best">0.100', page)
    assert page.count('class="marked"') == 1
    assert page.count("lower is better</span>") == 1
    assert page.count("higher is better</span>") == 1
    pair = rows(reader.get(f"{base}/table?table=differences").text)
    assert pair == [[f"{ENSEMBLE} minus {SINGLE}", "-0.800|ci [-1.00, -0.600]|p<0.001, d=-2.0"]]


@pytest.mark.parametrize(
    ("query", "order", "aria"),
    [
        ("", (SINGLE, ENSEMBLE, "prior †"), ("none", "none", "none")),
        ("&sort=1&dir=asc", (ENSEMBLE, "prior †", SINGLE), ("none", "ascending", "none")),
        ("&sort=1&dir=desc", (SINGLE, "prior †", ENSEMBLE), ("none", "descending", "none")),
        ("&sort=2&dir=desc", (ENSEMBLE, SINGLE, "prior †"), ("none", "none", "descending")),  # what is n/a comes last
        ("&sort=2&dir=asc", (SINGLE, ENSEMBLE, "prior †"), ("none", "none", "ascending")),
        ("&sort=0&dir=desc", ("prior †", ENSEMBLE, SINGLE), ("descending", "none", "none")),
    ],
)
def test_a_table_is_sorted_by_the_url(reader, base, query, order, aria):
    page = reader.get(f"{base}/table?table=box{query}").text
    assert tuple(row[0] for row in rows(page)) == order
    assert tuple(re.findall(r'aria-sort="(\w+)"', page)) == aria


def test_a_head_sorts_by_the_best_first_and_then_turns(reader, base):
    links = [unescape(link) for link in re.findall(r'id="sort-\d" href="([^"]+)"', reader.get(f"{base}/table").text)]
    assert links == [f"{base}/table?sort=0&dir=asc", f"{base}/table?sort=1&dir=asc", f"{base}/table?sort=2&dir=desc"]
    again = reader.get(links[2]).text
    assert f"{base}/table?sort=2&dir=asc" in unescape(again)


def test_texts_are_sorted_by_the_number_they_begin_with():
    table = {
        "key": "t", "title": "", "caption": "", "columns": ["n", "text", "mixed"], "better": [], "marked": [],
        "rows": [["a", ["10", "b", "-0.5, p<0.001"]], ["b", ["9\n± 1", "C", ""]], ["c", ["1,000", "a", "+2e-1 (x)"]]],
    }  # fmt: skip
    (found,) = read_tables({"tables": [table]})
    assert [numeric(found, column) for column in range(4)] == [False, True, False, True]
    assert row_order(found, 1, False) == [1, 0, 2]
    assert row_order(found, 2, False) == [2, 0, 1]
    assert row_order(found, 3, False) == [0, 2, 1]
    assert row_order(found, 3, True) == [2, 0, 1]


def test_curves(reader, base):
    page = reader.get(f"{base}/curve").text
    assert [panel["name"] for panel in data(page)["panels"]] == ["nll-box", "dice"]  # there is no whole volume
    assert rows(page)[0][1:] == ["0.900|0.800–1.00|± 0.050, 3 draws", "0.500|0.450–0.550|± 0.020, 3 draws",
                                 "0.100|0.100–0.100|1 draw"]  # fmt: skip
    one = data(reader.get(f"{base}/curve?metric=dice&band=none").text)
    assert one["band"] == "none"
    assert one["panels"][0]["curves"][0]["error"] == [0.05, 0.02, None]
    assert [panel["name"] for panel in one["panels"]] == ["dice"]


def test_reliability(reader, base):
    page = reader.get(f"{base}/reliability?region=whole").text
    found = data(page)["diagrams"]
    assert [(d["title"], d["region"]) for d in found] == [(SINGLE, "whole"), (ENSEMBLE, "whole")]
    assert [row["enough"] for row in found[0]["rows"]] == [False] * 7 + [True] * 3  # 1000 voxels are not enough
    assert "few voxels: 0.5–0.6 (12), 0.6–0.7 (1000)" in page
    assert "ECE 2.00%" in page
    assert rows(page)[9] == ["0.9 to 1.0", "90,000", "0.950", "0.930", "-0.020"]
    assert rows(page)[0] == ["0.0 to 0.1", "0", "n/a", "n/a", "n/a"]
    one = data(reader.get(f"{base}/reliability", params={"method": ENSEMBLE}).text)["diagrams"]
    assert [(d["title"], d["region"]) for d in one] == [(ENSEMBLE, "box")]


def test_a_point_leads_to_its_case(reader, base):
    page = reader.get(f"{base}/scatter").text
    found = data(page)
    assert found["domains"] == ["source", "target"]
    assert found["structures"] == ["core", "edema"]
    point = next(p for p in found["points"] if (p["case_id"], p["structure"]) == ("b/2", "edema"))
    assert (point["entropy"], point["dice"]) == (pytest.approx(0.25), pytest.approx(0.6))
    method = "ce+%3Cb%3E%2C+ensemble+of+3"  # the last ensemble is shown to who chooses none
    assert point["url"] == f"{base}/cases/b%2F2?method={method}&structure=edema"
    assert f'href="{point["url"].replace("&", "&amp;")}"' in page  # in the table as well
    assert [(f["domain"], f["low"], f["high"]) for f in found["fits"]] == [
        ("all", pytest.approx(0.1), pytest.approx(0.45)), ("source", pytest.approx(0.1), pytest.approx(0.25)),
        ("target", pytest.approx(0.3), pytest.approx(0.45)),
    ]  # fmt: skip
    assert "means over the single models" not in page
    assert "means over the single models" in reader.get(f"{base}/scatter?method={quote(SINGLE)}").text
    lowest = rows(reader.get(f"{base}/scatter?method={quote(SINGLE)}&sort=4&dir=asc").text)[0]
    assert lowest == ["d-4", "edema", "target", "0.450", "0.200"]


def test_cases(reader, base):
    page = reader.get(f"{base}/cases").text
    assert rows(page) == [
        ["a 1", "source", "here", "0.100", "0.000", "0.400", "0.000"],
        ["b/2", "source", "here", "0.200", "0.200", "0.500", "0.200"],
        ["c-3", "target", "here", "0.300", "0.400", "0.600", "0.400"],
        ["d-4", "target", "here", "0.400", "n/a", "0.700", "n/a"],
    ]
    falling = rows(reader.get(f"{base}/cases?sort=4&dir=desc").text)
    assert [row[0] for row in falling] == ["c-3", "b/2", "a 1", "d-4"]  # n/a last
    assert f"{base}/cases/a%201?method=" in page


def test_scores_of_cases_are_of_methods_alone(tiny_task):
    found = case_rows(make_frame(columns(tiny_task)), ("core", "edema"), (SINGLE, ENSEMBLE))
    assert [row.case_id for row in found] == list(CASES)
    assert found[1].dice == {SINGLE: pytest.approx(0.2), ENSEMBLE: pytest.approx(0.5)}  # no size 2, no other reading
    assert chosen_method([SINGLE]) == SINGLE
    assert chosen_method([]) is None


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/experiments/exq", "did you mean 'exp'?"),
        ("/reports/nothing", "no report 'nothing'"),
        ("/ensembles/segcal-tiny-ensemble/1", "there is none yet"),
        ("{base}x", "did you mean 'tiny'?"),
        ("{base}/tabel", "did you mean 'table'?"),
        ("{base}/table?table=bix", "did you mean 'box'?"),
        ("{base}/table?sort=9", "no sort '9'"),
        ("{base}/table?sort=-1", "no sort '-1'"),
        ("{base}/curve?metric=nll-bux", "did you mean 'nll-box'?"),
        ("{base}/curve?metric=nll-whole", "no metric 'nll-whole'"),
        ("{base}/reliability?region=boxes", "did you mean 'box'?"),
        ("{base}/scatter?method=<script>", "no method '<script>'"),
        ("{base}/figures/nothing.png", "no file 'figures/nothing.png'"),
        ("{base}/figures/box.csv", "they end in .png or .pdf"),
        ("{base}/tables/..%2F..%2Freport.json", "not found"),
        ("{base}/tables/..%5Creport.csv", "they end in .csv or .tex"),
    ],
)
def test_an_unknown_name_is_a_page_with_the_nearest(reader, base, path, told):
    answer = reader.get(path.format(base=base), headers={"accept": "text/html"})
    assert answer.status_code == 404
    assert told in unescape(answer.text)
    assert "<script>'" not in answer.text


def test_files_of_the_report(reader, base):
    whole = reader.get(f"{base}/report.html")
    assert whole.status_code == 200
    assert "script-src" not in whole.headers["content-security-policy"]
    assert reader.get(f"{base}/report.json").json()["experiment"] == "exp"
    assert reader.get(f"{base}/tables/box.csv").text.count("\n") == 4
    assert reader.get(f"{base}/figures/reliability.png").content.startswith(b"\x89PNG")


def test_a_page_forbids_scripts_in_itself(reader, base):
    for path in ("/", "/experiments/exp", *(base + view for view in VIEWS)):
        answer = reader.get(path)
        assert answer.headers["content-security-policy"] == POLICY
        for script in re.findall(r"<script([^>]*)>", answer.text):
            assert 'src="/assets/' in script or 'type="application/json"' in script
        assert not re.search(r"\son\w+=|javascript:", answer.text)
        assert "<b>, ensemble" not in answer.text  # a label is text


def test_a_finished_report_is_rendered_once(store, base):
    app = explorer(store)
    reader = TestClient(app)
    first = reader.get(f"{base}/table?sort=1")
    app.state.catalogue = None  # what is kept needs nothing else
    again = reader.get(f"{base}/table?sort=1", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert reader.get(f"{base}/table?sort=1", headers={"if-none-match": '"other"'}).text == first.text
    plain = reader.get(f"{base}/table?sort=1", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.content == first.content
    assert first.headers["content-encoding"] == "gzip"
    assert first.headers["vary"] == "accept-encoding"


def test_pages_that_change_are_not_kept(store, ids):
    app = explorer(store)
    reader = TestClient(app)
    for path in ("/", "/experiments/exp", f"/reports/{ids['RUNNING']}"):
        assert reader.get(path).status_code == 200
    assert not app.state.page_cache._pages


def test_the_oldest_pages_go():
    kept = Kept.of("x" * 5000)
    size = len(kept.plain) + len(kept.packed)
    assert gzip.decompress(kept.packed) == kept.plain
    cache = PageCache(2 * size)
    cache.put("a", kept), cache.put("b", kept), cache.put("b", kept)
    assert cache.get("a") is kept  # and now b is the oldest
    cache.put("c", kept)
    assert [cache.get(url) is not None for url in "abc"] == [True, False, True]
