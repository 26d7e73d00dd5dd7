"""Metrics of plug-ins in a report: a column a place, a table, and a name in everything that is kept."""

from dataclasses import replace

import numpy as np
import pytest

from segcal.analysis.build_report import build_report
from segcal.analysis.compare import plugin_columns
from segcal.analysis.evaluate import Job, score_job
from segcal.analysis.members import Member
from segcal.analysis.provenance import plugin_table
from segcal.analysis.request import Part, Request, Resolved
from segcal.analysis.score_cache import scoring_version
from segcal.errors import SegcalError
from segcal.measure.metric import added_metrics
from segcal.plugins import PluginMismatch
from segcal.records import Difference
from segcal.report.tables import csv_text
from tests.analysis.conftest import make_case, make_config, make_material, quiet

METRICS = (
    "from segcal.measure.metric import Metric\n"
    "gap = Metric('region', lambda r: abs(r.top[..., 1] - r.top[..., 2]).sum(-1) / r.voxels, 'gap %', scale=100)\n"
    "size = Metric('structure', lambda s: s.predicted, 'voxels of', better='high')\n"
)
BOTH = {"gap": "gap", "size": "size"}
REQUEST = Request("x", n_resamples=20)


def test_a_report_has_their_table_and_else_is_the_same(packages, cohort, study_task):
    material = make_material(cohort, study_task, {"ce": 2})
    before, _ = build_report(REQUEST, material, quiet)
    packages.install("more", METRICS, metrics=BOTH)
    after, scores = build_report(REQUEST, material, quiet)
    added = ["plugin_metrics", "plugin_differences", "plugins"]
    assert [t.key for t in after.tables] == [t.key for t in before.tables] + added
    assert csv_text(after.tables[: len(before.tables)]) == csv_text(before.tables)
    assert {"gap@box", "gap@whole", *(f"size@{name}" for name in study_task.structures)} <= set(scores.frame.columns)
    table, differences, origins = after.tables[-3:]
    assert table.columns == ("gap % (box)", "gap % (whole)", *(f"voxels of {name}" for name in study_task.structures))
    assert table.better == ("low", "low", "high", "high", "high")
    f = scores.frame
    mine = f[(f.label == "ce") & (f["size"] == 1) & (f.variant == "") & (f.split == "test")]
    (cells,) = [cells for title, cells in table.rows if title == "ce"]
    assert cells[1].point == pytest.approx(100 * mine["gap@whole"].mean())
    assert np.isfinite([cells[1].ci.low, cells[1].ci.high, cells[1].spread.low]).all()
    assert differences.columns == table.columns
    (cells,) = [cells for title, cells in differences.rows if title == "ce, ensemble of 2 minus ce"]
    assert all(isinstance(cell, Difference) and 0 < cell.p <= 1 for cell in cells)
    assert origins.rows == (("more 1.0", ("metric gap, metric size",)),)


def test_scores_and_answers_are_kept_by_version_and_source(packages):
    def names():
        resolved = Resolved(REQUEST, (Part("t", "d", None, ()),))
        return scoring_version(), resolved.id

    found = [names()]
    packages.install("more", METRICS, metrics={"gap": "gap"})
    found.append(names())
    packages.upgrade("more", "1.0", "1.1")
    packages.look_again()
    found.append(names())
    (packages.folder / "more.py").write_text(METRICS.replace("abs", "-abs"))
    packages.look_again()
    found.append(names())
    assert len({version for version, _ in found}) == len({answer for _, answer in found}) == 4
    packages.uninstall("more", "1.1")
    assert names() == found[0]


def test_a_source_that_changes_under_a_process_changes_nothing_in_it(packages, study_task):
    packages.install("more", METRICS, metrics={"gap": "gap"})
    ((_, _, before),) = added_metrics()
    (packages.folder / "more.py").write_text(METRICS.replace("abs", "-abs"))
    ((_, _, after),) = added_metrics()
    assert after == before != ""  # the code that runs is still the old one
    with pytest.raises(
        PluginMismatch, match=r"the metric 'gap' of more 1\.0 .* must be the same code in every process"
    ):
        score_job(Job(make_case(), study_task, "s", (), (), 1, 1.0, plugins=(("gap", "more==1.0", "new"),)), ())


def test_a_worker_without_the_metric_refuses(packages, study_task):
    job = Job(make_case(), study_task, "s", (), (), 1, 1.0, plugins=(("gap", "more==1.0", ""),))
    with pytest.raises(PluginMismatch, match=r"the plug-in more must be version 1\.0 on every machine, got none"):
        score_job(job, ())
    packages.install("more", "raise OSError('no licence')", metrics={"gap": "gap"})
    with pytest.raises(PluginMismatch, match=r"no metric named 'gap'; the plug-in more 1\.0 .*OSError: no licence"):
        score_job(job, ())


def test_a_metric_that_fails_ends_the_report_with_its_name(packages, cohort, study_task):
    packages.install(
        "more",
        "from segcal.measure.metric import Metric\ngap = Metric('region', lambda r: 1 / 0)",
        metrics={"gap": "gap"},
    )
    with pytest.raises(
        SegcalError, match=r"the metric 'gap' of more 1\.0 \(more:gap\): ZeroDivisionError: division by"
    ):
        build_report(REQUEST, make_material(cohort, study_task, {"ce": 2}), quiet)


def test_where_there_are_none_nothing_is_added(cohort, study_task):
    material = make_material(cohort, study_task, {"ce": 1})
    assert plugin_columns(study_task) == ()
    assert plugin_table(material.chosen, material.pool) is None


def test_packages_of_recipes_are_told_as_they_were_in_training(cohort, study_task):
    material = make_material(cohort, study_task, {"ce": 2, "dice": 1})
    focal = make_config("ce", plugins=("organs==3.0", "segcal-focal==0.1.0"))
    pool = {
        recipe.recipe: [Member(0, "s", focal, {})] if recipe.label == "ce" else material.pool[recipe.recipe]
        for recipe in material.chosen
    }
    dice = next(recipe for recipe in material.chosen if recipe.label == "dice")
    pool[dice.recipe] = [replace(pool[dice.recipe][0], config=make_config("dice", plugins=("organs==3.0",)))]
    table = plugin_table(material.chosen, pool)
    assert table.rows == (("organs 3.0", ("recipe ce, recipe dice",)), ("segcal-focal 0.1.0", ("recipe ce",)))
