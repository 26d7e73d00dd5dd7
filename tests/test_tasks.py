"""The paper's parameters (section IV, Table I, appendix F), each pinned."""

import pytest

from segcal.data.layouts import LAYOUTS
from segcal.data.phantom.embedded import EMBEDDED
from segcal.tasks import TASKS


def test_brain():
    task = TASKS["brain"]
    assert task.channels == ("t1ce", "t2", "flair")
    assert task.labels == {1: "non-enhancing", 2: "edema", 4: "enhancing"}
    assert (task.spacing_mm, task.crop, task.batch, task.n_classes) == ((2.0, 1.0, 1.0), (224, 224), 32, 4)
    assert task.groups == ("HGG",)
    assert task.split_sites == {"train": "CBICA", "val": "CBICA", "test": "TCIA"}
    assert task.split_counts == {"train": 66, "val": 22, "test": 102}
    assert set(task.structure_weights.values()) == {1.0}
    assert task.curve_draws == 10


def test_heart():
    task = TASKS["heart"]
    assert task.labels == {1: "right ventricle", 2: "myocardium", 3: "left ventricle"}
    assert (task.spacing_mm, task.crop, task.batch, task.n_classes) == ((None, 2.0, 2.0), (224, 224), 32, 4)
    assert task.structure_weights == {"right ventricle": 1.0, "myocardium": 3.0, "left ventricle": 1.0}
    assert task.groups == ("training",)
    assert task.split_counts == {"train": 40, "val": 10, "test": 50}
    assert task.curve_draws == 50


def test_prostate():
    task = TASKS["prostate"]
    assert (task.channels, task.labels, task.n_classes) == (("t2",), {1: "prostate"}, 2)
    assert (task.spacing_mm, task.crop, task.batch) == ((None, 0.5, 0.5), (224, 224), 16)
    assert task.split_counts == {"train": 16, "val": 4, "test": 20}
    assert (task.layout, task.ood_layout) == ("prostatex", "promise12")


def test_prostate_in_3d():
    task = TASKS["prostate3d"]
    assert (task.dims, task.crop, task.spacing_mm) == (3, (112, 112, 112), (1.0, 1.0, 1.0))
    assert task.split_counts == TASKS["prostate"].split_counts
    assert [TASKS[name].dims for name in ("brain", "heart", "prostate")] == [2, 2, 2]


@pytest.mark.parametrize("name", sorted(TASKS.built_in))
def test_every_task(name):
    task = TASKS[name]
    assert task.name == name
    assert task.layout in LAYOUTS
    assert name in EMBEDDED
    assert (task.box_margin_mm, task.box_margin_slices) == (8.0, 2)
    assert task.ensemble_sizes == (1, 2, 5, 10, 25, 50)
    assert sum(task.split_fractions) == pytest.approx(1)
    assert set(task.structure_weights) == set(task.structures)
    assert sorted(task.classes.values()) == list(range(1, task.n_classes))


def test_equal_names_are_one_structure():
    from dataclasses import replace

    task = replace(TASKS["brain"], labels={1: "core", 2: "edema", 3: "core", 4: "enhancing"})
    assert task.structures == ("core", "edema", "enhancing")
    assert task.classes == {1: 1, 2: 2, 3: 1, 4: 3}
    assert task.n_classes == 4
