"""`segcal plan` as a user meets it: tables, warnings, one-line errors, and nothing written to MLflow."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from segcal.cli import main
from segcal.cli.plan import within_seconds
from segcal.errors import UsageError
from segcal.sweep import plan_sweep as module
from segcal.sweep.estimate import EPOCH_S, START_S, TRIAL_S, Speed
from segcal.sweep.plan import load_plan
from segcal.sweep.plan_sweep import with_members
from segcal.sweep.probe import Probed, ProbeJob


def run(capsys, *argv):
    code = main([str(word) for word in argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def jobs(monkeypatch):
    """Probes that were asked for; each trial takes 1 s an item to train and nothing else."""
    asked = []

    def side_by_side(configs, job, say):
        asked.append(job)
        return Probed(tuple(Speed(1.0, 0.0, 2.0) for _ in configs), 0.0)

    monkeypatch.setattr(module, "side_by_side", side_by_side)
    monkeypatch.setattr(module, "cores", lambda: 2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    return asked


def test_a_plan_of_embedded_data_for_real(capsys, here, monkeypatch):
    monkeypatch.setenv("SEGCAL_HOME", str(here / "home"))
    monkeypatch.setattr("segcal.data.phantom.embedded.CASES", 5)
    monkeypatch.setattr(
        module, "ProbeJob", lambda *args, **more: ProbeJob(*args, **more | {"seconds": 0.02, "niceness": 0})
    )
    settings = "seeds=1; epochs=2; kernels=[4, 4, 8, 8]; mc_samples=2; recipes.ce_mc.seeds=1; recipes.dice_mc.seeds=1"
    small = "task_fields.spacing_mm=[16, 8, 8]; task_fields.crop=[32, 32]"
    code, out, err = run(capsys, "plan", "--task", "brain", "--set", settings, "--set", small)
    assert code == 0, err
    assert out.startswith("brain (scale demo) into experiment 'calib': 4 trials to train, 0 trained already\n")
    assert [line.split()[0] for line in out.splitlines()[2:7]] == ["recipe", "ce", "dice", "ce_mc", "dice_mc"]
    for word in ("wall time", "trial time", "checkpoints", "database", "prepared data", "report"):
        assert f"\n{word} " in out
    assert "timing ce\n" in err
    assert [path.name for path in here.iterdir()] == ["home"]  # no database, no mlruns
    assert multiprocessing.active_children() == []


def test_json_has_every_number(capsys, here, jobs, blobs, tiny_files):
    code, out, _ = run(capsys, "plan", tiny_files[1], "--data", blobs, "--json", "--cpus", 4)
    plan = json.loads(out)
    assert code == 0
    whole = plan["estimate"]
    assert (plan["experiment"], plan["items"], plan["cases"]) == ("tiny", "slices", {"train": 3, "val": 1, "test": 3})
    assert (whole["at_once"], whole["trials"], whole["trained"]) == (4, 4, 0)
    assert jobs[0].at_once == 2  # no more than this machine's cores
    assert whole["recipes"][0]["epoch_s"] == 12  # three cases of four slices
    assert whole["recipes"][0]["epochs"] == {"least": 2, "most": 2, "expected": 2}
    assert whole["wall_s"]["most"] == pytest.approx(START_S + TRIAL_S + 2 * (12 + EPOCH_S))
    assert whole["report_s"] == 4 * 12 * 2 / 4
    assert plan["warnings"] == []
    assert plan["within"] is None
    assert plan["free_bytes"] > 0


def test_members_that_are_trained_are_not_paid_again(capsys, here, jobs, blobs, tiny_files, trained, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained[0])
    settings = "epochs=3; patience=3"
    code, out, _ = run(capsys, "plan", tiny_files[1], "--data", blobs, "--set", settings, "--members", 5, "--json")
    whole = json.loads(out)["estimate"]
    assert code == 0
    assert (whole["trials"], whole["trained"]) == (4, 6)
    assert [recipe["members"] for recipe in whole["recipes"]] == [5, 5]
    nothing = json.loads(run(capsys, "plan", tiny_files[1], "--data", blobs, "--set", settings, "--json")[1])
    assert nothing["estimate"]["trials"] == 0
    assert nothing["estimate"]["wall_s"]["most"] == 0


def test_epochs_of_trained_members_are_expected(capsys, here, jobs, blobs, tiny_files, monkeypatch):
    """A pilot of the same recipe tells when early stopping ends the others."""
    from types import SimpleNamespace

    from segcal.ledger.read import Held

    settings = "epochs=100; patience=5"
    first = json.loads(run(capsys, "plan", tiny_files[1], "--data", blobs, "--set", settings, "--json")[1])
    assert first["estimate"]["recipes"][0]["epochs"] == {"least": 6, "most": 100, "expected": None}
    recipe = first["estimate"]["recipes"][0]["recipe"]
    refs = tuple(SimpleNamespace(key=f"k{epoch}", recipe=recipe, epoch=epoch) for epoch in (10, 20))
    monkeypatch.setattr(module, "held", lambda uri, experiment: Held(refs))
    code, out, _ = run(capsys, "plan", tiny_files[1], "--data", blobs, "--set", settings)
    assert code == 0
    assert "6 to 100 (about 20)" in out
    assert "in the tracking server" in out


LATE = "cannot finish within"  # 2 recipes of 2 seeds, 24.6 s each, two at a time: 69 s


@pytest.mark.parametrize(
    ("within", "settings", "said"),
    [
        ("30m", "", ""),
        ("50s", "", f"{LATE} 50 s: it takes at least 69 s; what would: 1 member of each recipe, or 4 cores"),
        ("1s", "", f"{LATE} 1.0 s: it takes at least 69 s; nothing would: not even one trial ends by then"),
        (
            "0.1",
            "epochs=100; patience=3",
            "may not finish within 6.0 min: it takes up to 40 min; "
            "nothing would with all epochs: not even one trial ends by then",
        ),
    ],
)
def test_warnings_of_time_are_lines_and_the_exit_code_stays_0(
    capsys, here, jobs, blobs, tiny_files, within, settings, said
):
    argv = ["plan", tiny_files[1], "--data", blobs, "--within", within, "--set", settings, "--json"]
    code, out, err = run(capsys, *argv)
    plan = json.loads(out)
    assert code == 0
    assert plan["warnings"] == ([said] if said else [])
    assert [line for line in err.splitlines() if "finish" in line] == ([f"warning: {said}"] if said else [])
    assert plan["within"]["verdict"] == (said.partition(" within")[0] or "fits")


def test_a_full_disk_and_a_busy_machine_are_told(capsys, here, jobs, blobs, tiny_files, monkeypatch):
    monkeypatch.setattr(module, "_free_bytes", lambda artifacts: 1000)
    monkeypatch.setattr(module, "side_by_side", lambda c, j, s: Probed(tuple(Speed(1.0, 0.0, 2.0) for _ in c), 0.5))
    _, _, err = run(capsys, "plan", tiny_files[1], "--data", blobs)
    assert "warning: the checkpoints will not fit: up to " in err
    assert "other programs had the cores for 50% of the time that was measured" in err


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--within", "soon"], 2, "--within must be a time above 0, got 'soon'; write 24h, 90m, 30s, 2d, or hours"),
        (["--within", "0h"], 2, "--within must be a time above 0, got '0h'"),
        (["--within", "-3"], 2, "--within must be a time above 0, got '-3'"),
        (["--members", "0"], 2, "--members must be at least 1, got 0; leave it out"),
        (["--cpus", "0"], 2, "--cpus must be at least 1, got 0; leave it out"),
        (["--gpus", "0"], 2, "--gpus must be at least 1, got 0; leave it out"),
        (["--gpus", "4"], 2, "--gpus needs a GPU here to measure on, got none; leave it out"),
        (["--set", "resources.cpus=64", "--cpus", "8"], 2, "cpus of a trial must be at most 8, got 64; lower it"),
        (["--scale", "paper"], 2, "scale 'paper' needs real images"),
        (["--task", "brian"], 2, "did you mean 'brain'"),
        (["--data", "no/such/folder"], 4, "the data must be a folder"),
    ],
)
def test_a_wrong_request_is_one_line_with_its_exit_code(capsys, here, jobs, argv, code, message):
    argv = [f"{argv[0]}={argv[1]}"] if argv[1].startswith("-") else argv
    got, out, err = run(capsys, "plan", *argv)
    lines = [line for line in err.splitlines() if line.startswith("segcal: ")]
    assert (got, out, len(lines)) == (code, "", 1)
    assert message in lines[0]
    assert jobs == []
    assert list(here.iterdir()) == []


def test_a_store_that_does_not_answer_exits_5(capsys, here, jobs, blobs, tiny_files, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    code, _, err = run(capsys, "plan", tiny_files[1], "--data", blobs)
    assert code == 5
    assert "the tracking store must answer" in err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("24h", 86400), ("90m", 5400), ("30s", 30), ("2d", 172800), ("1.5", 5400), (".5 h", 1800), ("36", 129600)],
)
def test_times_in_words(text, seconds):
    assert within_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "1w", "1h30", "nan", "inf", "1e999", "9" * 400])
def test_what_is_no_time(text):
    with pytest.raises(UsageError, match="--within must be a time above 0"):
        within_seconds(text)


def test_members_are_the_plans_own_seeds_first(tiny_files):
    plan = load_plan(tiny_files[1], settings=["seeds=[7, 1]"])
    assert with_members(plan, 1).seeds["ce"] == (7,)
    assert with_members(plan, 4).seeds["ce"] == (7, 1, 0, 2)


def test_interrupted_it_exits_130_and_leaves_no_process(here, blobs, tiny_files):
    command = [sys.executable, "-m", "segcal", "plan", tiny_files[1], "--data", blobs]
    child = subprocess.Popen([str(word) for word in command], stderr=subprocess.PIPE, text=True, start_new_session=True)
    for line in child.stderr:
        if line.startswith("timing ce"):
            break
    time.sleep(0.3)
    os.killpg(child.pid, signal.SIGINT)  # as a terminal does: to the whole group
    rest = child.stderr.read()
    assert child.wait(timeout=30) == 130
    assert rest.splitlines()[-1] == "segcal: interrupted; the same command goes on where it stopped"
    assert "Traceback" not in rest
    assert alone(child.pid)


def alone(group):
    """Whether no process of the group is left, within some seconds."""
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False
