"""Which recipe is meant, and which of its members are taken."""

from dataclasses import replace

import pytest

from segcal.analysis.ensembles import Recipe
from segcal.ensemble.choose import choose_members, choose_recipe
from segcal.errors import UsageError
from tests.analysis.conftest import make_config, make_ref

DICE = [0.5, 0.9, 0.7, 0.9, 0.1, 0.8]  # of the seeds 0, 1, ...


@pytest.fixture
def refs():
    """Two recipes of a task: ce with 3 seeds, dice with 6."""
    ce = [make_ref(make_config("ce", seed)) for seed in range(3)]
    return ce + [make_ref(make_config("dice", seed), val_dice=DICE[seed], created=seed) for seed in range(6)]


@pytest.fixture
def pool(refs) -> Recipe:
    return choose_recipe(refs, "dice")


def seeds(recipe):
    return [ref.seed for ref in recipe.members]


def test_by_label_and_by_id(refs, pool):
    assert (pool.label, seeds(pool)) == ("dice", [0, 1, 2, 3, 4, 5])
    assert choose_recipe(refs, pool.recipe) == pool
    assert choose_recipe(refs, "ce").label == "ce"


@pytest.mark.parametrize(("count", "best"), [(1, [1]), (2, [1, 3]), (3, [1, 3, 5]), (4, [1, 2, 3, 5])])
def test_best_is_the_highest_validation_dice_and_of_equal_ones_the_lowest_seed(pool, count, best):
    assert seeds(choose_members(pool, "best", count, 0)) == best


def test_random_follows_from_its_seed(pool):
    drawn = {tuple(seeds(choose_members(pool, "random", 3, seed))) for seed in range(40)}
    assert len(drawn) > 10  # of the 20 there are
    assert all(len(set(some)) == 3 and list(some) == sorted(some) for some in drawn)
    assert choose_members(pool, "random", 3, 7) == choose_members(pool, "random", 3, 7)
    assert {seed for some in drawn for seed in some} == {0, 1, 2, 3, 4, 5}


def test_all(pool):
    assert choose_members(pool, "all", None, 0) == pool
    assert choose_members(pool, "random", 6, 0).members == pool.members


@pytest.mark.parametrize(
    ("select", "count", "seed", "message"),
    [
        ("best", 7, 0, "--members must lie between 1 and 6, the pool of recipe 'dice', got 7; train more seeds"),
        ("best", 0, 0, "between 1 and 6"),
        ("random", None, 0, "got none given"),
        ("all", 3, 0, "--select all takes the pool of 6 members, got --members 3"),
        ("bst", 3, 0, "unknown selection 'bst'; did you mean 'best'?"),
        ("random", 3, -1, "--seed must not be negative, got -1"),
    ],
)
def test_what_the_pool_does_not_have(pool, select, count, seed, message):
    with pytest.raises(UsageError) as raised:
        choose_members(pool, select, count, seed)
    assert message in str(raised.value)


def test_unknown_names(refs, pool):
    with pytest.raises(
        UsageError, match=r"no recipe 'dcie' in the experiment; did you mean 'dice'\? known: ce, cross_"
    ):
        choose_recipe(refs, "dcie")
    with pytest.raises(UsageError, match=r"no model of task 'tinny' in the experiment; did you mean 'tiny'\?"):
        choose_recipe(refs, "dice", task="tinny")
    with pytest.raises(UsageError, match="no model was trained on data digest 'd9'; known: d"):
        choose_recipe(refs, "dice", digest="d9")


def test_a_recipe_of_two_tasks_needs_one(refs):
    other = [replace(ref, task="other", name=f"segcal-other-{ref.recipe}") for ref in refs]
    with pytest.raises(UsageError, match="recipe 'dice' must be of one task, got other, tiny; say which with --task"):
        choose_recipe(refs + other, "dice")
    assert {ref.task for ref in choose_recipe(refs + other, "dice", task="other").members} == {"other"}


def test_the_newest_data_are_taken_and_the_others_named(refs):
    newer = [make_ref(make_config("dice", seed, digest="d2"), created=100 + seed) for seed in range(2)]
    lines = []
    assert seeds(choose_recipe(refs + newer, "dice", say=lines.append)) == [0, 1]
    assert lines == ["left out: 6 models trained on other data, digest d (--digest d takes them)"]
    assert len(choose_recipe(refs + newer, "dice", digest="d").members) == 6


def test_a_label_of_two_recipes_needs_an_id(refs):
    others = [make_ref(make_config("dice", seed, lr=0.1)) for seed in range(2)]
    ids = {ref.recipe for ref in others} | {ref.recipe for ref in refs if ref.label == "dice"}
    with pytest.raises(UsageError, match="got 2 of that label") as raised:
        choose_recipe(refs + others, "dice")
    assert all(name in str(raised.value) for name in ids)
    wanted = others[0].recipe
    assert choose_recipe(refs + others, wanted).members == tuple(others)
    assert choose_recipe(refs + others, f"dice {wanted[-8:]}").members == tuple(others)  # as reports write it
