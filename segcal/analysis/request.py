"""What a report is asked for, and what the registry makes of it: members, data, and a name for the question."""

__all__ = ["Part", "PoolTooSmall", "Request", "Resolved", "missing_checkpoints", "resolve"]

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property

from segcal.analysis.ensembles import Recipe, choose_digest, recipes
from segcal.analysis.score_cache import scoring_version
from segcal.errors import UnknownName, UsageError, nearest
from segcal.ledger.read import checkpoint_is_there, models, ood_digest
from segcal.ledger.store import Store
from segcal.records import ModelRef
from segcal.version import code_version


class PoolTooSmall(UsageError):
    """An ensemble of more members than there are."""


@dataclass(frozen=True)
class Request:
    """What a report is asked for. Empty tuples and None take what the experiment and its task say."""

    experiment: str
    tasks: tuple[str, ...] = ()  # empty: that of the newest model
    methods: tuple[str, ...] = ()  # recipes by label or id; empty: all
    sizes: tuple[int, ...] = ()  # M on the ensemble curve
    draws: int | None = None  # n, subsets drawn for each M
    data_digest: str | None = None  # where the experiment's models were trained on several data; None: the newest
    seed: int = 0  # of draws and resampling
    n_resamples: int = 10_000
    memory_gb: float = 4.0
    compare_paper: bool = False


@dataclass(frozen=True)
class Part:
    """The members of one task, all trained on one data digest."""

    task: str
    digest: str
    ood_digest: str | None
    recipes: tuple[Recipe, ...]
    left_out: dict[str, int] = field(default_factory=dict, hash=False)  # models of the task trained on other data

    @property
    def members(self) -> list[ModelRef]:
        """The members of all its recipes."""
        return [ref for recipe in self.recipes for ref in recipe.members]


@dataclass(frozen=True)
class Resolved:
    """A request whose every name has become a version with its hash."""

    request: Request
    parts: tuple[Part, ...]

    @property
    def experiment(self) -> str:
        """The experiment that was asked about."""
        return self.request.experiment

    @cached_property
    def id(self) -> str:
        """Hash (32 hex digits) of all that the answer follows from: the same question has the same id."""
        asked = asdict(self.request)
        del asked["memory_gb"], asked["tasks"], asked["methods"], asked["data_digest"]  # said by the parts
        asked["sizes"] = sorted({1, *self.request.sizes}) if self.request.sizes else []  # as the curve is drawn
        parts = [
            [part.task, part.digest, part.ood_digest, [[m.name, m.version, m.weights_sha256] for m in part.members]]
            for part in sorted(self.parts, key=lambda part: part.task)
        ]
        identity = [asked, parts, code_version(), scoring_version()]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


def resolve(client: Store, request: Request) -> Resolved:
    """Ask the registry for the members.

    Raises UnknownName for a name that is not there, PoolTooSmall for an M that no recipe has the members for,
    UsageError for a number out of range, and BadData for an experiment without models.
    """
    _check_numbers(request)
    refs = models(client, request.experiment)
    if request.tasks:
        known = {ref.task for ref in refs}
        for task in request.tasks:
            if task not in known:
                raise UnknownName(f"no task '{task}' in experiment '{request.experiment}'; {nearest(task, known)}")
        if request.data_digest and len(request.tasks) > 1:
            raise UsageError(f"a data digest must go with one task, got {', '.join(request.tasks)}")
        parts = [
            _part(client, request, [ref for ref in refs if ref.task == task]) for task in dict.fromkeys(request.tasks)
        ]
    else:
        parts = [_part(client, request, refs)]
    for method in request.methods:
        _check_method(method, [recipe for part in parts for recipe in part.recipes])
    chosen = [_chosen(part, request.methods) for part in parts]
    resolved = Resolved(request, tuple(part for part in chosen if part.recipes))
    _check_sizes(resolved)
    return resolved


def missing_checkpoints(client: Store, resolved: Resolved) -> list[str]:
    """Members whose files are gone, by name and version; looked at, not read."""
    members = [ref for part in resolved.parts for ref in part.members]
    with ThreadPoolExecutor(8) as pool:
        there = list(pool.map(lambda ref: checkpoint_is_there(client, ref), members))
    return [f"{ref.name} version {ref.version}" for ref, found in zip(members, there, strict=True) if not found]


def _part(client: Store, request: Request, refs: Sequence[ModelRef]) -> Part:
    digest, others = choose_digest(refs, request.data_digest)
    mine = [ref for ref in refs if ref.data_digest == digest]
    return Part(
        mine[0].task, digest, ood_digest(client, request.experiment, digest), tuple(recipes(mine)), others
    )  # fmt: skip


def _chosen(part: Part, methods: Sequence[str]) -> Part:
    kept = tuple(r for r in part.recipes if not methods or r.label in methods or r.recipe in methods)
    return Part(part.task, part.digest, part.ood_digest, kept, part.left_out)


def _check_numbers(request: Request) -> None:
    if request.n_resamples < 1 or request.seed < 0:
        got = f"--resamples {request.n_resamples} --seed {request.seed}"
        raise UsageError(f"resamples must be at least 1 and the seed not negative, got {got}")
    if any(size < 1 for size in request.sizes) or (request.draws is not None and request.draws < 1):
        raise UsageError(f"M and n must be at least 1, got M={list(request.sizes)} n={request.draws}")


def _check_method(method: str, known: Sequence[Recipe]) -> None:
    names = {name for recipe in known for name in (recipe.label, recipe.recipe)}
    if method not in names:
        raise UnknownName(f"no recipe '{method}'; {nearest(method, {recipe.label for recipe in known})}")


def _check_sizes(resolved: Resolved) -> None:
    for part in resolved.parts:
        pools = {recipe.label: len(recipe.members) for recipe in part.recipes}
        largest = max(pools.values())
        if too_large := [size for size in resolved.request.sizes if size > largest]:
            held = ", ".join(f"{label} {count}" for label, count in pools.items())
            raise PoolTooSmall(
                f"M must be at most {largest}, the largest pool of task {part.task} (members: {held}), "
                f"got M={max(too_large)}"
            )
