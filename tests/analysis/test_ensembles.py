import math

import numpy as np
import pytest

from segcal.analysis.ensembles import choose_digest, draws, recipes, sizes
from segcal.errors import UsageError
from segcal.records import ModelRef


def ref(seed=0, recipe="cross_entropy-aaaaaaaa", label="ce", digest="d1", created=0):
    return ModelRef(
        name=f"segcal-tiny-{recipe}", version=seed + 1, model_id="m", run_id="r", task="tiny", recipe=recipe,
        label=label, seed=seed, data_digest=digest, code_version="1", key=f"{recipe}{seed}", weights_sha256="0",
        val_dice=0.5, epoch=1, created=created,
    )  # fmt: skip


def test_sizes_are_those_the_pool_has():
    assert sizes(5, (1, 2, 5, 10, 25, 50)) == [1, 2, 5]
    assert sizes(1, (1, 2, 5)) == [1]
    assert sizes(4, (10,)) == [1]


@pytest.mark.parametrize(("n", "size", "n_draws"), [(5, 2, 10), (5, 2, 50), (10, 5, 7), (6, 6, 10), (4, 3, 2)])
def test_draws_are_different_subsets_without_repeats(n, size, n_draws):
    found = draws(n, size, n_draws, np.random.default_rng(0))
    assert len(found) == len(set(found)) == min(n_draws, math.comb(n, size))
    assert all(len(set(subset)) == size and set(subset) <= set(range(n)) for subset in found)


def test_every_single_model_is_drawn():
    assert draws(7, 1, 2, np.random.default_rng(0)) == [(member,) for member in range(7)]


def test_draws_follow_the_seed():
    assert draws(10, 5, 5, np.random.default_rng(1)) == draws(10, 5, 5, np.random.default_rng(1))
    assert draws(10, 5, 5, np.random.default_rng(1)) != draws(10, 5, 5, np.random.default_rng(2))


def test_a_size_beyond_the_pool_is_refused():
    with pytest.raises(ValueError, match="between 1 and the 3 members, got size=4"):
        draws(3, 4, 10, np.random.default_rng(0))


def test_members_of_one_recipe_and_labels_that_tell_recipes_apart():
    found = recipes([ref(0), ref(1), ref(0, "cross_entropy-bbbbbbbb"), ref(0, "soft_dice-cccccccc", "dice")])
    assert [(recipe.label, len(recipe.members)) for recipe in found] == [
        ("ce aaaaaaaa", 2),
        ("ce bbbbbbbb", 1),
        ("dice", 1),
    ]


def test_the_newest_data_are_reported_on_and_others_named():
    refs = [ref(0, digest="old", created=1), ref(1, digest="old", created=2), ref(2, digest="new", created=3)]
    assert choose_digest(refs, None) == ("new", {"old": 2})
    assert choose_digest(refs, "old") == ("old", {"new": 1})
    with pytest.raises(UsageError, match="no model was trained on data digest 'x'"):
        choose_digest(refs, "x")
