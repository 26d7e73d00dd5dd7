"""A listing out of a file must be the store's own at any time, and ask only for what is new."""

import json
import random
import shutil

import pytest
from mlflow import MlflowClient

from segcal.ledger import snapshot
from segcal.ledger.names import tag
from segcal.ledger.read import finished_keys, models
from segcal.ledger.snapshot import OLDEST_S, Snapshot, keep, kept, registered, snapshot_file, versions
from segcal.ledger.store import open_store

NOW = 1e9


class Counting:
    """A client that notes the rows of each search for versions."""

    def __init__(self, client):
        self._client, self.rows = client, []

    def __getattr__(self, name):
        return getattr(self._client, name)

    def search_model_versions(self, *arguments, **named):
        page = self._client.search_model_versions(*arguments, **named)
        self.rows.append(len(page))
        return page


class Registry:
    """An experiment with registered versions, and the folder of its snapshot."""

    def __init__(self, client: MlflowClient, folder):
        self.client, self.folder = client, folder
        self.where = client.create_experiment("calib")
        self.run = client.create_run(self.where).info.run_id
        self.model = client.create_logged_model(self.where, source_run_id=self.run).model_id
        self.made = 0

    def add(self, name="segcal-tiny-a", experiment="calib", **tags):
        if not self.client.search_registered_models(f"name = '{name}'"):
            self.client.create_registered_model(name)
        self.made += 1
        values = {
            "experiment": experiment, "task": "tiny", "recipe": name, "label": "ce", "seed": self.made,
            "key": f"key-{self.made}", "data_digest": "d1", "code_version": "1", "weights_sha256": "0" * 64,
            "val_dice": 0.5, "epoch": 1, **tags,
        }  # fmt: skip
        version = self.client.create_model_version(
            name, f"models:/{self.model}", self.run, model_id=self.model, await_creation_for=0,
            tags={tag(key): str(value) for key, value in values.items()},
        )  # fmt: skip
        return name, str(version.version)

    def told(self, now=NOW):
        """What a listing with the snapshot tells, and how many rows each of its queries brought."""
        client = Counting(self.client)
        return registered(client, "calib", self.folder, now), client.rows

    def truth(self):
        return versions(self.client, f"tags.`{tag('experiment')}` = 'calib'")


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """The folder of a store that was set up, which takes a second."""
    folder = tmp_path_factory.mktemp("empty")
    open_store(f"sqlite:///{folder / 'mlflow.db'}")
    return folder


@pytest.fixture
def registry(empty, tmp_path, monkeypatch):
    shutil.copytree(empty, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(snapshot, "_ROWS_A_QUERY", 1)  # so that a few versions are worth a snapshot
    return Registry(open_store(), tmp_path / "cache")


def test_only_what_is_new_is_asked_for(registry):
    for _ in range(6):
        registry.add("segcal-tiny-a")
        registry.add("segcal-tiny-b")
    assert registry.told()[1] == [12]
    assert registry.told()[1] == [1, 1, 0, 1]  # the last row of each group, other models, the last row of all
    registry.add("segcal-tiny-b")
    registry.add("segcal-tiny-c")
    found, rows = registry.told()
    assert rows == [1, 2, 1, 1]
    assert found == registry.truth()
    assert len(found) == 14
    assert registry.told()[1] == [1, 1, 1, 0, 1]


def test_groups_too_small_to_be_worth_their_queries_are_listed_anew(registry, monkeypatch):
    monkeypatch.setattr(snapshot, "_ROWS_A_QUERY", 3)
    for name in "aab":
        registry.add(f"segcal-tiny-{name}")
    for expected in ([3], [3]):
        assert registry.told()[1] == expected
    assert not registry.folder.exists()
    for name in "aab":
        registry.add(f"segcal-tiny-{name}")
    assert registry.told()[1] == [6]
    assert registry.told()[1] == [1, 1, 0, 1]


@pytest.mark.parametrize("seed", range(3))
def test_whatever_happens_the_listing_is_the_stores(registry, seed):
    rng, client = random.Random(seed), registry.client
    known = [registry.add(f"segcal-tiny-{name}", experiment) for name in "ab" for experiment in ("calib", "other")]
    shared = [tag(name) for name in ("experiment", "recipe", "label", "data_digest", "code_version")]

    def delete():
        client.delete_model_version(*known.pop(rng.randrange(len(known))))

    def edit():
        client.set_model_version_tag(*rng.choice(known), rng.choice(shared), rng.choice(("calib", "elsewhere", "it's")))

    def rename():
        old = rng.choice(known)[0]
        client.rename_registered_model(old, f"{old}x")
        known[:] = [(f"{name}x" if name == old else name, version) for name, version in known]

    def replace():
        old = rng.choice(known)[0]
        client.delete_registered_model(old)
        known[:] = [entry for entry in known if entry[0] != old] + [registry.add(old)]

    def add():
        known.append(registry.add(f"segcal-tiny-{rng.choice('abc')}", code_version=rng.choice("12")))

    for _ in range(20):
        rng.choice([add, add, delete, edit, edit, rename, replace] if len(known) > 2 else [add])()
        assert registry.told()[0] == registry.truth()


@pytest.mark.parametrize("name", ["experiment", "task", "recipe", "label", "data_digest", "code_version"])
def test_an_edit_of_a_shared_tag_is_seen_at_once(registry, name):
    first, _ = registry.add(), registry.add()
    registry.told()
    registry.client.set_model_version_tag(*first, tag(name), "edited")
    assert registry.told()[0] == registry.truth()


def test_an_edit_of_a_versions_own_tag_is_seen_within_a_day(registry):
    first, _ = registry.add(), registry.add()
    before, _ = registry.told(NOW)
    registry.client.set_model_version_tag(*first, tag("val_dice"), "0.9")
    assert registry.told(NOW + OLDEST_S - 1)[0] == before  # the price
    assert registry.told(NOW + OLDEST_S)[0] == registry.truth() != before


def test_a_file_of_the_future_is_not_trusted(registry):
    first, _ = registry.add(), registry.add()
    registry.told(NOW)
    registry.client.set_model_version_tag(*first, tag("val_dice"), "0.9")
    assert registry.told(NOW - 1)[0] == registry.truth()  # this machine's clock was set back


def test_the_file_of_another_process_that_knew_less_hides_nothing(registry):
    registry.add()
    registry.told()
    (path,) = registry.folder.iterdir()
    shutil.copy(path, registry.folder / "slow")
    registry.add()
    registry.add("segcal-tiny-b")
    assert len(registry.told()[0]) == 3
    (registry.folder / "slow").replace(path)  # written last by the process that listed first
    found, rows = registry.told()
    assert found == registry.truth()
    assert rows == [2, 1, 1]


def test_a_new_store_at_the_same_address_is_another_store(registry, empty, tmp_path, monkeypatch):
    registry.add()
    registry.told()
    shutil.copytree(empty, tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new")
    new = Registry(open_store(), registry.folder)
    new.add()
    (path,) = registry.folder.iterdir()
    path.rename(snapshot_file(registry.folder, new.client.tracking_uri, "calib"))  # as if at the same address
    assert new.told()[1] == [1]  # listed anew, whatever the file says
    assert new.told()[0] == new.truth()


def test_torn_and_foreign_files_are_not_read(tmp_path):
    path = tmp_path / "file.json"
    content = Snapshot("1 100", NOW, ())
    assert kept(path, "1 100") is None
    keep(path, content)
    assert kept(path, "1 100") == content
    assert kept(path, "1 101") is None
    whole = path.read_bytes()
    for torn in (b"", whole[:-1], whole[:40], whole[:-2] + b"x}", b"\xff" + whole, b"[]\n[]"):
        path.write_bytes(torn)
        assert kept(path, "1 100") is None


def test_a_file_of_another_format_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    keep(path, Snapshot("1 100", NOW, ()))
    monkeypatch.setattr(snapshot, "FORMAT", snapshot.FORMAT + 1)
    assert kept(path, "1 100") is None


def test_writing_leaves_one_file_or_costs_nothing_but_time(registry):
    registry.add()
    registry.told()
    (path,) = registry.folder.iterdir()
    assert json.loads(path.read_bytes().partition(b"\n")[2])["format"] == snapshot.FORMAT
    path.unlink()
    registry.folder.rmdir()
    registry.folder.write_text("no folder")
    assert registry.told()[0] == registry.truth()


def test_files_are_named_by_store_and_experiment_without_credentials(tmp_path):
    def name(uri, experiment="calib"):
        return snapshot_file(tmp_path, uri, experiment).name

    assert name("https://ann:secret@host/ml") == name("https://bob@host/ml") == name("https://host/ml")
    others = {name("https://host/ml"), name("https://host/other"), name("http://host/ml"), name("https://host:1/ml"),
              name("https://host/ml", "calib2"), name("sqlite:////ml/mlflow.db")}  # fmt: skip
    assert len(others) == 6


def test_members_and_keys_are_read_through_it(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGCAL_HOME", str(tmp_path / "home"))
    registry.add()
    assert finished_keys(registry.client, "calib") == {"key-1"}
    assert len(list((tmp_path / "home" / "snapshots").iterdir())) == 1
    registry.add(key="key-1")
    (ref,) = models(registry.client, "calib")
    assert (ref.version, ref.seed) == (2, 2)
    assert finished_keys(registry.client, "elsewhere") == set()
