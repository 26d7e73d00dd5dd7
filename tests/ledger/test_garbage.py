"""What nothing needs is found and deleted with its files; what anything needs stays. Against MLflow's SQLite store."""

import hashlib
import json
import shutil
import time
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
from safetensors.numpy import save

import segcal.ensemble
from segcal.errors import SegcalError, UsageError
from segcal.ledger import garbage
from segcal.ledger.ensemble_version import Draft, write_version
from segcal.ledger.garbage import FAILED, SUPERSEDED, UNREGISTERED, VERSION, Garbage, delete, find_garbage
from segcal.ledger.names import tag
from segcal.ledger.read import load_checkpoint, models
from segcal.ledger.store import open_store

HOUR_S = 3600
MODEL = "segcal-tiny-a"


class Experiment:
    """An experiment, and what is garbage in it some hours later."""

    def __init__(self, client, name="calib"):
        self.client, self.name = client, name
        self.id = client.create_experiment(name)

    def begin(self, seed=0, dices=(0.4, 0.6)):
        return Trial(self, seed, dices)

    def trial(self, seed=0, dices=(0.4, 0.6)):
        trial = self.begin(seed, dices)
        trial.finish()
        return trial

    def found(self, hours=2.0):
        return find_garbage(self.client, self.name, int((time.time() + hours * HOUR_S) * 1000), HOUR_S)

    def kinds(self, hours=2.0):
        return sorted(item.kind for item in self.found(hours))

    def checkpoints(self):
        """Epoch -> folder of the checkpoint's files."""
        found = self.client.search_logged_models([self.id])
        return {model.tags[tag("epoch")]: Path(urlparse(model.artifact_location).path) for model in found}

    def report(self, members, folder=None):
        run_id = self.client.create_run(self.id, tags={tag("kind"): "report"}).info.run_id
        self.client.log_param(run_id, "members", members[:6000])
        if folder:
            self.client.log_artifacts(run_id, str(folder))
        self.client.set_terminated(run_id)
        return run_id


class Trial:
    """What a trial writes to MLflow: a run, a LoggedModel with files for each validation Dice, a version at its end."""

    def __init__(self, experiment, seed, dices):
        self.client = experiment.client
        values = {
            "experiment": experiment.name, "task": "tiny", "recipe": "a", "label": "ce", "seed": seed,
            "key": f"key-{seed}", "data_digest": "d1", "code_version": "1",
        }  # fmt: skip
        self.tags = {tag(name): str(value) for name, value in values.items()}
        run = self.client.create_run(experiment.id, tags={tag("kind"): "trial", **self.tags})
        self.run_id = run.info.run_id
        for epoch, dice in enumerate(dices, start=1):
            self.best = self._checkpoint(experiment.id, epoch, dice)

    def _checkpoint(self, where, epoch, dice):
        weights = save({"weight": np.full((2, 3), dice, dtype=np.float32)})
        told = {tag("epoch"): str(epoch), tag("weights_sha256"): hashlib.sha256(weights).hexdigest()}
        model = self.client.create_logged_model(where, source_run_id=self.run_id, tags={**self.tags, **told})
        folder = Path(f"checkpoint-{model.model_id}")
        folder.mkdir()
        for name, content in {"weights.safetensors": weights, "config.json": b"{}", "task.json": b"{}"}.items():
            (folder / name).write_bytes(content)
        self.client.log_model_artifacts(model.model_id, str(folder))
        self.client.finalize_logged_model(model.model_id, "READY")
        return model.model_id, {**told, tag("val_dice"): str(dice)}

    def finish(self):
        model_id, told = self.best
        if not self.client.search_registered_models(f"name = '{MODEL}'"):
            self.client.create_registered_model(MODEL)
        self.client.create_model_version(
            MODEL, f"models:/{model_id}", self.run_id, tags={**self.tags, **told}, model_id=model_id,
            await_creation_for=0,
        )  # fmt: skip
        self.end("FINISHED")

    def end(self, status, end_ms=None):
        self.client.set_terminated(self.run_id, status, end_ms)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """The folder of a store that was set up, which takes a second."""
    folder = tmp_path_factory.mktemp("empty")
    open_store(f"sqlite:///{folder / 'mlflow.db'}")
    return folder


@pytest.fixture
def client(empty, tmp_path, monkeypatch):
    shutil.copytree(empty, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return open_store()


@pytest.fixture
def calib(client):
    return Experiment(client)


def test_surpassed_checkpoints_go_with_their_files_and_the_member_stays(calib):
    calib.trial()
    before = calib.checkpoints()
    files = [path.stat().st_size for path in before["1"].iterdir()]
    (item,) = calib.found()
    assert (item.kind, item.bytes) == (UNREGISTERED, sum(files))
    assert len(files) == 3
    assert delete(calib.client, [item]) == [item]
    assert calib.checkpoints() == {"2": before["2"]}
    assert not before["1"].parent.exists()
    (ref,) = models(calib.client, "calib")
    np.testing.assert_allclose(load_checkpoint(calib.client, ref).weights["weight"], np.full((2, 3), 0.6))
    assert calib.found() == []


def test_checkpoints_of_failed_and_killed_trials_go_and_those_of_running_ones_stay(calib):
    calib.begin(0).end("FAILED")
    calib.begin(1).end("KILLED")
    running = calib.begin(2)
    assert calib.kinds(hours=1e4) == [FAILED] * 4
    delete(calib.client, calib.found())
    assert len(calib.checkpoints()) == 2
    running.finish()
    assert [ref.seed for ref in models(calib.client, "calib")] == [2]
    assert calib.kinds() == [UNREGISTERED]


def test_of_a_trial_registered_twice_the_older_goes(calib):
    calib.trial(dices=(0.4,))
    calib.trial(dices=(0.7,))
    found = calib.found()
    assert [(item.kind, item.version) for item in found] == [(VERSION, 1), (SUPERSEDED, 0)]
    assert delete(calib.client, found[::-1]) == found  # versions first, in whichever order they are given
    (ref,) = models(calib.client, "calib")
    assert (ref.version, ref.val_dice) == (2, 0.7)
    load_checkpoint(calib.client, ref)
    assert calib.found() == []


def test_an_alias_keeps_a_version_and_its_checkpoint(calib):
    calib.trial(dices=(0.4,))
    (ref,) = models(calib.client, "calib")
    calib.trial(dices=(0.7,))
    found = calib.found()
    calib.client.set_registered_model_alias(ref.name, "champion", str(ref.version))
    assert calib.found() == []
    assert delete(calib.client, found) == []  # it was given after the search
    load_checkpoint(calib.client, ref)
    calib.client.delete_registered_model_alias(ref.name, "champion")
    assert calib.found() == found


def test_a_report_keeps_the_versions_it_names(calib):
    calib.trial(dices=(0.4,))
    (ref,) = models(calib.client, "calib")
    calib.trial(dices=(0.7,))
    run = calib.report(f"segcal-other/7, {ref.name}/1")
    assert calib.found() == []
    calib.client.delete_run(run)
    assert calib.kinds() == [SUPERSEDED, VERSION]
    calib.report(f"{ref.name}/2, {ref.name}/11")
    assert calib.kinds() == [SUPERSEDED, VERSION]


def test_a_list_that_was_cut_off_is_read_from_the_reports_file(calib, tmp_path):
    calib.trial(dices=(0.4,))
    (ref,) = models(calib.client, "calib")
    calib.trial(dices=(0.7,))
    many = ", ".join(f"segcal-other/{number}" for number in range(1000))
    members = [{"name": "segcal-other", "version": number} for number in range(1000)]
    folder = tmp_path / "long"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps({"members": members}))
    calib.report(many, folder)
    assert calib.kinds() == [SUPERSEDED, VERSION]
    (folder / "report.json").write_text(json.dumps({"members": [*members, {"name": ref.name, "version": 1}]}))
    calib.report(f"{many}, {ref.name}/1", folder)
    assert calib.found() == []


@pytest.mark.parametrize("members", ["", "segcal-other/1, " * 500])
def test_a_report_that_cannot_tell_its_members_keeps_all_that_are_older(calib, members):
    calib.trial(0, dices=(0.4,))
    calib.trial(0, dices=(0.7,))
    calib.report(members)
    calib.trial(1, dices=(0.4,))
    calib.trial(1, dices=(0.7,))
    (version, _) = calib.found()
    assert (version.kind, version.version) == (VERSION, 3)


def test_a_report_of_several_tasks_keeps_what_each_of_them_names(calib, tmp_path):
    calib.trial(dices=(0.4,))
    (ref,) = models(calib.client, "calib")
    calib.trial(dices=(0.7,))
    for task, number in (("brain", 7), ("heart", ref.version)):
        (tmp_path / "both" / task).mkdir(parents=True)
        members = [{"name": ref.name if task == "heart" else "segcal-other", "version": number}]
        (tmp_path / "both" / task / "report.json").write_text(json.dumps({"members": members}))
    run = calib.report("segcal-other/1, " * 500, tmp_path / "both")
    calib.client.set_tag(run, tag("tasks"), json.dumps({"brain": "brain", "heart": "heart"}))
    assert calib.found() == []
    (tmp_path / "both" / "heart" / "report.json").write_text(json.dumps({"members": []}))
    calib.client.delete_run(run)
    run = calib.report("segcal-other/1, " * 500, tmp_path / "both")
    calib.client.set_tag(run, tag("tasks"), json.dumps({"brain": "brain", "heart": "heart"}))
    assert calib.kinds() == [SUPERSEDED, VERSION]


def test_an_ensemble_keeps_its_members(calib, monkeypatch):
    calib.trial(dices=(0.4,))
    (ref,) = models(calib.client, "calib")
    calib.trial(dices=(0.7,))
    manifest = json.dumps({"members": [{"name": ref.name, "version": ref.version}]})
    ensemble = write_version(calib.client, draft(calib, manifest))
    assert calib.found() == []
    monkeypatch.setattr(garbage, "read_manifest", lambda client, version: "{}")  # damaged: what is older stays
    assert calib.found() == []
    calib.client.delete_model_version(ensemble.name, str(ensemble.version))
    assert calib.kinds() == [SUPERSEDED, VERSION]


def draft(calib, manifest):
    """An ensemble with no more than a manifest."""
    about = {"recipe": "a", "select": "best", "members": "one", "data_digest": "d1", "code_version": "1"}
    return Draft(
        calib.name, "tiny", "ce", about, "identity", "", manifest, "card", "scores", {},
        Path(segcal.ensemble.__file__).with_name("pyfunc.py"), (3, -1, 32, 32), 4,
    )  # fmt: skip


@pytest.mark.parametrize("status", ["FAILED", "KILLED"])
def test_a_report_that_ended_before_it_said_anything_keeps_nothing(calib, status):
    calib.trial(dices=(0.4,))
    calib.trial(dices=(0.7,))
    run = calib.client.create_run(calib.id, tags={tag("kind"): "report"}).info.run_id
    assert calib.found() == []  # it may be about to
    calib.client.set_terminated(run, status)
    assert calib.kinds() == [SUPERSEDED, VERSION]


def test_nothing_goes_that_was_needed_within_the_hour(calib):
    calib.trial(0)
    calib.begin(1).end("KILLED")
    assert calib.found(hours=0.99) == []
    assert calib.kinds(hours=1.01) == [FAILED, FAILED, UNREGISTERED]


def test_a_trial_that_goes_on_in_its_run_keeps_its_checkpoints(calib):
    trial = calib.begin()
    trial.end("KILLED")
    found = calib.found()
    assert [item.kind for item in found] == [FAILED, FAILED]
    calib.client.update_run(trial.run_id, status="RUNNING")  # after the search
    assert delete(calib.client, found) == []
    assert len(calib.checkpoints()) == 2


def test_a_version_whose_run_goes_on_stays(calib):
    first = calib.trial(dices=(0.4,))
    calib.trial(dices=(0.7,))
    calib.client.update_run(first.run_id, status="RUNNING")
    assert calib.found() == []


def test_the_age_of_a_checkpoint_counts_from_the_end_of_its_run(calib):
    trial = calib.begin(dices=(0.4,))
    trial.end("KILLED")
    later_ms = int((time.time() + 10 * HOUR_S) * 1000)
    trial.end("KILLED", later_ms)
    assert calib.found(hours=10.9) == []
    assert calib.kinds(hours=11.1) == [FAILED]


def test_the_age_of_a_version_counts_from_its_successor(calib):
    calib.trial(dices=(0.4,))
    calib.trial(dices=(0.7,))
    holdings = garbage._holdings(calib.client, "calib")
    first, second = holdings.versions
    assert first.created < second.created
    assert garbage.unneeded_versions(holdings, second.created) == []
    assert garbage.unneeded_versions(holdings, second.created + 1) == [first]
    assert garbage.unneeded_checkpoints(holdings, [], 2 * second.created) == []


def test_what_is_not_this_experiments_or_not_segcals_stays(calib, client):
    other = Experiment(client, "other")
    other.trial(0)
    run = calib.trial(1, dices=(0.6,)).run_id
    client.create_logged_model(calib.id, source_run_id=run)
    client.create_logged_model(calib.id, source_run_id=run, tags={tag("experiment"): "calib"})
    assert calib.found() == []
    assert other.kinds() == [UNREGISTERED]


def test_a_checkpoint_that_somebody_registered_stays(calib):
    calib.trial()
    (item,) = calib.found()
    calib.client.create_registered_model("mine")
    calib.client.create_model_version("mine", f"models:/{item.name}", await_creation_for=0)
    assert calib.found() == []
    assert delete(calib.client, [item]) == []
    assert calib.checkpoints()["1"].exists()


def test_a_version_that_was_copied_stays(calib):
    calib.trial(dices=(0.4,))
    (ref,) = models(calib.client, "calib")
    calib.client.create_registered_model("mine")
    calib.client.create_model_version("mine", f"models:/{ref.name}/{ref.version}", await_creation_for=0)
    calib.trial(dices=(0.7,))
    assert calib.found() == []


def test_what_an_interrupted_call_left_is_found_again(calib):
    calib.trial(dices=(0.4,))
    calib.trial(dices=(0.7,))
    version, checkpoint = calib.found()
    delete(calib.client, [version])
    assert [item.name for item in calib.found()] == [checkpoint.name]
    shutil.rmtree(urlparse(checkpoint.location).path)
    (again,) = calib.found()
    assert again.bytes == 0
    delete(calib.client, [again])
    delete(calib.client, [version, again])  # another process was quicker
    assert calib.found() == []


def test_a_checkpoint_whose_run_is_gone_for_good_goes(calib):
    trial = calib.begin(dices=(0.4,))
    trial.end("KILLED")
    calib.client.delete_run(trial.run_id)
    assert calib.kinds() == [FAILED]
    calib.client._tracking_client.store._hard_delete_run(trial.run_id)  # as `mlflow gc` does
    assert calib.kinds() == [FAILED]


def test_progress_tells_every_step(calib):
    calib.trial(dices=(0.2, 0.4, 0.6))
    steps = []
    items = find_garbage(calib.client, "calib", int(time.time() * 1000) + 2, 0, lambda *step: steps.append(step[:3]))
    delete(calib.client, items, lambda *step: steps.append(step[:3]))
    looking, deleting = "looking at checkpoints", "deleting"
    assert steps == [(looking, 1, 2), (looking, 2, 2), (deleting, 1, 2), (deleting, 2, 2)]


def test_an_unknown_experiment_names_the_nearest(calib):
    with pytest.raises(UsageError, match="no experiment named 'calip'; did you mean 'calib'"):
        find_garbage(calib.client, "calip", 0, 0)


def test_what_cannot_be_deleted_is_named(calib):
    trial = calib.trial()
    item = Garbage(FAILED, "m-1", run_id=trial.run_id, location="nowhere://m-1")
    with pytest.raises(SegcalError, match=r"checkpoint m-1 must let itself be deleted, got: .*nowhere.*; call"):
        delete(calib.client, [item])
