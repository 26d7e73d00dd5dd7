"""Which members make which ensembles: one recipe, many seeds, subsets drawn without replacement."""

__all__ = ["Recipe", "choose_digest", "draws", "recipes", "sizes"]

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from segcal.errors import UsageError
from segcal.records import ModelRef


@dataclass(frozen=True)
class Recipe:
    """All members of one recipe, by seed."""

    recipe: str
    label: str
    members: tuple[ModelRef, ...]


def choose_digest(refs: Sequence[ModelRef], wanted: str | None) -> tuple[str, dict[str, int]]:
    """The data digest to report on, and how many models were trained on each of the others.

    It is the one asked for, or that of the newest model. Raises UsageError for a digest that no model was trained on.
    """
    counts = Counter(ref.data_digest for ref in refs)
    if wanted is None:
        wanted = max(refs, key=lambda ref: ref.created).data_digest
    if wanted not in counts:
        raise UsageError(f"no model was trained on data digest '{wanted}'; known: {', '.join(counts)}")
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

    All of them where there are no more than n_draws, and always all single members; else n_draws at random.

    >>> draws(3, 2, 10, np.random.default_rng(0))
    [(0, 1), (0, 2), (1, 2)]
    """
    if not 1 <= size <= n_members:
        raise ValueError(f"size must lie between 1 and the {n_members} members, got size={size}")
    if size == 1 or math.comb(n_members, size) <= n_draws:
        return list(itertools.combinations(range(n_members), size))
    chosen: set[tuple[int, ...]] = set()
    while len(chosen) < n_draws:
        chosen.add(tuple(sorted(int(member) for member in rng.choice(n_members, size, replace=False))))
    return sorted(chosen)
