"""Makes the pictures anew: python -m docs.figures [--store DIR] [NAME ...]

The runs that they show are kept below the store (build/figures), and go on where they stopped when called again. All
from nothing takes some 15 minutes on two idle cores; the demo alone, 8.
"""

__all__ = ["FIGURES", "main"]

import argparse
import json
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from docs.figures import house
from docs.figures.pictures import save, stacked
from docs.figures.runs import PREDICTED, Runs

HERE = Path(__file__).parent
STORE = Path("build/figures")
LAPTOP = (1366, 768)
PAGE_WIDTH, TALLEST = 1200, 2400
FIGURE_END = "return Math.ceil(document.querySelector('figure img').getBoundingClientRect().bottom + window.scrollY)"
Make = Callable[[Runs, Path], None]


def _house(runs: Runs, path: Path) -> None:
    house.write(path)


def _sheet(runs: Runs, path: Path) -> None:
    save(stacked(runs.sheets), path, width=1100)


def _report(runs: Runs, path: Path) -> None:
    _page_of_report(runs.demo / "reports" / "calib" / "report.html", path)


def _explorer(runs: Runs, path: Path) -> None:
    _case_view(runs, runs.demo, "calib", "brain/cases/Brats17_TCIA_P27_1", path)


def _predict(runs: Runs, path: Path) -> None:
    save(Image.open(runs.demo / "predictions" / PREDICTED / "check.png"), path)


def _tutorial_sheet(runs: Runs, path: Path) -> None:
    page = Image.open(runs.tutorial / "sheets" / "Dataset501_Brains" / "sheet-01.png")
    save(
        page.crop((0, 0, page.width, round(page.height * 7.6 / 14.8))), path, width=1100
    )  # the legend and four patients


def _tutorial_report(runs: Runs, path: Path) -> None:
    _page_of_report(runs.tutorial / "reports" / "brains" / "report.html", path)


def _tutorial_case(runs: Runs, path: Path) -> None:
    _case_view(runs, runs.tutorial, "brains", "brains/cases/brain_033", path)


def _tutorial_predict(runs: Runs, path: Path) -> None:
    save(Image.open(runs.tutorial / "predictions" / "brain_036" / "check.png"), path)


FIGURES: dict[str, Make] = {
    "house.svg": _house,
    "sheet.jpg": _sheet,
    "tutorial-sheet.jpg": _tutorial_sheet,
    "tutorial-report.png": _tutorial_report,
    "tutorial-case.png": _tutorial_case,
    "tutorial-predict.png": _tutorial_predict,
    "report.png": _report,
    "explorer.png": _explorer,
    "predict.png": _predict,
}


def _page_of_report(page: Path, path: Path) -> None:
    """A report.html from its top to the end of its first figure."""
    from docs.figures.window import open_window

    with open_window() as window:
        window.size(PAGE_WIDTH, TALLEST)
        window.open(page.as_uri())
        save(window.shot(PAGE_WIDTH, min(int(str(window.js(FIGURE_END))), TALLEST)), path)


def _case_view(runs: Runs, folder: Path, experiment: str, case: str, path: Path) -> None:
    """A test case in the explorer: the Dice ensemble's probability of the first structure."""
    from docs.figures.window import open_window, serving

    with serving(folder, runs.environment(folder)) as url, open_window() as window:
        with urllib.request.urlopen(f"{url}/v1/cases?experiment={experiment}", timeout=60) as answer:
            run_id = json.load(answer)["run_id"]
        window.size(*LAPTOP)
        window.open(f"{url}/reports/{run_id}/{case}?method={quote('dice, ensemble of 5')}")
        window.drawn("the volumes of the case")
        save(window.shot(*LAPTOP), path)


def main(argv: list[str] | None = None) -> int:
    """Make the pictures that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m docs.figures", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FIGURES)}; none: all")
    parser.add_argument(
        "--store", type=Path, default=STORE, metavar="DIR", help=f"folder of the runs (default: {STORE})"
    )
    arguments = parser.parse_args(argv)
    unknown = set(arguments.names) - set(FIGURES)
    if unknown:
        parser.error(f"no figure named {min(unknown)}; there are {', '.join(FIGURES)}")
    runs = Runs(arguments.store.absolute())
    for name in arguments.names or FIGURES:
        print(name, file=sys.stderr, flush=True)
        FIGURES[name](runs, HERE / name)
        print(f"  {(HERE / name).stat().st_size / 1000:.0f} kB", file=sys.stderr, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
