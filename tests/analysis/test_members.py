import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from segcal.analysis.ensembles import recipes
from segcal.analysis.members import load_pool, mean_prediction, predictions
from segcal.errors import BadData
from segcal.ledger.read import load_checkpoint, models
from segcal.ledger.store import open_store
from tests.analysis.conftest import make_case, make_config, make_member

CPU = torch.device("cpu")


@pytest.fixture
def registered(trained):
    client = open_store(trained[0])
    return client, recipes(models(client, "tiny"))


def test_a_pool_is_what_was_registered(registered, cohort, tiny_task):
    client, chosen = registered
    steps = []
    task, pool = load_pool(client, chosen, cohort.digest, lambda *step: steps.append(step))
    assert task == tiny_task
    assert list(pool) == [recipe.recipe for recipe in chosen]
    for recipe in chosen:
        assert [m.seed for m in pool[recipe.recipe]] == [ref.seed for ref in recipe.members] == [0, 1, 2]
        for member, ref in zip(pool[recipe.recipe], recipe.members, strict=True):
            assert (member.sha256, member.config.key) == (ref.weights_sha256, ref.key)
            expected = load_checkpoint(client, ref).weights
            assert all(np.array_equal(member.weights[name], expected[name]) for name in expected)
    assert [step[:2] for step in steps] == [(n, 6) for n in range(1, 7)]
    assert steps[0][2] == f"{chosen[0].label} seed 0"


def test_members_of_other_data_are_refused_and_named(registered):
    client, chosen = registered
    with pytest.raises(BadData, match=r"segcal-tiny-\S+ version \d+: members must be trained on .* digest other, got"):
        load_pool(client, chosen, "other")


def test_the_newest_members_task_is_the_reports(registered, cohort, monkeypatch):
    client, chosen = registered
    newest = replace(chosen[0].members[1], created=10**15)  # neither the first nor the last that is read
    chosen[0] = replace(chosen[0], members=(chosen[0].members[0], newest, chosen[0].members[2]))

    def changed(client, ref):
        checkpoint = load_checkpoint(client, ref)
        margin = 3.0 if ref.key == newest.key else 5.0
        return replace(checkpoint, task=checkpoint.task | {"box_margin_mm": margin})

    monkeypatch.setattr("segcal.analysis.members.load_checkpoint", changed)
    assert load_pool(client, chosen, cohort.digest)[0].box_margin_mm == 3.0


@pytest.mark.parametrize(("part", "more"), [("config", {"unheard_of": 1}), ("task", {"crop": "wide"})])
def test_settings_of_another_version_are_refused_and_named(registered, cohort, monkeypatch, part, more):
    def changed(client, ref):
        checkpoint = load_checkpoint(client, ref)
        return replace(checkpoint, **{part: getattr(checkpoint, part) | more})

    monkeypatch.setattr("segcal.analysis.members.load_checkpoint", changed)
    client, chosen = registered
    with pytest.raises(BadData, match=r"segcal-tiny-\S+ version \d+: the checkpoint's settings must be those"):
        load_pool(client, chosen, cohort.digest)


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json"])
def test_a_lost_or_altered_file_is_refused_and_named(registered, cohort, name):
    client, chosen = registered
    ref = chosen[1].members[1]
    location = client.get_logged_model(ref.model_id).artifact_location
    path = Path(location.removeprefix("file://"), name)
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[:-1] + b"\0")
        with pytest.raises(BadData, match=f"{ref.name} version {ref.version}: "):
            load_pool(client, chosen, cohort.digest)
        path.unlink()
        with pytest.raises(BadData, match=f"{ref.name} version {ref.version}: .*files must be there"):
            load_pool(client, chosen, cohort.digest)
    finally:
        path.write_bytes(whole)
    if name.endswith("json"):
        json.loads(path.read_text())
    load_pool(client, chosen, cohort.digest)


def test_no_member_is_a_fault():
    with pytest.raises(ValueError, match="at least 1 member, got 0"):
        load_pool(None, [], "d")


def test_the_ensemble_is_the_mean_in_float64():
    parts = [np.array([0.1, 1.0], np.float32), np.array([0.2, 1.0], np.float32), np.array([0.9, 0.0], np.float32)]
    found = mean_prediction(parts)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, (sum(p.astype(np.float64) for p in parts) / 3).astype(np.float32))
    np.testing.assert_array_equal(mean_prediction(parts[:1] * 7), parts[0])  # seven times the same is the same


def test_a_name_tells_what_the_probabilities_follow_from():
    member = make_member(make_config("ce_mc"))
    others = [
        replace(member, config=replace(member.config, **changed))
        for changed in ({"mc_samples": 4}, {"mc_samples": 0}, {"head": "raw_sum"})
    ]
    others += [replace(member, sha256="another")]
    assert len({m.name for m in [member, *others]}) == 5
    again = replace(member, config=replace(member.config, label="x", lr=1.0, batch=9))
    assert again.name == member.name
    off = replace(member, config=replace(member.config, dropout=0.0))
    assert off.name == others[1].name  # without dropout, or without samples, the network is deterministic


@pytest.mark.parametrize("label", ["ce", "dice_mc"])
def test_a_slice_is_predicted_as_in_its_volume(label):
    member, case = make_member(make_config(label)), make_case(shape=(11, 16, 16))
    net = member.net(CPU)
    whole = np.concatenate([slab.probs for _, slab in predictions(member, net, case, CPU)], axis=1)
    for z in (0, 7, 8, 10):
        ((first, slab),) = predictions(member, net, case, CPU, slice(z, z + 1))
        np.testing.assert_allclose(slab.probs[:, z - first], whole[:, z], rtol=1e-5)


def test_samples_follow_from_the_network_and_the_case():
    member = make_member(make_config("ce_mc"))
    case = make_case()

    def predicted(of, on):
        ((_, slab),) = predictions(of, of.net(CPU), on, CPU)
        return slab.probs

    first = predicted(member, case)
    np.testing.assert_array_equal(predicted(member, case), first)
    assert np.abs(predicted(replace(member, sha256="another"), case) - first).max() > 1e-3
    assert np.abs(predicted(member, replace(case, case_id="another")) - first).max() > 1e-3
