"""What names say of channels and cases; folders of such files are tested with `find_unlabelled`."""

from pathlib import Path

import pytest

from segcal.data.channel_names import by_channel, by_number, case_name
from segcal.tasks import TASKS

BRAIN = TASKS["brain"]


@pytest.mark.parametrize(
    ("name", "case", "channel"),
    [
        ("P1_t1ce.nii.gz", "P1", "t1ce"),
        ("P1-FLAIR.nii", "P1", "flair"),
        ("BraTS-1-t2w.nii.gz", "BraTS-1", "t2"),
        ("t2.mha", "folder", "t2"),
    ],
)
def test_a_name_ends_in_its_channel(name, case, channel):
    assert by_channel([Path(name)], BRAIN, "folder") == {case: {channel: [Path(name)]}}


def test_a_channel_within_a_word_is_none():
    assert by_channel([Path("art2.nii.gz"), Path("P1_t1.nii.gz")], BRAIN, "folder") == {}


def test_numbers_that_the_task_does_not_have_name_a_case_all_the_same():
    paths = [Path("P1_0000.nii.gz"), Path("P1_0007.nii.gz"), Path("P2.nii.gz")]
    assert by_number(paths, {"0000": "t1ce"}) == {"P1": {"t1ce": [paths[0]]}}


def test_files_of_a_case_share_its_name():
    assert case_name([Path("P1_t1ce.nii.gz"), Path("P1_t2.nii.gz")], BRAIN) == "P1"
    assert case_name([Path("P7_0000.nii.gz")], BRAIN) == "P7"
    assert case_name([Path("scan_a.nii.gz"), Path("scan_b.nii.gz")], BRAIN) == "scan"
