"""A report of 400 models and 100 patients whose scores are known: reading, statistics, figures, pages.

The scores are made up, of the shapes and sizes that a sweep of the paper's four recipes leaves; so are the pictures,
which are predicted before the clock starts. The rows below the first say where the time of a profiled run goes.
"""

__all__ = ["measure"]

import cProfile
import os
import pstats
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.table import Row
from segcal.analysis.build_report import Material, build_report
from segcal.analysis.ensembles import Recipe, Subset, all_subsets
from segcal.analysis.members import Member
from segcal.analysis.request import Request
from segcal.analysis.score_cache import ScoreCache
from segcal.data.prepared import PreparedCohort
from segcal.environment import home
from segcal.learn.fit import build
from segcal.measure.case import N_BINS, CaseScores, column, columns
from segcal.measure.grid import FINE
from segcal.records import ModelRef
from segcal.report.page import write_report
from segcal.tasks import TASKS, TaskSpec
from segcal.trial import TrialConfig
from segcal.volume import Case

SEEDS = 100
PATIENTS = 100
AWAY = 30  # of these, patients of a site that was not learnt from
SHAPE = (4, 224, 224)  # a volume; only the slices that are drawn are ever read
RESAMPLES = 10_000
GOAL_S = 20
SHOWN = 40  # functions of the profile
DIGEST = "0" * 16


@dataclass(frozen=True)
class MadeUpCohort(PreparedCohort):
    """Patients that share one image."""

    image: np.ndarray
    truth: np.ndarray

    def cases(self, split: str) -> list[Case]:
        """The cases of a split."""
        entries = [entry for entry in self.manifest["cases"] if entry["split"] == split]
        return [Case(entry["case_id"], self.image, self.truth, (2.0, 1.0, 1.0), entry["site"]) for entry in entries]


def measure() -> list[Row]:
    """All rows; everything is written to a temporary folder."""
    before = os.environ.get("SEGCAL_HOME")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SEGCAL_HOME"] = folder
        try:
            return _rows(Path(folder) / "report")
        finally:
            os.environ.pop("SEGCAL_HOME")
            if before is not None:
                os.environ["SEGCAL_HOME"] = before


def _rows(out: Path) -> list[Row]:
    material = _material()
    subsets = _write_scores(material)
    _report(material, out, n_resamples=10)  # predicts the pictures, imports, compiles
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    _report(material, out, RESAMPLES)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    profile = cProfile.Profile(time.process_time)
    profile.runcall(_report, material, out, RESAMPLES)
    models = sum(len(members) for members in material.pool.values())
    what = f"report, {models} models, {PATIENTS} patients, {RESAMPLES} resamples"
    note = f"{subsets} subsets a patient; {cpu_s:.1f} s of CPU; pictures predicted before"
    return [Row(what, wall_s, goal=f"{GOAL_S} s", note=note), *_where(profile)]


def _report(material: Material, out: Path, n_resamples: int) -> None:
    request = Request("made-up", n_resamples=n_resamples)
    report, scores = build_report(request, material, lambda line: None)
    write_report(report, scores.frame, out)


def _where(profile: cProfile.Profile) -> list[Row]:
    """Functions of segcal by the time in them and all that they call, in seconds of CPU, as the profiler slows it."""
    found = []
    for (file, _, name), (_, calls, own_s, total_s, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        _, inside, path = file.rpartition("segcal/")
        if inside and not name.startswith("<"):
            found.append((total_s, f"  {path} {name}", f"{calls} calls, {own_s:.2f} s its own"))
    return [Row(what, seconds, note=note) for seconds, what, note in sorted(found, reverse=True)[:SHOWN]]


def _material() -> Material:
    task = TASKS["brain"]
    kinds = {
        "ce": ("cross_entropy", "softmax", 0.0), "dice": ("soft_dice", "sigmoid", 0.0),
        "ce_mc": ("cross_entropy", "softmax", 0.5), "dice_mc": ("soft_dice", "sigmoid", 0.5),
    }  # fmt: skip
    chosen, pool = [], {}
    for label, (loss, head, dropout) in kinds.items():
        weighted = loss == "cross_entropy"
        config = TrialConfig(
            task=task.name, label=label, data_digest=DIGEST, in_channels=len(task.channels), n_classes=task.n_classes,
            dims=2, seed=0, loss=loss, head=head, weights="inverse_frequency" if weighted else "structures",  # type: ignore[arg-type]
            class_weights=(0.3, 4.0, 2.0, 4.0) if weighted else (1.0, 1.0, 1.0, 1.0), dropout=dropout, mc_samples=2,
            kernels=(2, 2, 2, 2), batch=task.batch,
        )  # fmt: skip
        weights = {name: value.numpy() for name, value in build(config).state_dict().items()}  # all share them
        refs = tuple(_ref(config, seed) for seed in range(SEEDS))
        pool[config.recipe] = [Member(r.seed, r.weights_sha256, replace(config, seed=r.seed), weights) for r in refs]
        chosen.append(Recipe(config.recipe, label, refs))
    return Material(task, _cohort(task), None, tuple(chosen), pool)


def _ref(config: TrialConfig, seed: int) -> ModelRef:
    return ModelRef(
        name=f"segcal-{config.task}-{config.recipe}", version=seed + 1, model_id=f"m-{config.label}-{seed}",
        run_id=f"{config.label}-{seed}", task=config.task, recipe=config.recipe, label=config.label, seed=seed,
        data_digest=DIGEST, code_version="0", key=f"{config.label}-{seed}", weights_sha256=f"{config.label}-{seed}",
        val_dice=0.8, epoch=100, created=seed,
    )  # fmt: skip


def _cohort(task: TaskSpec) -> MadeUpCohort:
    z, y, x = np.indices(SHAPE)
    radius = np.hypot(y - 100, x - 120) + 4 * z
    truth = np.select([radius < 10, radius < 20, radius < 40], [1, 3, 2], 0).astype(np.uint8)
    noise = np.random.default_rng(0).normal(0, 0.05, (len(task.channels), *SHAPE))
    image = (0.2 * truth + np.clip(noise, 0, 0.4)).astype(np.float32)
    splits = {"train": 66, "val": 22, "test": PATIENTS}
    entries = [
        {"case_id": f"{split}-{i:03d}", "split": split, "shape": SHAPE, "spacing_mm": (2.0, 1.0, 1.0),
         "site": "TCIA" if split == "test" and i < AWAY else "CBICA"}
        for split, count in splits.items() for i in range(count)
    ]  # fmt: skip
    manifest = {"digest": DIGEST, "cases": entries, "parameters": {"crop": task.crop}}
    return MadeUpCohort(Path("nowhere"), manifest, image, truth)


def _write_scores(material: Material) -> int:
    """Scores of every subset in the files that an evaluation would have left; returns the subsets of a patient."""
    task, pool = material.task, material.pool
    configs = {recipe: members[0].config for recipe, members in pool.items()}
    subsets = all_subsets(material.chosen, configs, task, seed=0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cache, rng = ScoreCache(home() / "scores" / DIGEST, task, device), np.random.default_rng(0)
    jobs = []
    for recipe, members in pool.items():
        mine = [subset for subset in subsets if subset.recipe == recipe]
        keys = [cache.key([members[m].name for m in s.members], s.variant, s.full, s.decomposed) for s in mine]
        jobs.append((mine, keys))
    for case in material.cohort.cases("test"):
        hardness = rng.lognormal(0, 0.4)
        absent = rng.random(len(task.structures)) < 0.03
        for mine, keys in jobs:
            scores = _scores(rng, task, mine, hardness, absent)
            cache.write(case.case_id, keys, [subset.full for subset in mine], scores)
    return len(subsets)


def _scores(
    rng: np.random.Generator, task: TaskSpec, subsets: list[Subset], hardness: float, absent: np.ndarray
) -> CaseScores:
    """Numbers of the right size that fall with the members; dice recipes are less calibrated."""
    n, full = len(subsets), np.array([subset.full for subset in subsets])
    decomposed = np.array([subset.decomposed for subset in subsets])
    gain = 1 / np.array([len(subset.members) for subset in subsets])
    loss = np.array([1.5 if subset.label.startswith("dice") else 1.0 for subset in subsets])
    found = {name: rng.random(n) for name in columns(task)}
    for region, voxels, scale in (("box", 3e5, 0.15), ("whole", 3e6, 0.02)):
        nll = scale * hardness * loss * (0.6 + 0.4 * gain) * rng.lognormal(0, 0.05, n)
        wrong = 0.25 * nll
        ece = 0.3 * nll * rng.random(n)
        values = {
            "voxels": np.full(n, voxels), "nll": nll, "nll_loose": nll, "brier": 0.4 * nll, "ece": ece, "ece15": ece,
            "ece20": ece, "ece30": ece, "ece_classwise": 0.5 * ece, "accuracy": 1 - wrong,
            "confidence": 1 - wrong + ece, "p_true": 1 - 1.5 * wrong, "clipped": np.zeros(n),
            "variance": np.where(decomposed, 0.1 * nll, np.nan), "entropy": np.where(decomposed, 0.3 * nll, np.nan),
            "member_entropy": np.where(decomposed, 0.2 * nll, np.nan),
        }  # fmt: skip
        found |= {column(metric, region): value for metric, value in values.items()}
    for structure, missing in zip(task.structures, absent, strict=True):
        dice = 1 - np.clip(0.2 * hardness * (0.8 + 0.2 * gain) * rng.lognormal(0, 0.1, n), 0.01, 1)
        values = {"dice": dice, "entropy": 0.05 + 0.3 * (1 - dice) * rng.lognormal(0, 0.2, n)}
        values |= dict.fromkeys(("hd95", "hd95_pooled", "hd95_worst"), np.where(full, 60 * (1 - dice), np.nan))
        found |= {column(m, structure): np.full(n, np.nan) if missing else value for m, value in values.items()}
    kept = int(full.sum())
    return CaseScores(
        found, _bins(rng, (kept, 2)), _bins(rng, (kept, 2, task.n_classes)),
        rng.integers(0, 1000, (kept, len(task.structures), FINE)).astype(float),
    )  # fmt: skip


def _bins(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    voxels = rng.integers(1, 100_000, (*shape, N_BINS)).astype(float)
    middle = (np.arange(N_BINS) + 0.5) / N_BINS
    return np.stack([voxels, voxels * middle, voxels * np.clip(middle - 0.03, 0, 1)], axis=-1)
