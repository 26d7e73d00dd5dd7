"""A manifest survives its file, and a damaged one is named."""

import json
from dataclasses import asdict, replace

import pytest

from segcal.ensemble.manifest import DiceLine, Manifest, MemberVersion, Novelty, from_json, task_of, to_json
from segcal.errors import BadData


@pytest.fixture
def manifest(tiny_task) -> Manifest:
    return Manifest(
        format=1, experiment="calib", task=asdict(tiny_task), recipe="soft_dice-1", label="dice", select="best",
        selection_seed=0,
        members=(MemberVersion("segcal-tiny-soft_dice-1", 3, "m-1", 2, "ab" * 32, 0.75),),
        data_digest="d1", ood_digest=None, code_version="0.1", created="2026-01-01T00:00:00+00:00",
        native_spacing_mm=((3.0, 5.0), (0.9, 1.1), (0.9, 1.1)),
        dice={"edema": DiceLine(12, -5.5, 3.25, 0.5, 0.25, 0.125, 0.1, 0.6), "enhancing": None},
        novelty=Novelty(0.5, 0.05, 19, 3, 2 / 3), scores={"test.nll.box": 0.1}, cases={"val": 4, "test": 15},
    )  # fmt: skip


def test_there_and_back(manifest, tiny_task):
    again = from_json(to_json(manifest))
    assert replace(again, task={}) == replace(manifest, task={})
    assert task_of(again) == task_of(manifest) == tiny_task


def test_the_order_of_labels_survives(manifest):
    """It numbers the classes."""
    turned = replace(manifest, task=manifest.task | {"labels": {4: "enhancing", 1: "non-enhancing", 2: "edema"}})
    assert task_of(from_json(to_json(turned))).structures == ("enhancing", "non-enhancing", "edema")


def test_no_novelty(manifest):
    assert from_json(to_json(replace(manifest, novelty=None))).novelty is None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", '"format"'])
def test_what_is_no_manifest(text):
    with pytest.raises(BadData, match=r"^there must be the manifest of an ensemble, got \w+; create"):
        from_json(text, "there")


def test_a_newer_format(manifest):
    with pytest.raises(BadData, match=r"^manifest.json: the manifest's format must be 1, got 2; use the version of"):
        from_json(to_json(replace(manifest, format=2)))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda content: content.pop("members"), "members"),
        (lambda content: content["members"][0].pop("weights_sha256"), "members.0.weights_sha256"),
        (lambda content: content["dice"].update(edema=3), "dice.edema"),
        (lambda content: content["task"].pop("channels"), "channels"),
        (lambda content: content["scores"].update(x="high"), "scores.x"),
        (lambda content: content["members"].clear(), "at least 1 member, got 0"),
    ],
    ids=["members", "hash", "line", "task", "score", "no member"],
)
def test_damage_is_named(manifest, change, named):
    content = json.loads(to_json(manifest))
    change(content)
    with pytest.raises(BadData, match=named):
        from_json(json.dumps(content))


def test_a_number_that_json_does_not_know_is_never_written(manifest):
    with pytest.raises(ValueError, match="JSON"):
        to_json(replace(manifest, scores={"x": float("nan")}))
