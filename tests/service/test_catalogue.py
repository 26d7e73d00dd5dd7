"""What the catalogue says of a store, and what it says of names that nothing has."""

import json
import threading
import time

import numpy as np
import pytest

from segcal.analysis.build_report import OF_BOTH
from segcal.errors import BadData, UnknownName
from segcal.ledger.names import tag
from segcal.ledger.report_run import begin_report
from segcal.service.catalogue import CaseEntry, Catalogue, EnsembleEntry, _Kept, nearest_of
from tests.fresh_store import fresh_store
from tests.service.made_report import CASES, DIGEST, SINGLE, fill


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return fresh_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def ids(store, tmp_path_factory, tiny_task):
    return fill(store, tmp_path_factory.mktemp("made"), tiny_task)


@pytest.fixture
def catalogue(store, ids):
    return Catalogue(store)


def test_experiments_are_those_of_segcal(catalogue):
    (found,) = catalogue.experiments()
    assert (found.name, found.models, found.tasks, found.reports) == ("exp", 3, ("tiny",), 3)
    assert abs(found.newest_ms / 1000 - time.time()) < 600


def test_an_empty_store_has_nothing(tmp_path):
    catalogue = Catalogue(fresh_store(tmp_path))
    assert catalogue.experiments() == []
    assert catalogue.ensembles() == []
    with pytest.raises(UnknownName, match="no report 'x'; there is none yet"):
        catalogue.report_run("x")


def test_recipes(catalogue):
    (recipe,) = catalogue.recipes("exp")
    assert (recipe.label, recipe.members, recipe.task, recipe.data_digest) == (SINGLE, 3, "tiny", DIGEST)
    assert recipe.val_dice_mean == pytest.approx(0.6)
    assert catalogue.recipes("of somebody else") == []


def test_ensembles_with_their_aliases(tmp_path):
    store = fresh_store(tmp_path)
    store.create_registered_model("segcal-tiny-ensemble")
    told = {
        "kind": "ensemble", "task": "tiny", "label": "ce", "members": "3", "recipe": "r", "select": "best",
        "source_experiment": "exp", "identity": "i", "manifest_sha256": "0",
    }  # fmt: skip
    tags = {tag(key): value for key, value in told.items()}
    store.create_model_version("segcal-tiny-ensemble", source="/nowhere", tags=tags, description="3 networks")
    store.set_registered_model_alias("segcal-tiny-ensemble", "champion", "1")
    (found,) = Catalogue(store).ensembles()
    assert (found.name, found.version, found.task, found.label) == ("segcal-tiny-ensemble", 1, "tiny", "ce")
    assert (found.members, found.aliases, found.description) == (3, ("champion",), "3 networks")
    assert found.experiment == "exp"


def test_an_ensemble_with_its_card(catalogue, monkeypatch):
    entry = EnsembleEntry("segcal-tiny-ensemble", 2, "tiny", "ce", 3, (), 0, None, "", "exp")
    read = []
    monkeypatch.setattr(catalogue, "ensembles", lambda: [entry])
    monkeypatch.setattr("segcal.service.catalogue.find_version", lambda client, uri: uri)
    monkeypatch.setattr("segcal.service.catalogue.read_card", lambda client, uri: read.append(uri) or "# A card")
    for _ in range(2):
        assert catalogue.ensemble("segcal-tiny-ensemble", "2") == (entry, "# A card")
    assert read == ["models:/segcal-tiny-ensemble/2"]
    with pytest.raises(
        UnknownName, match="no ensemble 'segcal-tiny-ensemble/3'; did you mean 'segcal-tiny-ensemble/2'"
    ):
        catalogue.ensemble("segcal-tiny-ensemble", "3")


def test_reports_newest_first(catalogue, ids):
    assert {run.run_id for run in catalogue.reports("exp")} == set(ids.values())
    assert catalogue.report_run(ids["FAILED"]).error == "the disk <full>"
    starts = [run.started_ms for run in catalogue.reports("exp")]
    assert starts == sorted(starts, reverse=True)


def test_a_report_begun_just_now_is_found(store, ids, catalogue):
    catalogue.experiments()  # what there is, is known for some seconds
    client_id = store.create_experiment(f"new {time.time_ns()}")
    name = store.get_experiment(client_id).name
    run_id = begin_report(store, name, "r", "q", {})
    assert catalogue.report_run(run_id).experiment == name
    assert [run.run_id for run in catalogue.reports(name)] == [run_id]
    store.delete_experiment(client_id)


def test_a_report_is_read_once(catalogue, ids):
    report = catalogue.report(ids["FINISHED"], "tiny")
    assert report.content["structures"] == ["core", "edema"]
    assert len(report.frame) == 2 * 4 * 7
    assert catalogue.report(ids["FINISHED"], "tiny") is report


def test_cases_come_test_first(catalogue, ids):
    cases = catalogue.cases(ids["FINISHED"], "tiny")
    assert [case.case_id for case in cases] == list(CASES)
    assert cases[0] == CaseEntry("a 1", "test", "source", "here")
    assert cases[3] == CaseEntry("d-4", "ood", "target", "here")


def test_a_case_is_read_out_of_the_prepared_cohort(catalogue, ids, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGCAL_HOME", str(tmp_path))
    with pytest.raises(BadData, match="prepared data must have a manifest"):
        catalogue.case(ids["FINISHED"], "tiny", "a 1")
    write_prepared(tmp_path / "prepared" / DIGEST, "a 1", "test")
    case, split = catalogue.case(ids["FINISHED"], "tiny", "a 1")
    assert (split, case.site, case.spacing_mm) == ("test", "here", (3.0, 1.0, 1.0))
    assert case.truth.sum() == 32
    assert case.image.shape == (3, 2, 4, 4)
    with pytest.raises(BadData, match="must hold the case b/2"):
        catalogue.case(ids["FINISHED"], "tiny", "b/2")
    with pytest.raises(BadData, match="the report must name its out-of-distribution data"):
        catalogue.case(ids["FINISHED"], "tiny", "c-3")


@pytest.mark.parametrize("stored", ["c-3", "a 1"])
def test_a_case_out_of_distribution_is_read_out_of_its_own_cohort(catalogue, ids, tmp_path, monkeypatch, stored):
    monkeypatch.setenv("SEGCAL_HOME", str(tmp_path))
    report = catalogue.report(ids["FINISHED"], "tiny")
    asked = stored if stored == "c-3" else f"{stored}{OF_BOTH}"
    named = CaseEntry(asked, "ood", "target", "there")
    monkeypatch.setattr(catalogue, "cases", lambda run_id, task: [named])
    monkeypatch.setitem(report.content, "ood_digest", stored)  # one digest a test: cohorts stay open
    write_prepared(tmp_path / "prepared" / stored, stored, "ood")
    case, split = catalogue.case(ids["FINISHED"], "tiny", asked)
    assert (case.case_id, split) == (asked, "ood")


def write_prepared(folder, case_id, split):
    """A prepared cohort of one case."""
    folder.mkdir(parents=True)
    arrays = {"image": np.zeros((3, 2, 4, 4), np.float32), "truth": np.ones((2, 4, 4), np.uint8)}
    entry = {"case_id": case_id, "split": split, "spacing_mm": [3.0, 1.0, 1.0], "site": "here"}
    for name, array in arrays.items():
        np.save(folder / f"{case_id}.{name}.npy", array)
        entry[f"{name}_bytes"] = (folder / f"{case_id}.{name}.npy").stat().st_size
    (folder / "manifest.json").write_text(json.dumps({"digest": folder.name, "cases": [entry]}))


def test_unknown_names(catalogue, ids):
    run_id = ids["FINISHED"]
    with pytest.raises(UnknownName, match="no experiment named 'exq'; did you mean 'exp'"):
        catalogue.refs("exq")
    with pytest.raises(UnknownName, match=f"did you mean '{run_id}'"):
        catalogue.report_run(run_id[:-1])
    with pytest.raises(UnknownName, match=r"no task 'tinny' .*did you mean 'tiny'"):
        catalogue.report(run_id, "tinny")
    with pytest.raises(UnknownName, match=r"no case '../a 1' .*did you mean 'a 1'"):
        catalogue.case(run_id, "tiny", "../a 1")
    with pytest.raises(UnknownName, match="must be finished to be read, got running"):
        catalogue.report(ids["RUNNING"], "tiny")


def test_of_many_names_the_nearest_are_listed():
    names = [f"case {i:03d}" for i in range(200)] + ["other"]
    message = nearest_of("case 0420", names)
    assert message.startswith("did you mean 'case 042'? nearest of 201: ")
    assert message.count("case") == 13
    assert "other" not in message


class TestKept:
    def test_an_answer_is_made_once_whoever_asks(self):
        kept, made, got = _Kept(), [], []

        def make():
            made.append(1)
            time.sleep(0.05)
            return object()

        threads = [threading.Thread(target=lambda: got.append(kept.get("k", make))) for _ in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert len(made) == 1
        assert len(got) == 8
        assert len(set(map(id, got))) == 1

    def test_it_is_made_anew_when_it_is_old(self):
        kept, numbers = _Kept(), iter(range(9))
        assert [kept.get("k", lambda: next(numbers), s) for s in (5.0, 5.0, 0.0, 5.0)] == [0, 0, 1, 1]

    def test_while_one_asks_anew_the_others_get_the_old_answer(self):
        kept, begun, go = _Kept(), threading.Event(), threading.Event()
        kept.get("k", lambda: "old")

        def make():
            begun.set()
            assert go.wait(10)
            return "new"

        asking = threading.Thread(target=lambda: kept.get("k", make, 0.0))
        asking.start()
        assert begun.wait(10)
        assert kept.get("k", lambda: "never", 1e-9) == "old"
        go.set()
        asking.join()
        assert kept.get("k", lambda: "never") == "new"

    def test_an_answer_that_is_a_little_old_is_given_while_a_thread_makes_a_new_one(self):
        kept, begun, go, made = _Kept(), threading.Event(), threading.Event(), []
        kept.get("k", lambda: "old")

        def make():
            made.append(threading.current_thread())
            begun.set()
            assert go.wait(10)
            return "new"

        assert [kept.get("k", make, 1e-9, 60.0) for _ in range(5)] == ["old"] * 5
        assert begun.wait(10)
        go.set()
        made[0].join(10)
        assert len(made) == 1
        assert made[0] is not threading.current_thread()
        assert kept.get("k", lambda: "never") == "new"
        assert kept.get("k", lambda: "newer", 1e-9, 1e-9) == "newer"  # too old: it is waited for
        assert not kept._renewed

    def test_what_cannot_be_made_anew_is_told_once_the_old_is_too_old(self):
        kept = _Kept()
        kept.get("k", lambda: "old")
        assert kept.get("k", lambda: 1 / 0, 1e-9, 60.0) == "old"
        with pytest.raises(ZeroDivisionError):
            kept.get("k", lambda: 1 / 0, 1e-9, 1e-9)

    def test_what_fails_is_not_kept_and_the_oldest_go(self):
        kept = _Kept(limit=2)
        with pytest.raises(ZeroDivisionError):
            kept.get("k", lambda: 1 / 0)
        assert [kept.get(key, lambda: 1) for key in "kabc"] == [1, 1, 1, 1]
        assert kept.get("c", lambda: 2) == 1
        assert kept.get("k", lambda: 2) == 2
        assert not kept._making
        assert not kept._waiting
