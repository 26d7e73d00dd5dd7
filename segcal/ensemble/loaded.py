"""A registered ensemble, ready to predict."""

__all__ = ["Ensemble", "EnsemblePrediction", "assemble", "confidence", "load_ensemble"]

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from segcal.analysis.ensembles import Recipe
from segcal.analysis.members import Member, load_pool
from segcal.analysis.workers import one_thread
from segcal.ensemble.manifest import Manifest, from_json, task_of
from segcal.errors import BadData
from segcal.learn.predict import predict_together, slabs_of
from segcal.learn.unet import UNet
from segcal.ledger.ensemble_version import MANIFEST, find_version, read_manifest
from segcal.ledger.store import Store
from segcal.measure.uncertainty import segment_entropy, total_entropy
from segcal.records import ModelRef
from segcal.tasks import TaskSpec

_ALONE = threading.Lock()  # torch's threads, and the masks of dropout, are of the whole process
_ROUNDING = 1e-3  # how far a resampled image may leave [0, 1]


@dataclass(frozen=True)
class EnsemblePrediction:
    """What an ensemble says of one image, on the prepared grid."""

    probs: np.ndarray  # (K, Z, Y, X) float32, the mean of the members' (Eq. 6)
    labels: np.ndarray  # (Z, Y, X) uint8, the most probable class; ties take the lowest
    entropy: np.ndarray  # (Z, Y, X) float32, nats: -sum p ln p of the mean, the total uncertainty
    segment_entropy: dict[str, float]  # structure -> H(S) (Eq. 7), nats; NaN where nothing is predicted

    @property
    def mean_entropy(self) -> float:
        """Mean H(S) over the predicted structures, which the threshold of novelty is for; NaN: nothing is predicted."""
        known = [value for value in self.segment_entropy.values() if np.isfinite(value)]
        return float(np.mean(known)) if known else float("nan")


@dataclass(frozen=True)
class Ensemble:
    """Members of one recipe with what is known of them. Its networks are made once."""

    name: str  # registered model
    version: int  # 0: not known
    manifest: Manifest
    task: TaskSpec
    members: tuple[Member, ...] = field(repr=False)

    @property
    def uri(self) -> str:
        """The immutable name: models:/NAME/VERSION."""
        return f"models:/{self.name}/{self.version}"

    @cached_property
    def device(self) -> torch.device:
        """Where it predicts."""
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def nets(self) -> list[UNet]:
        """The members' networks, in their order."""
        return [member.net(self.device) for member in self.members]

    def predict(self, image: np.ndarray, case_id: str = "") -> EnsemblePrediction:
        """Mean probabilities of an image (C, Z, Y, X) in [0, 1] on the task's grid, and what follows from them.

        Members are predicted one after another, slab by slab, on one thread: the same image gives the same bits. Calls
        from several threads wait for each other.
        case_id: Monte Carlo dropout draws its masks from it and the weights' hash; else it changes nothing.
        Raises BadData for another grid, other channels, or values that are not finite or beyond [0, 1].
        """
        image = self._checked(image, case_id)
        probs = np.empty((self.task.n_classes, *image.shape[1:]), np.float32)
        head, samples = self.members[0].config.head, [member.sampling(case_id) for member in self.members]
        with _ALONE, one_thread():
            for first, slab in slabs_of(image, self.task.dims, self.device):
                depth = len(slab) if self.task.dims == 2 else image.shape[1]  # a slab of slices, or all of them
                total = np.zeros((self.task.n_classes, depth, *image.shape[2:]))
                for prediction in predict_together(self.nets, head, slab, first, samples):
                    total += prediction.probs
                probs[:, first : first + depth] = total / len(self.members)
        structures = enumerate(self.task.structures, start=1)
        return EnsemblePrediction(
            probs,
            probs.argmax(axis=0).astype(np.uint8),
            total_entropy(probs),
            {name: segment_entropy(probs, label) for label, name in structures},
        )

    def _checked(self, image: np.ndarray, case_id: str) -> np.ndarray:
        who, task = case_id or "the image", self.task
        shape = np.shape(image)
        if len(shape) != 4 or shape[0] != len(task.channels):
            raise BadData(
                f"{who}: an image must be (channels, z, y, x) with {len(task.channels)} channels "
                f"({', '.join(task.channels)}), got shape {shape}; give them in this order"
            )
        if shape[1] < 1 or tuple(shape[4 - task.dims :]) != task.crop:
            axes = "(y, x)" if task.dims == 2 else "(z, y, x)"
            raise BadData(
                f"{who}: an image must be {task.crop} voxels {axes}, the grid of task {task.name}, got shape {shape}; "
                "prepare it first (`segcal predict` does)"
            )
        checked = np.ascontiguousarray(image, dtype=np.float32)
        low, high = float(checked.min()), float(checked.max())
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # NaN too
            raise BadData(f"{who}: values must be scaled to [0, 1], got {low:g} to {high:g}; prepare it first")
        return checked


def load_ensemble(client: Store, uri: str) -> Ensemble:
    """The ensemble of models:/NAME@ALIAS, models:/NAME/VERSION, NAME@ALIAS or NAME/VERSION; members' hashes count.

    Raises UnknownName for an unknown one, with the nearest names; BadData where a member is gone or altered.
    """
    found = find_version(client, uri)
    manifest = from_json(read_manifest(client, found), f"{found.title}: its {MANIFEST}")
    return assemble(client, manifest, found.name, found.version)


def assemble(client: Store, manifest: Manifest, name: str, version: int = 0) -> Ensemble:
    """The members that a manifest names, each loaded by its version; version 0: not known.

    Raises BadData where a member is gone or altered, or is none of the task's.
    """
    who = f"{name} version {version}" if version else name
    recipe = Recipe(manifest.recipe, manifest.label, tuple(_refs(manifest)))
    try:
        _, pool = load_pool(client, [recipe], manifest.data_digest)
    except BadData as error:
        raise BadData(f"{who} needs every member as it was: {error}") from None
    task, members = task_of(manifest), tuple(pool[manifest.recipe])
    for ref, member in zip(recipe.members, members, strict=True):
        made_for = member.config.in_channels, member.config.n_classes, member.config.dims
        if made_for != (len(task.channels), task.n_classes, task.dims):
            raise BadData(
                f"{who}: {ref.name} version {ref.version} must have the channels, classes and axes of task "
                f"{task.name}, got {made_for}; create the ensemble again"
            )
    return Ensemble(name, version, manifest, task, members)


def confidence(prediction: EnsemblePrediction) -> dict[str, dict[str, float]]:
    """Of each structure: `entropy`, H(S), and `probability`, the mean p(structure) over its predicted voxels.

    NaN where nothing is predicted.
    """
    found = {}
    for label, (name, entropy) in enumerate(prediction.segment_entropy.items(), start=1):
        segment = prediction.labels == label
        p = prediction.probs[label][segment].mean(dtype=np.float64) if segment.any() else float("nan")
        found[name] = {"entropy": entropy, "probability": float(p)}
    return found


def _refs(manifest: Manifest) -> Sequence[ModelRef]:
    """The members as the registry knows them; what no loading needs is left empty."""
    task = task_of(manifest).name
    return [
        ModelRef(
            name=m.name, version=m.version, model_id=m.model_id, run_id="", task=task, recipe=manifest.recipe,
            label=manifest.label, seed=m.seed, data_digest=manifest.data_digest, code_version=manifest.code_version,
            key="", weights_sha256=m.weights_sha256, val_dice=m.val_dice, epoch=0, created=0,
        )
        for m in manifest.members
    ]  # fmt: skip
