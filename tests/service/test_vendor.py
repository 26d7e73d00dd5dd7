"""What the pages bring along is what was published, with its licence, and asks nobody else for anything."""

import hashlib
import json
import re
from pathlib import Path

import pytest

import segcal

DASHBOARDS = Path(segcal.__file__).parent / "dashboards"
VENDOR = DASHBOARDS / "assets" / "vendor"
ENTRIES = json.loads((VENDOR / "vendor.json").read_text())
LICENCES = {"MIT": "MIT License", "0BSD": "Zero-Clause BSD", "BSD-2-Clause": "BSD 2-Clause License"}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["name"])
def test_a_file_is_the_published_one(entry):
    content = (VENDOR / entry["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    assert entry["version"] in entry["source"]
    assert entry["source"].startswith("https://registry.npmjs.org/")
    assert b"sourceMappingURL=" not in content  # developers' tools would ask for it


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["name"])
def test_it_carries_its_licence(entry):
    text = (VENDOR / entry["licence_file"]).read_text()
    assert LICENCES[entry["licence"]] in text.splitlines()[0]
    assert Path(entry["licence_file"]).parent == Path(entry["file"]).parent


def test_nothing_else_lies_there():
    listed = {entry[key] for entry in ENTRIES for key in ("file", "licence_file")} | {"vendor.json"}
    assert {str(path.relative_to(VENDOR)) for path in VENDOR.rglob("*") if path.is_file()} == listed


@pytest.mark.parametrize("path", sorted((DASHBOARDS / "templates").glob("*.html")), ids=lambda path: path.name)
def test_templates_ask_nobody_else(path):
    content = path.read_text()
    assert not re.search(r"""(src|href|action|srcset|hx-\w+)\s*=\s*["']?\s*(https?:)?//""", content)
    assert not re.search(r"<script(?![^>]*(src=|application/json))", content)  # the policy forbids it
    assert not re.search(r"""\son\w+\s*=\s*["']""", content)


@pytest.mark.parametrize(
    "path", sorted(p for p in (DASHBOARDS / "assets").iterdir() if p.suffix in (".css", ".js", ".svg")),
    ids=lambda path: path.name,
)  # fmt: skip
def test_our_own_files_ask_nobody_else(path):
    assert set(re.findall(r"https?://[\w./-]+", path.read_text())) <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("path", sorted((DASHBOARDS / "templates").glob("*.html")), ids=lambda path: path.name)
def test_what_templates_ask_for_is_there(path):
    for name in re.findall(r"asset\('([^']+)'\)", path.read_text()):
        assert (DASHBOARDS / "assets" / name).is_file(), name
