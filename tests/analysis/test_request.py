"""What a request becomes: members with versions and hashes, and a name that is the same for the same question."""

import re
from dataclasses import replace

import pytest

from segcal.analysis.request import PoolTooSmall, Request, missing_checkpoints, resolve
from segcal.errors import UnknownName, UsageError
from segcal.ledger.read import models
from segcal.ledger.store import open_store

REQUEST = Request("tiny")


@pytest.fixture(scope="module")
def store(trained):
    return open_store(trained[0])


def test_names_become_versions(store, cohort):
    resolved = resolve(store, REQUEST)
    (part,) = resolved.parts
    assert (part.task, part.digest, part.ood_digest, part.left_out) == ("tiny", cohort.digest, None, {})
    assert [(recipe.label, len(recipe.members)) for recipe in part.recipes] == [("ce", 3), ("dice", 3)]
    assert sorted(ref.version for ref in part.members) == [1, 1, 2, 2, 3, 3]
    assert re.fullmatch("[0-9a-f]{32}", resolved.id)


def test_the_same_question_has_the_same_id_however_it_is_asked(store):
    known = resolve(store, REQUEST).id
    (part,) = resolve(store, REQUEST).parts
    recipe = part.recipes[0].recipe
    same = [
        replace(REQUEST, tasks=("tiny",)), replace(REQUEST, methods=("dice", "ce")), replace(REQUEST, memory_gb=9.0),
        replace(REQUEST, data_digest=part.digest), replace(REQUEST, methods=(recipe, "dice")),
    ]  # fmt: skip
    assert {resolve(store, request).id for request in same} == {known}
    other = [
        replace(REQUEST, methods=("dice",)), replace(REQUEST, sizes=(2,)), replace(REQUEST, draws=2),
        replace(REQUEST, seed=1), replace(REQUEST, n_resamples=100), replace(REQUEST, compare_paper=True),
    ]  # fmt: skip
    assert len({known, *(resolve(store, request).id for request in other)}) == len(other) + 1


def test_an_altered_weight_or_other_code_is_another_question(store, monkeypatch):
    known = resolve(store, REQUEST).id
    altered = [replace(ref, weights_sha256="0" * 64) if ref.seed == 1 else ref for ref in models(store, "tiny")]
    with monkeypatch.context() as patch:
        patch.setattr("segcal.analysis.request.models", lambda *_: altered)
        assert resolve(store, REQUEST).id != known
    monkeypatch.setattr("segcal.analysis.request.code_version", lambda: "another")
    assert resolve(store, REQUEST).id != known


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("tyny"), "no experiment named 'tyny'; did you mean 'tiny'"),
        (Request("tiny", tasks=("brian",)), "no task 'brian' in experiment 'tiny'; known: tiny"),
        (Request("tiny", methods=("dce",)), "no recipe 'dce'; did you mean 'dice'?"),
        (Request("tiny", data_digest="x"), "no model was trained on data digest 'x'"),
    ],
)
def test_unknown_names_are_told_with_the_nearest(store, request_, message):
    with pytest.raises(UnknownName) as caught:
        resolve(store, request_)
    assert message in str(caught.value)


def test_an_ensemble_of_more_members_than_there_are_names_the_pool(store):
    with pytest.raises(PoolTooSmall, match=r"M must be at most 3, .* \(members: ce 3, dice 3\), got M=4"):
        resolve(store, Request("tiny", sizes=(2, 4)))


@pytest.mark.parametrize("wrong", [{"sizes": (0,)}, {"draws": 0}, {"n_resamples": 0}, {"seed": -1}])
def test_numbers_out_of_range_are_refused(store, wrong):
    with pytest.raises(UsageError, match="must be at least 1"):
        resolve(store, Request("tiny", **wrong))


def test_a_digest_goes_with_one_task(store, cohort):
    with pytest.raises(UsageError, match="must go with one task"):
        resolve(store, Request("tiny", tasks=("tiny", "tiny"), data_digest=cohort.digest))


def test_members_whose_weights_are_gone_are_named(store, tmp_path, monkeypatch):
    resolved = resolve(store, REQUEST)
    assert missing_checkpoints(store, resolved) == []
    gone = resolved.parts[0].members[4]

    def there(client, ref):
        return ref.model_id != gone.model_id

    monkeypatch.setattr("segcal.analysis.request.checkpoint_is_there", there)
    assert missing_checkpoints(store, resolved) == [f"{gone.name} version {gone.version}"]


def test_the_order_of_sizes_is_no_part_of_the_question(store):
    ids = {resolve(store, replace(REQUEST, sizes=sizes)).id for sizes in ((1, 2), (2, 1), (2,), (2, 2, 1))}
    assert len(ids) == 1
    assert ids != {resolve(store, replace(REQUEST, sizes=(1, 3))).id}
