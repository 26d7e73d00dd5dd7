"""The site builds without a warning, and a browser shows it whole: nothing sticks out or is missing, search finds."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.service.browser import browser, page

__all__ = ["browser", "page"]

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.long
LOOKED_AT = (
    "index",
    "tutorial",
    "concepts",
    "deployment",
    "reference/commands",
    "reference/http",
    "reference/python/learn",
)
STICKS_OUT = """
const clips = element => getComputedStyle(element).overflowX != "visible";
const scrolls = element => element && (clips(element) || scrolls(element.parentElement));
return [...document.querySelectorAll("article *")].filter(
  element => element.getBoundingClientRect().right > innerWidth + 1 && !scrolls(element)
).map(element => element.tagName + " " + element.textContent.slice(0, 60));
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built from nothing as `make docs` builds it."""
    recipe = re.search(r"^docs:.*\n\t(sphinx-build .*) docs build/docs$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe, "make docs must build the site"
    out, trees = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("trees")
    options = recipe[1].split()[1:]
    command = [sys.executable, "-m", "sphinx", *options, "-d", str(trees), "docs", str(out)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert built.returncode == 0, built.stderr
    assert built.stderr == ""
    return out


@pytest.fixture(scope="module")
def served(site) -> Iterator[str]:
    """The site on a free port of this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_every_page_is_there(site):
    for source in (ROOT / "docs").rglob("*.md"):
        if not {"_extensions", "_static", "figures"} & set(source.relative_to(ROOT / "docs").parts):
            assert (site / source.relative_to(ROOT / "docs").with_suffix(".html")).exists()


def test_what_is_generated_is_there(site):
    for name, words in {
        "commands": ("segcal ensemble create", "--reconcile", "130"),
        "files": ("experiment", "lr_patience", "split_counts", "choices"),
        "http": ("/v1/analyses/{analysis_id}/events", "too_many", "409"),
        "python/public": ("paired_bootstrap", "dilated_box", "0.6931"),
        "python/ground": ("TrialConfig", "seeds the weights' initialisation"),
    }.items():
        text = (site / "reference" / f"{name}.html").read_text()
        assert "generated:" not in text
        shown = _text(text)
        assert [word for word in words if word not in shown] == []


def test_pictures_of_pages_are_there(site):
    for html in site.rglob("*.html"):
        for source in re.findall(r'<img[^>]* src="([^":]+)"', html.read_text()):
            assert (html.parent / source.partition("?")[0]).exists(), f"{html.name}: {source}"


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_sticks_out(served, page, width):
    page.size(width, 900)
    for name in LOOKED_AT:
        page.open(f"{served}/{name}.html")
        assert page.js("return document.documentElement.scrollWidth") <= width, name
        assert page.js(STICKS_OUT) == [], name


def test_search_finds_a_function(served, page):
    page.size(1280, 900)
    page.open(f"{served}/search.html?q=paired_bootstrap")
    page.wait(lambda: page.all("#search-results li a"), "a result")
    assert any("public.html" in link.get_attribute("href") for link in page.all("#search-results li a"))


def _text(html: str) -> str:
    """What a reader sees of a page."""
    found: list[str] = []
    parser = HTMLParser()
    parser.handle_data = found.append  # type: ignore[method-assign]
    parser.feed(html)
    return "".join(found)
