"""`segcal gc`, as a user meets it."""

import json

import pytest

from segcal.cli import main
from segcal.cli.gc import older_than_seconds
from segcal.errors import UsageError
from segcal.ledger.names import tag
from segcal.ledger.store import open_store


def run(capsys, *argv):
    code = main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A failed trial with a checkpoint of 3000 bytes, in the experiment `calib`."""
    monkeypatch.chdir(tmp_path)
    client = open_store()
    where = client.create_experiment("calib")
    run = client.create_run(where).info.run_id
    tags = {tag("experiment"): "calib", tag("key"): "k"}
    model = client.create_logged_model(where, source_run_id=run, tags=tags).model_id
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "weights.safetensors").write_bytes(bytes(3000))
    client.log_model_artifacts(model, str(tmp_path / "files"))
    client.set_terminated(run, "FAILED")
    return client, where


def test_a_dry_run_counts_and_deletes_nothing_then_it_is_deleted(capsys, store):
    client, where = store
    for _ in range(2):
        code, out, err = run(capsys, "gc", "--older-than", "0", "--dry-run")
        assert (code, err) == (0, "nothing was deleted; the same command without --dry-run deletes it\n")
        assert [line.split() for line in out.splitlines()] == [
            ["superseded", "versions", "0", "0.0", "kB"],
            ["checkpoints", "of", "superseded", "versions", "0", "0.0", "kB"],
            ["checkpoints", "that", "were", "surpassed", "0", "0.0", "kB"],
            ["checkpoints", "of", "failed", "or", "killed", "trials", "1", "3.0", "kB"],
            ["total", "1", "3.0", "kB"],
        ]
    code, out, err = run(capsys, "gc", "--older-than", "0")
    assert (code, err, out.splitlines()[-1].split()) == (0, "", ["total", "1", "3.0", "kB"])
    assert client.search_logged_models([where]) == []
    assert run(capsys, "gc", "--older-than", "0")[1].splitlines()[-1].split() == ["total", "0", "0.0", "kB"]


def test_machines_read_bytes(capsys, store):
    code, out, _ = run(capsys, "gc", "--older-than", "0", "--dry-run", "--json")
    found = json.loads(out)
    assert (code, found["experiment"], found["deleted"], found["count"], found["bytes"]) == (0, "calib", False, 1, 3000)
    assert found["rows"][-1] == {"kind": "checkpoints of failed or killed trials", "count": 1, "bytes": 3000}
    assert sum(row["count"] for row in found["rows"]) == 1
    assert json.loads(run(capsys, "gc", "--older-than", "0", "--json")[1])["deleted"] is True


def test_an_hour_is_left_by_default(capsys, store):
    client, where = store
    code, out, _ = run(capsys, "gc", "--json")
    assert (code, json.loads(out)["count"]) == (0, 0)
    assert len(client.search_logged_models([where])) == 1


def test_an_unknown_experiment_is_a_wrong_request(capsys, store):
    code, out, err = run(capsys, "gc", "--experiment", "calip")
    assert (code, out) == (2, "")
    assert err.startswith("segcal: no experiment named 'calip'; did you mean 'calib'?")


def test_a_time_that_is_none_is_a_wrong_request(capsys, store):
    code, _, err = run(capsys, "gc", "--older-than", "soon")
    assert (code, err) == (
        2, "segcal: --older-than must be a time, got 'soon'; write 24h, 90m, 30s, 2d, 0, or hours\n"
    )  # fmt: skip


def test_times():
    assert [older_than_seconds(text) for text in ("0", "1", "1h", "90m", "2.5d", " 30s ", ".5h")] == [
        0, 3600, 3600, 5400, 216_000, 30, 1800,
    ]  # fmt: skip
    for wrong in ("", "-1", "1w", "nan", "h"):
        with pytest.raises(UsageError, match="--older-than must be a time"):
            older_than_seconds(wrong)
