"""From registered versions to members that can predict."""

__all__ = ["Member", "load_pool", "mean_prediction", "predictions"]

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from segcal.analysis.ensembles import Recipe
from segcal.errors import BadData
from segcal.learn.predict import MonteCarlo, predict_slabs, restore, sampling
from segcal.learn.unet import UNet
from segcal.ledger.read import load_checkpoint
from segcal.ledger.store import Store
from segcal.tasks import TaskSpec
from segcal.trial import TrialConfig
from segcal.volume import Case, Prediction


@dataclass(frozen=True)
class Member:
    """A registered network: its settings, its weights, and the hash that names them."""

    seed: int
    sha256: str
    config: TrialConfig
    weights: dict[str, np.ndarray] = field(repr=False)

    @property
    def name(self) -> str:
        """What its probabilities follow from: weights, head, and how often dropout is sampled."""
        return f"{self.sha256} {self.config.head} {self.config.mc_samples if self.config.sampled else 0}"

    def sampling(self, case_id: str) -> MonteCarlo | None:
        """How it predicts a case; None: deterministically."""
        return sampling(self.config, self.sha256, case_id)

    def net(self, device: torch.device) -> UNet:
        """The network, ready to predict."""
        return restore(self.config, self.weights, device)


def load_pool(
    client: Store, chosen: Sequence[Recipe], digest: str, step: Callable[[int, int, str], None] = lambda *_: None
) -> tuple[TaskSpec, dict[str, list[Member]]]:
    """The task of the newest member, and every recipe's members.

    Raises BadData for a lost or altered checkpoint, and for one that was trained on other data than `digest`.
    """
    pool: dict[str, list[Member]] = {}
    newest, task = -1, None
    total, done = sum(len(recipe.members) for recipe in chosen), 0
    for recipe in chosen:
        pool[recipe.recipe] = []
        for ref in recipe.members:
            checkpoint = load_checkpoint(client, ref)
            try:
                config = TypeAdapter(TrialConfig).validate_python(checkpoint.config)
                of = TypeAdapter(TaskSpec).validate_python(checkpoint.task)
            except ValidationError as error:
                raise BadData(
                    f"{ref.name} version {ref.version}: the checkpoint's settings must be those of this version of "
                    f"segcal, got {error.error_count()} that are not; train it again, or use the version that wrote it"
                ) from None
            if config.data_digest != digest:
                raise BadData(
                    f"{ref.name} version {ref.version}: members must be trained on the data they are compared on, "
                    f"digest {digest}, got {config.data_digest}; report on that one with --digest"
                )
            pool[recipe.recipe].append(Member(ref.seed, ref.weights_sha256, config, checkpoint.weights))
            done += 1
            step(done, total, f"{recipe.label} seed {ref.seed}")
            if ref.created > newest:
                newest, task = ref.created, of
    if task is None:
        raise ValueError("chosen must hold at least 1 member, got 0")
    return task, pool


def predictions(
    member: Member, net: UNet, case: Case, device: torch.device, slices: slice = slice(None)
) -> Iterator[tuple[int, Prediction]]:
    """First slice and prediction of each slab of a case by one member, sampled where its recipe says so."""
    return predict_slabs(net, member.config.head, case.image, device, member.sampling(case.case_id), slices)


def mean_prediction(probs: Sequence[np.ndarray]) -> np.ndarray:
    """The ensemble (Eq. 6): mean of the members' probabilities, summed in float64, float32."""
    total = np.zeros(probs[0].shape)
    for p in probs:
        total += p
    return (total / len(probs)).astype(np.float32)
