"""A report out of members and cases: ensembles, scores, statistics. Nothing is read, written or drawn."""

__all__ = ["OF_BOTH", "Material", "build_report"]

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from segcal.analysis import compare as cmp
from segcal.analysis.conventions import conventions
from segcal.analysis.curves import curve_table, curves
from segcal.analysis.effects import check_effects
from segcal.analysis.ensembles import Recipe, all_subsets, methods
from segcal.analysis.evaluate import evaluate
from segcal.analysis.findings import findings
from segcal.analysis.laws import check_laws
from segcal.analysis.members import Member
from segcal.analysis.paper import beside_paper
from segcal.analysis.pictures import Gallery, plates
from segcal.analysis.provenance import data_table, member_table, notes, plugin_table
from segcal.analysis.request import Request
from segcal.analysis.roles import Roles
from segcal.analysis.score_cache import ScoreCache
from segcal.analysis.scores import Scores, collect, domains
from segcal.analysis.segments import detection_table, fit_table, scatters
from segcal.analysis.sensitivity import pooled_table, reliability, sensitivity_table
from segcal.data.prepared import PreparedCohort
from segcal.environment import home
from segcal.measure.case import column
from segcal.progress import Progress, silent
from segcal.records import Cell, Method, Report, Table
from segcal.tasks import TaskSpec
from segcal.version import code_version
from segcal.volume import Case

Say = Callable[[str], None]
OF_BOTH = " (out of distribution)"  # follows the name of such a case where a test case has the same


@dataclass(frozen=True)
class Material:
    """What a report is made of, before anything is scored."""

    task: TaskSpec
    cohort: PreparedCohort
    ood: PreparedCohort | None
    chosen: tuple[Recipe, ...]
    pool: dict[str, list[Member]]
    remarks: tuple[str, ...] = ()


def build_report(request: Request, material: Material, say: Say, progress: Progress = silent) -> tuple[Report, Scores]:
    """Score the pool on the test cases, and what the tables show on the out-of-distribution cases."""
    task, chosen, pool = material.task, material.chosen, material.pool
    configs = {recipe: members[0].config for recipe, members in pool.items()}
    subsets = all_subsets(chosen, configs, task, request.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    cache = ScoreCache(home() / "scores" / material.cohort.digest, task, device)
    caches = {"test": cache}
    cases = {"test": material.cohort.cases("test")}
    known = {"test": evaluate(cases["test"], task, pool, subsets, cache, request.memory_gb, say, progress)}
    if material.ood is not None:
        cases["ood"] = _renamed(material.ood.cases("ood"), cases["test"])
        say(f"out of distribution: {len(cases['ood'])} cases")
        shown = [subset for subset in subsets if subset.full and not subset.variant]
        caches["ood"] = ScoreCache(home() / "scores" / material.ood.digest, task, device)
        known["ood"] = evaluate(cases["ood"], task, pool, shown, caches["ood"], request.memory_gb, say, progress)
    say("statistics")
    where = domains(material.cohort, cases.get("ood", []))
    scores = collect(known, subsets, pool, cases, where, task)
    rows = methods(chosen, configs, task)
    roles = Roles(tuple(rows), configs, {recipe: len(members) for recipe, members in pool.items()})
    by_id = {case.case_id: (case, split) for split, found in cases.items() for case in found}
    typical = {recipe.recipe: recipe.typical for recipe in chosen}
    gallery = Gallery(scores, roles, task, pool, typical, by_id, caches)
    return _report(request, material, scores, roles, gallery), scores


def _renamed(ood: Sequence[Case], test: Sequence[Case]) -> list[Case]:
    """Out-of-distribution cases under names that no test case has: two cohorts may both have a case 001."""
    taken = {case.case_id for case in test}
    names = [f"{c.case_id}{OF_BOTH}" if c.case_id in taken else c.case_id for c in ood]
    return [replace(case, case_id=name) for case, name in zip(ood, names, strict=True)]


def _report(request: Request, material: Material, scores: Scores, roles: Roles, gallery: Gallery) -> Report:
    task, seed, n = material.task, request.seed, request.n_resamples
    rows = list(roles.methods)
    box = cmp.compare(scores, rows, cmp.box_columns(task), seed, n)
    whole = cmp.compare(scores, rows, cmp.calibration_columns("whole"), seed, n)
    distance = cmp.compare(scores, rows, cmp.distance_columns(task, scores, rows), seed, n)
    found_curves, found_scatters = curves(scores, material.chosen, task), scatters(scores, rows, task)
    tables: list[Table | None] = [
        cmp.score_table(box, "box", "Calibration in the box, and Dice (Table II)", seed, n),
        cmp.score_table(whole, "whole", "Calibration over the whole volume (Table S-I)", seed, n),
        cmp.score_table(distance, "hd95", "95th percentile Hausdorff distance (Table S-II)", seed, n),
    ]
    if task.dims == 3:
        volumes = cmp.compare(scores, rows, cmp.volume_columns(task), seed, n)
        tables.append(cmp.score_table(volumes, "volumes", "Networks over volumes (Table S-III)", seed, n))
    tables += [
        cmp.difference_table((box, whole), seed, n),
        cmp.recipe_table(scores, rows, box.columns, seed, n),
        fit_table(found_scatters),
        detection_table(scores, rows, task, seed, min(n, 2000)),
        curve_table(found_curves) if found_curves else None,
        sensitivity_table(scores, roles, task),
        pooled_table(scores, rows),
        *(_beside_paper(scores, roles, task, request) if request.compare_paper else ()),
        data_table(material.cohort, material.ood),
        member_table(material.chosen),
        *_of_plugins(scores, rows, task, request),
        plugin_table(material.chosen, material.pool),
    ]
    return Report(
        experiment=request.experiment,
        task=task.name,
        data_digest=material.cohort.digest,
        code_version=code_version(),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seed=seed,
        n_resamples=n,
        structures=task.structures,
        test_cases=tuple(scores.cases),
        ood_cases=tuple(case for case, (_, split) in gallery.cases.items() if split == "ood"),
        members=tuple(ref for recipe in material.chosen for ref in recipe.members),
        findings=findings(box, rows),
        notes=notes(material.chosen, rows, scores, task, material.remarks),
        conventions=conventions(task, seed, n),
        tables=tuple(table for table in tables if table is not None),
        curves=found_curves,
        reliability=reliability(scores, rows),
        scatters=found_scatters,
        plates=plates(gallery),
        laws=check_laws(scores.frame, task),
        effects=check_effects(scores, roles, task, seed, min(n, 2000)),
        ood_digest=material.ood.digest if material.ood else None,
    )


def _of_plugins(scores: Scores, rows: Sequence[Method], task: TaskSpec, request: Request) -> tuple[Table, ...]:
    """Plug-ins' metrics as the other tables show theirs; families of their own, so that those stay the same."""
    columns, seed, n = cmp.plugin_columns(task), request.seed, request.n_resamples
    if not columns:
        return ()
    compared = cmp.compare(scores, rows, columns, seed, n)
    return (
        cmp.score_table(compared, "plugin_metrics", "Metrics of plug-ins", seed, n),
        cmp.difference_table((compared,), seed, n, "plugin_differences", "Differences in the metrics of plug-ins"),
    )


def _beside_paper(scores: Scores, roles: Roles, task: TaskSpec, request: Request) -> tuple[Table, ...]:
    def ours(name: str, region: str, quantity: str, structure: str) -> Cell | None:
        method = roles.method(name)
        if method is None:
            return None
        values = scores.by_patient(method, column(quantity, region or structure))
        return cmp.cell_of(values * (100 if quantity == "ece" else 1), request.seed, request.n_resamples)

    return beside_paper(task.name, task.structures, ours)
