"""From an experiment's members to a registered version, with what it knows of itself."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import linregress

from segcal.data.prepare import prepare
from segcal.ensemble.create import EnsembleRequest, create_ensemble
from segcal.ensemble.loaded import load_ensemble
from segcal.environment import environment
from segcal.errors import BadData, UsageError
from segcal.ledger.ensemble_version import find_version, read_card, read_manifest, versions_of
from segcal.ledger.names import tag
from segcal.ledger.read import models
from segcal.ledger.store import open_store
from segcal.measure.case import score_case
from segcal.measure.uncertainty import logit
from segcal.volume import Prediction
from tests.conftest import write_blobs
from tests.ensemble.conftest import copy_store


def nobody(line):
    """What is said on the way, to nobody."""


@pytest.fixture(scope="module")
def client(registered):
    return open_store(registered[0])


@pytest.fixture(scope="module")
def scores(client, registered) -> pd.DataFrame:
    folder = client.get_logged_model(registered[1]["model_id"]).artifact_location
    return pd.read_csv(Path(folder.removeprefix("file://")) / "scores.csv")


def test_the_best_two_are_taken(client, registered):
    result = registered[1]
    pool = [ref for ref in models(client, "tiny") if ref.label == "dice"]
    best = sorted(pool, key=lambda ref: (-ref.val_dice, ref.seed))[:2]
    assert {(m["seed"], m["weights_sha256"]) for m in result["members"]} == {(r.seed, r.weights_sha256) for r in best}
    assert registered[2][0] == "2 of 3 members of recipe 'dice', task tiny"
    assert (result["name"], result["version"], result["created"]) == ("segcal-tiny-ensemble", 1, True)
    assert result["aliases"] == ["candidate"]


def test_the_scores_are_those_of_its_predictions(client, registered, cohort, tiny_task, scores):
    ensemble = load_ensemble(client, registered[1]["uri"])
    by_case = []
    for case in cohort.cases("test"):
        expected = score_case(Prediction(ensemble.predict(case.image).probs), case, tiny_task)
        row = scores.set_index("case_id").loc[case.case_id]
        for name in ("nll@box", "brier@whole", "ece@box", "dice@edema", "hd95@edema", "entropy@edema"):
            assert row[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-7, nan_ok=True), name
        by_case.append(expected)
    told = registered[1]["scores"]
    for name in ("nll.box", "brier.whole", "ece.whole", "dice.edema", "hd95.edema"):
        values = [case[name.replace(".", "@")] for case in by_case]
        assert told[f"test.{name}"] == pytest.approx(np.mean(values), rel=1e-5)
    assert registered[1]["cases"] == {"val": 1, "test": 3}
    assert scores.split.tolist() == ["val", "test", "test", "test"]
    assert set(scores.domain) == {"source"}


def test_scores_are_metrics_of_the_model_in_a_finished_run(client, registered):
    run = client.get_run(registered[1]["run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags[tag("kind")] == "ensemble"
    assert run.data.tags[tag("experiment")] == "tiny"
    listed = ", ".join(f"{m['name']}/{m['version']}" for m in registered[1]["members"])
    assert run.data.params["members"] == listed
    metrics = {m.key: m.value for m in client.get_logged_model(registered[1]["model_id"]).metrics}
    assert metrics == pytest.approx(registered[1]["scores"])
    assert run.data.metrics == pytest.approx(metrics)


def test_what_entropy_foretells_is_fitted_to_these_scores(client, registered, scores):
    manifest = load_ensemble(client, registered[1]["uri"]).manifest
    line = manifest.dice["edema"]
    known = linregress(scores["entropy@edema"], logit(scores["dice@edema"].to_numpy()))
    assert (line.n, line.slope, line.intercept) == pytest.approx((4, known.slope, known.intercept), rel=1e-6)
    entropies = scores[[f"entropy@{name}" for name in manifest.dice]].mean(axis=1)
    assert manifest.novelty.threshold == pytest.approx(entropies.max() + 1e-6, abs=1e-9)
    assert (manifest.novelty.n_source, manifest.novelty.false_positive_rate) == (4, 0.2)
    assert manifest.native_spacing_mm == ((3.0, 3.0), (1.0, 1.0), (1.0, 1.0))


def test_no_case_that_the_threshold_is_from_is_flagged(client, registered, cohort):
    """Predicted one by one, their entropies differ from the scores in the last digits."""
    ensemble = load_ensemble(client, registered[1]["uri"])
    found = [ensemble.predict(case.image) for split in ("val", "test") for case in cohort.cases(split)]
    assert max(prediction.mean_entropy for prediction in found) <= ensemble.manifest.novelty.threshold


def test_members_and_reports_do_not_see_it(client, registered):
    assert len(models(client, "tiny")) == 6
    assert len(versions_of(client)) == 1


@pytest.fixture
def store(trained, tmp_path, monkeypatch):
    """A store of its own, with nothing registered but members."""
    uri = copy_store(trained[0], tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return open_store(uri)


def test_the_same_again_is_the_same_version(store):
    lines = []
    first = create_ensemble(EnsembleRequest("tiny", "ce", select="all", n_resamples=50), nobody)
    # Another way to the same members: named as found, and promoted.
    again = create_ensemble(EnsembleRequest("tiny", "ce", 3, alias="tried", promote=True, n_resamples=50), lines.append)
    assert (again["version"], again["created"], first["created"]) == (1, False, True)
    assert "the same members, data and code are registered already: segcal-tiny-ensemble version 1" in lines[-1]
    assert again["aliases"] == ["candidate", "champion", "tried"]
    two = create_ensemble(EnsembleRequest("tiny", "ce", 2, "random", seed=3, n_resamples=50), nobody)
    assert (two["version"], two["created"], two["select"]) == (2, True, "random")
    assert find_version(store, "segcal-tiny-ensemble@candidate").version == 2
    assert find_version(store, "segcal-tiny-ensemble@champion").version == 1
    runs = store.search_runs([store.get_experiment_by_name("tiny").experiment_id], f"tags.`{tag('kind')}` = 'ensemble'")
    assert len(runs) == 2


def test_two_calls_at_once_make_one_version(store):
    request = EnsembleRequest("tiny", "ce", select="all", n_resamples=50)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: create_ensemble(request, nobody), range(2)))
    assert sorted(result["created"] for result in found) == [False, True]
    assert [version.version for version in versions_of(store)] == [1]


def test_a_version_without_its_manifest_is_made_anew(store):
    request, lines = EnsembleRequest("tiny", "ce", select="all", n_resamples=50), []
    first = create_ensemble(request, nobody)
    folder = Path(store.get_logged_model(first["model_id"]).artifact_location.removeprefix("file://"))
    manifest = folder / "artifacts" / "manifest.json"
    manifest.write_text(manifest.read_text().replace("tiny", "tony", 1))
    again = create_ensemble(request, lines.append)
    assert (again["version"], again["created"]) == (2, True)
    assert any("the manifest's sha256 must be" in line and "a new version is written" in line for line in lines)


def test_an_out_of_distribution_cohort_is_scored(store, cohort, tiny_task, tmp_path):
    ood = prepare(write_blobs(tmp_path / "ood", cases=3, seed=1), tiny_task, ood=True)
    where = store.get_experiment_by_name("tiny").experiment_id
    run = store.create_run(where, tags={tag("kind"): "sweep"}).info.run_id
    store.log_param(run, "sweep.data_digest", cohort.digest)
    store.log_param(run, "sweep.ood_digest", ood.digest)
    result = create_ensemble(EnsembleRequest("tiny", "dice", 2, n_resamples=50), nobody)
    assert result["cases"] == {"val": 1, "test": 3, "ood": 3}
    assert math.isfinite(result["scores"]["ood.nll.box"])
    assert (result["novelty"]["n_source"], result["novelty"]["n_target"]) == (4, 3)
    assert result["novelty"]["detected"] in (0, 1 / 3, 2 / 3, 1)
    version = find_version(store, result["uri"])
    assert json.loads(read_manifest(store, version))["ood_digest"] == ood.digest
    assert "Of 3 out-of-distribution cases it flags" in read_card(store, version)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experiment": "tiyn"}, "no experiment named 'tiyn'; did you mean 'tiny'?"),
        ({"recipe": "dcie"}, "no recipe 'dcie' in the experiment; did you mean 'dice'?"),
        ({"task": "brain"}, "no model of task 'brain' in the experiment; known: tiny"),
        ({"data_digest": "d"}, "no model was trained on data digest 'd'"),
        ({"members": 4}, "must lie between 1 and 3, the pool of recipe 'dice', got 4"),
        ({"alias": "latest"}, "an alias must be of letters, digits, _, - and ., neither latest nor v1, got 'latest'"),
        ({"alias": "a b"}, "got 'a b'"),
        ({"alias": "V3"}, "got 'V3'"),
    ],
)
def test_what_is_not_there(registered, change, message):
    request = replace(EnsembleRequest("tiny", "dice", 2), **change)
    with environment({"MLFLOW_TRACKING_URI": registered[0]}), pytest.raises(UsageError) as raised:
        create_ensemble(request, nobody)
    assert message in str(raised.value)


def test_a_lost_checkpoint_leaves_no_version(store):
    ref = next(ref for ref in models(store, "tiny") if ref.label == "dice" and ref.seed == 1)
    folder = Path(store.get_logged_model(ref.model_id).artifact_location.removeprefix("file://"))
    (folder / "weights.safetensors").unlink()
    with pytest.raises(BadData, match=f"{ref.name} version {ref.version}: the checkpoint's files must be there"):
        create_ensemble(EnsembleRequest("tiny", "dice", select="all"), nobody)
    assert versions_of(store) == []


def test_a_store_that_fails_in_the_middle_leaves_a_failed_run_and_no_version(store, monkeypatch):
    def fail(*arguments, **named):
        raise OSError("disk full")

    monkeypatch.setattr("segcal.ledger.ensemble_version.mlflow.pyfunc.save_model", fail)
    with pytest.raises(OSError, match="disk full"):
        create_ensemble(EnsembleRequest("tiny", "dice", 2, n_resamples=50), nobody)
    where = store.get_experiment_by_name("tiny").experiment_id
    runs = store.search_runs([where], f"tags.`{tag('kind')}` = 'ensemble'")
    assert [run.info.status for run in runs] == ["FAILED"]
    left = store.search_logged_models([where], f"source_run_id = '{runs[0].info.run_id}'")
    assert [str(model.status).rpartition(".")[2] for model in left] == ["FAILED"]
    assert versions_of(store) == []


def test_the_prepared_cohort_must_be_there(registered, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGCAL_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registered[0])
    with pytest.raises(BadData, match="prepared data must have a manifest, got none in"):
        create_ensemble(EnsembleRequest("tiny", "dice", 1), nobody)
