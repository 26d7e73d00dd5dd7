"""The report of the tiny experiment: what its numbers must equal, and what its folder must hold."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from segcal.analysis.build_report import make_report
from segcal.errors import BadData, UsageError
from segcal.ledger.names import tag
from segcal.ledger.read import load_checkpoint, models
from segcal.ledger.store import open_store


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", trained[0])
    out = tmp_path_factory.mktemp("reports") / "tiny"
    said = []
    result = make_report("tiny", out, 0, 200, said.append)
    yield out, result, said
    patch.undo()


def test_the_folder_holds_every_format(made):
    out = made[0]
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"report.html", "report.md", "report.json", "table.csv", "cases.parquet", "tables/box.tex"} <= files
    for name in ("m_curves", "reliability", "entropy_dice", "overlays"):
        assert (out / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (out / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")]


def test_the_page_is_self_contained_and_names_its_sources(made, trained, cohort):
    html = (made[0] / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    assert cohort.digest in html
    for ref in models(open_store(trained[0]), "tiny"):
        assert ref.name in html
        assert ref.weights_sha256[:16] in html


def test_rows_hold_every_method_size_draw_and_case(made, cohort):
    scores = pd.read_parquet(made[0] / "cases.parquet")
    assert set(scores.case_id) == {case.case_id for case in cohort.cases("test")}
    drawn = scores.groupby(["label", "size"]).draw.nunique()
    assert drawn.to_dict() == {(label, size): n for label in ("ce", "dice") for size, n in ((1, 3), (2, 3), (3, 1))}


def test_table_equals_the_scores(made):
    scores = pd.read_parquet(made[0] / "cases.parquet")
    table = pd.read_csv(made[0] / "table.csv")
    for title, label, size in (("ce", "ce", 1), ("dice, ensemble of 3", "dice", 3)):
        chosen = scores[(scores.label == label) & (scores["size"] == size) & (scores.region == "box")]
        expected = chosen[chosen.metric == "nll"].groupby("case_id").value.mean()
        row = table[(table.table == "box") & (table.method == title) & (table.column == "NLL")].iloc[0]
        assert row["mean"] == pytest.approx(expected.mean())
        assert row.patients == len(expected) == 3


def test_scores_of_a_single_model_by_other_means(made, trained, cohort):
    """Predict one member with plain torch and score it with plain NumPy."""
    import torch

    from segcal.learn.unet import UNet

    client = open_store(trained[0])
    ref = next(ref for ref in models(client, "tiny") if ref.label == "dice" and ref.seed == 1)
    checkpoint = load_checkpoint(client, ref)
    net = UNet(3, 3, checkpoint.config["kernels"]).eval()
    net.load_state_dict({name: torch.from_numpy(value) for name, value in checkpoint.weights.items()})
    case = cohort.cases("test")[0]
    with torch.no_grad():
        z = net(torch.from_numpy(np.array(case.image)).swapaxes(0, 1)).double().numpy().swapaxes(0, 1)
    odds = np.concatenate([np.ones_like(z[:1]), np.exp(z)])
    probs = odds / odds.sum(axis=0)
    p_true = np.take_along_axis(probs, case.truth[None].astype(int), 0)
    expected = {
        "nll": -np.log(p_true).mean(),
        "brier": ((probs - np.eye(4)[case.truth].transpose(3, 0, 1, 2)) ** 2).sum(axis=0).mean(),
        "accuracy": (probs.argmax(axis=0) == case.truth).mean(),
    }
    scores = pd.read_parquet(made[0] / "cases.parquet")
    mine = scores[(scores.label == "dice") & (scores["size"] == 1) & (scores.draw == 1) & (scores.region == "whole")]
    mine = mine[mine.case_id == case.case_id].set_index("metric").value
    for metric, value in expected.items():
        assert mine[metric] == pytest.approx(value, rel=1e-4), metric


def test_no_law_is_broken(made):
    laws = json.loads((made[0] / "report.json").read_text())["laws"]
    assert len(laws) == 6
    assert all(law["checked"] > 0 and law["broken"] == 0 for law in laws), laws


def test_the_same_seed_gives_the_same_table_and_the_folder_is_replaced(made, trained, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained[0])
    before = (made[0] / "table.csv").read_text()
    make_report("tiny", made[0], 0, 200, lambda line: None)
    assert (made[0] / "table.csv").read_text() == before


def test_the_report_is_a_run_of_the_experiment(made, trained):
    client = open_store(trained[0])
    run = client.get_run(made[1]["run_id"])
    assert run.data.tags[tag("kind")] == "report"
    assert "segcal-tiny-soft_dice" in run.data.params["members"]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"report.html", "cases.parquet"}
    table = pd.read_csv(made[0] / "table.csv").set_index(["table", "column", "method"])["mean"]
    assert run.data.metrics["box.NLL.ce"] == pytest.approx(table["box", "NLL", "ce"])


def test_unknown_experiment_and_missing_data_are_told(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained[0])
    with pytest.raises(UsageError, match="no experiment named 'tny'"):
        make_report("tny", tmp_path / "r", 0, 10, lambda line: None)
    monkeypatch.setenv("SEGCAL_HOME", str(tmp_path))
    with pytest.raises(BadData, match="prepared data must have a manifest"):
        make_report("tiny", tmp_path / "r", 0, 10, lambda line: None)
    assert not (tmp_path / "r").exists()
