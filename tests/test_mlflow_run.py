"""The README's commands, for real: `mlflow run` in the caller's environment, then a report from a second process."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from segcal.ledger.names import tag
from segcal.ledger.read import models
from segcal.ledger.store import open_store
from tests.tracking_servers import accepts, free_port

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


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A git repository of the project: its project file and its sweeps are all that `mlflow run` reads of one."""
    folder = tmp_path_factory.mktemp("git") / "segcal"
    folder.mkdir()
    shutil.copy(PROJECT / "MLproject", folder)
    shutil.copytree(PROJECT / "sweeps", folder / "sweeps")
    git = ("git", "-c", "user.name=test", "-c", "user.email=test@example.org")
    for words in (("init", "-q", "-b", "main"), ("add", "-A"), ("commit", "-q", "-m", "segcal")):
        subprocess.run([*git, *words], cwd=folder, check=True)
    return folder


@pytest.fixture(params=["file", "git"])
def git_url(request, repository):
    """The repository as file://, which MLflow runs where it is, and as git://, which it clones below TMPDIR."""
    if request.param == "file":
        yield f"file://{repository}"
        return
    port = free_port()
    command = [
        "git",
        "daemon",
        "--export-all",
        "--listen=127.0.0.1",
        f"--port={port}",
        f"--base-path={repository.parent}",
    ]
    daemon = subprocess.Popen([*command, str(repository.parent)], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 30
        while not accepts(port):
            if daemon.poll() is not None or time.monotonic() > deadline:
                pytest.skip("git daemon does not run here")
            time.sleep(0.1)
        yield f"git://127.0.0.1:{port}/segcal"
    finally:
        daemon.terminate()
        daemon.wait()


@pytest.mark.long
def test_a_git_url_leaves_all_of_it_in_the_callers_folder(git_url, repository, tmp_path):
    temporary, work = tmp_path / "temporary", tmp_path / "work"
    temporary.mkdir()
    work.mkdir()
    where = {"TMPDIR": str(temporary), "SEGCAL_HOME": str(tmp_path / "home")}
    small = "set=seeds=1; epochs=2; mc_samples=2; recipes.ce_mc.seeds=1; recipes.dice_mc.seeds=1"
    done = call(work, "mlflow", "run", git_url, "-e", "sweep", "-P", "task=brain", "-P", small, **where)
    assert done.returncode == 0, done.stderr
    assert "done: 4 trained models in experiment 'calib'" in done.stderr
    report = call(work, "mlflow", "run", git_url, "-e", "report", "-P", "experiment=calib", **where)
    assert report.returncode == 0, report.stderr
    assert (work / "reports" / "calib" / "report.html").is_file()
    assert len(list(work.glob("mlruns/**/weights.safetensors"))) >= 4
    assert (work / "mlflow.db").is_file()
    left = [path.name for folder in (temporary, repository) for path in folder.rglob("*")]
    assert not {"weights.safetensors", "report.html", "mlflow.db", "mlruns"} & set(left)
    client = open_store(f"sqlite:///{work}/mlflow.db")
    (parent,) = client.search_runs(
        [client.get_experiment_by_name("calib").experiment_id], f"tags.`{tag('kind')}` = 'sweep'"
    )
    assert parent.data.tags["mlflow.project.entryPoint"] == "sweep"


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
