"""Which members make an ensemble: the best by validation Dice, some at random, or all of one recipe."""

__all__ = ["SELECTIONS", "choose_members", "choose_recipe"]

from collections.abc import Callable, Sequence

import numpy as np

from segcal.analysis.ensembles import Recipe, choose_digest, recipes
from segcal.analysis.request import PoolTooSmall
from segcal.errors import UnknownName, UsageError, nearest
from segcal.records import ModelRef

SELECTIONS = ("best", "random", "all")


def choose_recipe(
    refs: Sequence[ModelRef],
    wanted: str,
    task: str | None = None,
    digest: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Recipe:
    """The recipe of a label or id, with all of its members, out of an experiment's.

    Where a label was trained on several data, the newest are taken, which is said; or those of `digest`. Raises
    UnknownName for an unknown task, recipe or digest, UsageError for a label that more than one recipe carries.
    """
    tasks = sorted({ref.task for ref in refs})
    if task is not None and task not in tasks:
        raise UnknownName(f"no model of task '{task}' in the experiment; {nearest(task, tasks)}")
    refs = [ref for ref in refs if task in (None, ref.task)]
    named = [ref for ref in refs if wanted in (ref.label, ref.recipe)]
    if not named:  # a label as reports write it, with the end of the id, where two recipes carry the same
        ends = {ref.recipe for ref in refs if wanted == f"{ref.label} {ref.recipe[-8:]}"}
        named = [ref for ref in refs if ref.recipe in ends]
    if not named:
        known = [*{ref.label for ref in refs}, *{ref.recipe for ref in refs}]
        raise UnknownName(f"no recipe '{wanted}' in the experiment; {nearest(wanted, known)}")
    if len(of := sorted({ref.task for ref in named})) > 1:
        raise UsageError(f"recipe '{wanted}' must be of one task, got {', '.join(of)}; say which with --task")
    on, others = choose_digest(named, digest)
    for other, count in others.items():
        say(f"left out: {count} models trained on other data, digest {other} (--digest {other} takes them)")
    found = recipes([ref for ref in named if ref.data_digest == on])
    if len(found) > 1:
        ids = ", ".join(recipe.recipe for recipe in found)
        raise UsageError(f"recipe '{wanted}' must name one recipe, got {len(found)} of that label: {ids}; give the id")
    return found[0]


def choose_members(recipe: Recipe, select: str, count: int | None, seed: int) -> Recipe:
    """The recipe with the chosen members only, by seed of training.

    best: the `count` highest validation Dice, of equal ones the lowest seed. random: `count` drawn without
    replacement; the same for the same seed and pool. all: every member. Raises PoolTooSmall for more than the pool
    has, and UsageError for none, a negative seed or an unknown selection.
    """
    if select not in SELECTIONS:
        raise UsageError(f"unknown selection '{select}'; {nearest(select, SELECTIONS)}")
    pool = len(recipe.members)
    if select == "all":
        if count is not None:
            raise UsageError(f"--select all takes the pool of {pool} members, got --members {count}; leave one out")
        return recipe
    if count is None or not 1 <= count <= pool:
        got = "none given" if count is None else f"{count}"
        raise (UsageError if count is None or count < 1 else PoolTooSmall)(
            f"--members must lie between 1 and {pool}, the pool of recipe '{recipe.label}', got {got}; train more "
            "seeds, or ask for fewer"
        )
    if seed < 0:
        raise UsageError(f"--seed must not be negative, got {seed}")
    if select == "best":
        order = sorted(range(pool), key=lambda at: (-recipe.members[at].val_dice, recipe.members[at].seed))
        chosen = sorted(order[:count])
    else:
        chosen = sorted(np.random.default_rng(seed).choice(pool, count, replace=False).tolist())
    return Recipe(recipe.recipe, recipe.label, tuple(recipe.members[at] for at in chosen))
