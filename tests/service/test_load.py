"""Many readers at once. How quick they are served is measured by `python -m benchmarks service`."""

import pytest

from benchmarks.service import pages_of, read_all
from tests.service.serving import Serving

READERS, ROUNDS = 50, 4


@pytest.fixture
def serving(trained, reported, tmp_path):
    made = Serving(trained[0], tmp_path, "--rate", "100000")
    yield made
    made.close()


def test_fifty_readers_meet_no_error(serving, reported):
    pages = pages_of(serving.url, reported["run_id"], "tiny", reported["analysis_id"])
    assert len(pages) >= 8
    answers = read_all(serving.url, pages, READERS, ROUNDS)
    assert len(answers) == READERS * ROUNDS * len(pages)
    assert {(answer.status, answer.path) for answer in answers if answer.status not in (200, 304)} == set()
    assert all(answer.seconds > 0 and answer.size > 0 for answer in answers if answer.status == 200)
