from dataclasses import replace
from functools import partial

import pytest
import torch

from segcal.errors import BadData
from segcal.journal.checkpoint import state_files
from segcal.journal.lease import Lease
from segcal.journal.reading import look, trial_storage
from segcal.journal.record import read_record
from segcal.journal.storage import Storage
from segcal.ledger.read import models
from segcal.ledger.store import open_store
from segcal.sweep.run_trial import Assignment, OutOfGpuMemory, larger_share, run_trial, train, trial_device
from segcal.sweep.stopping import Pruned, Stopped, ask_to_stop


@pytest.fixture
def assign(tmp_path, trained, tiny_task, cohort):
    def make(**changes):
        config = replace(trained[1][0], **changes)
        return Assignment(config, tiny_task, Storage(str(tmp_path / "calib")), "test", cohort.folder)

    return make


def record_of(assignment):
    return read_record(trial_storage(assignment.storage, assignment.config.key))


def log_of(assignment):
    return trial_storage(assignment.storage, assignment.config.key).read("log.txt").decode()


def facts(record):
    return record.epoch, record.train_loss, record.val_dice, record.lr


def test_the_same_trial_ends_in_the_same_weights_and_another_seed_does_not(trained, assign):
    same, other = assign(), assign(seed=11)
    run_trial(same)
    run_trial(other)
    first = models(open_store(trained[0]), "tiny")[0].weights_sha256
    assert record_of(same).weights_sha256 == first
    assert record_of(other).weights_sha256 != first


def test_every_epoch_is_reported_and_on_record(assign):
    records, assignment = [], assign(epochs=2)
    run_trial(assignment, records.append)
    assert [record.epoch for record in records] == [1, 2]
    progress = look(trial_storage(assignment.storage, assignment.config.key))
    assert [facts(line.record) for line in progress.lines] == [facts(record) for record in records]
    assert progress.record.state == "finished"
    assert progress.record.val_dice == max(record.val_dice for record in records)
    assert progress.record.software["device"].startswith("cpu")


def test_a_diverging_trial_fails_with_its_reason(assign):
    assignment = assign(lr=1e30)
    with pytest.raises(FloatingPointError, match="must stay finite"):
        run_trial(assignment)
    record = record_of(assignment)
    assert record.state == "failed"
    assert record.error.startswith("FloatingPointError: the training loss must stay finite, got nan")
    assert "Traceback" in log_of(assignment)


@pytest.mark.parametrize("changes", [{}, {"dropout": 0.5, "mc_samples": 2, "lr_patience": 1}])
def test_an_interrupted_trial_is_stopped_and_goes_on_as_if_it_had_not_been(assign, tmp_path, changes):
    whole, undisturbed = [], replace(assign(**changes), storage=Storage(str(tmp_path / "undisturbed")))
    run_trial(undisturbed, whole.append)

    def interrupt(record):
        if record.epoch == 2:
            raise KeyboardInterrupt

    assignment = assign(**changes)
    with pytest.raises(KeyboardInterrupt):
        run_trial(assignment, interrupt)
    trial = trial_storage(assignment.storage, assignment.config.key)
    progress = look(trial)
    assert (progress.record.state, [line.epoch for line in progress.lines]) == ("stopped", [1, 2])
    assert [file.epoch for file in state_files(trial.names())] == [2]
    again = []
    run_trial(assignment, again.append)
    assert [facts(record) for record in again] == [facts(record) for record in whole]
    record = record_of(assignment)
    assert (record.state, record.attempts) == ("finished", 2)
    assert record.weights_sha256 == record_of(undisturbed).weights_sha256


def test_a_trial_stops_where_the_driver_asks_it_to(assign, monkeypatch):
    monkeypatch.setattr("segcal.sweep.stopping.LOCAL_S", 0.0)
    assignment = assign()
    lease = Lease.take(assignment.storage, print)
    held = replace(assignment, lease=lease.token)
    ask = partial(ask_to_stop, assignment.storage, lease.token)
    with pytest.raises(Stopped, match="the sweep was stopped"):
        run_trial(held, lambda record: ask())
    assert record_of(assignment).state == "stopped"
    assert record_of(assignment).epochs >= 1
    lease.release()


def test_a_pruned_trial_is_on_record_as_such_and_can_go_on(assign):
    assignment = assign()
    training = train(assignment)
    next(training)
    with pytest.raises(Pruned):
        training.throw(Pruned)
    assert (record_of(assignment).state, record_of(assignment).epochs) == ("pruned", 1)
    assert [record.epoch for record in train(assignment)] == [1, 2, 3]
    assert record_of(assignment).state == "finished"


def test_a_trial_of_a_driver_that_is_none_any_more_does_not_begin(assign):
    assignment = assign()
    assignment.storage.write("plans", b"something")
    with pytest.raises(Stopped, match="the sweep has another driver"):
        run_trial(replace(assignment, lease="another"))
    assert record_of(assignment) is None


def test_a_machine_that_does_not_see_the_records_says_so(assign):
    with pytest.raises(BadData, match="the sweep's records must be seen by every machine that trains, got nothing in"):
        run_trial(replace(assign(), lease="another"))


OUT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("CUDA error: out of memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize(
    ("share", "again", "reason"),
    [
        (0.25, 0.5, "out of GPU memory with a share of 0.25; again with 0.5"),
        (0.6, 1.0, "out of GPU memory with a share of 0.6; again with 1"),
        (1.0, 0.0, "a trial must fit into the memory of a whole GPU, got more with batch 4; lower `batch`"),
    ],
)
def test_a_trial_without_enough_gpu_memory_says_what_share_comes_next(assign, monkeypatch, share, again, reason, error):
    def starve(*arguments, **options):
        raise error

    monkeypatch.setattr("segcal.sweep.run_trial.fit", starve)
    assignment = replace(assign(), gpus=share)
    with pytest.raises(OutOfGpuMemory) as caught:
        run_trial(assignment)
    assert (str(caught.value), caught.value.again) == (reason, again)
    record = record_of(assignment)
    assert (record.state, record.error) == ("failed", reason)
    assert record.tags == ({"again_with_gpus": f"{again:g}"} if again else {})


def test_a_process_takes_its_share_of_a_gpu(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", taken.append)
    assert trial_device(0.25) == torch.device("cpu")  # there is none
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    for share in (0.25, 1.0, 2.0):
        assert trial_device(share) == torch.device("cuda", 0)
    assert taken == [0.25 * 0.95, 1.0, 1.0]
    assert [larger_share(share) for share in (0.0, 0.25, 0.6, 1.0)] == [0.0, 0.5, 1.0, 1.0]


def test_a_dropout_network_may_choose_its_checkpoint_by_monte_carlo(assign):
    """Both train alike, mask by mask: only the validation differs."""
    records = {}
    for mc_validation in (False, True):
        config = {"dropout": 0.5, "mc_samples": 4, "mc_validation": mc_validation}
        records[mc_validation] = []
        run_trial(assign(**config), records[mc_validation].append)
    plain, sampled = records[False], records[True]
    assert [record.train_loss for record in plain] == [record.train_loss for record in sampled]
    assert [record.val_dice for record in plain] != [record.val_dice for record in sampled]
