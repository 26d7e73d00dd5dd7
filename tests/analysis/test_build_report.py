"""A report out of members and cases: what its numbers must equal."""

import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from segcal.analysis.build_report import build_report
from segcal.analysis.ensembles import recipes
from segcal.analysis.request import Request
from segcal.data.prepare import prepare
from segcal.measure.case import columns
from segcal.records import Cell, Difference
from segcal.report.page import write_report
from segcal.report.tables import csv_text
from tests.analysis.conftest import by_torch, make_config, make_material, make_member, make_ref, quiet
from tests.conftest import write_blobs


def test_another_seed_resamples_otherwise(cohort, study_task):
    material = make_material(cohort, study_task, {"ce": 2})
    tables = [
        csv_text(build_report(Request("x", seed=seed, n_resamples=50), material, quiet)[0].tables) for seed in (0, 0, 1)
    ]
    assert tables[0] == tables[1] != tables[2]


def cells_of(report, key):
    (table,) = [table for table in report.tables if table.key == key]
    return {
        (title, column): cell for title, cells in table.rows for column, cell in zip(table.columns, cells, strict=True)
    }


def test_a_study_has_every_part(study, material):
    report, scores = study
    assert [table.key for table in report.tables] == [
        "box", "whole", "hd95", "differences", "recipes", "segments", "ood", "curve", "sensitivity", "pooled", "data",
        "members",
    ]  # fmt: skip
    assert report.test_cases == tuple(scores.cases)
    assert (len(report.ood_cases), report.ood_digest) == (3, material.ood.digest)
    assert [ref.label for ref in report.members] == ["ce"] * 4 + ["ce_mc"] * 2 + ["dice"] * 4 + ["dice_mc"] * 2
    f = scores.frame
    assert set(f["size"][f.split == "ood"]) == {1, 4}  # the curve is of the test cases
    assert set(f.variant[f.split == "ood"]) == {""}
    assert {c.label for c in report.curves} == {"ce", "dice"}
    assert any("the pool holds 4 members: the curve has M = 1, 2, 4, no ensemble of 9" in note for note in report.notes)


def test_one_patient_has_values_and_nothing_else(material):
    manifest = material.cohort.manifest
    kept = [
        entry for entry in manifest["cases"] if entry["case_id"] not in ("Brats17_TCIA_T05_1", "Brats17_TCIA_T06_1")
    ]
    one = replace(material.cohort, manifest=manifest | {"cases": kept})
    report, scores = build_report(Request("x", n_resamples=50), replace(material, cohort=one), quiet)
    assert scores.cases == ["Brats17_TCIA_T04_1"]
    box = cells_of(report, "box")
    assert all(np.isnan([c.spread.low, c.ci.low]).all() and not c.best for c in box.values())
    f = scores.frame
    mine = f[(f.label == "ce") & (f["size"] == 1) & (f.variant == "") & (f.split == "test")]
    assert box["ce", "NLL"].point == pytest.approx(mine["nll@box"].mean())
    assert all(np.isnan(c.p) for c in cells_of(report, "differences").values() if isinstance(c, Difference))
    assert {e.verdict for e in report.effects if e.name not in ("L6", "L7")} == {"INCONCLUSIVE"}
    assert "One test patient" in report.notes[0]
    assert all("too few patients for a test" in line for line in report.findings)


def test_a_single_seed_has_no_ensemble_and_no_interval_over_seeds(cohort, study_task):
    material = make_material(cohort, study_task, {"ce": 1, "dice": 3})
    report, _ = build_report(Request("x", n_resamples=50), material, quiet)
    assert [title for title, _ in report.tables[0].rows] == ["ce", "dice", "dice, ensemble of 2"]
    for cell in cells_of(report, "recipes").values():
        assert np.isfinite(cell.point)
        assert np.isnan([cell.ci.low, cell.p]).all()
    assert "ce: a single seed; what is said of it may be said of that seed alone." in report.notes
    assert {c.label for c in report.curves} == {"dice"}


def test_odd_names_and_a_structure_that_is_nowhere(cohort, study_task, tmp_path):
    labels = {1: "a@box", 2: "left, upper/lobe | x", 4: "whole tumour", 7: "nowhere"}
    task = replace(study_task, labels=labels, structure_weights={})
    material = make_material(cohort, task, {"ce": 2, "dice": 2}, classes=5, class_weights=(1.0,) * 5)
    for members in material.pool.values():
        for member in members:
            member.weights["head.bias"][-1] = -100  # nobody predicts it
    report, scores = build_report(Request("x", n_resamples=50), material, quiet)
    box, distance = cells_of(report, "box"), cells_of(report, "hd95")
    assert {box[title, "Dice nowhere"].n for title in ("ce", "dice", "dice, ensemble of 2")} == {0}
    assert {box[title, "Dice nowhere"].excluded for title in ("ce", "dice")} == {3}
    assert distance["ce", "HD95 nowhere, mm"].n == 0
    assert np.isfinite(box["ce", "Dice a@box"].point)
    assert "nowhere: in no test case and no prediction; nothing can be said of it." in report.notes
    assert sum("nowhere" in note for note in report.notes) == 1
    assert not [law for law in report.laws if law.broken]
    write_report(report, scores.frame, tmp_path / "r")
    assert set(columns(task)) < set(pd.read_parquet(tmp_path / "r" / "cases.parquet").columns)
    json.loads((tmp_path / "r" / "report.json").read_text())


def test_a_case_of_the_same_name_in_both_cohorts_is_two_cases(material, tmp_path):
    task = material.task
    same = prepare(write_blobs(tmp_path, cases=7, seed=5), task, ood=True)  # the test cases' names, other images
    alone, before = build_report(Request("x", n_resamples=50), replace(material, ood=None), quiet)
    report, scores = build_report(Request("x", n_resamples=50), replace(material, ood=same), quiet)
    assert report.test_cases == alone.test_cases
    assert len(set(report.ood_cases)) == len(report.ood_cases) == 7
    assert not set(report.ood_cases) & set(report.test_cases)
    assert "Brats17_TCIA_T05_1 (out of distribution)" in report.ood_cases
    for key in ("box", "whole", "hd95"):
        assert cells_of(report, key) == cells_of(alone, key)
    f = scores.frame
    names = columns(task)
    np.testing.assert_array_equal(f.loc[f.split == "test", names].to_numpy(), before.frame[names].to_numpy())
    assert set(f.domain[f.case_id == "Brats17_TCIA_T05_1"]) == {"source"}
    far = f[(f.case_id == "Brats17_TCIA_T05_1 (out of distribution)") & (f.label == "ce") & (f.draw == 0)].iloc[0]
    ((member, *_),) = [members for members in material.pool.values() if members[0].config.label == "ce"]
    (case,) = [case for case in same.cases("ood") if case.case_id == "Brats17_TCIA_T05_1"]
    _, log_probs = by_torch(member, case)
    nll = -np.take_along_axis(log_probs, case.truth[None].astype(int), 0).mean()
    assert far["nll@whole"] == pytest.approx(nll, rel=1e-5)
    assert not [law for law in report.laws if law.broken]


def test_one_label_of_two_recipes_makes_two_rows(cohort, study_task):
    first = make_material(cohort, study_task, {"ce": 2})
    configs = [make_config("ce", seed, cohort.digest, weights="none", class_weights=(1.0,) * 4) for seed in (5, 6)]
    members = [make_member(config) for config in configs]
    refs = [ref for recipe in first.chosen for ref in recipe.members]
    refs += [make_ref(config, member.sha256) for config, member in zip(configs, members, strict=True)]
    both = replace(first, chosen=tuple(recipes(refs)), pool=first.pool | {configs[0].recipe: members})
    report, scores = build_report(Request("x", n_resamples=50), both, quiet)
    titles = [title for title, _ in report.tables[0].rows]
    assert len(set(titles)) == len(titles) == 4
    assert all(re.match(r"ce [0-9a-f]{8}(, ensemble of 2)?$", title) for title in titles)
    f = scores.frame
    seeds = {recipe: {s for row in group.seeds for s in row} for recipe, group in f.groupby("recipe", observed=True)}
    assert sorted(map(sorted, seeds.values())) == [[0, 1], [5, 6]]
    assert set(f.recipe[f.variant == "prior_corrected"]) == {first.chosen[0].recipe}
    assert not [law for law in report.laws if law.broken]
    points = {title: cell.point for (title, column), cell in cells_of(report, "box").items() if column == "NLL"}
    assert all(isinstance(cell, Cell) for cell in cells_of(report, "box").values())
    assert len(set(points.values())) == 4
