from segcal.analysis.ensembles import methods, recipes
from segcal.analysis.roles import PAPER_METHODS, Roles
from segcal.data.taskfile import load_task
from tests.analysis.conftest import make_config, make_ref

TASK = load_task("brain", {"ensemble_sizes": [1, 2, 5, 10]})


def roles_of(*configs):
    """Settings with how many seeds each has."""
    refs = [make_ref(make_config(c.label, seed, **changed)) for c, changed, count in configs for seed in range(count)]
    found = {}
    for c, changed, _ in configs:
        config = make_config(c.label, **changed)
        found[config.recipe] = config
    chosen = recipes(refs)
    return Roles(tuple(methods(chosen, found, TASK)), found, {r.recipe: len(r.members) for r in chosen})


def recipe(label, count, **changed):
    return make_config(label), changed, count


def test_the_papers_six_methods_are_found():
    roles = roles_of(recipe("ce", 6), recipe("dice", 3), recipe("ce_mc", 2), recipe("dice_mc", 2))
    found = {name: roles.method(name) for name in PAPER_METHODS}
    assert {name: (m.label, m.size) for name, m in found.items()} == {
        "CE": ("ce", 1), "MCDO CE": ("ce_mc", 1), "EN CE": ("ce", 5),
        "DSC": ("dice", 1), "MCDO DSC": ("dice_mc", 1), "EN DSC": ("dice", 2),
    }  # fmt: skip


def test_what_an_experiment_lacks_is_none():
    roles = roles_of(recipe("ce", 1))
    assert [name for name in PAPER_METHODS if roles.method(name)] == ["CE"]
    assert roles.ensemble("soft_dice", 1) is None
    assert roles.ensemble("cross_entropy", 2) is None


def test_the_papers_own_choice_goes_before_a_larger_pool():
    roles = roles_of(
        recipe("ce", 2),
        recipe("ce_none", 5, weights="none", class_weights=(1.0,) * 4),
        recipe("dice", 2, head="softmax"),
        recipe("dice_paper", 2),
        recipe("dice_large", 5, lr=0.1),
    )
    assert roles.method("CE").label == "ce"
    assert roles.method("DSC").label == "dice_large"  # of two that have the paper's head, the larger pool
    assert (roles.method("EN DSC").label, roles.method("EN DSC").size) == ("dice_large", 5)


def test_dropout_that_is_never_sampled_is_a_plain_method():
    roles = roles_of(recipe("ce_mc", 5, mc_samples=0))
    assert roles.method("MCDO CE") is None
    assert (roles.method("CE").label, roles.method("EN CE").size) == ("ce_mc", 5)


def test_an_ensemble_of_any_size_that_the_pool_holds():
    roles = roles_of(recipe("ce", 6), recipe("dice", 7))
    assert (roles.ensemble("soft_dice", 5).label, roles.ensemble("soft_dice", 5).size) == ("dice", 5)
    assert roles.ensemble("cross_entropy", 7) is None
    assert roles.ensemble("soft_dice", 1) == roles.method("DSC")
