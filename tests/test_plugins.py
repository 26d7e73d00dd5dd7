"""What an installation with plug-ins of every kind and state looks like to segcal."""

import logging
import subprocess
import sys

import pytest

from segcal.learn.losses import LOSSES, cross_entropy
from segcal.plugins import Extensions, PluginMismatch, check_installed
from segcal.tasks import TASKS

LOSS = "def mine(logits, truth, weights=None, *, gamma=2.0):\n    return logits.mean() * gamma\n"


def state_of(name):
    """Of a name in the list of losses: state and reason of each that has it."""
    return [(p.state, p.reason) for p in LOSSES.listed() if p.name == name and p.distribution != "segcal"]


def test_a_plug_in_is_found_by_its_name_and_loaded_only_then(packages):
    packages.install(
        "my-losses", "import sys\nsys.modules['it_was_loaded'] = sys\n" + LOSS, "0.3", losses={"m": "mine"}
    )
    assert LOSSES["cross_entropy"] is cross_entropy
    assert LOSSES.origin("m") == ("my-losses==0.3",)
    assert str(LOSSES.plugin("m")) == "my-losses 0.3 (my_losses:mine)"
    assert "it_was_loaded" not in sys.modules
    assert LOSSES["m"].__module__ == "my_losses"
    assert sys.modules.pop("it_was_loaded") is sys
    assert list(LOSSES) == ["cross_entropy", "soft_dice", "m"]
    assert len(LOSSES) == 3
    assert state_of("m") == [("ok", "")]


def test_what_segcal_brings_is_answered_without_a_look_at_the_packages(monkeypatch):
    monkeypatch.setattr("segcal.plugins._entry_points", lambda group: pytest.fail("looked for plug-ins"))
    group = Extensions("losses", "loss", {"own": 1}, lambda name, given: given)
    assert ("own" in group, group["own"], group.origin("own"), group.plugin("own")) == (True, 1, (), None)


def test_one_that_raises_on_import_is_named_and_skipped_and_the_others_work(packages, caplog):
    packages.install("broken", "import a_package_that_is_not_there\n" + LOSS, losses={"bad": "mine"})
    packages.install("whole", LOSS, losses={"good": "mine"})
    with caplog.at_level(logging.WARNING, "segcal.plugins"):
        assert list(LOSSES) == ["cross_entropy", "soft_dice", "good"]
        assert "bad" not in LOSSES
    why = "ModuleNotFoundError: No module named 'a_package_that_is_not_there'"
    assert caplog.messages == [f"loss 'bad' left out: the plug-in broken 1.0 (broken:mine) failed: {why}"]  # once
    assert state_of("bad") == [("failed", why)]
    told = f"no loss named 'bad'; the plug-in broken 1.0 (broken:mine) failed: {why}; known: cross_entropy, good,"
    assert LOSSES.unknown("bad") == f"{told} soft_dice"
    with pytest.raises(KeyError):
        LOSSES["bad"]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise SystemExit('no licence')", "SystemExit: no licence"),
        ("raise RuntimeError('two\\nlines')", "RuntimeError: two lines"),
        ("raise ZeroDivisionError", "ZeroDivisionError"),
        ("class Odd(BaseException): pass\nraise Odd('skipped')", "Odd: skipped"),
        ("def other():\n    pass", "AttributeError: module 'broken' has no attribute 'mine'"),
        ("def mine(:", "SyntaxError: invalid syntax (broken.py, line 1)"),
    ],
)
def test_the_reason_is_one_line(packages, code, reason):
    packages.install("broken", code, losses={"bad": "mine"})
    assert state_of("bad") == [("failed", reason)]


def test_two_of_one_name_are_refused_and_both_are_named(packages, caplog):
    packages.install("one", LOSS, "1.1", losses={"m": "mine"})
    packages.install("two", LOSS, "2.2", losses={"m": "mine", "n": "mine"})
    with caplog.at_level(logging.WARNING, "segcal.plugins"):
        assert "m" not in LOSSES
    why = "a name must belong to one plug-in, got one 1.1 (one:mine) and two 2.2 (two:mine); uninstall all but one"
    assert state_of("m") == [("refused", why)] * 2
    assert why in LOSSES.unknown("m")
    assert why in caplog.text
    assert LOSSES.origin("m") == ()
    assert "n" in LOSSES


def test_the_name_of_a_built_in_stays_with_it(packages, caplog):
    packages.install("thief", LOSS, losses={"soft_dice": "mine", "m": "mine"})
    assert LOSSES["soft_dice"].__module__ == "segcal.learn.losses"
    assert LOSSES.origin("soft_dice") == ()
    with caplog.at_level(logging.WARNING, "segcal.plugins"):
        assert list(LOSSES) == ["cross_entropy", "soft_dice", "m"]
    ((state, reason),) = state_of("soft_dice")
    assert (state, "got one of segcal itself" in reason) == ("refused", True)
    assert reason in caplog.text


@pytest.mark.parametrize("name", ["a/b", "at@box", "-minus", "with blank"])
def test_a_name_that_no_registered_model_could_have_is_refused(packages, name):
    packages.install("mine", LOSS, losses={name: "mine"})
    assert name not in LOSSES
    assert "must be letters, digits" in state_of(name)[0][1]


def test_a_task_must_be_one_and_bear_its_name(packages):
    made = (
        "from dataclasses import replace\nfrom segcal.tasks import TASKS\n"
        "liver, text = replace(TASKS['heart'], name='liver'), 'liver'\n"
    )
    packages.install("organs", made, tasks={"liver": "liver", "spleen": "liver", "text": "text"})
    assert TASKS["liver"].channels == ("cine",)
    reasons = {p.name: p.reason for p in TASKS.listed() if p.distribution == "organs"}
    assert reasons == {
        "liver": "",
        "spleen": "a task must have the name of its entry point, 'spleen', got 'liver'",
        "text": "a task must be a segcal.tasks.TaskSpec, got str",
    }


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ("channels=None", "a task must have channels ('t2', ...) and labels {1: 'tumour', ...}, got None and {1: "),
        ("channels='t2'", "a task must have channels ('t2', ...) and labels"),
        ("labels=['tumour']", "and ['tumour']"),
        ("labels={1: 2}", "a task's channels and structures must be names, got 'cine', 2"),
    ],
)
def test_a_task_that_no_list_could_show_is_left_out(packages, wrong, reason):
    made = "from dataclasses import replace\nfrom segcal.tasks import TASKS\n"
    packages.install(
        "organs", f"{made}liver = replace(TASKS['heart'], name='liver', {wrong})", tasks={"liver": "liver"}
    )
    assert reason in TASKS.unknown("liver")


def test_a_damaged_environment_has_no_plug_ins_and_everything_else_works(packages, caplog, monkeypatch):
    def damaged(**group):
        raise TypeError("not enough values")

    monkeypatch.setattr("importlib.metadata.entry_points", damaged)
    assert list(LOSSES) == ["cross_entropy", "soft_dice"]
    assert caplog.messages == [
        "no plug-ins: the installed packages' entry points cannot be read (TypeError: not enough values)"
    ]


def test_versions_must_be_those_that_were_asked_for(packages):
    packages.install("My_Losses", LOSS, "0.3")
    check_installed(())
    check_installed(["my-losses==0.3"])
    with pytest.raises(
        PluginMismatch, match=r"the plug-in my-losses must be version 0\.4 on every machine, got 0\.3 on "
    ):
        check_installed(["my-losses==0.4"])
    with pytest.raises(PluginMismatch, match=r"absent must be version 1 .*, got none on .*; pip install absent==1$"):
        check_installed(["absent==1"])


@pytest.mark.parametrize("first", ["import organs; import segcal.tasks", "import segcal.tasks; import organs"])
def test_a_module_that_uses_segcal_at_its_top_may_be_imported_before_or_after_it(packages, first):
    made = (
        "from dataclasses import replace\nfrom segcal.tasks import TASKS\nKNOWN = sorted(TASKS.built_in)\n"
        "liver = replace(TASKS['heart'], name='liver')\n"
    )
    packages.install("organs", made, tasks={"liver": "liver"})
    program = f"{first}; assert segcal.tasks.TASKS['liver'] is organs.liver; print('ok')"
    path = {"PYTHONPATH": str(packages.folder)}
    found = subprocess.run([sys.executable, "-c", program], env=path, capture_output=True, text=True)
    assert (found.stdout, found.returncode) == ("ok\n", 0), found.stderr
