"""docs/tutorial.md: its commands parse; and (long) a reader who gives all of them sees what the page shows."""

import dataclasses
import shlex
from pathlib import Path

import pytest

from docs.walk import Step, Walk, expected_code, missing, steps
from segcal.tasks import TaskSpec

PAGE = Path(__file__).parents[2] / "docs" / "tutorial.md"
PROGRAMS = ("segcal", "ls", "mv", "echo")  # of the page; nothing that differs from one system to the next
STEPS = steps(PAGE.read_text())


def test_the_page_asks_for_commands_that_there_are(segcal_parser):
    commands = [step.command for step in STEPS if step.command]
    assert len(commands) >= 12
    for command in commands:
        assert "\n" not in command
        words = shlex.split(command.partition(" > ")[0])
        assert words[0] in PROGRAMS, command
        if words[0] == "segcal" and words[1:] != ["--version"]:
            segcal_parser.parse_args(words[1:])  # exits where it is none


def test_the_page_edits_fields_that_there_are():
    fields = {field.name for field in dataclasses.fields(TaskSpec)}
    edits = [step for step in STEPS if step.file]
    assert edits
    assert all(line.partition(":")[0] in fields for step in edits for line in step.fields)


@pytest.mark.long
def test_a_reader_sees_what_the_page_shows(tmp_path):
    walk = Walk(tmp_path, {"SEGCAL_HOME": str(tmp_path / ".segcal")})  # tests/conftest.py takes the other variables out
    for step, after in zip(STEPS, [*STEPS[1:], None], strict=True):
        code, output = walk.take(step)
        assert code == expected_code(step, after), f"line {step.line}: {step.command}\n{output[-3000:]}"
        assert missing(step.shown, output) is None, f"line {step.line}: {step.command}\n{output[-3000:]}"


@pytest.mark.parametrize(
    ("shown", "found"),
    [
        (("a 0.25 b",), True),  # as many digits as there are
        (("a 0.25 c",), False),
        (("5 cases",), True),
        (("6 cases",), False),  # whole numbers must agree
        (("a …",), True),
        (("…", "5 cases"), True),
        (("last",), True),
        (("a 0.25 b", "last"), False),  # what lies between is not said to be left out
        (("a 0.25 b", "…", "last"), True),
        (("5 cases", "…", "a 0.25 b"), False),  # another order
    ],
)
def test_what_a_page_may_leave_out(shown, found):
    assert (missing(shown, "a 0.318 b\n5 cases\nlast\n") is None) is found


def test_commands_output_and_edits_of_a_page():
    page = (
        "text\n```console\n$ one \\\n    --more\nsaid\n…\n$ two\n```\n\n```yaml\n# in my.yaml: two lines\n"
        "name: x   # why\ncrop: [64, 64]\n```\n```yaml\nname: only shown\n```\n    $ not this\n"
    )
    assert steps(page) == [
        Step(3, "one --more", ("said", "…")),
        Step(7, "two"),
        Step(11, file="my.yaml", fields=("name: x   # why", "crop: [64, 64]")),
    ]


def test_a_reader_gives_commands_and_edits_files(tmp_path):
    walk = Walk(tmp_path, {"WORD": "seen"})
    (tmp_path / "my.yaml").write_text("name: old\n# crop: none\ncrop: [80, 80]\n")
    assert walk.take(Step(1, "echo $WORD; false")) == (1, "seen\n")
    assert walk.take(Step(2, "echo $?")) == (0, "1\n")
    walk.take(Step(3, file="my.yaml", fields=("name: new  # why",)))
    assert (tmp_path / "my.yaml").read_text() == "name: new\n# crop: none\ncrop: [80, 80]\n"
    with pytest.raises(ValueError, match=r"my\.yaml must have one line 'size:', got 0"):
        walk.take(Step(4, file="my.yaml", fields=("size: 3",)))
    assert expected_code(Step(1, "false"), Step(2, "echo $?", ("1",))) == 1
    assert expected_code(Step(1, "true"), None) == 0
