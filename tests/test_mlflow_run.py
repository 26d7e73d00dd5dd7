"""The README's commands, for real: `mlflow run` in the caller's environment, then a report from a second process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from segcal.ledger.names import tag
from segcal.ledger.read import models
from segcal.ledger.store import open_store

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def project(tmp_path_factory, blobs, tiny_files):
    """A folder with the project file and a sweep run in it by the plain command."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copy(PROJECT / "MLproject", folder)
    done = call(
        folder,
        "mlflow", "run", ".", "-e", "sweep", "-P", f"task={tiny_files[0]}", "-P", f"file={tiny_files[1]}",
        "-P", f"data={blobs}", "-P", "set=epochs=1; recipes.ce.lr=0.01", "-P", "experiment=calib",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def call(folder, *command, **more):
    binaries = Path(sys.executable).parent
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if "pyenv" not in part)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PYENV"))}
    environment |= {"PATH": f"{binaries}{os.pathsep}{path}", "MLFLOW_DISABLE_TELEMETRY": "true", **more}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def test_the_run_of_mlflow_is_the_parent_of_the_trials(project):
    client = open_store(f"sqlite:///{project}/mlflow.db")
    experiment = client.get_experiment_by_name("calib").experiment_id
    (parent,) = client.search_runs([experiment], f"tags.`{tag('kind')}` = 'sweep'")
    trials = client.search_runs([experiment], f"tags.`{tag('kind')}` = 'trial'")
    assert parent.data.tags["mlflow.project.entryPoint"] == "sweep"
    assert parent.info.status == "FINISHED"
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert sorted(run.info.run_name for run in trials) == ["ce seed 0", "ce seed 1", "dice seed 0", "dice seed 1"]
    assert {run.data.params["epochs"] for run in trials} == {"1"}
    assert {run.data.params["lr"] for run in trials} == {"0.01", "0.005"}
    assert client.search_runs(["0"]) == []  # nothing strays into "Default"
    assert len(models(client, "calib")) == 4


def test_it_ran_in_the_callers_environment(project):
    client = open_store(f"sqlite:///{project}/mlflow.db")
    experiment = client.get_experiment_by_name("calib").experiment_id
    (parent,) = client.search_runs([experiment], f"tags.`{tag('kind')}` = 'sweep'")
    assert parent.data.tags.get("mlflow.project.env", "local") == "local"
    assert not list(project.rglob("pyvenv.cfg"))


def test_the_report_needs_nothing_but_the_experiments_name(project):
    done = call(project, "segcal", "report", "--experiment", "calib", "--resamples", "100", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["folder"] == str(project / "reports" / "calib")
    report = json.loads((project / "reports" / "calib" / "report.json").read_text())
    rows = [row[0] for table in report["tables"] if table["key"] == "box" for row in table["rows"]]
    assert rows == ["ce", "ce, ensemble of 2", "dice", "dice, ensemble of 2"]
    assert f"report: {project}/reports/calib/report.html" in done.stderr


def test_a_wrong_parameter_ends_in_the_one_line_error(project):
    done = call(project, "mlflow", "run", ".", "-e", "sweep", "-P", "task=brian")
    assert done.returncode == 1
    assert "segcal: no task named 'brian'; did you mean 'brain'?" in done.stderr


@pytest.mark.long
@pytest.mark.parametrize(("task", "counts"), [("heart", "18/6/12"), ("prostate", "12/4/8"), ("prostate3d", "12/4/8")])
def test_every_task_works_from_nothing_on_its_embedded_data(tmp_path_factory, task, counts):
    folder = tmp_path_factory.mktemp(task)
    shutil.copy(PROJECT / "MLproject", folder)
    run = (
        "mlflow",
        "run",
        ".",
        "-e",
        "sweep",
        "-P",
        f"task={task}",
        "-P",
        "set=seeds=1; epochs=2; mc_samples=4; recipes.ce_mc.seeds=1; recipes.dice_mc.seeds=1",
    )
    done = call(folder, *run, SEGCAL_HOME=str(folder / "home"))
    assert done.returncode == 0, done.stderr
    assert f"{counts} cases to train, validate and test on" in done.stderr
    assert ("12 cases, never learnt from" in done.stderr) == ("prostate" in task)
    assert "done: 4 trained models in experiment 'calib'" in done.stderr
    report = call(folder, "segcal", "report", "--resamples", "100", SEGCAL_HOME=str(folder / "home"))
    assert report.returncode == 0, report.stderr
    assert "Traceback" not in done.stderr + report.stderr
    assert "UserWarning" not in done.stderr + report.stderr
    assert (folder / "reports" / "calib" / "figures" / "methods.png").stat().st_size > 10_000
