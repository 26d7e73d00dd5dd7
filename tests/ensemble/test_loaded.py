"""The ensemble of a registry predicts the mean of its members; what is not as it was does not load."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import entropy as shannon

from segcal.analysis.members import Member, mean_prediction, predictions
from segcal.ensemble.loaded import Ensemble, EnsemblePrediction, confidence, load_ensemble
from segcal.ensemble.manifest import Manifest, MemberVersion
from segcal.errors import BadData, UsageError
from segcal.ledger.store import open_store
from segcal.measure.uncertainty import segment_entropy
from tests.analysis.conftest import by_torch, make_config, make_member


def by_hand(task, members) -> Ensemble:
    manifest = Manifest(
        1, "tiny", asdict(task), "r", "l", "all", 0,
        tuple(MemberVersion("m", m.seed, "m", m.seed, m.sha256, 0.5) for m in members), "d", None, "1", "now",
        ((1.0, 1.0),) * 3, {}, None, {}, {},
    )  # fmt: skip
    return Ensemble("segcal-tiny-ensemble", 1, manifest, task, tuple(members))


def one_by_one(member: Member, case) -> np.ndarray:
    slabs = predictions(member, member.net(torch.device("cpu")), case, torch.device("cpu"))
    return np.concatenate([slab.probs for _, slab in slabs], axis=1)


@pytest.fixture(scope="module")
def loaded(registered) -> Ensemble:
    return load_ensemble(open_store(registered[0]), registered[1]["uri"])


@pytest.fixture(scope="module")
def case(cohort):
    return cohort.cases("test")[0]


@pytest.fixture(scope="module")
def found(loaded, case) -> EnsemblePrediction:
    return loaded.predict(case.image, case.case_id)


def test_it_is_the_mean_of_its_members(loaded, found, case):
    assert [member.seed for member in loaded.members] == [ref.seed for ref in loaded.manifest.members]
    assert len(loaded.members) == 2
    each = [one_by_one(member, case) for member in loaded.members]
    np.testing.assert_array_equal(found.probs, mean_prediction(each))
    np.testing.assert_allclose(found.probs, np.mean([by_torch(m, case)[0] for m in loaded.members], axis=0), atol=1e-6)
    assert np.abs(each[0] - each[1]).max() > 1e-3


def test_what_follows_from_the_mean(found, tiny_task):
    assert found.probs.shape == (4, 4, 32, 32)
    assert (found.probs.dtype, found.labels.dtype, found.entropy.dtype) == (np.float32, np.uint8, np.float32)
    np.testing.assert_allclose(found.probs.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_array_equal(found.labels, found.probs.argmax(axis=0))
    np.testing.assert_allclose(found.entropy, shannon(found.probs.astype(float), axis=0), atol=1e-6)
    assert found.entropy.max() <= np.log(4) + 1e-6
    assert list(found.segment_entropy) == list(tiny_task.structures)
    for label, name in enumerate(tiny_task.structures, start=1):
        np.testing.assert_equal(found.segment_entropy[name], segment_entropy(found.probs, label))


def test_the_entropy_is_that_of_the_scores(registered, found, case):
    """The thresholds were learnt from scores that another code computes."""
    import pandas as pd

    folder = open_store(registered[0]).get_logged_model(registered[1]["model_id"]).artifact_location
    scores = pd.read_csv(Path(folder.removeprefix("file://")) / "scores.csv").set_index("case_id").loc[case.case_id]
    for name, entropy in found.segment_entropy.items():
        assert entropy == pytest.approx(scores[f"entropy@{name}"], abs=1e-6, nan_ok=True)


def test_the_same_image_gives_the_same_bits(loaded, found, case):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = loaded.predict(np.array(case.image), "another name")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(again.probs, found.probs)
    assert loaded.nets is loaded.nets  # made once


def test_threads_wait_for_each_other(tiny_task, case):
    """Dropout's masks and torch's threads are of the whole process."""
    ensemble = by_hand(tiny_task, [make_member(make_config("ce_mc", seed)) for seed in range(2)])
    names = [f"P{at}" for at in range(8)]
    alone = [ensemble.predict(case.image, name).probs for name in names]
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda name: ensemble.predict(case.image, name).probs, names))
    assert torch.get_num_threads() == threads
    np.testing.assert_array_equal(together, alone)


def test_an_image_that_may_not_be_written_to(loaded, found, case):
    image = np.array(case.image)
    image.flags.writeable = False
    np.testing.assert_array_equal(loaded.predict(image).probs, found.probs)


def test_mean_entropy_leaves_out_what_is_not_found():
    nothing = np.zeros(0)
    some = EnsemblePrediction(nothing, nothing, nothing, {"a": 0.2, "b": float("nan"), "c": 0.4})
    assert some.mean_entropy == pytest.approx(0.3)
    assert np.isnan(EnsemblePrediction(nothing, nothing, nothing, {"a": float("nan")}).mean_entropy)


def test_confidence_by_hand():
    probs = np.array([[0.1, 0.8, 0.3], [0.9, 0.2, 0.7]], np.float32).reshape(2, 1, 1, 3)
    labels = probs.argmax(axis=0).astype(np.uint8)
    prediction = EnsemblePrediction(probs, labels, probs[0], {"gland": 0.25})
    assert confidence(prediction)["gland"] == pytest.approx({"entropy": 0.25, "probability": 0.8})
    empty = EnsemblePrediction(probs[::-1], 0 * labels, probs[0], {"gland": float("nan")})
    assert np.isnan(confidence(empty)["gland"]["probability"])


@pytest.mark.parametrize("label", ["ce", "dice"])
def test_networks_over_volumes(label, tiny_task, case):
    task = replace(tiny_task, crop=(16, 32, 32))
    members = [make_member(make_config(label, seed, dims=3)) for seed in range(3)]
    volume = replace(case, image=np.random.default_rng(0).random((3, 16, 32, 32), np.float32))
    probs = by_hand(task, members).predict(volume.image).probs
    np.testing.assert_allclose(probs, np.mean([by_torch(m, volume)[0] for m in members], axis=0), atol=2e-6)


def test_monte_carlo_dropout_follows_from_the_case(tiny_task, case):
    members = [make_member(make_config("ce_mc", seed)) for seed in range(2)]
    ensemble = by_hand(tiny_task, members)
    found = ensemble.predict(case.image, case.case_id).probs
    np.testing.assert_array_equal(found, mean_prediction([one_by_one(member, case) for member in members]))
    np.testing.assert_array_equal(found, ensemble.predict(case.image, case.case_id).probs)
    assert np.abs(found - ensemble.predict(case.image, "another").probs).max() > 1e-4


def test_more_slices_than_a_slab(loaded, case):
    image = np.concatenate([case.image] * 5, axis=1)  # 20 slices: slabs of 8, 8 and 4
    probs = loaded.predict(image).probs
    assert probs.shape == (4, 20, 32, 32)
    np.testing.assert_allclose(probs[:, 16:], loaded.predict(case.image).probs, atol=1e-6)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 4, 32, 32)), r"with 3 channels \(t1ce, t2, flair\), got shape \(2, 4, 32, 32\)"),
        (np.zeros((4, 32, 32)), r"an image must be \(channels, z, y, x\)"),
        (np.zeros((3, 4, 32, 48)), r"must be \(32, 32\) voxels \(y, x\), the grid of task tiny, got shape"),
        (np.zeros((3, 0, 32, 32)), "the grid of task tiny"),
        (np.full((3, 4, 32, 32), 300.0), r"scaled to \[0, 1\], got 300 to 300"),
        (np.full((3, 4, 32, 32), np.nan), r"scaled to \[0, 1\], got nan"),
        (np.full((3, 4, 32, 32), -0.1), "got -0.1"),
    ],
    ids=["channels", "axes", "grid", "no slice", "not scaled", "nan", "negative"],
)
def test_an_image_that_is_not_prepared(loaded, image, message):
    with pytest.raises(BadData, match=message) as raised:
        loaded.predict(image, "P07")
    assert str(raised.value).startswith("P07: ")


@pytest.mark.parametrize(
    "uri",
    ["models:/segcal-tiny-ensemble@candidate", "segcal-tiny-ensemble@candidate", "models:/segcal-tiny-ensemble/1",
     "segcal-tiny-ensemble/1"],
)  # fmt: skip
def test_every_way_to_name_it(registered, uri):
    ensemble = load_ensemble(open_store(registered[0]), uri)
    assert (ensemble.name, ensemble.version, ensemble.uri) == (
        "segcal-tiny-ensemble", 1, "models:/segcal-tiny-ensemble/1",
    )  # fmt: skip


@pytest.mark.parametrize(
    "uri",
    ["models:/segcal-tiny-ensemble@champoin", "segcal-tiny-ensemble/9", "segcal-tiny-ensembel@candidate", "models:/x",
     "segcal-tiny-ensemble", "", "segcal-tiny-ensemble/one", "models:/a/b/c"],
)  # fmt: skip
def test_an_unknown_one(registered, uri):
    with pytest.raises(UsageError) as raised:
        load_ensemble(open_store(registered[0]), uri)
    assert str(raised.value).startswith(f"no ensemble '{uri}'; ")
    assert "known: segcal-tiny-ensemble/1, segcal-tiny-ensemble@candidate" in str(raised.value)


def test_a_member_is_no_ensemble(registered):
    member = registered[1]["members"][0]["name"]
    with pytest.raises(UsageError, match="no ensemble"):
        load_ensemble(open_store(registered[0]), f"models:/{member}/1")


def folder_of(client, model_id) -> Path:
    return Path(client.get_logged_model(model_id).artifact_location.removeprefix("file://"))


@pytest.fixture
def broken(registered):
    """(client, result, folder of a member's files), put back afterwards."""
    client, result = open_store(registered[0]), registered[1]
    member = folder_of(client, result["members"][1]["model_id"])
    manifest = folder_of(client, result["model_id"]) / "artifacts" / "manifest.json"
    kept = {path: path.read_bytes() for path in (*member.iterdir(), manifest) if path.is_file()}
    yield client, result, member, manifest
    for path, content in kept.items():
        path.write_bytes(content)


def test_a_member_that_is_gone(broken):
    client, result, member, _ = broken
    (member / "weights.safetensors").unlink()
    named = f"{result['members'][1]['name']} version {result['members'][1]['version']}"
    with pytest.raises(BadData, match="segcal-tiny-ensemble version 1 needs every member as it was") as raised:
        load_ensemble(client, result["uri"])
    assert named in str(raised.value)


def test_a_member_that_was_altered(broken):
    client, result, member, _ = broken
    content = bytearray((member / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (member / "weights.safetensors").write_bytes(content)
    with pytest.raises(BadData, match=f"{result['members'][1]['name']} version .*: the weights' sha256 must be"):
        load_ensemble(client, result["uri"])


def test_a_manifest_that_was_altered_or_lost(broken):
    client, result, _, manifest = broken
    text = manifest.read_text()
    manifest.write_text(text.replace('"threshold": 0', '"threshold": 9'))
    with pytest.raises(BadData, match="segcal-tiny-ensemble version 1: the manifest's sha256 must be"):
        load_ensemble(client, result["uri"])
    manifest.unlink()
    with pytest.raises(BadData, match=r"segcal-tiny-ensemble version 1: its artifacts/manifest.json must be there"):
        load_ensemble(client, result["uri"])


def test_members_of_another_task(registered):
    """A manifest that was written by hand: its hash is right, its task is not its members'."""
    from segcal.ensemble.loaded import assemble

    client = open_store(registered[0])
    manifest = load_ensemble(client, registered[1]["uri"]).manifest
    other = replace(manifest, task=manifest.task | {"channels": ["t2"]})
    with pytest.raises(BadData, match="must have the channels, classes and axes of task tiny"):
        assemble(client, other, "by hand")
