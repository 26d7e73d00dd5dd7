"""Ray Tune, for real: a bad trial stops nothing, and what is finished is never trained again."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from segcal.ledger.names import tag
from segcal.ledger.read import models
from segcal.ledger.store import open_store
from segcal.records import EpochRecord


def segcal(folder, *argv):
    environment = {**os.environ, "MLFLOW_TRACKING_URI": ""}
    command = [sys.executable, "-m", "segcal", *map(str, argv)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def swept(blobs, tiny_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("swept")
    broken = "recipes.broken={loss: soft_dice, lr: 1.0e30}"
    done = segcal(folder, "sweep", tiny_files[1], "--data", blobs, "--set", broken, "--json")
    return folder, done


def test_one_bad_trial_does_not_stop_the_others(swept):
    done = swept[1]
    assert done.returncode == 3, done.stderr
    result = json.loads(done.stdout)
    assert sorted(result["finished"]) == ["ce seed 0", "ce seed 1", "dice seed 0", "dice seed 1"]
    assert sorted(result["failed"]) == ["broken seed 0", "broken seed 1"]
    assert "2 of 6 trials failed, the others finished: broken seed 0: FloatingPointError" in done.stderr
    assert "Traceback" not in done.stderr


def test_of_a_trial_that_goes_on_only_new_epochs_are_told(monkeypatch):
    from segcal.sweep import schedule

    def run(assignment, report):
        for epoch in (1, 2):  # on record
            report(EpochRecord(epoch, 0.5, 0.9 - epoch / 10, (0.5,), 0.005, 1.0))
        report(EpochRecord(3, 0.5, 0.4, (0.4,), 0.005, 1.0, state=dict))

    told = []
    monkeypatch.setattr(schedule.tune, "report", told.append)
    schedule._trainable({"index": 0}, [None], run)
    assert [(record["epoch"], record["best_dice"]) for record in told] == [(3, 0.8), (3, 0.8)]
    assert told[-1]["finished"]


def test_progress_names_trial_epoch_and_eta(swept):
    assert "[6/6 trials]" in swept[1].stderr
    assert "done after 2 epochs" in swept[1].stderr
    assert "ETA" in swept[1].stderr


def test_runs_are_nested_closed_and_say_why_they_failed(swept):
    client = open_store(f"sqlite:///{swept[0]}/mlflow.db")
    parent = client.get_run(json.loads(swept[1].stdout)["run_id"])
    assert (parent.info.status, parent.data.tags[tag("kind")]) == ("FAILED", "sweep")
    children = f"tags.mlflow.parentRunId = '{parent.info.run_id}'"
    runs = client.search_runs([parent.info.experiment_id], children)
    status = {run.info.run_name: run.info.status for run in runs}
    assert status == {
        f"{label} seed {seed}": "FAILED" if label == "broken" else "FINISHED"
        for label in ("ce", "dice", "broken")
        for seed in (0, 1)
    }
    for run in runs:
        assert ("must stay finite" in run.data.tags.get(tag("error"), "")) == (run.info.status == "FAILED")


def test_a_second_call_trains_only_what_is_new(swept, blobs, tiny_files):
    folder, _ = swept
    client = open_store(f"sqlite:///{folder}/mlflow.db")
    before = {ref.key: ref.weights_sha256 for ref in models(client, "tiny")}
    again = segcal(folder, "sweep", tiny_files[1], "--data", blobs, "--set", "seeds=3", "--json")
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout)
    assert result["already_finished"] == 4
    assert sorted(result["finished"]) == ["ce seed 2", "dice seed 2"]
    after = {ref.key: ref.weights_sha256 for ref in models(client, "tiny")}
    assert before.items() <= after.items()
    assert len(after) == 6
    experiment = client.get_experiment_by_name("tiny").experiment_id
    starts = [run.data.tags[tag("key")] for run in client.search_runs([experiment], f"tags.`{tag('kind')}` = 'trial'")]
    assert all(starts.count(key) == 1 for key in after)
    third = segcal(folder, "sweep", tiny_files[1], "--data", blobs, "--set", "seeds=3", "--json")
    assert json.loads(third.stdout)["already_finished"] == 6
    assert "starting Ray" not in third.stderr


def test_ray_and_plain_function_train_the_same_weights(swept, tmp_path):
    from pydantic import TypeAdapter

    from segcal.environment import home
    from segcal.journal.reading import trial_storage
    from segcal.journal.record import read_record
    from segcal.journal.storage import Storage
    from segcal.ledger.read import load_checkpoint
    from segcal.sweep.run_trial import Assignment, run_trial
    from segcal.tasks import TaskSpec
    from segcal.trial import TrialConfig

    client = open_store(f"sqlite:///{swept[0]}/mlflow.db")
    ref = next(ref for ref in models(client, "tiny") if (ref.label, ref.seed) == ("dice", 1))
    checkpoint = load_checkpoint(client, ref)
    config = TypeAdapter(TrialConfig).validate_python(checkpoint.config)
    task = TypeAdapter(TaskSpec).validate_python(checkpoint.task)
    records = Storage(str(tmp_path))
    run_trial(Assignment(config, task, records, "test", home() / "prepared" / ref.data_digest))
    assert read_record(trial_storage(records, config.key)).weights_sha256 == ref.weights_sha256


@pytest.fixture
def one_gpu(monkeypatch):
    """A Ray that believes in a GPU; nothing is run on it."""
    import ray

    from segcal.sweep import schedule  # noqa: F401  sets what Ray reads when it is imported

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)  # Ray counts what it names
    ray.init(
        address="local", num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR"
    )
    yield
    ray.shutdown()


def test_a_trial_that_needs_more_of_a_gpu_is_run_again_with_more(
    one_gpu, trained, tiny_task, cohort, tmp_path, monkeypatch
):
    from segcal.journal.reading import trial_storage
    from segcal.journal.record import read_record
    from segcal.journal.storage import Storage
    from segcal.ledger.sweep_run import start_sweep
    from segcal.sweep.plan import Resources
    from segcal.sweep.project import Projection
    from segcal.sweep.run_trial import Assignment
    from segcal.sweep.schedule import run_all

    def run(assignment, report):  # seed 0 fits any share, 1 needs a half, 2 more than a GPU
        import torch

        from segcal.sweep import run_trial as module

        enough = [0.0, 0.5, 2.0][assignment.config.seed]
        fit = module.fit

        def starved(*arguments, **options):
            if assignment.gpus < enough:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
            return fit(*arguments, **options)

        module.fit = starved
        try:
            module.run_trial(assignment, report)
        finally:
            module.fit = fit

    monkeypatch.chdir(tmp_path)
    client, said, records = open_store(), [], Storage(str(tmp_path / "records"))
    sweep = start_sweep(client, "calib", "sweep", {}, "", cohort.manifest, "tiny", records.uri)
    first = trained[1][0]
    assignments = [
        Assignment(replace(first, seed=seed), tiny_task, records, "test", cohort.folder) for seed in range(3)
    ]
    keys = [assignment.config.key for assignment in assignments]
    outcome = run_all(assignments, Resources(gpus=0.25), said.append, run)
    assert (sorted(outcome.finished), outcome.unfinished) == (sorted(keys[:2]), [])
    assert outcome.failed == {
        keys[2]: "OutOfGpuMemory: a trial must fit into the memory of a whole GPU, got more with batch 4; lower `batch`"
    }
    found = [read_record(trial_storage(records, key)) for key in keys]
    assert [(record.state, record.attempts) for record in found] == [("finished", 1), ("finished", 2), ("failed", 3)]
    projection = Projection(client, sweep, records, said.append)
    projection.start(keys)
    assert projection.close(60) == {}
    assert {ref.key for ref in models(client, "calib")} == set(keys[:2])
    runs = client.search_runs([sweep.experiment_id], f"tags.`{tag('kind')}` = 'trial'")
    ends = sorted((int(run.data.tags[tag("seed")]), run.info.status, tag("error") in run.data.tags) for run in runs)
    assert ends == [(0, "FINISHED", False), (1, "FINISHED", False), (2, "FAILED", True)]  # one run a trial
    assert not [run for run in runs if tag("again_with_gpus") in run.data.tags]
    for seed, share, more in ((1, "0.25", "0.5"), (2, "0.25", "0.5"), (2, "0.5", "1")):
        line = f"ce seed {seed}: out of GPU memory with a share of {share}; again with {more}"
        assert sum(text.endswith(line) for text in said) == 1
    assert said[-1].startswith("[3/3 trials] ce seed 2: FAILED, OutOfGpuMemory: a trial must fit")
