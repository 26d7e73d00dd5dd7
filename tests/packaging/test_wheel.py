"""The wheel in an environment that holds nothing else, in a folder that is no checkout. Needs a package index."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.packaging.building import PROJECT

pytestmark = pytest.mark.long

SMALL = "seeds=1; epochs=2; mc_samples=2; recipes.ce_mc.seeds=1; recipes.dice_mc.seeds=1"


@pytest.fixture(scope="module")
def installed(tmp_path_factory, wheel):
    """A command runner: with the environment's programs only, in an empty folder."""
    home = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", home / "env"], check=True)
    pip = [str(home / "env" / "bin" / "pip"), "--disable-pip-version-check"]
    try_out = subprocess.run([*pip, "download", "-q", "--no-deps", "-d", home / "try", "tqdm"], capture_output=True)
    if try_out.returncode:
        pytest.skip("installs from a package index, got no answer from one")
    pins = ("-c", str(PROJECT / "constraints.txt"))
    done = subprocess.run([*pip, "install", "-q", *pins, f"{wheel}[service]"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (home / "work").mkdir()
    dropped = ("MLFLOW_", "SEGCAL_", "PYTHON", "PYENV", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    environment |= {
        "PATH": f"{home / 'env' / 'bin'}:/usr/bin:/bin",
        "SEGCAL_HOME": str(home / "home"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }

    def start(*words: str, **options) -> subprocess.Popen:
        return subprocess.Popen(words, cwd=home / "work", env=environment, text=True, stdout=subprocess.PIPE, **options)

    def run(*words: str) -> tuple[int, str, str]:
        process = start(*words, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=900)
        return process.returncode, out, err

    run.start = start
    run.folder = home / "work"
    return run


@pytest.fixture(scope="module")
def trained(installed):
    """The same, after a sweep."""
    code, _, err = installed("segcal", "sweep", "--task", "brain", "--set", SMALL)
    assert code == 0, err
    assert "done: 4 trained models in experiment 'calib'" in err
    return installed


def test_it_is_the_wheel_that_runs(installed):
    code, out, err = installed("python", "-c", "import segcal; print(segcal.__file__)")
    assert code == 0, err
    assert "site-packages" in out


def test_from_phantoms_to_a_report(trained):
    code, out, err = trained("segcal", "report", "--resamples", "100", "--json")
    assert code == 0, err
    assert Path(json.loads(out)["folder"]) == trained.folder / "reports" / "calib"
    assert (trained.folder / "reports" / "calib" / "report.html").stat().st_size > 10_000


def test_plan_and_doctor(installed):
    code, out, err = installed("segcal", "plan", "--task", "heart", "--set", "epochs=1", "--set", "seeds=1", "--json")
    assert code == 0, err
    assert json.loads(out)["task"] == "heart"
    code, out, err = installed("segcal", "doctor", "--json")
    assert code == 0, err
    assert json.loads(out)["extras"].startswith("service; not installed: search")


def test_the_embedded_data(installed):
    assert installed("segcal", "data", "demo", "--out", "phantoms", "--cases", "4", "--size", "32")[0] == 0
    assert installed("segcal", "data", "check", "phantoms")[0] == 0


def test_the_service_and_its_pages(installed):
    service = installed.start("segcal", "serve", "--port", "0", "--json", stderr=subprocess.DEVNULL)
    try:
        url = json.loads(service.stdout.readline())["url"]
        for page, content in {
            "/healthz": b"ok", "/": b"segcal", "/openapi.json": b"/v1/", "/metrics": b"segcal_",
        }.items():  # fmt: skip
            with urllib.request.urlopen(url + page, timeout=60) as answer:
                assert content in answer.read(), page
    finally:
        service.terminate()
        service.communicate(timeout=60)


def test_an_extra_that_is_missing(installed):
    code, _, err = installed("segcal", "search", "--set", "seeds=1")
    assert code == 1
    assert err == 'segcal: segcal search needs optuna, which is not installed: pip install "segcal[search]"\n'


def test_mlflow_runs_the_installed_package(trained):
    code, out, err = trained("python", "-c", "import segcal; print(segcal.__path__[0])")
    code, _, err = trained("mlflow", "run", out.strip(), "-e", "report", "-P", "out=again")
    assert code == 0, err
    assert (trained.folder / "again" / "report.html").is_file()
