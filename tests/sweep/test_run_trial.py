from dataclasses import replace

import pytest
import torch

from segcal.ledger.names import tag
from segcal.ledger.read import models
from segcal.ledger.store import open_store
from segcal.ledger.write import start_sweep
from segcal.sweep.run_trial import Assignment, OutOfGpuMemory, larger_share, run_trial, trial_device


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
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "val_dice")] == [1]
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert model.source_run_id == run.info.run_id


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("CUDA error: out of memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize(
    ("share", "again", "reason"),
    [
        (0.25, 0.5, "out of GPU memory with a share of 0.25; again with 0.5"),
        (0.6, 1.0, "out of GPU memory with a share of 0.6; again with 1"),
        (1.0, 0.0, "a trial must fit into the memory of a whole GPU, got more with batch 4; lower `batch`"),
    ],
)
def test_a_trial_without_enough_gpu_memory_says_what_share_comes_next(assign, monkeypatch, share, again, reason, error):
    client, make = assign

    def starve(*arguments, **options):
        raise error

    monkeypatch.setattr("segcal.sweep.run_trial.fit", starve)
    assignment = replace(make(), gpus=share)
    with pytest.raises(OutOfGpuMemory) as caught:
        run_trial(assignment)
    assert (str(caught.value), caught.value.again) == (reason, again)
    (run,) = client.search_runs([assignment.sweep.experiment_id], f"tags.`{tag('kind')}` = 'trial'")
    assert (run.info.status, run.data.tags[tag("error")]) == ("FAILED", reason)
    assert run.data.tags.get(tag("again_with_gpus")) == (f"{again:g}" if again else None)


def test_a_process_takes_its_share_of_a_gpu(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", taken.append)
    assert trial_device(0.25) == torch.device("cpu")  # there is none
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    for share in (0.25, 1.0, 2.0):
        assert trial_device(share) == torch.device("cuda", 0)
    assert taken == [0.25 * 0.95, 1.0, 1.0]
    assert [larger_share(share) for share in (0.0, 0.25, 0.6, 1.0)] == [0.0, 0.5, 1.0, 1.0]


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
