"""Writes a report's folder: report.html and laws.html (self-contained), report.md, report.json, tables, figures."""

__all__ = ["write_report"]

import base64
import io
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from segcal.records import Cell, ModelRef, Report, Table
from segcal.report.figures import FIGURES, draw
from segcal.report.tables import (
    DAGGER,
    csv_text,
    difference_lines,
    interval,
    latex,
    markdown,
    number,
    row_title,
    table_csv,
)  # fmt: skip

# The order of the report: its sections, and the keys of the tables and the names of the figures in each
ORDER: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Calibration and segmentation", ("box", "figure_2", "figure_1", "reliability", "whole", "volumes", "hd95",
                                      "differences", "recipes", "plugin_metrics", "plugin_differences")),
    ("Uncertainty of a segment", ("figure_3", "figure_3_cases", "figure_s8", "segments", "ood")),
    ("How many members", ("figure_s4", "curve", "members_dice", "members_ce")),
    ("Cases", ("methods", "confidence")),
    ("Sensitivity", ("sensitivity", "pooled")),
    ("Beside the paper", ("paper*",)),
    ("Data and members", ("data", "members", "plugins")),
    ("Further", ("*",)),  # what is named nowhere above
)  # fmt: skip


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it: tables, and names of figures."""

    title: str
    items: tuple[Table | str, ...]

    @property
    def anchor(self) -> str:
        return "section-" + re.sub(r"\W+", "-", self.title.lower())


def write_report(report: Report, scores: pd.DataFrame, out: Path) -> None:
    """Write every file of the report; the folder is replaced when all of them are there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as unfinished:
        folder = Path(unfinished)
        images = _figures(report, folder / "figures")
        (folder / "tables").mkdir()
        for table in report.tables:
            _write(folder / "tables" / f"{table.key}.tex", latex(table))
            _write(folder / "tables" / f"{table.key}.csv", table_csv(table))
        found = sections(report, images)
        _write(folder / "table.csv", csv_text(report.tables))
        _write(folder / "report.md", _markdown(report, found))
        _write(folder / "report.json", json.dumps(_plain(report), indent=1, allow_nan=False))
        _write(folder / "report.html", _html("page.html", report, found, images))
        _write(folder / "laws.html", _html("laws.html", report, found, images))
        scores.to_parquet(folder / "cases.parquet", index=False)
        out.mkdir(exist_ok=True)
        for part in ("figures", "tables"):
            shutil.rmtree(out / part, ignore_errors=True)
        for path in sorted(folder.iterdir()):
            os.replace(path, out / path.name)


def sections(report: Report, figures: Iterable[str]) -> tuple[Section, ...]:
    """The report's tables and figures in order; what is absent is skipped, and what has no place comes last."""
    things: dict[str, Table | str] = {
        **{name: name for name in figures},
        **{table.key: table for table in report.tables},
    }
    places = {name: place for place, (_, names) in enumerate(ORDER) for name in names}
    found: list[Section] = []
    for place, (title, names) in enumerate(ORDER):
        chosen: list[str] = []
        for name in names:
            if not name.endswith("*"):
                chosen += [name] if name in things else []
            else:
                chosen += [key for key in things if key not in places and _place(key, places) == place]
        if chosen:
            found.append(Section(title, tuple(things[name] for name in chosen)))
    return tuple(found)


def _place(name: str, places: dict[str, int]) -> int:
    """The section of a name that stands in none by itself."""
    return next(places[pattern] for pattern in ("paper*", "*") if name.startswith(pattern[:-1]))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _figures(report: Report, folder: Path) -> dict[str, str]:
    """Every figure as PNG and PDF; returns the PNGs in base64, by name."""
    folder.mkdir()
    images = {}
    for name, figure in draw(report).items():
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=150, pil_kwargs={"compress_level": 3})  # 6 is slower, no smaller
        figure.set_layout_engine("none")  # laid out once
        figure.savefig(folder / f"{name}.pdf", dpi=150, metadata={"CreationDate": None})
        (folder / f"{name}.png").write_bytes(png.getvalue())
        images[name] = base64.b64encode(png.getvalue()).decode()
    return images


def _html(template: str, report: Report, found: tuple[Section, ...], images: dict[str, str]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template(template).render(
        report=report,
        sections=found,
        images=images,
        captions={name: FIGURES[name].caption(report) for name in images},
        verdicts=Counter(effect.verdict for effect in report.effects),
        broken=[law for law in report.laws if law.broken],
        models=_by_name(report.members),
        number=number,
        interval=interval,
        difference_lines=difference_lines,
        row_title=row_title,
        heads=_heads,
        is_cell=lambda value: isinstance(value, Cell),
        dagger=DAGGER,
    )


def _heads(table: Table) -> list[tuple[str, str]]:
    return list(zip(table.columns, table.better or ("",) * len(table.columns), strict=True))


def _by_name(members: Iterable[ModelRef]) -> dict[str, list[ModelRef]]:
    names: dict[str, list[ModelRef]] = {}
    for member in members:
        names.setdefault(member.name, []).append(member)
    return names


def _markdown(report: Report, found: tuple[Section, ...]) -> str:
    lines = [
        f"# segcal report: {report.experiment}, task {report.task}",
        "",
        f"{len(report.members)} members, {len(report.test_cases)} test patients, {len(report.ood_cases)} "
        f"out-of-distribution patients; made {report.created} by segcal {report.code_version}; data digest "
        f"{report.data_digest}; seed {report.seed}.",
        "",
        *(f"- {line}" for line in report.findings),
        "",
    ]
    for section in found:
        lines += [f"## {section.title}", ""]
        for item in section.items:
            if isinstance(item, Table):
                lines.append(markdown(item))
            else:
                lines.append(f"![{item}](figures/{item}.png)\n\n{FIGURES[item].caption(report)}\n")
    lines += ["## Notes", "", *(f"- {note}" for note in report.notes), ""]
    if report.effects:
        lines += [
            "## Empirical laws of the paper",
            "",
            "| | law | measured | value | verdict | note |",
            "|---" * 6 + "|",
        ]
        for effect in report.effects:
            ci = interval(effect.ci)
            value = number(effect.value) + (f" [{ci}]" if ci else "")
            lines.append(_row(effect.name, effect.statement, effect.measured, value, effect.verdict, effect.note))
        lines.append("")
    if report.laws:
        lines += ["## Laws of every correct computation", "", "| law | checked | broken | worst |", "|---" * 4 + "|"]
        lines += [_row(law.law, str(law.checked), str(law.broken), law.worst) for law in report.laws]
        lines.append("")
    lines += ["## Conventions", "", *(f"- **{name}**: {text}" for name, text in report.conventions), ""]
    lines += ["## Model versions", ""]
    lines += [f"- {m.name} version {m.version}, seed {m.seed}, sha256 {m.weights_sha256}" for m in report.members]
    return "\n".join(lines) + "\n"


def _row(*texts: str) -> str:
    return "| " + " | ".join(" ".join(text.split("\n")).replace("|", r"\|") for text in texts) + " |"


def _plain(report: Report) -> dict[str, Any]:
    """The report as JSON; the pixels of plates stay in the figures. NaN becomes null."""
    content = {field.name: getattr(report, field.name) for field in fields(report)}
    shown = ("case_id", "caption", "domain", "slice_index")
    content["plates"] = [
        {"key": plate.key, "views": [{name: getattr(view, name) for name in shown} for view in plate.views]}
        for plate in report.plates
    ]
    plain: dict[str, Any] = _jsonable(content)
    return plain


def _jsonable(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return _jsonable({field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return _jsonable(sorted(value))
    if isinstance(value, np.ndarray | list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
