"""The report of a whole experiment: what its numbers must equal, and what its folder must hold."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from segcal.analysis.build_report import Request, build_report, make_report
from segcal.analysis.ensembles import recipes
from segcal.analysis.members import load_pool
from segcal.data.prepare import prepare
from segcal.environment import home
from segcal.errors import BadData, UsageError
from segcal.ledger.names import tag
from segcal.ledger.read import models
from segcal.ledger.store import open_store
from segcal.measure.case import columns, score_case
from segcal.records import Cell, Difference
from segcal.report.page import write_report
from segcal.report.tables import csv_text
from segcal.volume import Prediction
from tests.analysis.conftest import by_torch, make_config, make_material, make_member, make_ref, quiet
from tests.conftest import write_blobs

REQUEST = Request("tiny", n_resamples=200)


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", trained[0])
    out = tmp_path_factory.mktemp("reports") / "tiny"
    said = []
    result = make_report(REQUEST, out, said.append)
    yield out, result, said
    patch.undo()


def test_the_folder_holds_every_format(made):
    out = made[0]
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"report.html", "laws.html", "report.md", "report.json", "table.csv", "cases.parquet"} <= files
    for key in ("box", "whole", "hd95", "differences", "recipes", "segments", "curve", "sensitivity", "pooled", "data",
                "members"):  # fmt: skip
        assert {f"tables/{key}.tex", f"tables/{key}.csv"} <= files
    for name in ("figure_2", "reliability", "methods"):
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")]


def test_the_page_is_self_contained_and_names_its_sources(made, trained, cohort):
    html = (made[0] / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#|laws\.html)', html)
    assert cohort.digest in html
    for ref in models(open_store(trained[0]), "tiny"):
        assert ref.name in html
        assert ref.weights_sha256[:12] in html


def test_rows_hold_every_method_size_draw_and_case(made, cohort, tiny_task):
    scores = pd.read_parquet(made[0] / "cases.parquet")
    assert list(scores.columns) == [
        "recipe", "label", "variant", "size", "draw", "seeds", "full", "case_id", "site", "split", "domain",
        *columns(tiny_task),
    ]  # fmt: skip
    assert set(scores.case_id) == {case.case_id for case in cohort.cases("test")}
    plain = scores[scores.variant == ""]
    drawn = plain.groupby(["label", "size"], observed=True).draw.nunique()
    assert drawn.to_dict() == {(label, size): n for label in ("ce", "dice") for size, n in ((1, 3), (2, 3), (3, 1))}
    assert len(plain) == 2 * 7 * 3
    assert {tuple(seeds) for seeds in plain.seeds[plain["size"] == 2]} == {(0, 1), (0, 2), (1, 2)}
    assert not scores.duplicated(["label", "variant", "size", "draw", "case_id"]).any()


def test_tables_equal_the_scores(made):
    scores = pd.read_parquet(made[0] / "cases.parquet")
    table = pd.read_csv(made[0] / "table.csv").set_index(["table", "column", "method"])
    for title, label, size in (("ce", "ce", 1), ("dice, ensemble of 3", "dice", 3)):
        mine = scores[(scores.label == label) & (scores["size"] == size) & (scores.variant == "")]
        for key, column, name, scale in (
            ("box", "NLL", "nll@box", 1), ("box", "ECE %", "ece@box", 100), ("box", "Dice edema", "dice@edema", 1),
            ("whole", "Brier", "brier@whole", 1), ("hd95", "HD95 enhancing, mm", "hd95@enhancing", 1),
        ):  # fmt: skip
            patients = scale * mine.groupby("case_id", observed=True)[name].mean()
            row = table.loc[key, column, title]
            np.testing.assert_allclose(row["mean"], patients.mean())
            assert (row.patients, row.excluded) == (patients.notna().sum(), patients.isna().sum())
            np.testing.assert_allclose(
                row.spread_high, patients.dropna().quantile(0.975) if row.patients > 1 else np.nan
            )


def test_scores_of_a_member_by_other_means(made, trained, cohort, tiny_task):
    """Predict one member with plain torch and score its stored prediction."""
    client = open_store(trained[0])
    chosen = recipes([ref for ref in models(client, "tiny") if ref.label == "dice" and ref.seed == 1])
    _, pool = load_pool(client, chosen, cohort.digest)
    ((member,),) = pool.values()
    scores = pd.read_parquet(made[0] / "cases.parquet")
    mine = scores[(scores.label == "dice") & (scores["size"] == 1) & (scores.variant == "") & (scores.draw == 1)]
    for case in cohort.cases("test"):
        probs, log_probs = (array.astype(np.float32) for array in by_torch(member, case))
        row = mine[mine.case_id == case.case_id].iloc[0]
        assert tuple(row.seeds) == (1,)
        for name, value in score_case(Prediction(probs, log_probs), case, tiny_task).items():
            np.testing.assert_allclose(row[name], value, rtol=1e-4, atol=2e-3 if "ece" in name else 2e-6, err_msg=name)


def test_no_law_is_broken(made):
    laws = json.loads((made[0] / "report.json").read_text())["laws"]
    assert len(laws) == 12
    assert all(law["checked"] > 0 and law["broken"] == 0 for law in laws), laws
    assert made[1]["laws_broken"] == []


def test_the_same_request_gives_the_same_table_cached_or_not(made, trained, cohort, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained[0])
    monkeypatch.setattr("segcal.report.page.draw", lambda report: {})  # figures take most of the time
    before = {name: (made[0] / name).read_bytes() for name in ("table.csv", "tables/ood.csv", "tables/curve.csv")
              if (made[0] / name).exists()}  # fmt: skip
    again, said = made[0].parent / "again", []
    make_report(REQUEST, again, said.append)
    assert "scores: 6 of 6 (case, recipe) pairs are known, 0 to compute" in said
    scores = home() / "scores" / cohort.digest
    kept = scores.rename(scores.with_name("kept"))
    try:
        make_report(REQUEST, again.with_name("anew"), said.append)
    finally:
        shutil.rmtree(scores)
        kept.rename(scores)
    assert "scores: 0 of 6 (case, recipe) pairs are known, 6 to compute" in said
    for folder in (again, again.with_name("anew")):
        for name, content in before.items():
            assert (folder / name).read_bytes() == content, name


def test_another_seed_resamples_otherwise(cohort, study_task):
    material = make_material(cohort, study_task, {"ce": 2})
    tables = [
        csv_text(build_report(Request("x", seed=seed, n_resamples=50), material, quiet)[0].tables) for seed in (0, 0, 1)
    ]
    assert tables[0] == tables[1] != tables[2]


def test_the_report_is_a_run_of_the_experiment(made, trained):
    client = open_store(trained[0])
    run = client.get_run(made[1]["run_id"])
    assert run.data.tags[tag("kind")] == "report"
    assert "segcal-tiny-soft_dice" in run.data.params["members"]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"report.html", "cases.parquet"}
    table = pd.read_csv(made[0] / "table.csv").set_index(["table", "column", "method"])["mean"]
    assert run.data.metrics["box.NLL.ce"] == pytest.approx(table["box", "NLL", "ce"])
    effects = {e["name"]: e["value"] for e in json.loads((made[0] / "report.json").read_text())["effects"]}
    assert run.data.metrics["law.L1"] == pytest.approx(effects["L1"])


def test_unknown_experiment_and_missing_data_are_told(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained[0])
    with pytest.raises(UsageError, match="no experiment named 'tny'"):
        make_report(Request("tny"), tmp_path / "r", quiet)
    with pytest.raises(UsageError, match="no model was trained on data digest 'x'"):
        make_report(Request("tiny", data_digest="x"), tmp_path / "r", quiet)
    monkeypatch.setenv("SEGCAL_HOME", str(tmp_path))
    with pytest.raises(BadData, match="prepared data must have a manifest"):
        make_report(Request("tiny"), tmp_path / "r", quiet)
    assert not (tmp_path / "r").exists()


def test_too_little_memory_leaves_no_report(trained, tmp_path, monkeypatch, cohort):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained[0])
    monkeypatch.setattr("segcal.analysis.build_report.home", lambda: tmp_path)
    (tmp_path / "prepared").symlink_to(home() / "prepared")
    with pytest.raises(UsageError, match="raise --memory-gb"):
        make_report(Request("tiny", memory_gb=0.5), tmp_path / "r", quiet)
    assert not (tmp_path / "r").exists()


def test_an_out_of_distribution_cohort_that_is_gone_is_remarked(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained[0])
    monkeypatch.setattr("segcal.analysis.build_report.ood_digest", lambda *_: "0123456789abcdef")
    monkeypatch.setattr("segcal.report.page.draw", lambda report: {})
    said = []
    make_report(Request("tiny", n_resamples=20), tmp_path / "r", said.append)
    assert any(line.startswith("no out-of-distribution cases: ") for line in said)
    notes = json.loads((tmp_path / "r" / "report.json").read_text())["notes"]
    assert "(digest 0123456789abcdef) is not here" in notes[0]


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
    assert len(report.ood_cases) == 3
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
