"""`segcal ensemble`, as a user meets it."""

import json

import pytest

from segcal.cli import main
from tests.ensemble.conftest import copy_store


def run(capsys, *argv):
    code = main(["ensemble", *argv])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(scope="module")
def store(trained, tmp_path_factory):
    """The trained experiment, in a store where ensembles may come and go."""
    return copy_store(trained[0], tmp_path_factory.mktemp("cli-ensembles"))


@pytest.fixture(autouse=True)
def _here(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)


def test_from_nothing_to_a_champion(capsys):
    code, out, err = run(capsys, "list")
    assert (code, out) == (0, "")
    assert "no ensemble is registered; `segcal ensemble create` makes one" in err

    create = ("create", "--experiment", "tiny", "--recipe", "dice", "--members", "2")
    code, out, err = run(capsys, *create, "--json")
    made = json.loads(out)
    assert (code, made["uri"], made["aliases"]) == (0, "models:/segcal-tiny-ensemble/1", ["candidate"])
    assert [member["seed"] for member in made["members"]] == sorted(member["seed"] for member in made["members"])
    assert "registered: models:/segcal-tiny-ensemble/1 (candidate)" in err
    code, out, err = run(capsys, *create)
    assert (code, out) == (0, "")
    assert "are registered already: segcal-tiny-ensemble version 1" in err
    assert "known: models:/segcal-tiny-ensemble/1" in err

    code, out, err = run(capsys, "promote", "segcal-tiny-ensemble@candidate")
    assert (code, err) == (0, "segcal-tiny-ensemble version 1 is the champion\n")
    run(capsys, "create", "--experiment", "tiny", "--recipe", "ce", "--select", "all")
    code, out, err = run(capsys, "promote", "segcal-tiny-ensemble/2", "--json")
    assert err == "segcal-tiny-ensemble version 2 is the champion, instead of version 1\n"
    assert (json.loads(out)["aliases"], json.loads(out)["before"]) == (["candidate", "champion"], 1)

    code, out, err = run(capsys, "list")
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines] == ["segcal-tiny-ensemble/2", "segcal-tiny-ensemble/1"]
    assert lines[0][1:7] == ["candidate,", "champion", "3", "x", "ce", "all"]
    assert lines[1][1:6] == ["-", "2", "x", "dice", "best"]
    code, out, _ = run(capsys, "list", "--json", "--task", "tiny")
    assert [version["uri"] for version in json.loads(out)] == [
        "models:/segcal-tiny-ensemble/2", "models:/segcal-tiny-ensemble/1",
    ]  # fmt: skip
    assert json.loads(run(capsys, "list", "--json", "--task", "heart")[1]) == []

    code, out, err = run(capsys, "show", "models:/segcal-tiny-ensemble@champion")
    assert code == 0
    assert out.startswith("# segcal-tiny-ensemble: 3 networks, recipe ce\n")
    assert err.startswith("models:/segcal-tiny-ensemble/2 (candidate, champion), run ")
    shown = json.loads(run(capsys, "show", "segcal-tiny-ensemble/1", "--json")[1])
    assert shown["manifest"]["members"] == made["members"]


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (("create", "--experiment", "tiny", "--recipe", "dice"), 2,
         "--members must lie between 1 and 3, the pool of recipe 'dice', got none given"),
        (("create", "--experiment", "tiny", "--recipe", "dice", "--members", "10"), 2, "pool of recipe 'dice', got 10"),
        (("create", "--experiment", "tyni", "--recipe", "dice", "--members", "1"), 2, "no experiment named 'tyni'"),
        (("create", "--experiment", "tiny", "--recipe", "dice", "--members", "1", "--select", "bets"), 2,
         "unknown selection 'bets'; did you mean 'best'?"),
        (("show", "segcal-tiny-ensemble/99"), 2, "no ensemble 'segcal-tiny-ensemble/99'"),
        (("promote", "nothing@all"), 2, "no ensemble 'nothing@all'"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_one_line(capsys, argv, code, message):
    got, out, err = run(capsys, *argv)
    assert (got, out) == (code, "")
    assert message in err
    assert err.splitlines()[-1].startswith("segcal: ")
    assert "Traceback" not in err


def test_help_has_an_example(capsys):
    with pytest.raises(SystemExit) as raised:
        main(["ensemble", "create", "--help"])
    assert raised.value.code == 0
    assert "example: segcal ensemble create --experiment calib --recipe dice --members 10" in capsys.readouterr().out
