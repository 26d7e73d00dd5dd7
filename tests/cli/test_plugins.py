"""`segcal plugins`, and plug-ins in the other verbs that list or take a name."""

import json
import subprocess
import sys

from segcal.cli import main

LOSS = "def mine(logits, truth, weights=None):\n    return logits.mean()\n"
TASK = (
    "from dataclasses import replace\nfrom segcal.tasks import TASKS\nliver = replace(TASKS['heart'], name='liver')\n"
)


def run(capsys, *argv):
    code = main(list(argv))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_everything_is_listed_with_its_state(capsys, packages):
    packages.install("good", LOSS, "1.2", losses={"m": "mine"})
    packages.install("broken", "import absent_package", losses={"bad": "mine"})
    packages.install("twin", LOSS, losses={"two": "mine"})
    packages.install("other-twin", LOSS, losses={"two": "mine"})
    code, out, err = run(capsys, "plugins")
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "group name from object state"
    assert "losses m good 1.2 good:mine ok" in lines
    assert "losses bad broken 1.0 broken:mine failed: ModuleNotFoundError: No module named 'absent_package'" in lines
    both = "other-twin 1.0 (other_twin:mine) and twin 1.0 (twin:mine)"
    assert (
        f"losses two twin 1.0 twin:mine refused: a name must belong to one plug-in, got {both}; uninstall all but one"
        in lines
    )
    assert sum(line.startswith("losses two") for line in lines) == 2
    assert any(line.startswith("layouts nnunet segcal ") for line in lines)
    code, out, _ = run(capsys, "plugins", "--json")
    assert code == 0
    found = {(each["group"], each["name"]): each for each in json.loads(out)}
    assert found["losses", "m"] == {
        "group": "losses", "name": "m", "distribution": "good", "version": "1.2", "object": "good:mine", "state": "ok",
        "reason": "",
    }  # fmt: skip
    assert found["metrics", "dice"]["distribution"] == "segcal"


def test_tasks_of_plug_ins_are_listed_and_shown(capsys, packages):
    packages.install("organs", TASK, tasks={"liver": "liver"})
    assert (
        "liver: cine -> right ventricle, myocardium, left ventricle (plug-in organs)" in run(capsys, "task", "list")[1]
    )
    assert json.loads(run(capsys, "task", "list", "--json")[1]) == ["brain", "heart", "prostate", "prostate3d", "liver"]
    assert "name: liver\n" in run(capsys, "task", "show", "liver")[1]
    code, _, err = run(capsys, "data", "demo", "--task", "liver", "--out", "nowhere")
    assert (code, err.startswith("segcal: no embedded data for task 'liver'")) == (2, True)


def test_a_name_whose_plug_in_failed_says_why_in_one_line(capsys, packages):
    packages.install("organs", "1 / 0", tasks={"liver": "liver"})
    code, _, err = run(capsys, "task", "show", "liver")
    assert code == 2
    assert (
        "no task named 'liver'; the plug-in organs 1.0 (organs:liver) failed: ZeroDivisionError: division by zero"
        in err
    )
    assert "Traceback" not in err


def test_help_looks_for_no_plug_ins():
    """In a fresh process, where a look at the installed packages would fail and say so."""
    program = "import importlib.metadata as m\nm.entry_points = None\nfrom segcal.cli import main\nmain(['--help'])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
    assert "plugins" in found.stdout
