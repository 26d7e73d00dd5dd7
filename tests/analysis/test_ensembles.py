import math

import numpy as np
import pytest

from segcal.analysis.ensembles import all_subsets, choose_digest, draws, methods, recipes, sizes
from segcal.data.taskfile import load_task
from segcal.errors import UsageError
from segcal.records import ModelRef
from tests.analysis.conftest import make_config, make_ref

TASK = load_task("brain", {"ensemble_sizes": [2, 5, 10, 25], "curve_draws": 4})


def study(**pools):
    """Recipes of so many seeds by label, and their settings."""
    configs = {label: [make_config(label, seed) for seed in range(count)] for label, count in pools.items()}
    chosen = recipes([make_ref(config) for found in configs.values() for config in found])
    return chosen, {found[0].recipe: found[0] for found in configs.values()}


def ref(seed=0, recipe="cross_entropy-aaaaaaaa", label="ce", digest="d1", created=0):
    return ModelRef(
        name=f"segcal-tiny-{recipe}", version=seed + 1, model_id="m", run_id="r", task="tiny", recipe=recipe,
        label=label, seed=seed, data_digest=digest, code_version="1", key=f"{recipe}{seed}", weights_sha256="0",
        val_dice=0.5, epoch=1, created=created,
    )  # fmt: skip


def by(subsets, key):
    found = {}
    for subset in subsets:
        found.setdefault(key(subset), []).append(subset)
    return found


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


def test_the_typical_member_has_the_median_validation_dice():
    dices = [0.9, 0.1, 0.5, 0.7, 0.3]
    (recipe,) = recipes([make_ref(make_config("ce", seed), val_dice=dice) for seed, dice in enumerate(dices)])
    assert dices[recipe.typical] == 0.5
    (even,) = recipes([make_ref(make_config("ce", seed), val_dice=dice) for seed, dice in enumerate(dices[:4])])
    assert dices[even.typical] == 0.5  # of 0.1, 0.5, 0.7, 0.9 the lower of the middle two
    (one,) = recipes([make_ref(make_config("ce"))])
    assert one.typical == 0


def test_two_recipes_of_one_label_stay_two():
    twice = [make_config("ce", seed, lr=lr) for lr in (0.1, 0.2) for seed in range(2)]
    chosen = recipes([make_ref(config) for config in twice])
    assert [len(recipe.members) for recipe in chosen] == [2, 2]
    assert len({recipe.label for recipe in chosen}) == 2
    rows = methods(chosen, {config.recipe: config for config in twice}, TASK)
    assert len({method.title for method in rows}) == len(rows) == 4


def test_methods_are_ordered_by_loss_then_single_sampled_ensemble():
    chosen, configs = study(dice_mc=6, dice=6, ce=26, ce_mc=2)
    found = methods(chosen, configs, TASK)
    assert [(m.label, m.size, m.mc_samples) for m in found] == [
        ("ce", 1, 0), ("ce_mc", 1, 3), ("ce", 25, 0), ("dice", 1, 0), ("dice_mc", 1, 3), ("dice", 5, 0),
    ]  # fmt: skip
    assert [m.loss for m in found] == ["cross_entropy"] * 3 + ["soft_dice"] * 3


def test_a_pool_of_one_has_no_ensemble():
    chosen, configs = study(ce=1)
    assert [method.size for method in methods(chosen, configs, TASK)] == [1]
    (only,) = [s for s in all_subsets(chosen, configs, TASK, 0) if not s.variant]
    assert (only.members, only.full, only.decomposed) == ((0,), True, False)


def test_subsets_of_a_pool():
    chosen, configs = study(ce=6)
    found = [s for s in all_subsets(chosen, configs, TASK, 3) if not s.variant]
    of = by(found, lambda s: len(s.members))
    assert {size: len(subsets) for size, subsets in of.items()} == {1: 6, 2: 4, 5: 4}
    assert [s.members for s in of[1]] == [(m,) for m in range(6)]
    assert all([s.draw for s in subsets] == list(range(len(subsets))) for subsets in of.values())
    assert {size: {s.full for s in subsets} for size, subsets in of.items()} == {1: {True}, 2: {False}, 5: {True}}
    decomposed = {size: [s.decomposed for s in subsets] for size, subsets in of.items()}
    first = [True, False, False, False]
    assert decomposed == {1: [False] * 6, 2: first, 5: [False] * 4}


def test_one_draw_of_the_smallest_ensemble_is_decomposed():
    chosen, configs = study(dice=12)
    found = [s for s in all_subsets(chosen, configs, TASK, 0) if s.decomposed]
    assert [(len(s.members), s.draw, s.variant) for s in found] == [(2, 0, "")]


def test_sampled_recipes_are_scored_one_by_one():
    chosen, configs = study(ce_mc=6, dice_mc=6)
    found = all_subsets(chosen, configs, TASK, 0)
    assert len(found) == 12
    assert all(len(s.members) == 1 and s.full and not s.variant for s in found)


def test_other_readings_are_of_what_the_tables_show_and_of_recipes_they_say_something_about():
    chosen, configs = study(ce=6, dice=6, ce_mc=2)
    plain = make_config("ce", 0, weights="none", class_weights=(1.0,) * 4)
    chosen, configs = [*chosen, *recipes([make_ref(plain)])], configs | {plain.recipe: plain}
    found = [s for s in all_subsets(chosen, configs, TASK, 0) if s.variant]
    loss = {recipe: config.loss for recipe, config in configs.items()}
    assert {(s.variant, loss[s.recipe], len(s.members)) for s in found} == {
        ("prior_corrected", "cross_entropy", 1), ("prior_corrected", "cross_entropy", 5),
        ("raw_sum", "soft_dice", 1), ("raw_sum", "soft_dice", 5),
    }  # fmt: skip
    assert plain.recipe not in {s.recipe for s in found}
    assert all(s.full and not s.decomposed for s in found)
    assert sorted(s.draw for s in found if s.recipe == chosen[0].recipe) == [0, 0, 1, 2, 3, 4, 5]  # one of 5 networks
    for s in found:  # the same members as the plain reading's draw of that number
        same = [o for o in all_subsets(chosen, configs, TASK, 0) if not o.variant and o.recipe == s.recipe]
        assert s.members in {o.members for o in same if o.draw == s.draw}


def test_one_structure_has_no_other_reading_of_its_sigmoid():
    config = make_config("dice", classes=2)
    chosen = recipes([make_ref(config)])
    assert [s.variant for s in all_subsets(chosen, {config.recipe: config}, TASK, 0)] == [""]


def test_subsets_follow_the_seed_and_pools_of_one_size_are_drawn_alike():
    chosen, configs = study(ce=12, dice=12)
    first, again, other = (all_subsets(chosen, configs, TASK, seed) for seed in (1, 1, 2))
    assert first == again
    assert {s.members for s in first} != {s.members for s in other}
    plain = [s for s in first if not s.variant]
    of = by(plain, lambda s: s.recipe)
    drawn = [[s.members for s in subsets] for subsets in of.values()]
    assert drawn[0] == drawn[1]
    assert len(set(first)) == len(first)
