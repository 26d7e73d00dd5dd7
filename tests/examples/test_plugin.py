"""examples/plugin as somebody else's package: installed into a folder of its own, found, and trained with."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segcal.learn.losses import cross_entropy

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin"


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Where pip has put the package; the sources are copied, because a build leaves files beside them."""
    source, target = tmp_path_factory.mktemp("source") / "plugin", tmp_path_factory.mktemp("site")
    shutil.copytree(EXAMPLE, source)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True, capture_output=True)
    return target


@pytest.fixture
def segcal(site, tmp_path):
    def segcal(*arguments, installed=True):
        path = {"PYTHONPATH": str(site)} if installed else {}
        environment = {**os.environ, "SEGCAL_HOME": str(tmp_path / "home"), **path}
        command = [sys.executable, "-m", "segcal", *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)

    return segcal


def test_it_is_listed_and_not_without_its_package(segcal):
    found = {each["name"]: each for each in json.loads(segcal("plugins", "--json").stdout)}
    assert found["focal"] == {
        "group": "losses", "name": "focal", "distribution": "segcal-focal", "version": "0.1.0",
        "object": "segcal_focal:focal", "state": "ok", "reason": "",
    }  # fmt: skip
    assert found["gap"]["state"] == "ok"


def test_its_loss_is_the_focal_loss(site, monkeypatch):
    monkeypatch.syspath_prepend(str(site))
    from segcal_focal import focal

    try:
        logits, truth = torch.tensor([[[0.0, 2.0]], [[1.0, -1.0]]]).swapaxes(0, 1), torch.tensor([[1, 0]])
        p = torch.tensor([1 / (1 + torch.e**-1), 1 / (1 + torch.e**-3)])  # of the true classes
        weights = torch.tensor([1.0, 3.0])
        by_hand = -(weights[[1, 0]] * (1 - p) ** 2 * p.log()).mean()
        assert focal(logits, truth, weights).item() == pytest.approx(by_hand.item(), rel=1e-6)
        assert focal(logits, truth, weights, gamma=0.0).item() == pytest.approx(
            cross_entropy(logits, truth, weights).item(), rel=1e-6
        )
        extreme = (1e4 * logits).requires_grad_()
        focal(extreme, truth, gamma=0.5).backward()
        assert torch.isfinite(extreme.grad).all()
    finally:
        sys.modules.pop("segcal_focal", None)


@pytest.mark.long
def test_a_sweep_and_its_report_as_the_readme_has_it(segcal, tmp_path):
    sweep = EXAMPLE / "sweep.yaml"
    small = ("--set", "seeds=2; epochs=2; kernels=[4, 4, 8, 8]")
    done = segcal("sweep", sweep, *small, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trials"] == 4
    again = segcal("sweep", sweep, *small, "--set", "seeds=3", "--json")  # a resume trains what is new
    assert again.returncode == 0, again.stderr
    assert "4 trained already" in again.stderr
    assert segcal("report", "--experiment", "focal", "--resamples", "100").returncode == 0
    tables = tmp_path / "reports" / "focal" / "tables"
    assert (tables / "plugins.csv").read_text().splitlines()[1] == 'segcal-focal 0.1.0,"recipe focal, metric gap"'
    assert "|confidence - accuracy| % (box)" in (tables / "plugin_metrics.csv").read_text()
    bare = segcal("report", "--experiment", "focal", "--resamples", "100", "--out", "bare", installed=False)
    assert bare.returncode == 0, bare.stderr  # networks predict without the loss that they were trained with
    assert (tmp_path / "bare" / "tables" / "plugins.csv").read_text().splitlines()[
        1
    ] == "segcal-focal 0.1.0,recipe focal"
    assert not (tmp_path / "bare" / "tables" / "plugin_metrics.csv").exists()
    refused = segcal("sweep", sweep, *small, installed=False)
    assert refused.returncode == 2
    assert refused.stderr == "segcal: recipe focal: no loss named 'focal'; known: cross_entropy, soft_dice\n"
