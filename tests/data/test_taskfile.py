"""Tasks as files: what comes back, and what is refused."""

import pytest

from segcal.data.taskfile import load_task, task_yaml
from segcal.errors import UsageError
from segcal.tasks import TASKS, task_digest


def test_a_task_file_comes_back_as_the_same_task(tmp_path):
    (tmp_path / "brain.yaml").write_text(task_yaml(TASKS["brain"]))
    assert load_task(str(tmp_path / "brain.yaml")) == TASKS["brain"]
    assert task_digest(load_task("brain", {"curve_draws": 11})) != task_digest(TASKS["brain"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("chanels: [t1]", "no key named 'chanels'; did you mean 'channels'"),
        ("crop: [100, 96]", "crop must be multiples of 16"),
        ("batch: many", "batch: .* got 'many'"),
        ("labels: {0: background}", "labels must name values from 1 to 255, got {0: 'background'}"),
        ("structure_weights: {oedema: 3}", "no structure named 'oedema'; did you mean 'edema'"),
        ("layout: nnunett", "no layout named 'nnunett'; did you mean 'nnunet'"),
        ("crop: [1600000, 1600000]", "crop must be multiples of 16, at most 1024"),
        ("spacing_mm: [null, 0, 0]", "spacing_mm must be null or 0.05 to 50"),
        ("spacing_mm: [null, .nan, 1]", "spacing_mm must be null or 0.05 to 50"),
        ("channels: []", "channels must be different names other than 'label', got none"),
        ("channels: [t2, t2]", "channels must be different names other than 'label', got t2, t2"),
        ("channels: [label]", "channels must be different names"),
        ("labels: {300: edema}", "labels must name values from 1 to 255"),
        ("batch: 0", "batch must be at least 1, got 0"),
        ("split_fractions: [0, 0, 0]", "split_fractions must be at least 0 and not all 0"),
        ("split_fractions: [.nan, 1, 1]", "split_fractions must be at least 0"),
        ("split_counts: {train: -1}", "split_counts must be at least 1"),
        ("split_sites: {trian: CBICA}", "no split named 'trian'; did you mean 'train'"),
        ("split_seed: -1", "split_seed must be at least 0"),
        ("ensemble_sizes: [0, 5]", "ensemble_sizes must be at least 1"),
        ("name: a/b", "name must be letters, digits"),
        ("crop: [96]", r"crop must be \(y, x\) or \(z, y, x\)"),
    ],
)
def test_a_bad_task_file_is_refused_in_one_line(tmp_path, line, message):
    key = line.split(":")[0]
    text = "\n".join(row for row in task_yaml(TASKS["brain"]).splitlines() if not row.startswith(f"{key}:"))
    (tmp_path / "bad.yaml").write_text(f"{text}\n{line}\n")
    with pytest.raises(UsageError, match=message) as caught:
        load_task(str(tmp_path / "bad.yaml"))
    assert "\n" not in str(caught.value)
