"""The probe for real, on a tiny network: what it returns and leaves behind, never how long it took."""

import math
import multiprocessing
import threading
from dataclasses import astuple, replace

import pytest
import torch

from segcal.errors import SegcalError
from segcal.sweep import probe as module
from segcal.sweep.estimate import Speed
from segcal.sweep.probe import Measured, ProbeJob, probe, side_by_side

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def config(trained):
    return trained[1][0]


def test_every_speed_is_measured_by_both_clocks(config, cohort):
    measured = probe(config, cohort, CPU, seconds=0.02)
    numbers = [*astuple(measured.clock), *astuple(measured.processor), measured.clock_s, measured.processor_s]
    assert len(numbers) == 8
    assert all(math.isfinite(number) and number > 0 for number in numbers)


def test_it_trains_as_a_trial_does_and_ends(config, cohort, monkeypatch):
    """A learning rate that would end a trial costs the probe nothing; early stopping and few epochs do not end it."""
    given = []

    def fit(config, dataset, validate, device):
        given.append((config, len(dataset)))
        yield from real(config, dataset, validate, device)

    real = module.fit
    monkeypatch.setattr(module, "fit", fit)
    wild = replace(config, lr=1e30, epochs=1, patience=1)
    probe(wild, cohort, CPU, seconds=0.02)
    ((used, count),) = given
    assert count == len([1 for case in cohort.cases("train") for _ in case.truth])  # 12: fewer than 4 batches of 4
    assert replace(used, lr=wild.lr, epochs=1, patience=1) == wild


def test_monte_carlo_samples_are_scaled_up(config, cohort, monkeypatch):
    asked = []
    real = module.sampling
    monkeypatch.setattr(module, "sampling", lambda few, *names: asked.append(few.mc_samples) or real(few, *names))
    sampled = replace(config, dropout=0.5, mc_samples=50, mc_validation=True)
    probe(sampled, cohort, CPU, seconds=0.01)
    assert set(asked) == {10}


def test_volumes(config, cohort):
    volumes = replace(config, dims=3, batch=1, kernels=(4, 4, 8, 8), dropout=0.5, mc_samples=2)
    assert probe(volumes, cohort, CPU, seconds=0.01).clock.train_s > 0


def test_some_slices_of_some_cases(cohort):
    cases = cohort.cases("train")  # three of four slices
    assert [len(case.truth) for case in module._some(cases, 6, 2)] == [4, 2]
    assert [case.image.shape[1] for case in module._some(cases, 6, 2)] == [4, 2]
    assert len(module._some(cases, 2, 3)) == 2
    assert len(module._some(cases, 99, 2)) == 3


def test_processes_measure_side_by_side_and_none_is_left(config, cohort):
    said = []
    dice = replace(config, label="dice", loss="soft_dice")
    job = ProbeJob(cohort.folder, threads=1, at_once=2, seconds=0.02, niceness=0)
    found = side_by_side([config, replace(config, label="again", lr=0.1), dice], job, said.append)
    assert said == [f"timing {config.label}", "timing dice"]  # a learning rate costs no time
    assert found.speeds[0] == found.speeds[1] != found.speeds[2]
    assert 0 <= found.waited < 1
    assert multiprocessing.active_children() == []


def test_a_step_that_fails_is_a_line_and_the_process_goes_on(config, cohort, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    here, there = multiprocessing.Pipe()
    job = ProbeJob(cohort.folder, threads=1, at_once=1, seconds=0.01, niceness=0)
    threads = torch.get_num_threads()
    server = threading.Thread(target=module._serve, args=(there, job, ""))
    server.start()
    broken = replace(config, label="broken", kernels=(4, 4) * 8)  # 32 voxels cannot be halved so often
    with pytest.raises(SegcalError, match="the probe of recipe broken must train for a few steps, got ValueError: "):
        module._ask([here], broken)
    (answer,) = module._ask([here], config)
    assert answer.clock.train_s > 0
    here.close()
    server.join(timeout=30)
    assert not server.is_alive()
    torch.set_num_threads(threads)


class Pipe:
    def __init__(self, *answers, end=EOFError):
        self.answers, self.end = list(answers), end

    def send(self, config):
        pass

    def recv(self):
        if not self.answers:
            raise self.end
        return self.answers.pop(0)


@pytest.fixture
def pretend(monkeypatch):
    def pretend(*pipes):
        monkeypatch.setattr(module, "_processes", lambda job: module.contextmanager(lambda: (yield pipes))())

    return pretend


def measured(train_s, clock_s=4.0, processor_s=2.0):
    return Measured(Speed(2 * train_s, 1.0, 1.0), Speed(train_s, 0.5, 0.5), clock_s, processor_s)


def test_a_shared_machine_slows_every_recipe_alike(config, cohort, pretend):
    """By hand: 12 s on the clock for 6 of the processor; a spike that hits one recipe is shared by both."""
    pretend(Pipe(measured(0.1, clock_s=9.0, processor_s=3.0), measured(0.3, clock_s=3.0, processor_s=3.0)))
    other = replace(config, label="other", batch=2)
    found = side_by_side([config, other], ProbeJob(cohort.folder, 1, 1), lambda line: None)
    assert [speed.train_s for speed in found.speeds] == pytest.approx([0.2, 0.6])
    assert found.waited == pytest.approx(0.5)


def test_processes_are_averaged_and_threads_go_by_the_clock(config, cohort, pretend):
    pretend(Pipe(measured(0.1)), Pipe(measured(0.3)))
    found = side_by_side([config], ProbeJob(cohort.folder, threads=4, at_once=2), lambda line: None)
    assert found.speeds[0].train_s == pytest.approx(0.4)
    assert found.waited == 0


@pytest.mark.parametrize("end", [EOFError, ConnectionResetError, BrokenPipeError])
def test_a_process_that_dies_is_a_line(config, cohort, pretend, end):
    pretend(Pipe(end=end))
    with pytest.raises(SegcalError, match="the probe of recipe ce must end, got a process that died; run fewer"):
        side_by_side([config], ProbeJob(cohort.folder, 1, 1), lambda line: None)


def test_each_process_sees_its_share_of_the_gpus(cohort, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    job = ProbeJob(cohort.folder, 1, at_once=6, gpus=2)
    assert [module._visible(index, job) for index in range(6)] == ["0", "0", "0", "1", "1", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert module._visible(5, job) == "5"
    assert module._visible(0, replace(job, gpus=0)) == ""
