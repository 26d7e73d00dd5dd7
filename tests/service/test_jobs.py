import json
import pickle
import threading
import time

import pytest

from segcal.analysis.request import Request, resolve
from segcal.analysis.word import me, progress_of
from segcal.data.faults import MissingChannel
from segcal.errors import SegcalError, StoreUnreachable
from segcal.ledger.report_run import ReportRun, begin_report, end_report, find_reports, tell_report
from segcal.ledger.store import open_store
from segcal.service import jobs as module
from segcal.service.errors import Refusal
from segcal.service.holding import Holding
from segcal.service.jobs import Jobs, request_of, state_of
from segcal.service.recent import Recent
from segcal.service.work import _worker
from tests.service.conftest import quiet


class FakeTask:
    """Ends its run when it is let go."""

    def __init__(self, cluster, run_id):
        self.cluster, self.run_id = cluster, run_id
        self.over, self.cancelled = threading.Event(), []

    def wait(self, seconds):
        if self.cluster.quick:
            self.finish()
        return self.over.wait(min(seconds, 0.05))

    def finish(self, status="FINISHED"):
        if not self.over.is_set():
            end_report(self.cluster.client, self.run_id, status)
            self.over.set()

    def result(self):
        if self.cluster.fails:
            raise self.cluster.fails

    def cancel(self, force):
        self.cancelled.append(force)
        if force or not self.cluster.stubborn:
            self.over.set()


class FakeCluster:
    """Computes nothing."""

    def __init__(self, client, quick=True):
        self.client, self.quick, self.stubborn, self.fails = client, quick, False, None
        self.tasks, self.closed = [], False

    def analyse(self, uri, resolved, run_id, holder, url):
        self.tasks.append(FakeTask(self, run_id))
        return self.tasks[-1]

    def close(self):
        self.closed = True


class Bench:
    """Services over one store, with a fake cluster each."""

    def __init__(self, settings):
        self.settings, self.client = settings, open_store(settings.tracking_uri)
        self.open, self.told = [], []
        self.before = {run.run_id for run in find_reports(self.client)}

    def service(self, quick=True, start=True):
        made = Jobs(self.settings, self.client, lambda name, state: self.told.append(state), quiet)
        made.cluster = FakeCluster(self.client, quick)
        if start:
            made.start()
        self.open.append(made)
        return made

    def runs(self, status=None):
        found = [run for run in find_reports(self.client) if run.run_id not in self.before]
        return [run for run in found if status is None or run.status == status]

    def close(self):
        for made in self.open:
            made.close()
        for run in self.runs():
            self.client.delete_run(run.run_id)


@pytest.fixture
def bench(settings, monkeypatch):
    monkeypatch.setattr(module, "BEAT_S", 0.3)
    monkeypatch.setattr(module, "GRACE_S", 1.0)
    made = Bench(settings)
    yield made
    made.close()


def until(condition, seconds=20.0):
    """Wait for it."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def ask(number):
    """A question that nobody asked before."""
    return Request("tiny", n_resamples=1000 + number)


def test_an_analysis_is_computed_and_known_afterwards(bench):
    service = bench.service()
    first = service.submit(ask(1))
    until(lambda: bench.runs("FINISHED"))
    until(lambda: service.find(first.analysis_id).status == "FINISHED")
    assert service.submit(ask(1)).run_id == first.run_id
    assert len(bench.runs()) == 1
    assert bench.told == ["queued", "running", "finished"]
    (run,) = bench.runs()
    assert request_of(run) == ask(1)


def test_the_same_question_at_the_same_moment_is_computed_once(bench):
    service = bench.service(start=False)
    found, barrier = [], threading.Barrier(8)

    def post():
        barrier.wait()
        found.append(service.submit(ask(2)).run_id)

    threads = [threading.Thread(target=post) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert len(found) == 8
    assert len(set(found)) == 1
    assert len(bench.runs()) == 1


def test_two_services_that_are_asked_the_same_agree_on_one(bench, monkeypatch):
    one, two = bench.service(start=False), bench.service(start=False)
    kept, run = one._known, resolve(bench.client, ask(3))
    first = one.submit(ask(3))
    monkeypatch.setattr(two, "_known", lambda name: None)  # asked before the first one's run was there
    second = two.submit(ask(3))
    assert second.run_id == first.run_id
    assert {run.status for run in bench.runs()} == {"RUNNING", "KILLED"}
    assert kept(run.id).run_id == first.run_id


def test_one_at_a_time_the_others_wait_in_their_order(bench):
    service = bench.service(quick=False)
    runs = [service.submit(ask(number)) for number in (4, 5, 6)]
    until(lambda: service.cluster.tasks)
    until(lambda: service.place(runs[0].run_id) is None)
    assert [service.place(run.run_id) for run in runs] == [None, 0, 1]
    assert len(service.cluster.tasks) == 1
    service.cluster.tasks[0].finish()
    until(lambda: len(service.cluster.tasks) == 2)
    assert [service.place(run.run_id) for run in runs] == [None, None, 0]
    assert service.cluster.tasks[1].run_id == runs[1].run_id


def test_what_waits_is_cancelled_at_once_and_twice_is_the_same(bench):
    service = bench.service(start=False)
    run = service.submit(ask(7))
    assert state_of(service.cancel(run.analysis_id)) == "cancelled"
    assert state_of(service.cancel(run.analysis_id)) == "cancelled"
    assert [found.status for found in bench.runs()] == ["KILLED"]
    again = service.submit(ask(7))  # a new question after that
    assert again.run_id != run.run_id
    assert again.status == "RUNNING"


@pytest.mark.parametrize("stubborn", [False, True])
def test_what_is_computed_is_interrupted_and_killed_if_it_does_not_stop(bench, stubborn):
    service = bench.service(quick=False)
    service.cluster.stubborn = stubborn
    run = service.submit(ask(8))
    until(lambda: service.cluster.tasks)
    service.cancel(run.analysis_id)
    until(lambda: bench.runs("KILLED"))
    assert service.cluster.tasks[0].cancelled == ([False, True] if stubborn else [False])
    until(lambda: bench.told[-1:] == ["cancelled"])


def test_what_ends_while_the_list_is_read_is_not_taken_up_again(bench, monkeypatch):
    service = bench.service(start=False)
    run, read = service.submit(ask(20)), module.find_reports

    def ended_meanwhile(client, **filters):
        found = read(client, **filters)
        if "statuses" in filters:
            service._end(service._mine[run.run_id], "FINISHED")
        return found

    monkeypatch.setattr(module, "find_reports", ended_meanwhile)
    service._take_over()
    assert bench.told == ["queued", "finished"]
    assert service.place(run.run_id) is None


def test_what_is_finished_is_not_cancelled(bench):
    service = bench.service(start=False)
    run = service.submit(ask(9))
    end_report(bench.client, run.run_id, "FINISHED")
    with pytest.raises(Refusal, match="finished") as refused:
        service.cancel(run.analysis_id)
    assert refused.value.status == 409


def test_a_failure_says_why_and_may_be_asked_again(bench):
    service = bench.service(quick=False)
    service.cluster.fails = SegcalError("its process must live to the end, got one that died")
    run = service.submit(ask(10))
    until(lambda: service.cluster.tasks)
    service.cluster.tasks[0].over.set()
    until(lambda: bench.runs("FAILED"))
    assert "got one that died" in bench.runs("FAILED")[0].error
    service.cluster.fails = None
    until(lambda: service.find(run.analysis_id).status == "FAILED")
    assert service.submit(ask(10)).run_id != run.run_id


def test_a_service_that_stops_leaves_its_work_to_the_next(bench):
    one = bench.service(quick=False)
    runs = [one.submit(ask(number)) for number in (11, 12)]
    until(lambda: one.cluster.tasks)
    one.close()
    assert one.cluster.tasks[0].cancelled == [True]
    assert [run.status for run in bench.runs()] == ["RUNNING", "RUNNING"]
    two = bench.service()
    until(lambda: len(bench.runs("FINISHED")) == 2)
    assert [task.run_id for task in two.cluster.tasks] == [run.run_id for run in runs]
    assert len(bench.runs()) == 2


def test_what_a_dead_process_left_is_finished(bench):
    holder = json.dumps(json.loads(me()) | {"pid": 1, "born": "0"})
    resolved = resolve(bench.client, ask(13))
    run_id = begin_report(bench.client, "tiny", "report tiny", resolved.id, {"n_resamples": 1013}, holder)
    bench.service()
    until(lambda: bench.runs("FINISHED"))
    assert [run.run_id for run in bench.runs()] == [run_id]


def test_what_a_living_service_computes_is_left_alone(bench):
    one = bench.service(quick=False)
    one.submit(ask(14))
    until(lambda: one.cluster.tasks)
    two = bench.service()
    time.sleep(1.5)
    assert two.cluster.tasks == []


def test_a_question_whose_models_have_changed_is_asked_again(bench):
    one = bench.service(start=False)
    run_id = begin_report(bench.client, "tiny", "report tiny", "3" * 32, {"n_resamples": 1015}, "")
    tell_report(bench.client, run_id, progress_of("", "queued"))
    one.start()
    until(lambda: bench.runs("FINISHED"))
    (new,) = bench.runs("FINISHED")
    (old,) = bench.runs("FAILED")
    assert old.run_id == run_id
    assert new.analysis_id == resolve(bench.client, ask(15)).id
    assert new.analysis_id in old.error


def test_an_end_that_the_store_was_not_told_is_told_later(bench, monkeypatch):
    service = bench.service(quick=False)
    run = service.submit(ask(16))
    until(lambda: service.cluster.tasks)
    real = module.patiently

    def away(call, wait):
        raise StoreUnreachable("it is away")

    monkeypatch.setattr(module, "patiently", away)
    service.cluster.tasks[0].over.set()  # as if its process had died
    until(lambda: run.run_id not in service._mine)
    monkeypatch.setattr(module, "patiently", real)
    service.cluster.quick = True
    until(lambda: bench.runs("FINISHED"))
    assert [found.run_id for found in bench.runs()] == [run.run_id]


def test_a_holder_elsewhere_is_gone_when_it_says_nothing(bench):
    elsewhere = json.dumps(json.loads(me()) | {"host": "another machine"})
    run_id = begin_report(bench.client, "tiny", "report tiny", "4" * 32, {}, elsewhere)

    def read(told=None):
        if told is not None:
            tell_report(bench.client, run_id, {"holder": elsewhere, "at": told})
        return next(run for run in find_reports(bench.client) if run.run_id == run_id)

    holding = Holding(me(), stale_s=0.1)
    assert not holding.is_left(read(told=1.0))
    time.sleep(0.15)
    assert not holding.is_left(read(told=2.0))  # it spoke
    time.sleep(0.15)
    assert holding.is_left(read())
    assert not Holding(elsewhere).is_left(read())


def test_runs_without_a_holder_are_nobodys_to_take(bench):
    run_id = begin_report(bench.client, "tiny", "report tiny", "5" * 32, {})
    run = next(run for run in find_reports(bench.client) if run.run_id == run_id)
    assert not Holding(me(), stale_s=0.0).is_left(run)


def raised_in_worker(error):
    """What a task's process raises where its work raises this."""
    found = []

    def work():
        try:
            with _worker({}):
                raise error
        except Exception as raised:
            found.append(pickle.loads(pickle.dumps(raised)))

    thread = threading.Thread(target=work)  # in the main one it would take SIGTERM
    thread.start()
    thread.join()
    return found[0]


def test_errors_of_tasks_can_be_sent():
    fault = raised_in_worker(MissingChannel("p1", "task tiny needs 3 channels", "1", "name them"))
    assert type(fault) is SegcalError
    assert str(fault) == "p1: task tiny needs 3 channels, got 1; name them"
    defect = raised_in_worker(ZeroDivisionError("a defect"))
    assert type(defect) is RuntimeError
    assert "in work" in str(defect)  # the log gets the traceback


def test_a_defect_is_not_told(bench):
    service = bench.service(quick=False)
    service.cluster.fails = RuntimeError("Traceback: /home/somebody")
    service.submit(ask(17))
    until(lambda: service.cluster.tasks)
    service.cluster.tasks[0].over.set()
    until(lambda: bench.runs("FAILED"))
    assert "somebody" not in bench.runs("FAILED")[0].error


def test_words_of_another_version_are_left_out():
    run = ReportRun("r", "tiny", "1", "a", "RUNNING", {"n_resamples": 3, "tasks": ["t"], "colour": "blue"}, {})
    assert request_of(run) == Request("tiny", tasks=("t",), n_resamples=3)


def test_many_readers_cost_one_reading():
    recent, read = Recent(10.0), []

    def slow():
        time.sleep(0.1)
        read.append(1)
        return len(read)

    found = []
    threads = [threading.Thread(target=lambda: found.append(recent.get("a", slow))) for _ in range(50)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert found == [1] * 50
    recent.forget("a")
    assert recent.get("a", slow) == 2


def test_a_reading_that_fails_is_made_again():
    recent = Recent(10.0)
    with pytest.raises(ZeroDivisionError):
        recent.get("a", lambda: 1 // 0)
    assert recent.get("a", lambda: 1) == 1


def test_asked_again_while_it_is_cancelled_it_begins_anew(bench):
    service = bench.service(quick=False)
    service.cluster.stubborn = True
    run = service.submit(ask(18))
    until(lambda: service.cluster.tasks)
    service.cancel(run.analysis_id)
    again = service.submit(ask(18))
    assert again.run_id != run.run_id
    until(lambda: len(service.cluster.tasks) == 2)
    service.cluster.tasks[1].finish()
    until(lambda: bench.runs("FINISHED"))
    assert {found.run_id: found.status for found in bench.runs()} == {run.run_id: "KILLED", again.run_id: "FINISHED"}


def test_a_list_that_was_read_before_a_cancellation_ended_is_no_answer(bench, monkeypatch):
    service = bench.service(quick=False)
    run = service.submit(ask(21))
    until(lambda: service.cluster.tasks)
    stale = bench.runs("RUNNING")
    service.cancel(run.analysis_id)
    until(lambda: run.run_id not in service._mine)  # its end is told
    monkeypatch.setattr(service, "_runs", lambda analysis_id: stale)
    assert service._known(run.analysis_id) is None


def test_a_store_that_is_away_at_a_cancellation_does_not_end_the_service(bench, monkeypatch):
    service = bench.service(quick=False)
    run = service.submit(ask(19))
    until(lambda: service.cluster.tasks)
    real = module.patiently

    def away(call, wait):
        raise StoreUnreachable("it is away")

    monkeypatch.setattr(module, "patiently", away)
    service.cancel(run.analysis_id)
    until(lambda: run.run_id not in service._mine)
    monkeypatch.setattr(module, "patiently", real)
    service.cluster.quick = True
    other = service.submit(ask(20))
    until(lambda: other.run_id in {found.run_id for found in bench.runs("FINISHED")})


def test_a_store_that_is_away_when_work_is_taken_over_is_waited_for(bench, monkeypatch):
    resolved, failed = resolve(bench.client, ask(21)), []
    run_id = begin_report(bench.client, "tiny", "report tiny", resolved.id, {"n_resamples": 1021}, "")
    tell_report(bench.client, run_id, progress_of("", "queued"))
    real = module.resolve

    def away_once(client, request):
        if not failed:
            failed.append(1)
            raise ConnectionError("nobody there")
        return real(client, request)

    monkeypatch.setattr(module, "resolve", away_once)
    bench.service()
    until(lambda: bench.runs("FINISHED"))
    assert [run.run_id for run in bench.runs()] == [run_id]


def test_a_report_of_the_command_line_is_waited_for_and_taken_over_when_it_died(bench):
    resolved, holder = resolve(bench.client, ask(22)), me()  # a process that lives: this one
    run_id = begin_report(bench.client, "tiny", "report tiny", resolved.id, {"n_resamples": 1022}, holder)
    service = bench.service()
    assert service.submit(ask(22)).run_id == run_id
    time.sleep(1.0)
    assert service.cluster.tasks == []
    tell_report(bench.client, run_id, progress_of(json.dumps(json.loads(holder) | {"born": "0"}), "running"))
    until(lambda: bench.runs("FINISHED"))
    assert [run.run_id for run in bench.runs()] == [run_id]
