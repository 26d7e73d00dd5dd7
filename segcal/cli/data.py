"""`segcal data`: generate, check, look at and prepare images."""

__all__ = ["add_data"]

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from segcal.cli.verb import add_verb, say
from segcal.progress import bars
from segcal.tasks import TaskSpec


def add_data(verbs: Any) -> None:
    """The verbs below `segcal data`."""
    data = verbs.add_parser("data", help="generate, check, look at or prepare images")
    nouns = data.add_subparsers(required=True, metavar="VERB")
    demo = add_verb(nouns, "demo", _demo, "write an embedded cohort into a folder",
                    "segcal data demo --task heart --out phantoms --cases 12")  # fmt: skip
    demo.add_argument("--task", default="brain", help="whose embedded cohort (default: brain)")
    demo.add_argument("--out", type=Path, required=True, metavar="DIR", help="a folder that does not exist yet")
    demo.add_argument("--layout", choices=["nnunet"], help="write an nnU-Net raw folder, the last two cases as new "
                      "images without labels (default: the layout of the real cohort)")  # fmt: skip
    demo.add_argument("--cases", type=int, help="patients (default: 36)")
    demo.add_argument("--size", type=int, help="in-plane voxels (default: the cohort's own, 80 to 112)")
    demo.add_argument("--seed", type=int, default=2017, help="seed of the cohort (default: 2017)")
    check = add_verb(nouns, "check", _check, "read every case of a folder and list what is wrong",
                     "segcal data check BraTS17/ --task brain")  # fmt: skip
    sheet = add_verb(nouns, "sheet", _sheet, "draw contact sheets of a folder: a first look at the data",
                     "segcal data sheet ACDC/ --out sheets")  # fmt: skip
    prepare = add_verb(nouns, "prepare", _prepare, "resample, crop and scale a folder of cases, once",
                       "segcal data prepare BraTS17/ --task brain")  # fmt: skip
    for verb in (check, sheet, prepare):
        verb.add_argument("dir", type=Path, metavar="DIR", help="the cohort's folder")
        verb.add_argument("--task", help="a built-in task or a YAML file (default: what the folder looks like)")
        verb.add_argument("--layout", help="how the folder is laid out, where it is not as the task says")
    prepare.add_argument("--ood", action="store_true", help="a cohort that is only tested on")
    sheet.add_argument("--out", type=Path, metavar="DIR", help="folder of the pictures (default: sheets/NAME of DIR)")
    sheet.add_argument("--channel", help="channel to show (default: the task's last)")
    sheet.add_argument("--slices", type=int, default=6, help="slices of each case (default: 6)")


def _task(arguments: argparse.Namespace) -> TaskSpec:
    """The task that was named, or the folder's own; and the layout that was named, or that the folder plainly has."""
    from segcal.data.faults import MissingCase
    from segcal.data.layouts import LAYOUTS, recognise
    from segcal.data.taskfile import load_task

    folder: Path = arguments.dir
    looks_like = arguments.layout or recognise(folder)
    if arguments.task:
        task = load_task(arguments.task)
        ood = looks_like is not None and looks_like == task.ood_layout
        return load_task(arguments.task, {"layout": looks_like} if arguments.layout or ood else None)
    if not folder.is_dir():
        raise MissingCase(str(folder), "the data must be a folder", "none there", "check the path")
    if looks_like is None:
        rule = f"it must be laid out as one of {', '.join(LAYOUTS)}"
        raise MissingCase(str(folder), rule, "none of these", "check the path, or name a task with --task")
    return load_task(str(folder), {"layout": arguments.layout} if arguments.layout else None)


def _demo(arguments: argparse.Namespace) -> None:
    from segcal.data.phantom.embedded import write_cohort

    given = (arguments.task, arguments.out, arguments.cases, arguments.size, arguments.seed)
    cases = write_cohort(*given, bars(say), arguments.layout)
    if arguments.json:
        print(json.dumps({"folder": str(arguments.out.absolute()), "cases": cases}))
    else:
        print(arguments.out.absolute())


def _check(arguments: argparse.Namespace) -> None:
    from segcal.data.check import CaseCheck, check_cohort
    from segcal.errors import BadData

    task = _task(arguments)
    width = 28
    line = f"{{:{width}}} {{:12}} {{:>13}}  {{:20}} {{}}"
    checks: list[CaseCheck] = []
    for check in check_cohort(arguments.dir, task):
        if not checks and not arguments.json:
            print(f"task {task.name}, layout {task.layout}; size and spacing are (z, y, x)")
            print(line.format("case", "site or group", "size", "spacing in mm", "labels found, or fault"))
        checks.append(check)
        if not arguments.json:
            size = "x".join(map(str, check.shape))
            spacing = "x".join(f"{side:.3g}" for side in check.spacing_mm)
            told = f"FAULT {check.fault}: {check.message}" if check.fault else ", ".join(check.labels) or "none"
            print(line.format(check.case_id, check.site, size, spacing, told), flush=True)
    if arguments.json:
        print(json.dumps([asdict(check) for check in checks]))
    faults = sum(bool(check.fault) for check in checks)
    if faults:
        raise BadData(f"{arguments.dir}: every case must pass the checks, got {_faults(faults)} in the list above")
    say(f"{len(checks)} cases, no faults")


def _faults(count: int) -> str:
    return "1 fault" if count == 1 else f"{count} faults"


def _sheet(arguments: argparse.Namespace) -> None:
    from segcal.data.sheet import sheet_rows
    from segcal.report.contact_sheet import draw_sheets

    task = _task(arguments)
    rows = sheet_rows(arguments.dir, task, arguments.channel, arguments.slices)
    out = arguments.out or Path("sheets") / arguments.dir.resolve().name
    pages = [str(path.absolute()) for path in draw_sheets(rows, task.structures, out)]
    print(json.dumps(pages) if arguments.json else "\n".join(pages))


def _prepare(arguments: argparse.Namespace) -> None:
    from segcal.data.prepare import prepare

    task = _task(arguments)
    if arguments.ood:
        task = replace(task, groups=(), ids=())  # these choose among the cases that are learnt from
    cohort = prepare(arguments.dir, task, bars(say), ood=arguments.ood)
    result = {"folder": str(cohort.folder), "digest": cohort.digest, "cases": cohort.counts()}
    print(json.dumps(result) if arguments.json else f"{cohort.folder}  {cohort.counts()}")
