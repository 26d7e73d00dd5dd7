"""A cohort small enough to train on in a second, and an experiment trained on it. No network, no GPU, nothing left."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from segcal.data.layouts import brats
from segcal.data.prepare import prepare
from segcal.data.taskfile import load_task, task_yaml
from segcal.environment import environment
from segcal.tasks import TaskSpec

pytest_plugins = ["tests.tracking_servers", "tests.plugin_packages"]  # fixtures: postgres, store_uri, ..., packages
torch.set_num_threads(1)
settings.register_profile("segcal", deadline=None, max_examples=60, database=None)  # leaves nothing behind
settings.load_profile("segcal")

# Files of few and long tests come first, so that two cores end at the same time.
LONGEST = ("faults/test_driver.py", "service/test_restart.py", "sweep/test_schedule.py", "test_mlflow_run.py")

TINY_FIELDS = {
    "name": "tiny",
    "spacing_mm": [None, None, None],
    "crop": [32, 32],
    "batch": 4,
    "split_counts": {"train": 3, "val": 1, "test": 3},
    "ensemble_sizes": [1, 2, 3],
    "curve_draws": 3,
}


def pytest_configure(config: pytest.Config) -> None:
    """Only tests of a GPU see one: the others count on a processor's results, equal to the bit."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.hookimpl(trylast=True)  # after the order was drawn
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest first; otherwise the order stays."""
    items.sort(key=lambda item: not item.nodeid.partition("::")[0].endswith(LONGEST))


@pytest.fixture(autouse=True, scope="session")
def _own_folders(tmp_path_factory: pytest.TempPathFactory):
    """Caches and tracking of the tests stay in temporary folders."""
    patch = pytest.MonkeyPatch()
    patch.setenv("SEGCAL_HOME", str(tmp_path_factory.mktemp("home")))
    for name in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_RUN_ID",
        "MLFLOW_EXPERIMENT_ID",
        "MLFLOW_EXPERIMENT_NAME",
        "RAY_ADDRESS",
        "SEGCAL_STORAGE",
    ):
        patch.delenv(name, raising=False)
    patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    yield
    patch.undo()


def write_blobs(root: Path, cases: int = 7, seed: int = 0) -> Path:
    """A BraTS folder of noisy nested blobs, 4 CBICA cases for every 3 of TCIA."""
    z, y, x = np.mgrid[0:4, 0:32, 0:32].astype(float)
    for index in range(cases):
        rng = np.random.default_rng([seed, index])
        cy, cx, radius = rng.uniform(11, 21), rng.uniform(11, 21), rng.uniform(6, 8)
        distance = np.sqrt((y - cy) ** 2 + (x - cx) ** 2 + (4 * (z - 1.5)) ** 2)
        truth = np.zeros(distance.shape, dtype=np.uint8)
        truth[distance < radius] = 2
        truth[distance < 0.7 * radius] = 4
        truth[distance < 0.4 * radius] = 1
        bright = np.array([300, 700, 500, 0, 900])
        channels = {
            name: np.clip(bright[truth] * weight + rng.normal(100, 40, truth.shape), 1, None)
            for name, weight in {"t1": 0.5, "t1ce": 1.0, "t2": 0.7, "flair": 0.8}.items()
        }
        site = "CBICA" if index % 7 < 4 else "TCIA"
        brats.write_case(root, f"Brats17_{site}_T{index:02d}_1", "HGG", channels, truth, (3.0, 1.0, 1.0))
    return root


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_blobs(tmp_path_factory.mktemp("blobs"))


@pytest.fixture(scope="session")
def tiny_task() -> TaskSpec:
    return load_task("brain", TINY_FIELDS)


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory, tiny_task: TaskSpec) -> tuple[Path, Path]:
    """The tiny task and its sweep as files of a user."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "tiny.yaml").write_text(task_yaml(tiny_task))
    (folder / "sweep.yaml").write_text(
        f"task: {folder / 'tiny.yaml'}\n"
        "experiment: tiny\n"
        "seeds: 2\n"
        "training: {kernels: [4, 4, 8, 8], epochs: 2, patience: 2}\n"
        "recipes:\n  ce: {loss: cross_entropy}\n  dice: {loss: soft_dice}\n"
    )
    return folder / "tiny.yaml", folder / "sweep.yaml"


@pytest.fixture(scope="session")
def cohort(blobs: Path, tiny_task: TaskSpec):
    return prepare(blobs, tiny_task)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_files: tuple[Path, Path], cohort, tiny_task: TaskSpec):
    """An experiment of 2 recipes x 3 seeds, trained trial by trial without Ray: (tracking URI, trials, sweep)."""
    from segcal.journal.storage import Storage
    from segcal.ledger.store import open_store
    from segcal.ledger.sweep_run import end_sweep, start_sweep
    from segcal.sweep.plan import load_plan, trials
    from segcal.sweep.project import Projection
    from segcal.sweep.run_trial import Assignment, run_trial

    plan = load_plan(tiny_files[1], settings=["seeds=3", "epochs=3", "patience=3"])
    folder = tmp_path_factory.mktemp("store")
    before = Path.cwd()
    os.chdir(folder)
    try:
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        client = open_store(uri)
        records = Storage(str(folder / "mlflow-trials" / "tiny"))
        records.at("data").write(f"{cohort.digest}.json", json.dumps(cohort.manifest).encode())
        sweep = start_sweep(client, "tiny", "sweep tiny", {"data": "blobs"}, plan.as_yaml(), storage=records.uri)
        configs = trials(plan, cohort.digest, cohort.class_voxels)
        for config in configs:
            run_trial(Assignment(config, tiny_task, records, "test", cohort.folder))
        with environment({"MLFLOW_TRACKING_URI": uri}):
            projection = Projection(client, sweep, records, print)
            projection.start(config.key for config in configs)
            assert projection.close(60) == {}
        end_sweep(client, sweep, "FINISHED")
    finally:
        os.chdir(before)
    return uri, configs, sweep
