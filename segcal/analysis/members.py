"""From registered versions to networks that are ready to predict."""

__all__ = ["load_pool"]

from collections.abc import Sequence

import torch
from pydantic import TypeAdapter

from segcal.analysis.ensembles import Recipe
from segcal.analysis.evaluate import Member
from segcal.learn.predict import restore
from segcal.ledger.read import load_checkpoint
from segcal.ledger.store import Store
from segcal.tasks import TaskSpec
from segcal.trial import TrialConfig


def load_pool(
    client: Store, chosen: Sequence[Recipe], device: torch.device
) -> tuple[TaskSpec, dict[str, list[Member]]]:
    """The task of the newest member, and every recipe's members. Raises BadData for a lost or altered checkpoint."""
    pool: dict[str, list[Member]] = {}
    newest, task = -1, None
    for recipe in chosen:
        pool[recipe.recipe] = []
        for ref in recipe.members:
            checkpoint = load_checkpoint(client, ref)
            config = TypeAdapter(TrialConfig).validate_python(checkpoint.config)
            net = restore(config, checkpoint.weights, device)
            pool[recipe.recipe].append(Member(ref.seed, net, config.head))
            if ref.created > newest:
                newest, task = ref.created, TypeAdapter(TaskSpec).validate_python(checkpoint.task)
    if task is None:
        raise ValueError("chosen must hold at least 1 member, got 0")
    return task, pool
