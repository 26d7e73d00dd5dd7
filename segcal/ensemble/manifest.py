"""What a registered ensemble is: names and hashes of its members, and what is known of its predictions. Not weights."""

__all__ = ["FORMAT", "DiceLine", "Manifest", "MemberVersion", "Novelty", "from_json", "task_of", "to_json"]

import json
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from segcal.errors import BadData
from segcal.tasks import TaskSpec

FORMAT = 1  # of the file; a reader of an older format does not guess at a newer one


@dataclass(frozen=True)
class MemberVersion:
    """A member, immutable: a registered version and the hash of its weights."""

    name: str
    version: int
    model_id: str
    seed: int
    weights_sha256: str
    val_dice: float


@dataclass(frozen=True)
class DiceLine:
    """Least squares of logit Dice (clipped to [0.001, 0.999]) on H(S), for one structure."""

    n: int
    slope: float
    intercept: float
    residual_sd: float  # with n - 2 degrees of freedom
    mean_entropy: float
    sxx: float  # sum (x - mean)^2
    low_entropy: float  # of the fitted cases, nats
    high_entropy: float


@dataclass(frozen=True)
class Novelty:
    """A case is flagged where its mean H(S) over structures exceeds `threshold` (nats)."""

    threshold: float
    false_positive_rate: float
    n_source: int
    n_target: int = 0
    detected: float | None = None  # share of the out-of-distribution cohort's cases that it flags


@dataclass(frozen=True)
class Manifest:
    """An ensemble of one recipe, complete but for the weights."""

    format: int
    experiment: str
    task: dict[str, Any]  # TaskSpec; `labels` in their order, which numbers the classes
    recipe: str
    label: str
    select: str  # best, random or all
    selection_seed: int
    members: tuple[MemberVersion, ...]
    data_digest: str
    ood_digest: str | None
    code_version: str
    created: str
    native_spacing_mm: tuple[tuple[float, float], ...]  # lowest and highest of training cases, axes (z, y, x), turned
    dice: dict[str, DiceLine | None]  # structure -> line; None: fewer than 4 cases with that structure
    novelty: Novelty | None
    scores: dict[str, float]  # flat, e.g. "test.nll.box": ...; all finite
    cases: dict[str, int]  # split -> how many were scored


def to_json(manifest: Manifest) -> str:
    """The manifest as a file. Keys keep their order: that of the labels numbers the classes."""
    return json.dumps(asdict(manifest), indent=1, allow_nan=False)


def from_json(text: str, where: str = "manifest.json") -> Manifest:
    """The manifest of a file, checked; `where` names it in messages. Raises BadData for a damaged or newer one."""
    try:
        content = json.loads(text)
        found = content["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise BadData(
            f"{where} must be the manifest of an ensemble, got {type(error).__name__}; create the ensemble again"
        ) from None
    if found != FORMAT:
        raise BadData(
            f"{where}: the manifest's format must be {FORMAT}, got {found!r}; use the version of segcal that wrote it"
        )
    try:
        manifest = TypeAdapter(Manifest).validate_python(content)
        task_of(manifest)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"])
        raise BadData(
            f"{where}: the manifest must be whole, got {error.error_count()} faults ({at}: {first['msg']}); "
            "create the ensemble again"
        ) from None
    if not manifest.members:
        raise BadData(f"{where}: the manifest must name at least 1 member, got 0; create the ensemble again")
    return manifest


def task_of(manifest: Manifest) -> TaskSpec:
    """The task, as the members know it."""
    return TypeAdapter(TaskSpec).validate_python(manifest.task)
