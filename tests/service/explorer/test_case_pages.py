"""The page of a case: its state is its URL, its numbers are the report's, and what is unknown is named."""

import gzip
import html
import io
import json
import re
import threading
from urllib.parse import parse_qs, quote, urlsplit

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from segcal.analysis.members import load_pool
from segcal.errors import BadData
from segcal.measure.calibration import reliability_of_bins
from segcal.service.explorer import case_asked, case_pages
from segcal.service.explorer.case_charts import histogram_svg, reliability_svg
from segcal.service.explorer.case_choice import choose, offers, reported_scores
from segcal.service.explorer.case_maps import MapStore, predict_maps


@pytest.fixture
def report(app, reported):
    return app.state.catalogue.report(reported["run_id"], "tiny")


@pytest.fixture
def base(report):
    return f"/reports/{report.run.run_id}/tiny/cases/{report.content['test_cases'][0]}"


@pytest.fixture
def apart(app, tmp_path, monkeypatch):
    """The application with maps of its own, none of them made."""
    store = MapStore(tmp_path / "views")
    monkeypatch.setattr(app.state, "case_maps", store, raising=False)
    yield store
    store.close()


def page_of(client, url, **query):
    """A page, waited for."""
    for _ in range(100):
        answer = client.get(url, params=query, headers={"accept": "text/html"})
        if "Predicting" not in answer.text:
            return answer
    raise AssertionError("the case was never predicted")


def state_of(text):
    return json.loads(re.search(r'<script type="application/json" id="case-state">(.*?)</script>', text, re.S)[1])


def test_every_method_and_member_scores_as_the_report(app, report):
    """All single models and all ensembles that the report drew, on a test case: the numbers of cases.parquet."""
    case, split = app.state.catalogue.case(report.run.run_id, "tiny", report.content["test_cases"][1])
    assert split == "test"
    titles = [offer.method.title for offer in offers(report)]
    assert titles == [
        "ce",
        "ce, ensemble of 3",
        "dice",
        "dice, ensemble of 3",
        "ce, ensemble of 2",
        "dice, ensemble of 2",
    ]
    compared = 0
    for offer in offers(report):
        task, pool = load_pool(app.state.client, [offer.recipe], report.content["data_digest"])
        by_seed = {member.seed: member for member in pool[offer.recipe.recipe]}
        members = [by_seed[ref.seed] for ref in offer.members]
        found = predict_maps(members, case, task, alone=len(members) > 1)
        subsets = [offer.members, *((ref,) for ref in offer.members if len(members) > 1)]
        for maps, refs in zip(found, subsets, strict=True):
            expected = reported_scores(report, refs, case.case_id)
            if expected is None:
                continue  # an ensemble that the report did not draw
            compared += 1
            unmeasured = ["variance", "entropy@box", "entropy@whole", "member_entropy"]  # on this page
            unmeasured += ["hd95"] if len(refs) == 2 else []  # in a report: on its curve only
            for name, value in expected.items():
                if not name.startswith(tuple(unmeasured)):
                    assert maps.scores[name] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), name
    assert compared >= 14


def test_a_single_model_is_the_median_one_and_an_ensemble_has_the_lowest_seeds(report):
    ensemble = choose(report)
    assert ensemble.offer.method.title == "dice, ensemble of 3"
    assert [ref.seed for ref in ensemble.predicting] == [0, 1, 2]
    single = choose(report, "ce")
    dice = sorted(ref.val_dice for ref in single.offer.recipe.members)
    assert single.predicting[0].val_dice == dice[1]
    assert choose(report, "ce, ensemble of 2", "1").predicting[0].seed == 1
    assert ensemble.key("test") != ensemble.key("ood") != single.key("ood")


def test_a_page_restores_the_state_of_its_url(client, base):
    query = {
        "method": "ce, ensemble of 3", "member": "1", "structure": "edema", "layer": "entropy", "channel": "t2",
        "truth": "0", "opacity": "0.35", "threshold": "0.2", "z": "1", "y": "7", "x": "9", "view": "slices",
    }  # fmt: skip
    answer = page_of(client, base, **query)
    assert answer.status_code == 200
    assert state_of(answer.text)["query"] == query
    for name, value in (("method", query["method"]), ("channel", "t2"), ("structure", "edema")):
        select = re.search(rf'<select name="{name}".*?</select>', answer.text, re.S)[0]
        assert re.search(r"<option[^>]* selected>([^<]*)<", select)[1] == value
    source = html.unescape(re.search(r'<img[^>]*src="([^"]*z\.png[^"]*)"', answer.text)[1])
    assert {name: values[0] for name, values in parse_qs(urlsplit(source).query).items()} == query
    beyond = page_of(client, base, z="9" * 30, y="-5")
    assert [state_of(beyond.text)["query"][axis] for axis in "zy"] == ["3", "0"]


def test_a_page_begins_where_most_is_to_see_and_says_what_is_there(client, base, app, report):
    answer = page_of(client, base)
    case, _ = app.state.catalogue.case(report.run.run_id, "tiny", report.content["test_cases"][0])
    truth = np.asarray(case.truth)
    z, y, x = (int(state_of(answer.text)["query"][axis]) for axis in "zyx")
    assert z == int(np.argmax((truth > 0).sum(axis=(1, 2))))
    assert truth[z, y, x] > 0
    ml = float(np.prod(case.spacing_mm)) / 1000
    for label, name in enumerate(report.content["structures"], start=1):
        row = re.search(rf"<tr><th>{name}</th>(.*?)</tr>", answer.text, re.S)[1]
        assert f'<td class="num">{np.count_nonzero(truth == label) * ml:.1f}</td>' in row
    scores = reported_scores(report, choose(report).predicting, case.case_id)
    assert f'<td class="num">{scores["nll@box"]:.4f}</td>' in answer.text
    assert "These numbers are those of the report." in answer.text
    assert answer.text.count('class="chart"') == 3
    for seed in "012":
        assert f'data-seed="{seed}"' in answer.text
        assert f'aria-label="seed {seed}"' in answer.text


@pytest.mark.parametrize("stored", [True, False])
def test_only_known_axes_have_anatomical_names(client, base, monkeypatch, stored):
    grid = case_asked._grid
    monkeypatch.setattr(case_asked, "_grid", lambda *given: (grid(*given)[0], stored))
    text = page_of(client, base, view="slices").text
    assert ("left and right are not known" in text) == stored
    assert ('class="side west"' in text) != stored
    page = html.unescape(re.sub(r"<script.*?</script>", "", text, flags=re.S))
    assert bool(re.search("axial|coronal|sagittal", page, re.IGNORECASE)) != stored
    assert ("axis 2 slice" in page) == stored


def test_a_page_has_no_script_of_its_own_and_asks_nobody_else(client, base):
    answer = page_of(client, base)
    for attributes, content in re.findall(r"<script([^>]*)>(.*?)</script>", answer.text, re.S):
        assert 'type="application/json"' in attributes or ("src=" in attributes and not content.strip())
    assert not re.search(r'\son[a-z]+="', answer.text)
    assert not re.search(r'(src|href)="(https?:)?//', answer.text)
    assert "'unsafe-eval'" not in answer.headers["content-security-policy"]


def test_cases_before_and_after_keep_the_state_but_not_the_slice(client, report):
    ids = list(report.content["test_cases"])
    answer = page_of(client, f"/reports/{report.run.run_id}/tiny/cases/{ids[1]}", layer="error", z="2")
    for rel, other in (("prev", ids[0]), ("next", ids[2])):
        link = html.unescape(re.search(rf'rel="{rel}" href="([^"]*)"', answer.text)[1])
        assert urlsplit(link).path.endswith(other)
        query = parse_qs(urlsplit(link).query)
        assert query["layer"] == ["error"]
        assert not set("zyx") & set(query)
        assert client.get(link).status_code == 200


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ({"method": "dise"}, "did you mean 'dice'"),
        ({"member": "7"}, "known: 0, 1, 2"),
        ({"structure": "edemma"}, "did you mean 'edema'"),
        ({"layer": "entropie"}, "did you mean 'entropy'"),
        ({"channel": "t3"}, "known: flair, t1ce, t2"),
        ({"view": "4d"}, "known: 3d, slices"),
    ],
)
def test_an_unknown_name_is_404_with_the_nearest(client, base, query, told):
    answer = client.get(base, params=query)
    assert answer.status_code == 404
    assert told in html.unescape(answer.text)


@pytest.mark.parametrize("case", ["nobody", "..%2F..%2Fsecrets", "%00"])
def test_a_case_comes_from_the_report_only(client, base, case):
    answer = client.get(f"{base.rpartition('/')[0]}/{case}")
    assert answer.status_code == 404


@pytest.mark.parametrize("query", [{"opacity": "2"}, {"threshold": "-1"}, {"z": "one"}, {"truth": "maybe"}])
def test_a_number_out_of_range_is_422(client, base, query):
    assert client.get(base, params=query).status_code == 422


def test_pictures_volumes_and_values(client, base):
    query = {"method": "ce", "opacity": "1", "z": "1", "y": "15", "x": "16", "truth": "0"}
    found = client.get(f"{base}/slices/z.png", params=query)
    assert found.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(found.content)).size == (512, 512)
    other = client.get(f"{base}/slices/z.png", params=query | {"layer": "none"})
    assert other.content != found.content
    again = client.get(f"{base}/slices/z.png", params=query, headers={"if-none-match": found.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    volume = client.get(f"{base}/volumes/p-2.nii.gz", params=query)
    image = nib.Nifti1Image.from_bytes(gzip.decompress(volume.content))
    assert image.header.get_zooms() == (1.0, 1.0, 3.0)
    assert nib.aff2axcodes(image.affine) == ("L", "P", "S")
    other = client.get(f"{base}/volumes/p-2.nii.gz", params=query | {"method": "dice"})
    assert other.headers["etag"] != volume.headers["etag"]
    held = {"if-none-match": volume.headers["etag"]}
    assert client.get(f"{base}/volumes/p-2.nii.gz", params=query, headers=held).status_code == 304
    values = client.get(f"{base}/values", params=query).text
    p = float(re.search(r"<dt>p\(edema\)</dt><dd>([0-9.]+)<", values)[1])
    assert p == pytest.approx(float(np.asarray(image.dataobj)[16, 15, 1]), abs=6e-4)
    assert client.get(f"{base}/volumes/p-9.nii.gz").status_code == 404
    assert client.get(f"{base}/slices/w.png").status_code == 404


def test_two_readers_and_their_pictures_wait_for_one_prediction(client, base, apart, monkeypatch):
    go, calls, predict = threading.Event(), [], case_pages._predict

    def slow(app, question, say):
        calls.append(question.case.case_id)
        say(3, 8)
        go.wait(20)
        return predict(app, question, say)

    monkeypatch.setattr(case_pages, "_predict", slow)
    monkeypatch.setattr(case_pages, "AT_ONCE_S", 0.05)
    first, second = client.get(base), client.get(base)
    for answer in (first, second):
        assert answer.status_code == 200
        assert "Predicting" in answer.text
        assert "3 of 8 slices" in answer.text
        assert not state_of(answer.text)["predicted"]
    asked = html.unescape(re.search(r'hx-get="([^"]*)"', first.text)[1])
    told = client.get(asked)
    assert "3 of 8 slices" in told.text
    assert "hx-refresh" not in told.headers
    monkeypatch.setattr(case_pages, "PATIENCE_S", 0.05)
    refused = client.get(f"{base}/slices/z.png")
    assert refused.status_code == 503
    assert client.get(f"{base}/slices/z.png", params={"layer": "none"}).status_code == 200  # the image is there
    go.set()
    apart.wait(next(iter(apart._works), ""), 20)
    assert client.get(asked).headers["hx-refresh"] == "true"
    assert state_of(client.get(base).text)["predicted"]
    assert calls == [calls[0]]
    assert state_of(client.get(base, params={"member": "2"}).text)["predicted"]  # made along with the ensemble
    assert calls == [calls[0]]


def test_a_lost_checkpoint_is_named_and_the_image_is_shown(client, base, apart, monkeypatch):
    def lost(*_):
        raise BadData("segcal-tiny-ce version 2: the checkpoint's files must be there, got: no file; train it again")

    monkeypatch.setattr(case_pages, "load_pool", lost)
    answer = page_of(client, base)
    assert answer.status_code == 409
    assert "segcal-tiny-ce version 2" in answer.text
    assert 'id="stage"' in answer.text
    picture = client.get(f"{base}/slices/z.png")
    assert picture.status_code == 409
    assert "segcal-tiny-ce version 2" in picture.text
    assert client.get(f"{base}/volumes/image-0.nii.gz").status_code == 200


def test_a_method_with_signs_of_its_own_survives_its_links(client, base, report):
    title = "ce, ensemble of 2"
    answer = page_of(client, base, method=title)
    links = [html.unescape(link) for link in re.findall(r'class="keep" href="([^"]*)"', answer.text)]
    assert len(links) == 5  # in the table the mean and two members; the members' slices
    assert all(parse_qs(urlsplit(link).query)["method"] == [title] for link in links)
    assert quote(title) in answer.text


def test_charts_say_what_their_bins_hold():
    bins = reliability_of_bins(np.array([0.0, 4, 1500]), np.array([0.0, 2.0, 1400]), np.array([0.0, 1, 1450]))
    drawn = reliability_svg(bins, "a <b>")
    assert drawn.count('class="accuracy"') == 2
    assert ">4</text>" in drawn
    assert ">1.5k</text>" in drawn
    assert "mean confidence 0.500, accuracy 0.250" in drawn
    assert "a &lt;b&gt;" in drawn
    segments = np.zeros((2, 60))
    segments[0, 59] = 10
    found = histogram_svg(segments, ["one", "none"], "t")
    assert found.count("<polyline") == 1
    assert "one: 10 voxels" in found
    assert reliability_svg(reliability_of_bins(*np.zeros((3, 10))), "empty").count('class="accuracy"') == 0


def test_the_scatter_is_linked_by_a_method_that_it_has(client, base):
    drawn, not_drawn = page_of(client, base, method="ce"), page_of(client, base, method="ce, ensemble of 2")
    for answer, link in ((drawn, "/scatter?method=ce"), (not_drawn, "/scatter")):
        found = re.search(r'href="([^"]*/scatter[^"]*)">Scatter', answer.text)[1]
        assert found.endswith(link)
        assert client.get(found).status_code == 200
