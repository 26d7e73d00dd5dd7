from dataclasses import replace

import pytest

from segcal.ledger.names import tag
from segcal.ledger.read import models
from segcal.ledger.store import open_store
from segcal.ledger.write import start_sweep
from segcal.sweep.run_trial import Assignment, run_trial


@pytest.fixture
def assign(tmp_path, monkeypatch, trained, tiny_task, cohort):
    monkeypatch.chdir(tmp_path)
    client = open_store()
    sweep = start_sweep(client, "calib", "sweep", {}, "")

    def make(**changes):
        config = replace(trained[1][0], **changes)
        return Assignment(config, tiny_task, cohort.folder, sweep, client.tracking_uri, "test")

    return client, make


def test_the_same_trial_ends_in_the_same_weights_and_another_seed_does_not(trained, assign):
    client, make = assign
    run_trial(make())
    run_trial(make(seed=11))
    again, other = (ref.weights_sha256 for ref in models(client, "calib"))
    first = models(open_store(trained[0]), "tiny")[0].weights_sha256
    assert again == first
    assert other != first


def test_every_epoch_is_reported_and_logged(assign):
    client, make = assign
    records = []
    run_trial(make(epochs=2), records.append)
    assert [record.epoch for record in records] == [1, 2]
    (ref,) = models(client, "calib")
    history = client.get_metric_history(ref.run_id, "train_loss")
    assert [metric.value for metric in history] == [record.train_loss for record in records]
    assert ref.val_dice == pytest.approx(max(record.val_dice for record in records), abs=1e-6)


def test_a_diverging_trial_fails_with_its_reason(assign):
    client, make = assign
    with pytest.raises(FloatingPointError, match="must stay finite"):
        run_trial(make(lr=1e30))
    (run,) = client.search_runs([make().sweep.experiment_id], f"tags.`{tag('kind')}` = 'trial'")
    assert run.info.status == "FAILED"
    assert "must stay finite, got nan" in run.data.tags[tag("error")]


def test_an_interrupted_trial_is_killed_not_running(assign):
    client, make = assign

    def interrupt(record):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trial(make(), interrupt)
    (run,) = client.search_runs([make().sweep.experiment_id], f"tags.`{tag('kind')}` = 'trial'")
    assert run.info.status == "KILLED"


def test_a_dropout_network_may_choose_its_checkpoint_by_monte_carlo(assign):
    """Both train alike, mask by mask: only the validation differs."""
    _, make = assign
    records = {}
    for mc_validation in (False, True):
        config = {"dropout": 0.5, "mc_samples": 4, "mc_validation": mc_validation}
        records[mc_validation] = []
        run_trial(make(**config), records[mc_validation].append)
    plain, sampled = records[False], records[True]
    assert [record.train_loss for record in plain] == [record.train_loss for record in sampled]
    assert [record.val_dice for record in plain] != [record.val_dice for record in sampled]
