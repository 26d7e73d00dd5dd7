"""Plain MLflow loads an ensemble, in a process that knows nothing but where the store is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pytest
import yaml
from mlflow.exceptions import MlflowException

from segcal.ensemble.loaded import load_ensemble
from segcal.ensemble.pyfunc import RegisteredEnsemble
from segcal.errors import BadData
from segcal.ledger.store import open_store
from tests.analysis.conftest import make_config, make_member
from tests.ensemble.test_loaded import by_hand

PLAIN = """
import sys
import mlflow.pyfunc
import numpy as np

model = mlflow.pyfunc.load_model("models:/segcal-tiny-ensemble@candidate")
found = model.predict(np.load(sys.argv[1]))
confidence = found.pop("confidence")
np.savez(sys.argv[2], **found, **{f"{s}.{k}": v for s, of in confidence.items() for k, v in of.items()})
"""


@pytest.fixture(scope="module")
def by_plain_mlflow(registered, cohort, tmp_path_factory):
    """What the registered model says of the first test case, in a fresh process: (arrays, stderr)."""
    folder = tmp_path_factory.mktemp("plain")
    np.save(folder / "image.npy", cohort.cases("test")[0].image)
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, folder / "image.npy", folder / "found.npz"],
        env=kept | {"MLFLOW_TRACKING_URI": registered[0]}, cwd=folder, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with np.load(folder / "found.npz") as file:
        return dict(file), done.stderr


def test_a_fresh_process_gives_what_segcal_gives_bit_for_bit(by_plain_mlflow, registered, cohort):
    found, stderr = by_plain_mlflow
    ensemble = load_ensemble(open_store(registered[0]), "segcal-tiny-ensemble@candidate")
    ours = ensemble.predict(cohort.cases("test")[0].image)
    for name, array in (("probabilities", ours.probs), ("labels", ours.labels), ("entropy", ours.entropy)):
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    for name, entropy in ours.segment_entropy.items():
        np.testing.assert_equal(float(found[f"{name}.entropy"]), entropy)
    assert "WARNING" not in stderr
    assert "Traceback" not in stderr


def test_confidence_is_the_mean_probability_of_the_segment(by_plain_mlflow):
    found, _ = by_plain_mlflow
    segment = found["labels"] == 2  # edema: the only structure that these networks find
    assert segment.sum() > 100
    p = found["probabilities"][2].astype(float)[segment]
    assert float(found["edema.probability"]) == pytest.approx(sum(p) / len(p), abs=1e-9)
    h = -p * np.log(p) - (1 - p) * np.log(1 - p)
    assert float(found["edema.entropy"]) == pytest.approx(h.mean(), abs=1e-9)


def test_no_pickle_and_fixed_requirements(registered):
    client = open_store(registered[0])
    folder = Path(client.get_logged_model(registered[1]["model_id"]).artifact_location.removeprefix("file://"))
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    names -= {"registered_model_meta", "__pycache__/pyfunc.cpython-311.pyc"}  # MLflow's own, written when it is loaded
    assert {name for name in names if "__pycache__" not in name} == {
        "MLmodel", "MODEL_CARD.md", "artifacts/manifest.json", "conda.yaml", "pyfunc.py", "python_env.yaml",
        "requirements.txt", "scores.csv",
    }  # fmt: skip
    assert all("==" in line for line in (folder / "requirements.txt").read_text().split())
    assert yaml.safe_load((folder / "MLmodel").read_text())["flavors"]["python_function"]["model_code_path"]


def test_an_altered_manifest_is_refused(registered, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registered[0])
    client = open_store(registered[0])
    folder = Path(client.get_logged_model(registered[1]["model_id"]).artifact_location.removeprefix("file://"))
    shutil.copytree(folder, tmp_path / "model")
    assert mlflow.pyfunc.load_model(str(tmp_path / "model")) is not None
    manifest = tmp_path / "model" / "artifacts" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"select": "best"', '"select": "all"'))
    with pytest.raises(BadData, match="must be that of a registered version, got an altered one"):
        mlflow.pyfunc.load_model(str(tmp_path / "model"))


def test_the_case_id_reaches_monte_carlo_dropout(tiny_task, cohort):
    model, case = RegisteredEnsemble(), cohort.cases("test")[0]
    model.ensemble = by_hand(tiny_task, [make_member(make_config("ce_mc", seed)) for seed in range(2)])
    of = {name: model.predict(None, case.image, {"case_id": name})["probabilities"] for name in ("", "a", "b")}
    np.testing.assert_array_equal(of["a"], model.ensemble.predict(case.image, "a").probs)
    np.testing.assert_array_equal(of[""], model.predict(None, case.image)["probabilities"])
    assert np.abs(of["a"] - of["b"]).max() > 1e-4


@pytest.mark.parametrize(
    "image",
    [np.zeros((2, 4, 32, 32), np.float32), np.zeros((3, 4, 32, 16), np.float32), np.zeros((3, 32, 32), np.float32)],
    ids=["channels", "grid", "axes"],
)
def test_the_signature_refuses_other_grids(registered, image, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registered[0])
    model = mlflow.pyfunc.load_model(registered[1]["uri"])
    with pytest.raises(MlflowException, match="schema"):
        model.predict(image)
