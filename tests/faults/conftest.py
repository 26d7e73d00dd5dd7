"""The promises of segcal's sweeps are counted here; `make test-faults` prints the counts as a table."""

import pytest

from tests.faults.sweeps import Sweep, undisturbed

SETTINGS = ["seeds=4", "epochs=30", "patience=30"]
COUNTS: dict[tuple[int, str], str] = {}

PROMISES = {
    1: "no finished trial is retrained or lost",
    2: "a resumed sweep ends with bit-identical models",
    3: "resuming costs at most 1.5x the work",
    4: "an outage of the tracking server loses no metric and stops no training",
    5: "a full disk leaves nothing that looks complete",
    6: "two drivers on one sweep do not duplicate work",
    7: "no run stays RUNNING",
    8: "one bad trial stops nothing",
    9: "a node is lost: its trials move",
}


@pytest.fixture
def count():
    """count(promise, fault, result): what was counted, for the table."""

    def note(promise, fault, result):
        COUNTS[promise, fault] = result

    return note


@pytest.fixture
def sweep(tmp_path, tiny_files, blobs):
    return Sweep(tmp_path / "sweep", tiny_files[1], blobs, SETTINGS)


@pytest.fixture(scope="session")
def reference(tmp_path_factory, tiny_files, tiny_task, cohort):
    """Weights' hashes of the same sweep that nothing disturbed."""
    from segcal.sweep.plan import load_plan, trials

    plan = load_plan(tiny_files[1], settings=SETTINGS)
    configs = trials(plan, cohort.digest, cohort.class_voxels)
    return undisturbed(tmp_path_factory.mktemp("undisturbed"), configs, tiny_task, cohort)


def pytest_terminal_summary(terminalreporter):
    if not COUNTS:
        return
    terminalreporter.section("promises of a sweep")
    rows = [("promise", "fault", "counted")]
    rows += [(f"{number} {PROMISES[number]}", fault, result) for (number, fault), result in sorted(COUNTS.items())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        terminalreporter.write_line("| " + " | ".join(f"{c:{w}}" for c, w in zip(row, widths, strict=True)) + " |")
