"""A report from nothing but an experiment's name: members from the registry, ensembles, scores, statistics, pages."""

__all__ = ["build_report", "make_report"]

import datetime
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from segcal.analysis import compare as cmp
from segcal.analysis.conventions import conventions
from segcal.analysis.ensembles import Recipe, choose_digest, draws, recipes, sizes
from segcal.analysis.evaluate import Evaluation, Member, Subset, evaluate, predict_foreground
from segcal.analysis.findings import findings
from segcal.analysis.laws import check_laws
from segcal.analysis.members import load_pool
from segcal.data.prepare import home
from segcal.data.prepared import PreparedCohort, open_prepared
from segcal.ledger.read import models
from segcal.ledger.store import open_store
from segcal.ledger.write import log_report
from segcal.measure.calibration import reliability_of_bins
from segcal.records import CaseScore, Cell, Method, Overlay, ReliabilityBins, Report, Table
from segcal.report.page import write_report
from segcal.tasks import TaskSpec
from segcal.version import code_version
from segcal.volume import Case

Say = Callable[[str], None]


def make_report(
    experiment: str, out: Path, seed: int, n_resamples: int, say: Say, data_digest: str | None = None
) -> dict[str, Any]:
    """Build, write and log the report of an experiment; returns where it is and its main numbers."""
    client = open_store()
    refs = models(client, experiment)
    digest, others = choose_digest(refs, data_digest)
    for other, count in others.items():
        say(f"left out: {count} models trained on other data, digest {other} (--digest {other} reports on them)")
    chosen = recipes([ref for ref in refs if ref.data_digest == digest])
    say(f"{sum(len(recipe.members) for recipe in chosen)} members of {len(chosen)} recipes in '{experiment}'")
    cohort = open_prepared(home() / "prepared" / digest)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task, pool = load_pool(client, chosen, device)
    report, rows = build_report(experiment, task, cohort, chosen, pool, device, seed, n_resamples, say)
    say("drawing tables and figures")
    write_report(report, rows, out)
    run_id = log_report(client, experiment, f"report {task.name}", out, _params(report), _metrics(report))
    return {"folder": str(out.absolute()), "run_id": run_id, "data_digest": digest, "findings": list(report.findings)}


def build_report(
    experiment: str,
    task: TaskSpec,
    cohort: PreparedCohort,
    chosen: Sequence[Recipe],
    pool: dict[str, list[Member]],
    device: torch.device,
    seed: int,
    n_resamples: int,
    say: Say,
) -> tuple[Report, list[CaseScore]]:
    """Score the pool on the test cases and compute everything the report says."""
    cases = cohort.cases("test")
    evaluation = evaluate(cases, task, pool, all_subsets(chosen, task, seed), device, say)
    scores = pd.DataFrame([asdict(row) for row in evaluation.rows])
    methods = _methods(chosen, task)
    box = cmp.compare(scores, methods, cmp.box_columns(task), seed, n_resamples)
    whole = cmp.compare(scores, methods, cmp.calibration_columns("whole"), seed, n_resamples)
    distance = cmp.compare(scores, methods, cmp.distance_columns(task, scores), seed, n_resamples)
    tables = (
        cmp.score_table(box, "box", "Calibration in the box, and Dice", seed, n_resamples),
        cmp.score_table(whole, "whole", "Calibration over the whole volume", seed, n_resamples),
        cmp.score_table(distance, "hd95", "95th percentile Hausdorff distance", seed, n_resamples),
        cmp.comparison_table(box, seed, n_resamples),
        _data_table(cohort),
        _member_table(chosen),
    )
    report = Report(
        experiment=experiment,
        task=task.name,
        data_digest=cohort.digest,
        code_version=code_version(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seed=seed,
        n_resamples=n_resamples,
        structures=task.structures,
        test_cases=tuple(case.case_id for case in cases),
        members=tuple(ref for recipe in chosen for ref in recipe.members),
        findings=findings(box, methods, task),
        notes=_notes(chosen, cases, scores, task),
        conventions=conventions(task, seed, n_resamples),
        tables=tables,
        curves=cmp.curves(scores),
        reliability=_reliability(evaluation, methods),
        scatters=cmp.scatters(scores, methods),
        overlays=_overlays(scores, cases, pool, methods, device),
        laws=check_laws(scores),
    )
    return report, evaluation.rows


def all_subsets(chosen: Sequence[Recipe], task: TaskSpec, seed: int) -> list[Subset]:
    """Every single model, and the drawn ensembles of each size; the same draws for the same seed and pool."""
    found = []
    for recipe in chosen:
        rng = np.random.default_rng(seed)
        for size in sizes(len(recipe.members), task.ensemble_sizes):
            for draw, members in enumerate(draws(len(recipe.members), size, task.curve_draws, rng)):
                found.append(Subset(recipe.recipe, recipe.label, draw, members))
    return found


def _methods(chosen: Sequence[Recipe], task: TaskSpec) -> list[Method]:
    """The rows of the tables: each recipe alone, and as its largest ensemble where it has more than one member."""
    methods = []
    for recipe in chosen:
        for size in dict.fromkeys((1, sizes(len(recipe.members), task.ensemble_sizes)[-1])):
            methods.append(Method(recipe.recipe, recipe.label, size))
    return methods


def _reliability(evaluation: Evaluation, methods: Sequence[Method]) -> tuple[ReliabilityBins, ...]:
    found = []
    for region in ("box", "whole"):
        for method in methods:
            r = reliability_of_bins(*evaluation.bins[method.recipe, method.size, region])
            found.append(ReliabilityBins(method.title, region, r.edges, r.count, r.confidence, r.accuracy, r.ece))
    return tuple(found)


def _overlays(
    scores: pd.DataFrame,
    cases: Sequence[Case],
    pool: dict[str, list[Member]],
    methods: Sequence[Method],
    device: torch.device,
) -> tuple[Overlay, ...]:
    """Best, median and worst test case by Dice (mean over structures and methods), in the slice with most truth."""
    dice = scores[scores.metric == "dice"].groupby("case_id").value.mean().dropna().sort_values(ascending=False)
    if dice.empty:
        return ()
    by_id = {case.case_id: case for case in cases}
    ranks = {len(dice) // 2: "median", len(dice) - 1: "worst", 0: "best" if len(dice) > 1 else "only"}
    found = []
    for rank, name in sorted(ranks.items()):
        case = by_id[str(dice.index[rank])]
        z = int(np.argmax((case.truth > 0).sum(axis=(1, 2))))
        probability = tuple(
            (method.title, predict_foreground(pool[method.recipe][: method.size], case, device, z))
            for method in methods
        )
        found.append(
            Overlay(
                case_id=case.case_id,
                rank=name,
                dice=float(dice.iloc[rank]),
                slice_index=z,
                spacing_mm=case.spacing_mm[1:],
                image=np.array(case.image[-1, z]),
                truth=np.array(case.truth[z]),
                probability=probability,
            )
        )
    return tuple(found)


def _notes(chosen: Sequence[Recipe], cases: Sequence[Case], scores: pd.DataFrame, task: TaskSpec) -> tuple[str, ...]:
    """What limits the numbers of this report."""
    notes = []
    if len(cases) < 2:
        notes.append("One test patient: there is no spread, no interval and no test, only that patient's values.")
    elif len(cases) < 20:
        notes.append(
            f"{len(cases)} test patients: intervals are wide, and bootstrap intervals of few patients too narrow."
        )
    for recipe in chosen:
        pool = len(recipe.members)
        left_out = [size for size in task.ensemble_sizes if size > pool]
        if left_out:
            larger = ", ".join(map(str, left_out))
            notes.append(f"{recipe.label}: the pool holds {pool} members, so there is no ensemble of {larger}.")
        if pool == 1:
            notes.append(f"{recipe.label}: a single seed; what is said of it may be said of that seed alone.")
    undefined = scores[scores.metric.isin(["dice", "hd95", "entropy"]) & scores.value.isna()]
    for (metric, structure), group in undefined.groupby(["metric", "structure"]):
        of = len(scores[(scores.metric == metric) & (scores.structure == structure)])
        notes.append(
            f"{metric} of {structure}: not defined in {len(group)} of {of} predictions (structure absent); left out."
        )
    clipped = scores[(scores.metric == "clipped") & (scores.region == "whole")].value.sum()
    notes.append(f"Voxels whose ensemble probability was clipped at 1e-12 in the NLL: {int(clipped)}.")
    return tuple(notes)


def _data_table(cohort: PreparedCohort) -> Table:
    entries = cohort.manifest["cases"]
    rows = []
    for split in ("train", "val", "test"):
        chosen = [entry for entry in entries if entry["split"] == split]
        sites = sorted({entry["site"] or "not given" for entry in chosen})
        slices = sum(entry["shape"][0] for entry in chosen)
        rows.append((split, (str(len(chosen)), ", ".join(sites), str(slices))))
    crop = cohort.manifest["parameters"]["crop"]
    size, spacing = "x".join(map(str, crop)), "x".join(f"{side:.3g}" for side in entries[0]["spacing_mm"])
    what = "voxels" if len(crop) == 3 else "voxels in-plane"
    caption = f"Prepared to {size} {what}; spacing (z, y, x) {spacing} mm in the first case. Digest {cohort.digest}."
    return Table("data", "Data", caption, ("cases", "sites", "slices"), tuple(rows))


def _member_table(chosen: Sequence[Recipe]) -> Table:
    rows = []
    for recipe in chosen:
        dice = np.array([ref.val_dice for ref in recipe.members])
        epochs = [ref.epoch for ref in recipe.members]
        cells = (
            str(len(recipe.members)), f"{dice.mean():.3f} ({dice.min():.3f} to {dice.max():.3f})",
            f"{min(epochs)} to {max(epochs)}", recipe.members[0].name,
        )  # fmt: skip
        rows.append((recipe.label, cells))
    caption = "Mean validation Dice of the registered checkpoint over the members (lowest to highest), and its epoch."
    return Table(
        "members", "Members", caption, ("models", "validation Dice", "best epoch", "registered model"), tuple(rows)
    )


def _params(report: Report) -> dict[str, str]:
    versions = ", ".join(f"{ref.name}/{ref.version}" for ref in report.members)
    return {
        "task": report.task, "data_digest": report.data_digest, "code_version": report.code_version,
        "seed": str(report.seed), "n_resamples": str(report.n_resamples), "members": versions,
    }  # fmt: skip


def _metrics(report: Report) -> dict[str, float]:
    """Points of the score tables as metrics, named table.column.method."""
    metrics = {}
    for table in report.tables:
        for title, cells in table.rows:
            for column, cell in zip(table.columns, cells, strict=True):
                if isinstance(cell, Cell):
                    metrics[f"{table.key}.{column}.{title}"] = cell.point
    return metrics
