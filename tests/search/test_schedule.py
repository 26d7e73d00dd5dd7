"""A search by Ray Tune, for real: who wins, who is pruned, and that a killed driver costs nothing that was finished."""

import csv
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from segcal.journal.reading import records
from segcal.journal.storage import Storage
from segcal.ledger.names import tag
from segcal.ledger.read import finished_keys
from segcal.ledger.store import open_store
from segcal.search.space import load_search
from segcal.search.study import open_study
from segcal.sweep.plan import load_plan, trials

pytestmark = pytest.mark.fault  # a minute


@pytest.fixture(scope="module")
def file(tmp_path_factory, tiny_files):
    path = tmp_path_factory.mktemp("search") / "search.yaml"
    content = {
        "task": str(tiny_files[0]),
        "experiment": "tiny-search",
        "seeds": 2,
        "training": {"kernels": [4, 4, 8, 8], "epochs": 12, "patience": 12},
        "recipes": {"dice": {"loss": "soft_dice"}},
        "search": {
            "trials": 5, "grace": 3, "reduction": 2, "startup": 3,
            "space": {"lr": {"low": 1e-6, "high": 0.05, "log": True}, "smooth": {"choices": [0.1, 1.0]}},
        },
    }  # fmt: skip
    path.write_text(yaml.safe_dump(content))
    return path


def command(*argv):
    return [sys.executable, "-m", "segcal", *map(str, argv)]


def segcal(folder, *argv):
    environment = {**os.environ, "MLFLOW_TRACKING_URI": ""}
    return subprocess.run(command(*argv), cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def candidates(folder, file, cohort):
    plan = load_search(file)
    with open_study(plan.search, plan.study(cohort.digest), Storage(f"{folder}/mlflow-trials/tiny-search")) as study:
        found = study.candidates()
    keys = {
        c.number: [t.key for t in plan.candidate(c.label, c.drawn, cohort.digest, cohort.class_voxels)] for c in found
    }
    return found, keys


@pytest.fixture(scope="module")
def searched(blobs, file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")
    done = segcal(folder, "search", file, "--data", blobs, "--json")
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_winner_has_the_best_mean_over_seeds_of_those_on_record(searched, file, cohort):
    folder, done = searched
    result, (found, keys) = json.loads(done.stdout), candidates(folder, file, cohort)
    on_record = records(Storage(f"{folder}/mlflow-trials/tiny-search"))
    means = {
        c.label: statistics.fmean(on_record[key].val_dice for key in keys[c.number])
        for c in found
        if all(on_record[key].state == "finished" for key in keys[c.number])
    }
    assert result["winner"] == max(means, key=means.get)
    assert result["score"]["mean"] == pytest.approx(means[result["winner"]])
    assert sorted(means) == result["finished"]
    assert result["candidates"] == len(result["finished"]) + len(result["pruned"]) == 5
    assert f"{result['winner']} won with a mean validation Dice of" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_pruned_are_marked_and_may_be_gone_on_with(searched, file, cohort):
    folder, done = searched
    result, (found, keys) = json.loads(done.stdout), candidates(folder, file, cohort)
    assert result["pruned"]
    sweep = Storage(f"{folder}/mlflow-trials/tiny-search")
    on_record = records(sweep)
    client = open_store(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("tiny-search").experiment_id
    registered = finished_keys(client, "tiny-search")
    for candidate in found:
        for key in keys[candidate.number]:
            (run,) = client.search_runs([experiment], f"tags.`{tag('key')}` = '{key}'")
            assert run.data.tags["mlflow.parentRunId"] == result["run_id"]
            assert run.info.status == "FINISHED"
            pruned = candidate.state == "pruned"
            assert run.data.tags.get(tag("pruned")) == ("true" if pruned else None)
            assert (key in registered) != pruned
            if pruned:
                assert (on_record[key].state, on_record[key].epochs) == ("pruned", candidate.epochs)
                assert any(name.startswith("state-") for name in sweep.at("trials", key).names())


def test_the_run_keeps_the_winner_and_the_table(searched):
    folder, done = searched
    result = json.loads(done.stdout)
    client = open_store(f"sqlite:///{folder}/mlflow.db")
    kept = {
        name: Path(client.download_artifacts(result["run_id"], name, str(folder))).read_text()
        for name in ("winner.yaml", "candidates.csv")
    }
    assert kept["winner.yaml"] == (folder / "tiny-search-winner.yaml").read_text()
    rows = list(csv.DictReader(io.StringIO(kept["candidates.csv"])))
    assert rows[0]["candidate"] == result["winner"]
    assert len(rows) == 5
    assert float(rows[0]["lr"]) == result["drawn"]["lr"]


def test_a_sweep_finds_the_winners_seeds_trained_and_trains_more(searched, blobs):
    winner = searched[0] / "tiny-search-winner.yaml"
    done = segcal(searched[0], "sweep", winner, "--data", blobs, "--set", "seeds=3", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["already_finished"], result["finished"]) == (2, ["winner seed 2"])


def test_a_killed_driver_costs_nothing_that_was_finished(blobs, file, cohort, tmp_path):
    environment = {**os.environ, "MLFLOW_TRACKING_URI": ""}
    argv = command("search", file, "--data", blobs, "--json", "--set", "search.pruner=none; epochs=40; patience=40")
    with (tmp_path / "err.txt").open("w") as err:
        driver = subprocess.Popen(argv, cwd=tmp_path, env=environment, stdout=err, stderr=err)
        deadline = time.monotonic() + 120
        while "[2/5" not in (tmp_path / "err.txt").read_text():  # two have ended, and another is under way
            assert driver.poll() is None, (tmp_path / "err.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
    sweep = Storage(f"{tmp_path}/mlflow-trials/tiny-search")
    before = {key: record for key, record in records(sweep).items() if record.state == "finished"}
    assert len(before) >= 4
    again = segcal(tmp_path, *argv[3:])
    assert again.returncode == 0, again.stderr
    result, after = json.loads(again.stdout), records(sweep)
    assert (result["candidates"], len(result["finished"])) == (5, 5)
    assert result["already_ended"] >= 2
    assert len(after) == 10
    assert all(record.state == "finished" and record.epochs == 40 for record in after.values())
    for key, record in before.items():
        assert (after[key].attempts, after[key].weights_sha256) == (record.attempts, record.weights_sha256)
    client = open_store(f"sqlite:///{tmp_path}/mlflow.db")
    assert finished_keys(client, "tiny-search") == set(after)
    experiment = client.get_experiment_by_name("tiny-search").experiment_id
    assert client.search_runs([experiment], "attributes.status = 'RUNNING'") == []


def test_ctrl_c_puts_all_away_and_the_same_command_goes_on(blobs, file, tmp_path):
    environment = {**os.environ, "MLFLOW_TRACKING_URI": ""}
    argv = command("search", file, "--data", blobs, "--set", "search.pruner=none", "--set", "epochs=3000",
                   "--set", "patience=3000", "--set", "search.trials=1")  # fmt: skip
    with (tmp_path / "err.txt").open("w") as err:
        driver = subprocess.Popen(argv, cwd=tmp_path, env=environment, stdout=err, stderr=err)
        deadline = time.monotonic() + 120
        while "candidate-000: epoch" not in (tmp_path / "err.txt").read_text():
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        driver.send_signal(signal.SIGINT)
        assert driver.wait(60) == 130, (tmp_path / "err.txt").read_text()
    found = records(Storage(f"{tmp_path}/mlflow-trials/tiny-search"))
    assert [record.state for record in found.values()] == ["stopped"] * 2
    assert "Traceback" not in (tmp_path / "err.txt").read_text()


def test_a_candidate_that_diverges_scores_nothing_and_stops_no_other(blobs, file, tmp_path):
    content = yaml.safe_load(file.read_text())
    content["search"] |= {"trials": 2, "space": {"lr": {"choices": [0.01, 1e30]}}}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(content))
    done = segcal(tmp_path, "search", "search.yaml", "--data", blobs, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["drawn"], len(result["diverged"]), len(result["finished"])) == ({"lr": 0.01}, 1, 1)
    assert "FloatingPointError: the training loss must stay finite" in next(iter(result["diverged"].values()))
    sweep = load_plan(tmp_path / "tiny-search-winner.yaml")
    assert {config.lr for config in trials(sweep, "d", [1] * 4)} == {0.01}
