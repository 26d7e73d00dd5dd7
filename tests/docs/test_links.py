"""What the project's Markdown promises is there: links, headings, files, make targets, extras, commands' flags."""

import argparse
import contextlib
import io
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from segcal.cli import _parser

ROOT = Path(__file__).parents[2]
ROOMS = ("docs", "dashboards", "examples", "docker", "benchmarks", "tests", ".github")
TOP = ("segcal", "docs", "sweeps", "dashboards", "examples", "docker", "benchmarks", "tests", ".ci", ".github")
HISTORY = ("CHANGELOG.md", "docs/design-notes.md", "docs/findings.md")  # speak of files that are gone as well
PAGES = sorted([*ROOT.glob("*.md"), *(page for room in ROOMS for page in (ROOT / room).rglob("*.md"))])
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]

FENCED = re.compile(r"^( *)(`{3,}|:{3,}|~{3,})[^\n]*\n(.*?)^\1\2[`:~]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(([^()\s]+)\)")
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
PLACEHOLDER = re.compile(r"\.\.\.|…|\[|<")  # IMAGE..., segcal VERB [options], <this repository>
SHELL_END = re.compile(r"\s(?:\||>|>>|2>|<|&|&&|;)(?:\s|$)|;\s")


@pytest.fixture(params=PAGES, ids=NAMES)
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_pages_are_found():
    found = {"README.md", "CHANGELOG.md", "docs/report.md", "docs/reference/commands.md", "dashboards/README.md"}
    assert found <= set(NAMES)


def test_links_lead_to_files_and_headings_that_exist(page):
    assert not [reason for target in LINK.findall(_prose(page)) if (reason := _broken(page, target))]


def test_files_that_are_named_exist(page):
    if page.relative_to(ROOT).as_posix() in HISTORY:
        return
    path = re.compile(rf"({'|'.join(map(re.escape, TOP))})/[\w./-]+")
    named = [name for name in filter(path.fullmatch, INLINE.findall(_prose(page))) if "NAME" not in name]
    assert not [name for name in named if not (ROOT / name).exists() and not (page.parent / name).exists()]


def test_commands_are_accepted(page):
    wrong = [
        f"{command}: {reason}"
        for code, whole in _code(page)
        for command in _commands(code, "segcal")
        if (reason := _refused(command, whole))
    ]
    assert not wrong


def test_mlflow_runs_name_entry_points_and_their_parameters(page):
    entries = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
    for command in (command for code, _ in _code(page) for command in _commands(code, "mlflow run")):
        if entry := re.search(r" -e (\S+)", command):
            assert entry[1] in entries, command
            unknown = set(re.findall(r" -P ([\w]+)=", command)) - set(entries[entry[1]]["parameters"])
            assert not unknown, command


def test_make_targets_and_extras_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = [target for code, _ in _code(page) for target in re.findall(r"^make ([a-z][a-z-]+)", code, re.MULTILINE)]
    assert set(named) <= targets
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    lines = "\n".join(line for line in page.read_text().splitlines() if "pip install" in line)
    asked = re.findall(r"(?:segcal|\.|whl)\[([a-z0-9, -]+)\]", lines)
    assert {extra.strip() for group in asked for extra in group.split(",")} <= extras


def test_examples_of_the_help_are_accepted():
    from docs._extensions.program_tables import verbs_of

    for name, parser in verbs_of(_parser()):
        (example,) = _commands((parser.epilog or "").removeprefix("example: "), "segcal")
        assert example.startswith(name), name
        assert not _refused(example, whole=True)


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("segcal sweeep --task brain", "sweeep"),
        ("segcal data", "VERB"),
        ("segcal sweep --tasks brain", "--tasks"),
        ("segcal data check DIR --slices 3", "--slices"),
        ("segcal predict --model", "argument"),
        ("segcal serve --port eighty", "eighty"),
    ],
)
def test_a_command_that_rots_is_noticed(command, word):
    assert word in _refused(command, whole=True)


def test_a_part_of_a_command_may_lack_arguments_but_invent_none():
    assert not _refused("segcal report --task --method", whole=False)
    assert not _refused("segcal VERB --json", whole=False)
    assert "--metod" in _refused("segcal report --metod", whole=False)
    assert "repot" in _refused("segcal repot", whole=False)


def test_a_link_that_rots_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A heading: `x`\n\n## A heading: `x`\n\n```text\n# no heading\n```\n")
    for target in ("#a-heading-x", "#a-heading-x-1", "page.md", "page.md#a-heading-x", "https://example.org/gone"):
        assert not _broken(page, target)
    for target in ("#no-heading", "#a-heading-x-2", "gone.md#there"):
        assert target in _broken(page, target)


def _prose(page: Path) -> str:
    """The page without its code blocks."""
    return re.sub(r"^(?: {4}|\t).*$", "", FENCED.sub("", page.read_text()), flags=re.MULTILINE)


def _code(page: Path) -> Iterator[tuple[str, bool]]:
    """Code blocks, which hold whole commands (True), and inline code, which may name a part of one."""
    text = page.read_text()
    for block in FENCED.finditer(text):
        yield re.sub(rf"^{block[1]}", "", block[3], flags=re.MULTILINE), True
    rest = FENCED.sub("", text).splitlines()
    yield "\n".join(line.strip() for line in rest if line.startswith("    ")), True
    yield from ((code, False) for line in rest if not line.startswith("    ") for code in INLINE.findall(line))


def _commands(code: str, program: str) -> Iterator[str]:
    """Every call of a program, its continued lines joined, without what the shell does with it."""
    for line in re.sub(r"\\\n\s*", " ", code).splitlines():
        if call := re.search(rf"(?:^|[;&|] |\$ |\$\()\s*({program} .*)", line.strip()):
            yield SHELL_END.split(re.sub(r"\s#\s.*", "", call[1]) + " ")[0].rstrip(" )")


def _broken(page: Path, target: str) -> str:
    """Why a link leads nowhere; "" where it does not. Headings that are made with the site are left to Sphinx."""
    path, _, anchor = target.partition("#")
    if re.match(r"[a-z]+:", path):
        return ""
    file = (page.parent / path).resolve() if path else page
    if not file.exists():
        return f"{target}: no such file"
    if anchor and file.suffix == ".md" and anchor not in _anchors(file) and "<!-- generated:" not in file.read_text():
        return f"{target}: no such heading"
    return ""


def _anchors(page: Path) -> set[str]:
    """Headings as a git host names them, and labels."""
    text = FENCED.sub("", page.read_text())
    labels = re.findall(r"^\(([\w-]+)\)=$|<a (?:id|name)=\"([\w-]+)\"", text, re.MULTILINE)
    found = {one or other for one, other in labels}
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    return found


def _refused(command: str, whole: bool) -> str:
    """Why the real parser would not take a command; "" where it would. Of a part: its verb and options exist."""
    try:
        words = shlex.split(command)[1:]
    except ValueError as error:
        return str(error)
    if whole and not PLACEHOLDER.search(command):
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
                _parser().parse_args(words)
        except SystemExit as end:
            return said.getvalue().strip().rpartition("\n")[2] if end.code else ""
        return ""
    parser = _parser()
    while below := next((a for a in parser._actions if isinstance(a, argparse._SubParsersAction)), None):
        if not words or words[0].startswith("-") or words[0].isupper() or PLACEHOLDER.search(words[0]):
            return ""
        if words[0] not in below.choices:
            return f"no verb {words[0]}"
        parser = below.choices[words.pop(0)]
    options = {option for action in parser._actions for option in action.option_strings}
    unknown = [word for word in words if word.startswith("--") and word.partition("=")[0] not in options]
    return f"no option {unknown[0]}" if unknown else ""
