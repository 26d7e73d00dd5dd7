"""A sweep over data of other layouts; its trials are stand-ins, so that only what surrounds them is run."""

import pytest

from segcal.cli import main
from segcal.data.phantom.embedded import write_cohort
from segcal.errors import UsageError
from segcal.ledger.store import open_store
from segcal.sweep.plan import load_plan
from segcal.sweep.run_sweep import run_sweep
from segcal.sweep.schedule import Outcome


@pytest.fixture(scope="module")
def prostates(tmp_path_factory):
    root = tmp_path_factory.mktemp("prostates")
    write_cohort("prostate", root / "p", cases=7, size=48)
    return root / "p"


@pytest.fixture
def assigned(tmp_path, monkeypatch):
    """Assignments that the sweep would have trained."""
    monkeypatch.chdir(tmp_path)
    given = []

    def run_all(assignments, resources, say):
        given.extend(assignments)
        return Outcome(finished=[assignment.config.key for assignment in assignments])

    monkeypatch.setattr("segcal.sweep.schedule.run_all", run_all)
    return given


SMALL = ["seeds=1", "task_fields.crop=[16, 48, 48]", "task_fields.spacing_mm=[6, 3, 3]"]


def test_the_cohort_that_is_only_tested_on_is_prepared_and_recorded_and_never_learnt_from(prostates, assigned):
    said = []
    plan = load_plan(task="prostate3d", settings=SMALL)
    run_sweep(plan, str(prostates / "PROSTATEx"), said.append, ood=str(prostates / "PROMISE12"))
    assert [assignment.config.dims for assignment in assigned] == [3] * 6  # two recipes have 2 seeds of their own
    assert any("out of distribution: " in line and "2 cases, never learnt from" in line for line in said)
    client = open_store()
    experiment = client.get_experiment_by_name("calib").experiment_id
    (run,) = client.search_runs([experiment])
    assert run.data.params["sweep.ood_data"].endswith("PROMISE12")
    assert run.data.params["sweep.ood_digest"] not in (run.data.params["sweep.data_digest"], "")


def test_a_task_without_such_a_cohort(prostates, assigned, tmp_path):
    write_cohort("heart", tmp_path / "hearts", cases=4, size=40)
    with pytest.raises(UsageError, match="--ood needs the layout of that cohort, got none; set ood_layout in the task"):
        run_sweep(load_plan(task="heart"), str(tmp_path / "hearts"), print, ood=str(prostates / "PROMISE12"))
    assert assigned == []


def test_patients_in_two_splits_end_with_4(assigned, tmp_path, capsys):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "cases.csv").write_text(
        "case,t2,label,split,patient\na,a.nii,a.nii,train,P\nb,b.nii,b.nii,test,P\nc,c.nii,c.nii,val,Q\n"
    )
    code = main(["sweep", "--task", "prostate", "--set", "task_fields.layout=csv", "--data", str(tmp_path / "d")])
    assert code == 4
    assert "b: cases of patient P must be in one split, got a in train and b in test" in capsys.readouterr().err
