"""A report from an experiment's name: its folder, its run, and what is told where it cannot be made."""

import json
import re
import shutil
import threading
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from segcal.analysis import run_analysis as run_analysis_module
from segcal.analysis.ensembles import recipes
from segcal.analysis.members import load_pool
from segcal.analysis.request import Request, resolve
from segcal.analysis.run_analysis import make_report, run_analysis
from segcal.environment import home
from segcal.errors import BadData, UsageError
from segcal.journal.lease import Holder, is_alive
from segcal.ledger.names import tag
from segcal.ledger.read import models
from segcal.ledger.report_run import begin_report, find_reports
from segcal.ledger.store import open_store
from segcal.measure.case import columns, score_case
from segcal.volume import Prediction
from tests.analysis.conftest import by_torch, quiet

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
    for room in ("build_report", "run_analysis"):
        monkeypatch.setattr(f"segcal.analysis.{room}.home", lambda: tmp_path)
    (tmp_path / "prepared").symlink_to(home() / "prepared")
    with pytest.raises(UsageError, match="raise --memory-gb"):
        make_report(Request("tiny", memory_gb=0.5), tmp_path / "r", quiet)
    assert not (tmp_path / "r").exists()


def test_an_out_of_distribution_cohort_that_is_gone_is_remarked(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained[0])
    monkeypatch.setattr("segcal.analysis.request.ood_digest", lambda *_: "0123456789abcdef")
    monkeypatch.setattr("segcal.report.page.draw", lambda report: {})
    said = []
    make_report(Request("tiny", n_resamples=20), tmp_path / "r", said.append)
    assert any(line.startswith("no out-of-distribution cases: ") for line in said)
    notes = json.loads((tmp_path / "r" / "report.json").read_text())["notes"]
    assert "(digest 0123456789abcdef) is not here" in notes[0]


def test_a_report_that_cannot_be_made_is_a_failed_run_with_the_reason(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained[0])
    monkeypatch.setenv("SEGCAL_HOME", str(tmp_path))
    with pytest.raises(BadData):
        make_report(Request("tiny", seed=5), tmp_path / "r", quiet)
    newest = find_reports(open_store(trained[0]), "tiny")[0]
    assert (newest.status, newest.spec["seed"]) == ("FAILED", 5)
    assert newest.error.startswith("prepared data must have a manifest")


def test_the_run_says_what_was_asked_and_links_the_explorer(made, trained, monkeypatch):
    client = open_store(trained[0])
    (found,) = [r for r in find_reports(client, "tiny") if r.run_id == made[1]["run_id"]]
    assert (found.status, found.tasks, found.spec["n_resamples"]) == ("FINISHED", {"tiny": ""}, 200)
    assert found.analysis_id == made[1]["analysis_id"] == resolve(client, REQUEST).id
    note = client.get_run(found.run_id).data.tags["mlflow.note.content"]
    assert f"http://127.0.0.1:8350/reports/{found.run_id}/tiny" in note
    assert made[1]["findings"][0] in note


def test_a_report_on_other_members_sizes_and_draws(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained[0])
    monkeypatch.setattr("segcal.report.page.draw", lambda report: {})
    steps = []
    request = Request("tiny", methods=("dice",), sizes=(2,), draws=2, n_resamples=20)
    client = open_store(trained[0])
    resolved = resolve(client, request)
    run_id = begin_report(client, "tiny", "report", resolved.id, {})
    run_analysis(client, resolved, run_id, tmp_path / "r", quiet, lambda *step: steps.append(step))
    scores = pd.read_parquet(tmp_path / "r" / "cases.parquet")
    plain = scores[scores.variant == ""]
    drawn = plain.groupby(["label", "size"], observed=True).draw.nunique()
    assert drawn.to_dict() == {("dice", 1): 3, ("dice", 2): 2}
    assert [step[:3] for step in steps[:3]] == [("reading checkpoints", n, 3) for n in (1, 2, 3)]
    assert {what for what, *_ in steps} >= {"reading checkpoints", "drawing tables and figures"}


def test_a_report_on_its_way_says_who_makes_it_and_how_far_it_is(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained[0])
    client, seen = open_store(trained[0]), []

    def stop(*arguments):
        end = time.monotonic() + 20
        while not seen and time.monotonic() < end:
            (run,) = find_reports(client, statuses=("RUNNING",))
            seen.extend([run] if run.progress else [])
            time.sleep(0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(run_analysis_module, "load_pool", stop)
    with pytest.raises(KeyboardInterrupt):
        make_report(replace(REQUEST, n_resamples=201), tmp_path / "r", quiet)
    (run,) = seen
    assert is_alive(Holder(**json.loads(run.holder))) is True
    assert run.progress["holder"] == run.holder
    assert run.progress["state"] == "running"
    (ended,) = [found for found in find_reports(client) if found.run_id == run.run_id]
    assert ended.status == "KILLED"
    client.delete_run(run.run_id)
    assert not [thread for thread in threading.enumerate() if thread.name == "segcal-word"]
