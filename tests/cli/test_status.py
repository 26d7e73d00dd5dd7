"""`segcal status`, as a user meets it."""

import json
import os
import time
from dataclasses import replace

import pytest

import segcal.cli.status
from segcal.cli import main
from segcal.cli.status import status_lines
from segcal.journal.lease import Lease
from segcal.journal.planned import Planned, PlannedTrial, write_plan
from segcal.journal.reading import trial_storage
from segcal.journal.record import read_record, write_record
from segcal.journal.storage import Storage
from segcal.journal.trial import TrialJournal
from segcal.records import EpochRecord
from segcal.sweep.course import Course
from segcal.sweep.status import find_status


def run(capsys, *argv):
    code = main(["status", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def begin(sweep, label, seed, epochs=0):
    journal = TrialJournal(trial_storage(sweep, f"{label}{seed}"))
    journal.begin(f"{label}{seed}", {"label": label, "seed": seed}, {}, "1.0", {})
    for number in range(1, epochs + 1):
        journal.epoch(EpochRecord(number, 0.5, 0.75, (0.75,), 0.005, 2.0, {}, "plain", dict))
        journal.commit()
    return journal


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """A recipe of three seeds beside a tracking store that is away: one finished, one failed, one that runs."""
    monkeypatch.chdir(tmp_path)
    sweep = Storage(str(tmp_path / "mlflow-trials" / "calib"))
    trials = tuple(PlannedTrial(f"ce{seed}", "ce", seed, 10) for seed in range(3))
    write_plan(sweep, Planned("tiny", "blobs", "d", trials))
    begin(sweep, "ce", 0, 3).finish()
    finished = trial_storage(sweep, "ce0")
    record = read_record(finished)
    write_record(finished, replace(record, ended_ms=record.started_ms + 6000))  # 2 s an epoch
    begin(sweep, "ce", 1, 1).end("failed", "ValueError: no\nTraceback")
    failed = trial_storage(sweep, "ce1")
    write_record(failed, replace(read_record(failed), ended_ms=1_700_000_000_000))
    begin(sweep, "ce", 2, 1)
    return sweep


FAILED_AT = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(1_700_000_000))


def test_what_people_read_where_nobody_trains(capsys, sweep):
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    assert out == (
        f"experiment 'calib': 1 of 3 trials done; records in {sweep.uri}\n"
        "nobody drives it: call the same `segcal sweep` again to go on\n"
        "\n"
        "recipe  planned  done  running  failed  stopped  to do  best Dice\n"
        "ce            3     1        0       1        1      0      0.750\n"
        "\n"
        "last errors\n"
        f"{FAILED_AT}  ce seed 1: ValueError: no\n"
    )
    assert not os.path.exists("mlflow.db")


def test_what_people_read_while_it_runs(capsys, sweep):
    lease = Lease.take(sweep, print)
    try:
        begin(sweep, "ce", 2, 1)
        capsys.readouterr()
        out = run(capsys)[1].splitlines()
    finally:
        lease.release()
    assert out[1].startswith(f"driven by process {os.getpid()} of ")
    assert out[4].split() == ["ce", "3", "1", "1", "1", "0", "0", "0.750"]
    assert out[6:8] == ["running    epoch   last  best Dice  s/epoch", "ce seed 2   1/10  0.750      0.750        2"]
    assert out[9:] == [
        "throughput   0.5 epochs/s",
        "ETA          0:00:10",  # 2 more, as ce 0 took 3, and 3 for ce 1, which failed before this call
        "",
        "last errors",
        f"{FAILED_AT}  ce seed 1: ValueError: no",
    ]


def test_a_complete_sweep_says_what_is_next(capsys, sweep):
    for seed in (1, 2):
        begin(sweep, "ce", seed, 1).finish()
    out = run(capsys)[1].splitlines()
    assert out[:2] == [
        f"experiment 'calib': 3 of 3 trials done; records in {sweep.uri}",
        "complete; next: segcal report --experiment calib",
    ]
    assert len(out) == 5


def test_many_are_counted_not_listed(sweep):
    found = find_status("sqlite:///mlflow.db", "calib")
    many = tuple(Course(f"ce seed {seed}", "ce", 10, "running") for seed in range(14))
    lines = status_lines(replace(found, running=many, kept=tuple("abcdefgh"), damaged=("k1", "k2"), errors=()))
    assert lines[6:9] == [
        "running     epoch  last  best Dice  s/epoch",
        "ce seed 0    0/10     -          -        -",
        "ce seed 1    0/10     -          -        -",
    ]
    assert lines[18:] == [
        "ce seed 11   0/10     -          -        -",
        "and 2 more",
        "",
        "throughput   not measured yet",
        "ETA          unknown",
        "",
        "8 trials are kept that the newest plan no longer asks for: a, b, c, d, e, f and 2 more",
        "",
        "2 records are damaged; the next sweep trains these trials again: k1, k2",
    ]


def test_machines_read_json(capsys, sweep):
    code, out, _ = run(capsys, "--json")
    found = json.loads(out)
    assert (code, found["experiment"], found["driver"], found["eta_s"]) == (0, "calib", None, None)
    assert found["recipes"] == [
        {"label": "ce", "planned": 3, "done": 1, "running": 0, "failed": 1, "stopped": 1, "to_do": 0, "best_dice": 0.75}
    ]
    assert found["errors"] == [
        {"trial": "ce seed 1", "time_ms": 1_700_000_000_000, "error": "ValueError: no\nTraceback"}
    ]


@pytest.fixture
def looks(monkeypatch):
    """What happens between looks, and then Ctrl-C."""
    between = []

    def sleep(seconds):
        assert seconds == 2.0
        if not between:
            raise KeyboardInterrupt
        between.pop(0)()

    monkeypatch.setattr(segcal.cli.status.time, "sleep", sleep)
    return between


def test_watching_prints_what_is_new_until_it_is_interrupted(capsys, sweep, looks):
    looks += [lambda: None, lambda: begin(sweep, "ce", 2, 1).finish(), lambda: None]
    code, out, err = run(capsys, "--watch")
    assert (code, err) == (0, "")
    first, second = out.split("\n\nexperiment")
    assert "1 of 3 trials done" in first
    assert "2 of 3 trials done" in second


def test_watching_gives_machines_a_line_a_look(capsys, sweep, looks):
    looks += [lambda: begin(sweep, "ce", 2, 1).finish(), lambda: None]
    code, out, _ = run(capsys, "--watch", "--json")
    assert code == 0
    assert [json.loads(line)["total"]["done"] for line in out.splitlines()] == [1, 2]


def test_on_a_terminal_the_text_is_drawn_in_place(capsys, sweep, looks, monkeypatch):
    monkeypatch.setattr(segcal.cli.status.sys.stdout, "isatty", lambda: True, raising=False)
    for name in ("TERM", "COLUMNS", "LINES"):
        monkeypatch.setenv(name, {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}[name])
    looks += [lambda: begin(sweep, "ce", 2, 1).finish()]
    code, out, _ = run(capsys, "--watch")
    first, _, second = out.partition("\x1b[2K")
    assert code == 0
    assert "1 of 3 trials done" in first
    assert "2 of 3 trials done" in second


def test_the_records_can_be_elsewhere(capsys, sweep, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "mlflow-trials" / "calib")
    assert run(capsys)[0] == 2
    assert run(capsys, "--storage", "..")[0] == 0
    monkeypatch.setenv("SEGCAL_STORAGE", str(tmp_path / "mlflow-trials"))
    assert run(capsys)[0] == 0


def test_an_unknown_experiment_is_a_wrong_request(capsys, sweep):
    code, out, err = run(capsys, "--experiment", "calip")
    assert (code, out) == (2, "")
    assert err.startswith("segcal: no experiment named 'calip' has records in ")
    assert "did you mean 'calib'? known: calib; call `segcal sweep`, or name its --storage" in err
