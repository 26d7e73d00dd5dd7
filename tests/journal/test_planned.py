from dataclasses import replace

import pytest

from segcal.journal.planned import Planned, PlannedTrial, changes, read_plans, write_plan
from segcal.journal.storage import Storage


def trials(*names):
    return tuple(PlannedTrial(f"key of {name}", name[:-1], int(name[-1]), 10) for name in names)


PLAN = Planned("tiny", "/data/a", "d1", trials("ce0", "ce1"))


@pytest.fixture
def sweep(tmp_path):
    return Storage(str(tmp_path))


def test_the_newest_plan_of_each_task_is_read(sweep):
    assert read_plans(sweep) == {}
    other = replace(PLAN, task="my/own: täsk")
    for plan in (PLAN, other, replace(PLAN, trials=trials("dice0"))):
        write_plan(sweep, plan)
    assert read_plans(sweep) == {"tiny": replace(PLAN, trials=trials("dice0")), "my/own: täsk": other}
    assert len(sweep.at("plans").names()) == 2


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b'{"trials": [{}]}', b'{"trials": []}'])
def test_a_damaged_plan_is_left_out(sweep, content):
    write_plan(sweep, PLAN)
    sweep.at("plans").write("other.json", content)
    assert read_plans(sweep) == {"tiny": PLAN}


def test_nothing_changed():
    assert changes(None, PLAN) == changes(PLAN, PLAN) == []
    assert changes(PLAN, replace(PLAN, data="/moved")) == []  # the same data elsewhere


def test_trials_that_come_and_go():
    now = replace(PLAN, trials=trials("ce1", "dice0", "dice1"))
    assert changes(PLAN, now) == [
        "2 trials are new since the last call: dice seed 0, dice seed 1",
        "1 trials are no longer asked for, and kept: ce seed 0",
    ]
    many = replace(PLAN, trials=PLAN.trials + trials(*[f"x{seed}" for seed in range(9)]))
    assert changes(PLAN, many)[0].endswith("x seed 4, x seed 5 and 3 more")
    assert changes(PLAN, many)[0].startswith("9 trials are new")


def test_data_that_changed():
    fresh = tuple(replace(trial, key=f"{trial.key} on other data") for trial in PLAN.trials)
    here = replace(PLAN, data_digest="d2", trials=fresh)
    assert changes(PLAN, here)[0] == ("the data in /data/a changed: digest d2, before d1; every trial is a new one")
    elsewhere = replace(here, data="/data/b")
    assert changes(PLAN, elsewhere)[0] == (
        "the data are those in /data/b now: digest d2, before d1; every trial is a new one"
    )
