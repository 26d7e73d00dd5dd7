"""Which members make which ensembles: one recipe, many seeds, subsets drawn without replacement."""

__all__ = ["Recipe", "Subset", "all_subsets", "choose_digest", "draws", "methods", "recipes", "sizes"]

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from segcal.analysis.variants import PLAIN, VARIANTS
from segcal.errors import UnknownName
from segcal.records import Method, ModelRef
from segcal.tasks import TaskSpec
from segcal.trial import TrialConfig


@dataclass(frozen=True)
class Subset:
    """One drawn ensemble of a recipe; a single model is an ensemble of one."""

    recipe: str
    label: str
    draw: int
    members: tuple[int, ...]  # positions in the recipe's list of members
    variant: str = PLAIN
    full: bool = True  # with distances and bins: what tables show; the curve needs neither
    decomposed: bool = False  # with the members' variance and entropies


@dataclass(frozen=True)
class Recipe:
    """All members of one recipe, by seed."""

    recipe: str
    label: str
    members: tuple[ModelRef, ...]

    @property
    def typical(self) -> int:
        """Position of the member with the median validation Dice (the lower one of two)."""
        order = sorted(range(len(self.members)), key=lambda member: self.members[member].val_dice)
        return order[(len(order) - 1) // 2]


def choose_digest(refs: Sequence[ModelRef], wanted: str | None) -> tuple[str, dict[str, int]]:
    """The data digest to report on, and how many models were trained on each of the others.

    It is the one asked for, or that of the newest model. Raises UnknownName for a digest that no model was trained on.
    """
    counts = Counter(ref.data_digest for ref in refs)
    if wanted is None:
        wanted = max(refs, key=lambda ref: ref.created).data_digest
    if wanted not in counts:
        raise UnknownName(f"no model was trained on data digest '{wanted}'; known: {', '.join(counts)}")
    return wanted, {digest: count for digest, count in counts.items() if digest != wanted}


def recipes(refs: Sequence[ModelRef]) -> list[Recipe]:
    """Members by recipe. Where two recipes carry one label, the hash tells them apart."""
    grouped: dict[str, list[ModelRef]] = {}
    for ref in refs:
        grouped.setdefault(ref.recipe, []).append(ref)
    found = [Recipe(recipe, members[-1].label, tuple(members)) for recipe, members in grouped.items()]
    labels = Counter(recipe.label for recipe in found)
    named = [
        replace(recipe, label=f"{recipe.label} {recipe.recipe[-8:]}") if labels[recipe.label] > 1 else recipe
        for recipe in found
    ]
    return sorted(named, key=lambda recipe: recipe.label)


def sizes(n_members: int, wanted: Sequence[int]) -> list[int]:
    """The curve's sizes that a pool of n members has; 1 always."""
    return sorted({1, *(size for size in wanted if size <= n_members)})


def draws(n_members: int, size: int, n_draws: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Different subsets of `size` of n members, each drawn without replacement.

    All of them where there are no more than n_draws, and always all single members; else n_draws at random. Raises
    ValueError for a size above the number of members.

    >>> draws(3, 2, 10, np.random.default_rng(0))
    [(0, 1), (0, 2), (1, 2)]
    """
    if not 1 <= size <= n_members:
        raise ValueError(f"size must lie between 1 and the {n_members} members, got size={size}")
    if size == 1 or math.comb(n_members, size) <= n_draws:
        return list(itertools.combinations(range(n_members), size))
    chosen: dict[tuple[int, ...], None] = {}  # in the order drawn: the first one is as random as any
    while len(chosen) < n_draws:
        chosen[tuple(sorted(int(member) for member in rng.choice(n_members, size, replace=False)))] = None
    return list(chosen)


def methods(chosen: Sequence[Recipe], configs: Mapping[str, TrialConfig], task: TaskSpec) -> list[Method]:
    """The rows of the tables, loss by loss as in the paper: single models, Monte Carlo dropout, ensembles.

    An ensemble is the largest on the curve that the pool allows. Networks that are sampled stand alone.
    """
    found = []
    for recipe in chosen:
        config = configs[recipe.recipe]
        largest = sizes(len(recipe.members), task.ensemble_sizes)[-1]
        for size in (1,) if config.sampled else dict.fromkeys((1, largest)):
            samples = config.mc_samples if config.sampled else 0
            found.append(Method(recipe.recipe, recipe.label, size, config.loss, samples))
    return sorted(found, key=lambda method: (method.loss, method.size > 1, method.mc_samples > 0, method.label))


def all_subsets(
    chosen: Sequence[Recipe], configs: Mapping[str, TrialConfig], task: TaskSpec, seed: int
) -> list[Subset]:
    """Every single model, the drawn ensembles of each size, and other readings for the sensitivity table: of all
    single models and of one ensemble.

    The same draws for the same seed and pool. The first draw of the smallest ensemble is decomposed.
    """
    found = []
    for recipe in chosen:
        config, rng = configs[recipe.recipe], np.random.default_rng(seed)
        pool = len(recipe.members)
        ms = [1] if config.sampled else sizes(pool, task.ensemble_sizes)
        for size in ms:
            shown = size in (1, ms[-1])
            for draw, members in enumerate(draws(pool, size, task.curve_draws, rng)):
                decomposed = draw == 0 and size in ms[1:2]
                subset = Subset(recipe.recipe, recipe.label, draw, members, PLAIN, shown, decomposed)
                found.append(subset)
                first = size == 1 or draw == 0  # other readings differ in their networks, hardly in the draw
                readings = [name for name, variant in VARIANTS.items() if shown and first and variant.applies(config)]
                found += [replace(subset, variant=name, decomposed=False) for name in readings]
    return found
