"""Writes a report's folder: report.html (self-contained), report.md, report.json, LaTeX, figures, scores."""

__all__ = ["write_report"]

import base64
import io
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from segcal.records import CaseScore, Report, Table
from segcal.report.figures import FIGURES, draw
from segcal.report.tables import csv_text, interval, latex, markdown, number


def write_report(report: Report, rows: Sequence[CaseScore], out: Path) -> None:
    """Write every file of the report; the folder is replaced when all of them are there."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as unfinished:
        folder = Path(unfinished)
        (folder / "figures").mkdir()
        (folder / "tables").mkdir()
        images = {}
        for name, figure in draw(report).items():
            figure.savefig(folder / "figures" / f"{name}.pdf")
            png = io.BytesIO()
            figure.savefig(png, format="png", dpi=150)
            (folder / "figures" / f"{name}.png").write_bytes(png.getvalue())
            images[name] = base64.b64encode(png.getvalue()).decode()
        for table in report.tables:
            (folder / "tables" / f"{table.key}.tex").write_text(latex(table))
        (folder / "table.csv").write_text(csv_text(report.tables))
        (folder / "report.md").write_text(_markdown(report, images))
        (folder / "report.json").write_text(json.dumps(_plain(report), indent=1))
        (folder / "report.html").write_text(_html(report, images))
        pd.DataFrame([asdict(row) for row in rows]).to_parquet(folder / "cases.parquet", index=False)
        out.mkdir(exist_ok=True)
        for part in ("figures", "tables"):
            shutil.rmtree(out / part, ignore_errors=True)
        for path in sorted(folder.iterdir()):
            os.replace(path, out / path.name)


def _html(report: Report, images: dict[str, str]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    return environment.get_template("page.html").render(
        report=report,
        tables={table.key: table for table in report.tables},
        images=images,
        captions={name: spec.caption for name, spec in FIGURES.items()},
        number=number,
        interval=interval,
        heads=_heads,
    )


def _heads(table: Table) -> list[tuple[str, str]]:
    return list(zip(table.columns, table.better or ("",) * len(table.columns), strict=True))


def _markdown(report: Report, images: dict[str, str]) -> str:
    lines = [
        f"# segcal report: {report.experiment}, task {report.task}",
        "",
        f"{len(report.members)} members, {len(report.test_cases)} test patients; made {report.created} by segcal "
        f"{report.code_version}; data digest {report.data_digest}; seed {report.seed}.",
        "",
        *(f"- {line}" for line in report.findings),
        "",
        *(markdown(table) for table in report.tables),
        *(f"![{name}](figures/{name}.png)\n\n{FIGURES[name].caption}\n" for name in images),
        "### Notes",
        "",
        *(f"- {note}" for note in report.notes),
        "",
        "### Laws",
        "",
        "| law | checked | broken |",
        "|---|---|---|",
        *(
            f"| {law.law.replace('|', chr(92) + '|')} | {law.checked} | {law.broken} {law.worst} |"
            for law in report.laws
        ),
        "",
        "### Conventions",
        "",
        *(f"- **{name}**: {text}" for name, text in report.conventions),
        "",
        "### Model versions",
        "",
        *(f"- {m.name} version {m.version}, seed {m.seed}, sha256 {m.weights_sha256}" for m in report.members),
    ]
    return "\n".join(lines) + "\n"


def _plain(report: Report) -> dict[str, Any]:
    """The report as JSON; the pixels of overlays stay in the figures. NaN becomes null."""
    content = {field.name: getattr(report, field.name) for field in fields(report) if field.name != "overlays"}
    content["overlays"] = [
        {"case_id": o.case_id, "rank": o.rank, "dice": o.dice, "slice_index": o.slice_index} for o in report.overlays
    ]
    plain: dict[str, Any] = _jsonable(content)
    return plain


def _jsonable(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return _jsonable({field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(value) if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
