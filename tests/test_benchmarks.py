"""Benchmarks are not timed here: their table, their way to take turns, and what they may import."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import VERBS
from benchmarks.machine import Machine
from benchmarks.processes import Way, opened
from benchmarks.steps import BATCHES, stepper
from benchmarks.table import Row, save, show
from benchmarks.timing import interleaved

PROJECT = Path(__file__).parents[1]
CORE = [min(os.sched_getaffinity(0))]
MISSING = (
    "mlflow", "ray", "pydantic", "yaml", "nibabel", "SimpleITK", "pandas", "matplotlib", "nilearn", "safetensors",
    "pydicom", "optuna",
)  # fmt: skip
BARE = sorted({"train", "infer", "mc_dropout", "grid", "bootstrap"} & VERBS.keys())

MACHINE = Machine("A CPU (R)", 2, 16.04, copy_gb_per_s=20.5, gemm_gflop_per_s={"fp32": 65.2, "bf16": 138.0})
ROWS = [
    Row("train", 0.5, plain_seconds=1.75, limit_seconds=0.123456, goal="3x", note="in bf16"),
    Row("  alone", 12.34567),
]

WITHOUT = """
import importlib, sys

missing = set(sys.argv[2:])

class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Bare())
for name in missing:
    try:
        importlib.import_module(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} could be imported")
importlib.import_module(sys.argv[1]).measure
"""


@pytest.mark.parametrize("verb", BARE)
def test_bare_metal_needs_none_of_the_rest(verb):
    command = [sys.executable, "-c", WITHOUT, f"benchmarks.{verb}", *MISSING]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("way", ["plain", "plain malloc", "fp32", "bf16"])
def test_every_way_to_train_makes_steps(way):
    step = stepper(way, "prostate", 1)
    for _ in range(BATCHES + 1):  # past the end of an epoch
        step()


def test_a_way_answers_from_its_own_process():
    with opened(["fp32"], "benchmarks.steps:stepper", {"task": "prostate", "batch": 1}, CORE) as ways:
        assert ways["fp32"](2) > 0


def test_a_way_that_cannot_start_says_so():
    with pytest.raises(SystemExit, match="the process of 'fp32' must say ready, ended with 1"):
        Way("fp32", "benchmarks.steps:nothing", {}, CORE)


def test_every_verb_is_a_module():
    assert {"grid", "bootstrap"} <= set(BARE)
    for verb in VERBS:
        assert (PROJECT / "benchmarks" / f"{verb}.py").is_file(), verb


def test_ways_take_turns_and_the_first_round_is_not_counted():
    now, order = [0.0], []
    durations = {"a": iter([100.0, 1.0, 5.0, 3.0]), "b": iter([0.0, 2.0, 2.0, 70.0])}

    def way(name):
        def call():
            order.append(name)
            now[0] += next(durations[name])

        return call

    seconds = interleaved({"a": way("a"), "b": way("b")}, rounds=3, clock=lambda: now[0])
    assert order == ["a", "b"] * 4
    assert seconds == {"a": 3.0, "b": 2.0}


def test_ratio_is_how_many_times_faster():
    assert [row.ratio for row in ROWS] == [3.5, None]
    assert Row("slower", 4.0, plain_seconds=1.0).ratio == 0.25


def test_table_shows_the_numbers():
    title, head, train, alone = show(MACHINE, ROWS).splitlines()
    assert title == "A CPU (R), 2 cores, 16 GB; a core copies 20.5 GB/s, GEMM GFLOP/s: fp32 65, bf16 138"
    assert head.split() == ["seconds", "plain", "ratio", "limit", "goal"]
    assert train.split() == ["train", "0.50", "1.75", "3.50", "0.12", "3x", "in", "bf16"]
    assert alone.startswith("  alone")
    assert alone.split() == ["alone", "12.35", "-", "-", "-"]


def test_file_of_a_machine_keeps_other_verbs_and_the_latest_run_of_each(tmp_path):
    folder = tmp_path / "results"
    path = save(folder, "train", MACHINE, ROWS)
    assert path == folder / "a-cpu-r-2-cores.json"
    save(folder, "grid", MACHINE, [Row("old", 1.0), Row("older", 2.0)])
    assert save(folder, "grid", MACHINE, [Row("new", 1.00004)]) == path
    known = json.loads(path.read_text())
    assert known.keys() == {"machine", "train", "grid"}
    assert known["machine"]["gemm_gflop_per_s"] == {"fp32": 65.2, "bf16": 138.0}
    assert [row["what"] for row in known["grid"]["rows"]] == ["new"]
    assert known["grid"]["rows"][0]["seconds"] == 1.0
    first, second = known["train"]["rows"]
    assert first == {
        "what": "train", "seconds": 0.5, "plain_seconds": 1.75, "limit_seconds": 0.1235, "goal": "3x", "note": "in bf16"
    }  # fmt: skip
    assert (second["seconds"], second["plain_seconds"]) == (12.3457, None)


def test_a_gpu_has_a_file_of_its_own(tmp_path):
    with_gpu = Machine("A CPU", 16, 128.0, 2000.0, {"fp32": 50_000.0}, gpu="Some GPU, 80GB")
    assert save(tmp_path, "grid", with_gpu, ROWS).name == "some-gpu-80gb.json"
    assert show(with_gpu, []).startswith("Some GPU, 80GB; GPU copies 2000.0 GB/s, GEMM GFLOP/s: fp32 50000\n")


def test_the_part_for_a_gpu_runs_through_with_a_recording_in_the_place_of_the_graph(monkeypatch):
    """No GPU, no compiler: what is left is every other line."""
    from benchmarks import steps, train_gpu

    def recorded(net, optimiser, step, batch):
        return step, "captured"

    def once(ways):
        for way in ways.values():
            way()
        return {name: 2.0 + position for position, name in enumerate(ways)}

    monkeypatch.setattr(steps, "captured", recorded)
    monkeypatch.setattr(train_gpu, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(train_gpu, "BATCH", 1)
    monkeypatch.setattr(train_gpu, "STEPS", 1)
    monkeypatch.setattr(train_gpu, "TRIALS", (1, 2))
    monkeypatch.setattr(train_gpu, "interleaved", once)
    monkeypatch.setattr(train_gpu, "describe", lambda: MACHINE)
    monkeypatch.setattr(train_gpu, "_processes", lambda count: 1 / count)
    monkeypatch.setattr(torch, "compile", lambda **options: lambda function: function)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
    rows = train_gpu.measure()
    assert [row.what.rpartition(", ")[2] for row in rows[:-1]] == [
        "fp32", "bf16", "captured", "compiled", "compiled and captured", "1 trials share the GPU",
        "2 trials share the GPU", "2 trials on streams of one process",
    ]  # fmt: skip
    assert [row.plain_seconds for row in rows[:-1]] == [2.0] * 8
    study = rows[-1]  # the best: half a second a slice; plain two
    assert study.seconds == pytest.approx(1290 * 5000 * 150 * 0.5 / 3600)
    assert study.ratio == pytest.approx(4)
