"""A registered ensemble out of an experiment's members: choose, score, learn what its entropy foretells, write."""

__all__ = ["EnsembleRequest", "create_ensemble"]

import datetime
import fcntl
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import segcal.ensemble
from segcal.analysis.ensembles import Recipe, Subset
from segcal.analysis.evaluate import evaluate
from segcal.analysis.members import Member, load_pool
from segcal.analysis.provenance import data_table
from segcal.analysis.run_analysis import open_out_of_distribution
from segcal.analysis.score_cache import ScoreCache
from segcal.analysis.scores import SOURCE, TARGET, domains
from segcal.data.prepared import PreparedCohort, open_prepared
from segcal.ensemble.card import Evidence, model_card, summary
from segcal.ensemble.choose import choose_members, choose_recipe
from segcal.ensemble.foresight import dice_line, leave_one_out, novelty
from segcal.ensemble.manifest import FORMAT, Manifest, MemberVersion, from_json, to_json
from segcal.environment import home
from segcal.errors import BadData
from segcal.ledger.ensemble_version import (
    CANDIDATE,
    CHAMPION,
    Draft,
    EnsembleVersion,
    check_alias,
    ensemble_name,
    give_alias,
    read_manifest,
    same_ensemble,
    write_version,
)
from segcal.ledger.read import models, ood_digest
from segcal.ledger.store import Store, open_store
from segcal.measure.case import REGIONS, column, columns
from segcal.tasks import TaskSpec
from segcal.version import code_version
from segcal.volume import Case

Say = Callable[[str], None]
REGION_SCORES = ("nll", "brier", "ece")
STRUCTURE_SCORES = ("dice", "hd95")


@dataclass(frozen=True)
class EnsembleRequest:
    """What an ensemble is asked for."""

    experiment: str
    recipe: str  # label or id
    members: int | None = None  # None with select="all" only
    select: str = "best"  # best, random or all
    task: str | None = None  # where the experiment has several
    data_digest: str | None = None  # where the recipe was trained on several data; None: the newest
    seed: int = 0  # of a random choice, and of resampling
    alias: str = CANDIDATE  # "": none
    promote: bool = False  # champion as well
    n_resamples: int = 10_000
    memory_gb: float = 4.0


def create_ensemble(request: EnsembleRequest, say: Say) -> dict[str, Any]:
    """Register an ensemble, or find the version of the same members, data and code; returns what it is and its scores.

    Raises UsageError for unknown names and more members than the pool has, and BadData where a member or the prepared
    cohort is gone.
    """
    aliases = [alias for alias in dict.fromkeys([request.alias, CHAMPION if request.promote else ""]) if alias]
    for alias in aliases:  # before minutes of scoring
        check_alias(alias)
    client = open_store(new=False)
    refs = models(client, request.experiment)
    recipe = choose_recipe(refs, request.recipe, request.task, request.data_digest, say)
    chosen = choose_members(recipe, request.select, request.members, request.seed)
    first = chosen.members[0]
    say(f"{len(chosen.members)} of {len(recipe.members)} members of recipe '{recipe.label}', task {first.task}")
    cohort = open_prepared(home() / "prepared" / first.data_digest)
    ood = open_out_of_distribution(ood_digest(client, request.experiment, cohort.digest), say)
    identity = _identity(request.experiment, chosen, cohort, ood)
    with _alone(identity):
        version = _known(client, ensemble_name(first.task), identity, say)
        created = version is None
        if version is None:
            version = write_version(client, _draft(client, request, chosen, cohort, ood, identity, say))
    if not created:
        say(f"the same members, data and code are registered already: {version.title}; nothing new was written")
    for alias in aliases:
        version = give_alias(client, version, alias)
    return _result(client, version, created)


def _known(client: Store, name: str, identity: str, say: Say) -> EnsembleVersion | None:
    """The version of the same members, data and code; None: there is none, or its manifest is gone or altered."""
    version = same_ensemble(client, name, identity)
    if version is not None:
        try:
            read_manifest(client, version)
        except BadData as error:
            say(f"{str(error).partition(';')[0]}; a new version is written")
            return None
    return version


@contextmanager
def _alone(identity: str) -> Iterator[None]:
    """Two calls for the same ensemble make one version: the second waits, and finds it."""
    folder = home() / "ensembles"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{identity}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _draft(
    client: Store, request: EnsembleRequest, chosen: Recipe, cohort: PreparedCohort, ood: PreparedCohort | None,
    identity: str, say: Say,
) -> Draft:  # fmt: skip
    task, pool = load_pool(client, [chosen], cohort.digest)
    members = pool[chosen.recipe]
    frame = _scored(request, task, chosen, members, cohort, ood, say)
    manifest = _manifest(request, task, chosen, cohort, ood, frame)
    config, name = members[0].config, ensemble_name(task.name)
    source = frame[frame.domain == SOURCE]
    honesty = {s: leave_one_out(source[column("entropy", s)], source[column("dice", s)]) for s in task.structures}
    evidence = Evidence(
        name, frame, honesty, data_table(cohort, ood), config.mc_samples if config.sampled else 0, config.loss,
        {package: importlib.metadata.version(package) for package in ("torch", "mlflow", "numpy")},
        request.n_resamples, request.seed,
    )  # fmt: skip
    depth = task.crop if task.dims == 3 else (-1, *task.crop)
    return Draft(
        experiment=request.experiment, task=task.name, label=chosen.label, identity=identity,
        about={
            "task": task.name, "recipe": chosen.recipe, "label": chosen.label, "select": request.select,
            "selection_seed": str(request.seed), "data_digest": cohort.digest, "ood_digest": ood.digest if ood else "",
            "code_version": manifest.code_version,
            "members": ", ".join(f"{m.name}/{m.version}" for m in manifest.members),  # as a report names them
        },
        description=summary(manifest), manifest=to_json(manifest), card=model_card(manifest, evidence),
        cases=frame.to_csv(index=False), scores=manifest.scores,
        code=Path(str(segcal.ensemble.__file__)).with_name("pyfunc.py"),
        image=(len(task.channels), *depth), n_classes=task.n_classes,
    )  # fmt: skip


def _manifest(
    request: EnsembleRequest, task: TaskSpec, chosen: Recipe, cohort: PreparedCohort, ood: PreparedCohort | None,
    frame: pd.DataFrame,
) -> Manifest:  # fmt: skip
    source, target = frame[frame.domain == SOURCE], frame[frame.domain == TARGET]
    return Manifest(
        format=FORMAT,
        experiment=request.experiment,
        task=asdict(task),
        recipe=chosen.recipe,
        label=chosen.label,
        select=request.select,
        selection_seed=request.seed,
        members=tuple(
            MemberVersion(ref.name, ref.version, ref.model_id, ref.seed, ref.weights_sha256, ref.val_dice)
            for ref in chosen.members
        ),
        data_digest=cohort.digest,
        ood_digest=ood.digest if ood else None,
        code_version=code_version(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        native_spacing_mm=_spacing_range(cohort),
        dice={s: dice_line(source[column("entropy", s)], source[column("dice", s)]) for s in task.structures},
        novelty=novelty(_case_entropy(source, task), _case_entropy(target, task)),
        scores=_means(frame, task),
        cases={str(split): int(count) for split, count in frame.split.value_counts().items()},
    )


def _scored(
    request: EnsembleRequest, task: TaskSpec, chosen: Recipe, members: list[Member], cohort: PreparedCohort,
    ood: PreparedCohort | None, say: Say,
) -> pd.DataFrame:  # fmt: skip
    """A row a validation, test and out-of-distribution case: case_id, split, domain, site, and metric@where."""
    subset = Subset(chosen.recipe, chosen.label, 0, tuple(range(len(members))))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = domains(cohort, [])
    rows = []
    for of, splits in ((cohort, ("val", "test")), (ood, ("ood",))):
        if of is None:
            continue
        cache = ScoreCache(home() / "scores" / of.digest, task, device)
        for split in splits:
            cases: list[Case] = of.cases(split)
            known = evaluate(cases, task, {chosen.recipe: members}, [subset], cache, request.memory_gb, say)
            for case in cases:
                metrics = known.cases[case.case_id][known.keys[subset]].metrics
                domain = {"val": SOURCE, "ood": TARGET}.get(split) or where[case.case_id]
                about = {"case_id": case.case_id, "split": split, "domain": domain, "site": case.site}
                rows.append(about | dict(zip(columns(task), metrics.tolist(), strict=True)))
    return pd.DataFrame(rows)


def _means(frame: pd.DataFrame, task: TaskSpec) -> dict[str, float]:
    """Means over patients, split.metric.where; what no patient defines is left out."""
    names = [(metric, region) for region in REGIONS for metric in REGION_SCORES]
    names += [(metric, structure) for structure in task.structures for metric in STRUCTURE_SCORES]
    means = {}
    for split, of in frame.groupby("split", sort=False):
        for metric, where in names:
            value = float(of[column(metric, where)].mean())
            if np.isfinite(value):
                means[f"{split}.{metric}.{where}"] = value
    return means


def _case_entropy(frame: pd.DataFrame, task: TaskSpec) -> np.ndarray:
    """Mean H(S) over each case's structures; NaN where nothing is predicted."""
    values: np.ndarray = frame[[column("entropy", s) for s in task.structures]].mean(axis=1).to_numpy(dtype=float)
    return values


def _spacing_range(cohort: PreparedCohort) -> tuple[tuple[float, float], ...]:
    """Lowest and highest spacing of the training cases along (z, y, x), mm, as acquired and turned."""
    entries = [entry for entry in cohort.manifest["cases"] if entry["split"] == "train"]
    spacings = np.array([entry["native"]["turned_spacing_mm"] for entry in entries], dtype=float)
    return tuple((float(axis.min()), float(axis.max())) for axis in spacings.T)


def _identity(experiment: str, chosen: Recipe, cohort: PreparedCohort, ood: PreparedCohort | None) -> str:
    """The same for the same members, data and code."""
    members = sorted((ref.name, ref.version, ref.weights_sha256) for ref in chosen.members)
    what = [FORMAT, experiment, members, cohort.digest, ood.digest if ood else None, code_version()]
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:32]


def _result(client: Store, version: EnsembleVersion, created: bool) -> dict[str, Any]:
    manifest = from_json(read_manifest(client, version), version.title)
    return {
        "name": version.name, "version": version.version, "uri": version.uri, "created": created,
        "aliases": list(version.aliases), "experiment": version.experiment, "task": version.task,
        "recipe": version.recipe, "label": version.label, "select": manifest.select,
        "members": [asdict(member) for member in manifest.members], "run_id": version.run_id,
        "model_id": version.model_id, "scores": manifest.scores, "cases": manifest.cases,
        "novelty": asdict(manifest.novelty) if manifest.novelty else None,
    }  # fmt: skip
