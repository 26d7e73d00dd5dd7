"""Where the numbers come from, and what limits them: data, members, notes."""

__all__ = ["data_table", "member_table", "notes", "plugin_table"]

from collections.abc import Mapping, Sequence

import numpy as np

from segcal.analysis.ensembles import Recipe, sizes
from segcal.analysis.members import Member
from segcal.analysis.scores import Scores
from segcal.data.prepared import PreparedCohort
from segcal.measure.case import column
from segcal.measure.metric import METRICS
from segcal.records import Method, Table
from segcal.tasks import TaskSpec


def data_table(cohort: PreparedCohort, ood: PreparedCohort | None) -> Table:
    """Cases, sites and slices of each split (the paper's Table I)."""
    entries = list(cohort.manifest["cases"]) + (list(ood.manifest["cases"]) if ood else [])
    rows = []
    for split in dict.fromkeys(("train", "val", "test", *(entry["split"] for entry in entries))):
        chosen = [entry for entry in entries if entry["split"] == split]
        sites = sorted({entry["site"] or "not given" for entry in chosen})
        slices = sum(entry["shape"][0] for entry in chosen)
        title = "out of distribution" if split == "ood" else split
        rows.append((title, (str(len(chosen)), ", ".join(sites), str(slices))))
    crop = cohort.manifest["parameters"]["crop"]
    size, spacing = "x".join(map(str, crop)), "x".join(f"{side:.3g}" for side in entries[0]["spacing_mm"])
    what = "voxels" if len(crop) == 3 else "voxels in-plane"
    caption = f"Prepared to {size} {what}; spacing (z, y, x) {spacing} mm in the first case. Digest {cohort.digest}"
    caption += f", out of distribution {ood.digest}." if ood else "."
    return Table("data", "Data (Table I)", caption, ("cases", "sites", "slices"), tuple(rows))


def member_table(chosen: Sequence[Recipe]) -> Table:
    """How well each recipe's networks trained."""
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


def plugin_table(chosen: Sequence[Recipe], pool: Mapping[str, Sequence[Member]]) -> Table | None:
    """The packages that others brought and what they are used for; None where all of it is segcal's own."""
    used: dict[str, list[str]] = {}
    for recipe in chosen:
        for origin in sorted({origin for member in pool[recipe.recipe] for origin in member.config.plugins}):
            used.setdefault(origin, []).append(f"recipe {recipe.label}")
    for name, plugin in METRICS.added().items():
        used.setdefault(plugin.origin, []).append(f"metric {name}")
    rows = tuple((origin.replace("==", " "), (", ".join(what),)) for origin, what in sorted(used.items()))
    caption = (
        "Packages that segcal found by their entry points: of recipes (the task, the layout of its data, or the loss), "
        "as they were when the networks were trained; of metrics, as they are here."
    )
    return Table("plugins", "Plug-ins", caption, ("used by",), rows) if rows else None


def notes(
    chosen: Sequence[Recipe], methods: Sequence[Method], scores: Scores, task: TaskSpec, more: Sequence[str]
) -> tuple[str, ...]:
    """What limits the numbers of this report."""
    found = list(more)
    patients = len(scores.cases)
    if patients < 2:
        found.append("One test patient: there is no spread, no interval and no test, only that patient's values.")
    elif patients < 20:
        found.append(
            f"{patients} test patients: intervals are wide, and bootstrap intervals of few patients too narrow."
        )
    for recipe in chosen:
        pool = len(recipe.members)
        sampled = any(method.recipe == recipe.recipe and method.mc_samples for method in methods)
        left_out = [size for size in task.ensemble_sizes if size > pool]
        if left_out and not sampled:
            larger = ", ".join(map(str, left_out))
            shown = ", ".join(map(str, sizes(pool, task.ensemble_sizes)))
            found.append(
                f"{recipe.label}: the pool holds {pool} members: the curve has M = {shown}, no ensemble of {larger}."
            )
        if pool == 1:
            found.append(f"{recipe.label}: a single seed; what is said of it may be said of that seed alone.")
    found += _undefined(methods, scores, task)
    frame = scores.frame
    clipped = frame.loc[frame.variant == "", column("clipped", "whole")].sum()
    found.append(f"Voxels whose mean probability was clipped at 1e-12 in the NLL: {int(clipped)}, over all draws.")
    return tuple(found)


def _undefined(methods: Sequence[Method], scores: Scores, task: TaskSpec) -> list[str]:
    """How many predictions of the tables' methods lack a metric of a structure."""
    found = []
    shown = scores.frame[np.any([scores.rows(method) for method in methods], axis=0)]
    for structure in task.structures:
        if shown[column("dice", structure)].isna().all():
            found.append(f"{structure}: in no test case and no prediction; nothing can be said of it.")
            continue
        for metric, name in (("dice", "Dice"), ("hd95", "HD95"), ("entropy", "H(S)")):
            missing = int(shown[column(metric, structure)].isna().sum())
            if missing:
                found.append(
                    f"{name} of {structure}: not defined in {missing} of {len(shown)} predictions (structure absent); "
                    "left out."
                )
    return found
