"""Versions of ensembles in MLflow's own SQLite store: written, found, named, and never taken for members."""

import time
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

import segcal.ensemble.pyfunc
from segcal.errors import BadData, StoreUnreachable, UsageError
from segcal.ledger.ensemble_version import (
    Draft,
    check_alias,
    ensemble_name,
    find_version,
    give_alias,
    read_card,
    read_manifest,
    same_ensemble,
    versions_of,
    write_version,
)
from segcal.ledger.garbage import find_garbage
from segcal.ledger.names import tag
from segcal.ledger.read import models
from segcal.ledger.store import open_store
from tests.fresh_store import fresh_store

DRAFT = Draft(
    experiment="calib", task="brain", label="dice",
    about={
        "task": "brain", "recipe": "soft_dice-1", "label": "dice", "select": "best", "data_digest": "d1",
        "code_version": "0.1", "members": "segcal-brain-soft_dice-1/1, segcal-brain-soft_dice-1/4",
    },
    identity="i1", description="2 networks", manifest='{"format": 1}', card="# Card\n", cases="case_id\n",
    scores={"test.nll.box": 0.25, "test.dice.a (b)": 0.5, "val.nll.box": float("nan")},
    code=Path(segcal.ensemble.pyfunc.__file__), image=(3, -1, 32, 32), n_classes=4,
)  # fmt: skip


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGCAL_HOME", str(tmp_path / "home"))
    client = fresh_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", client.tracking_uri)  # a SQL store looks models up by it
    return client


def test_a_version_is_what_was_written(store):
    version = write_version(store, DRAFT)
    assert ensemble_name("brain") == version.name == "segcal-brain-ensemble"
    assert (version.version, version.uri, version.title) == (
        1, "models:/segcal-brain-ensemble/1", "segcal-brain-ensemble version 1",
    )  # fmt: skip
    assert (version.experiment, version.task, version.recipe, version.label, version.select, version.members) == (
        "calib", "brain", "soft_dice-1", "dice", "best", 2,
    )  # fmt: skip
    assert (version.description, version.aliases) == ("2 networks", ())
    assert read_manifest(store, version) == '{"format": 1}'
    assert read_card(store, version) == "# Card\n"
    run = store.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["members"] == DRAFT.about["members"]
    model = store.get_logged_model(version.model_id)
    assert str(model.status) in ("READY", "LoggedModelStatus.READY")
    assert model.source_run_id == version.run_id
    assert {metric.key: metric.value for metric in model.metrics} == {"test.nll.box": 0.25, "test.dice.a _b_": 0.5}


def test_every_kind_of_store(store_uri, monkeypatch, tmp_path):
    """A SQLite file, and `mlflow server` on SQLite and on PostgreSQL."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store_uri)
    client, task = open_store(store_uri), f"t{uuid.uuid4().hex[:8]}"
    draft = replace(DRAFT, experiment=task, task=task, about=DRAFT.about | {"task": task})
    version = give_alias(client, write_version(client, draft), "candidate")
    assert find_version(client, f"models:/segcal-{task}-ensemble@candidate") == version
    assert versions_of(client, version.name) == [version]
    assert same_ensemble(client, version.name, "i1") == version
    assert read_manifest(client, version) == DRAFT.manifest
    metrics = {metric.key: metric.value for metric in client.get_logged_model(version.model_id).metrics}
    assert metrics == {"test.nll.box": 0.25, "test.dice.a _b_": 0.5}
    with pytest.raises(UsageError, match=f"no ensemble 'segcal-{task}-ensemble/7'; did you mean"):
        find_version(client, f"segcal-{task}-ensemble/7")


def test_versions_the_newest_first_with_aliases(store):
    first = write_version(store, DRAFT)
    time.sleep(0.01)
    second = write_version(store, replace(DRAFT, identity="i2"))
    time.sleep(0.01)
    other = write_version(store, replace(DRAFT, task="heart", about=DRAFT.about | {"task": "heart"}))
    give_alias(store, first, "candidate")
    assert give_alias(store, second, "candidate").aliases == ("candidate",)  # the first loses it
    give_alias(store, first, "champion")
    assert [(v.name, v.version, v.aliases) for v in versions_of(store)] == [
        ("segcal-heart-ensemble", 1, ()),
        ("segcal-brain-ensemble", 2, ("candidate",)),
        ("segcal-brain-ensemble", 1, ("champion",)),
    ]
    assert [v.version for v in versions_of(store, "segcal-brain-ensemble")] == [2, 1]
    assert find_version(store, "segcal-brain-ensemble@champion") == replace(first, aliases=("champion",))
    assert find_version(store, " models:/segcal-heart-ensemble/1 ") == other
    assert same_ensemble(store, "segcal-brain-ensemble", "i2").version == 2
    assert same_ensemble(store, "segcal-brain-ensemble", "i3") is None


def test_none_is_registered(store):
    assert versions_of(store) == []
    with pytest.raises(UsageError, match="no ensemble 'x@y'; none is registered: `segcal ensemble create` makes one"):
        find_version(store, "x@y")


@pytest.mark.parametrize("alias", ["candidate", "champion", "Best-of_3.1", "version1", "v1a"])
def test_an_alias_that_is_one(alias):
    check_alias(alias)


@pytest.mark.parametrize("alias", ["latest", "Latest", "v1", "V12", "a b", "", "a/b", "ä"])
def test_an_alias_that_is_none(store, alias):
    with pytest.raises(UsageError, match="an alias must be of letters"):
        check_alias(alias)
    with pytest.raises(UsageError, match="an alias must be of letters"):
        give_alias(store, write_version(store, DRAFT), alias)


def test_two_that_give_one_name_at_once(store, monkeypatch):
    """The database refuses the second one's row, and MLflow passes that on as BAD_REQUEST."""
    version, give, refused = write_version(store, DRAFT), store.set_registered_model_alias, []

    def refuse_once(*arguments):
        if not refused:
            refused.append(arguments)
            raise MlflowException("UNIQUE constraint failed", error_code=BAD_REQUEST)
        give(*arguments)

    monkeypatch.setattr(store, "set_registered_model_alias", refuse_once)
    assert give_alias(store, version, "candidate").aliases == ("candidate",)
    assert len(refused) == 1


def test_a_store_that_goes_away(store, monkeypatch):
    version = write_version(store, DRAFT)

    def away(*arguments):
        raise MlflowException("API request to http://there failed")  # an internal error

    monkeypatch.setattr(type(store), "get_model_version", away)
    monkeypatch.setattr(type(store), "set_registered_model_alias", away)
    with pytest.raises(StoreUnreachable, match=r"must answer, got: API request to http://there failed; start it"):
        find_version(store, version.uri)
    with pytest.raises(StoreUnreachable):
        give_alias(store, version, "candidate")


def test_files_that_are_gone(store):
    version = write_version(store, DRAFT)
    folder = Path(store.get_logged_model(version.model_id).artifact_location.removeprefix("file://"))
    (folder / "MODEL_CARD.md").unlink()
    with pytest.raises(BadData, match=r"segcal-brain-ensemble version 1: its MODEL_CARD.md must be there, got: "):
        read_card(store, version)
    store.delete_logged_model(version.model_id)
    with pytest.raises(BadData, match=r"its artifacts/manifest.json must be there"):
        read_manifest(store, version)


def test_neither_a_member_nor_garbage(store):
    version = write_version(store, DRAFT)
    assert tag("experiment") not in store.get_model_version(version.name, "1").tags
    with pytest.raises(BadData, match="must hold registered models, got none"):
        models(store, "calib")
    in_a_year = int(time.time() * 1000) + 365 * 86_400_000
    assert find_garbage(store, "calib", in_a_year, 0) == []
