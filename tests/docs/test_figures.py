"""Pictures of the documentation: what a page shows is there, and the one command makes all of them."""

import re
from pathlib import Path

import pytest
from PIL import Image

from docs.figures import __main__ as figures
from docs.figures.pictures import MAX_BYTES, save, stacked

PROJECT = Path(__file__).parents[2]
PAGES = [*(PROJECT / "docs").rglob("*.md"), *PROJECT.glob("*.md")]
PICTURE = re.compile(r"!\[[^\]]*\]\(([^)#\s]+)\)|<img[^>]+src=\"([^\"]+)\"")
HERE = PROJECT / "docs" / "figures"


def shown():
    """(page, picture) for every picture of a page that is a file of the project."""
    for page in PAGES:
        for found in PICTURE.finditer(page.read_text()):
            name = found[1] or found[2]
            if "://" not in name:
                yield page, (page.parent / name).resolve()


def test_every_picture_of_a_page_is_there():
    pictures = list(shown())
    assert len(pictures) >= 6
    assert [(page.name, picture.name) for page, picture in pictures if not picture.is_file()] == []


def test_the_command_makes_every_picture_and_each_is_shown():
    there = {path.name for path in HERE.iterdir() if path.suffix in (".png", ".jpg", ".svg")}
    assert there == set(figures.FIGURES)
    assert there <= {picture.name for _, picture in shown()}


def test_no_picture_is_too_large():
    assert [path.name for path in HERE.iterdir() if path.stat().st_size > MAX_BYTES] == []


def test_a_name_that_there_is_not(capsys):
    with pytest.raises(SystemExit) as refused:
        figures.main(["nothing.png"])
    assert refused.value.code == 2
    assert "no figure named nothing.png; there are house.svg, " in capsys.readouterr().err


def test_no_browser_is_one_line(monkeypatch):
    from docs.figures import window

    monkeypatch.setattr(window.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"^pictures of pages need chromium, which is not installed: apt-get install"):
        window.open_window().__enter__()


def test_pictures_are_made_small(tmp_path):
    first = Image.new("RGB", (400, 100), "white")
    first.save(tmp_path / "first.png")
    whole = stacked([tmp_path / "first.png", tmp_path / "first.png"])
    assert whole.size == (400, 200)
    save(whole, tmp_path / "out.png", width=100)
    assert Image.open(tmp_path / "out.png").size == (100, 50)
    noise = Image.effect_noise((1200, 1200), 100)
    with pytest.raises(ValueError, match=r"noise.png must be at most 400000 bytes, got \d+"):
        save(noise, tmp_path / "noise.png")
