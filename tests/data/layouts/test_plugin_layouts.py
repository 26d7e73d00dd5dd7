"""Layouts and tasks of plug-ins beside those of segcal."""

from dataclasses import asdict, replace

import pytest

from segcal.data.layouts import LAYOUTS, find_cases, recognise
from segcal.data.phantom.embedded import write_cohort
from segcal.data.prepare import prepare
from segcal.data.taskfile import load_task, task_yaml
from segcal.errors import BadData, UsageError
from segcal.tasks import TASKS
from tests.conftest import write_blobs

# A cohort that names itself by a file, and otherwise lies as BraTS does.
PACKAGE = """
from dataclasses import replace
from segcal.data.case_files import Found
from segcal.data.layouts import LAYOUTS, Layout
from segcal.tasks import TASKS

def find(root, task):
    return LAYOUTS["brats"].find(root, task)

def recognise(root):
    return (root / "OURS").is_file()

ours = Layout(find, recognise, lambda root: liver, ("t1ce", "t2", "flair"))
liver = replace(TASKS["brain"], name="liver", layout="ours", split_counts={})
"""


@pytest.fixture
def cohort(packages, tmp_path):
    packages.install("our-hospital", PACKAGE, "2.1", layouts={"ours": "ours"}, tasks={"liver": "liver"})
    root = write_blobs(tmp_path / "data")
    (root / "OURS").touch()
    return root


def test_a_task_is_named_and_its_cases_are_found(cohort):
    task = load_task("liver", {"crop": [32, 32]})
    assert (task.name, task.layout, task.crop) == ("liver", "ours", (32, 32))
    assert len(find_cases(cohort, task).cases) == 7
    assert "\nlayout: ours\n" in task_yaml(task)
    with pytest.raises(UsageError, match="the ours layout has no channel named 'adc'"):
        find_cases(cohort, load_task("liver", {"channels": ["adc"]}))


def test_the_layouts_of_segcal_are_asked_first(cohort):
    assert recognise(cohort) == "brats"  # it looks like one
    for folder in cohort.iterdir():
        if folder.is_dir():
            folder.rename(folder.with_name(f"_{folder.name}"))
    assert recognise(cohort) == "ours"
    assert load_task(str(cohort)) == TASKS["liver"]


def test_a_layout_that_cannot_be_loaded_is_told_where_it_is_named(packages):
    packages.install("our-hospital", "raise OSError('no licence')", layouts={"ours": "ours"})
    with pytest.raises(
        UsageError, match=r"no layout named 'ours'; the plug-in our-hospital 1\.0 .* OSError: no licence"
    ):
        load_task("brain", {"layout": "ours"})


@pytest.mark.parametrize("made", ["'a text'", "Layout", "LAYOUTS"])
def test_what_is_no_layout_is_left_out(packages, made):
    packages.install(
        "wrong", f"from segcal.data.layouts import LAYOUTS, Layout\nours = {made}", layouts={"ours": "ours"}
    )
    assert "ours" not in LAYOUTS
    assert "a layout must be a segcal.data.layouts.Layout" in LAYOUTS.unknown("ours")


def test_errors_of_its_code_name_it(packages, tmp_path, caplog):
    packages.install(
        "wrong", "from segcal.data.layouts import Layout\nfrom segcal.tasks import TASKS\n"
        "ours = Layout(lambda root, task: {}['cases'], lambda root: 1 / 0, None)\n"
        "empty = Layout(lambda root, task: [], lambda root: False, None)\n",
        layouts={"ours": "ours", "empty": "empty"},
    )  # fmt: skip
    assert recognise(tmp_path) is None
    assert "the layout 'ours' of a plug-in was not asked: ZeroDivisionError: division by zero" in caplog.text
    with pytest.raises(BadData, match=r"the layout 'ours' of wrong 1\.0 \(wrong:ours\): KeyError: 'cases'"):
        find_cases(tmp_path, load_task("brain", {"layout": "ours"}))
    with pytest.raises(BadData, match=r"find must return a segcal.data.case_files.Found, got list"):
        find_cases(tmp_path, load_task("brain", {"layout": "empty"}))


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("{}['labels']", "KeyError: 'labels'"),
        ("exit('no licence')", "SystemExit: no licence"),
        ("None", r"TypeError: task must return a segcal\.tasks\.TaskSpec, got NoneType"),
    ],
)
def test_errors_in_telling_the_task_of_a_folder_name_it_too(packages, tmp_path, told, reason):
    packages.install(
        "wrong", "from segcal.data.layouts import Layout\n"
        f"ours = Layout(lambda root, task: exit('two\\nlines'), lambda root: True, lambda root: {told})\n",
        layouts={"ours": "ours"},
    )  # fmt: skip
    with pytest.raises(BadData, match=rf"the layout 'ours' of wrong 1\.0 \(wrong:ours\): {reason}$"):
        load_task(str(tmp_path))
    with pytest.raises(BadData, match=r"SystemExit: two lines$"):
        find_cases(tmp_path, load_task("brain", {"layout": "ours"}))


def test_a_label_with_a_grid_of_its_own_makes_other_data(packages, tmp_path, tiny_task):
    package = PACKAGE.replace(
        'return LAYOUTS["brats"].find(root, task)',
        'cases = LAYOUTS["brats"].find(root, task).cases\n'
        '    own = (root / "OWN_GRID").is_file()\n'
        "    return Found([replace(case, label_has_own_grid=own) for case in cases])",
    )
    packages.install("our-hospital", package, "2.1", layouts={"ours": "ours"})
    root, task = write_blobs(tmp_path / "data"), replace(tiny_task, layout="ours")
    before = prepare(root, task).digest
    (root / "OWN_GRID").touch()
    assert prepare(root, task).digest != before


def test_values_of_a_task_are_checked_as_those_of_a_file_are(packages):
    packages.install(
        "organs", "from dataclasses import replace\nfrom segcal.tasks import TASKS\n"
        "liver = replace(TASKS['heart'], name='liver', crop=(100, 100))\n", tasks={"liver": "liver"},
    )  # fmt: skip
    with pytest.raises(UsageError, match="task liver: crop must be multiples of 16"):
        load_task("liver")


def test_a_task_without_embedded_data_says_so(cohort, tmp_path):
    with pytest.raises(UsageError, match=r"no embedded data for task 'liver'.*give a folder with --data"):
        write_cohort("liver", tmp_path / "out")


def test_a_task_that_is_uninstalled_is_not_known_any_more(cohort, packages):
    assert asdict(load_task("liver"))["name"] == "liver"
    packages.uninstall("our-hospital", "2.1")
    with pytest.raises(
        UsageError, match=r"no task named 'liver'; .*known: brain, heart, prostate, prostate3d, or a YAML"
    ):
        load_task("liver")
