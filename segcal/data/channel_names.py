"""What the names of files say: which channel an image is, by its name or by nnU-Net's number, and of which case."""

__all__ = ["by_channel", "by_number", "case_name", "channel_numbers"]

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from segcal.data.faults import BadInfo
from segcal.data.layouts import nnunet
from segcal.data.layouts.listing import stem
from segcal.tasks import TaskSpec

_ALIASES = {"t1n": "t1", "t1c": "t1ce", "t2w": "t2", "t2f": "flair"}  # BraTS 2023 and later
_NUMBER = re.compile(r"_(\d{4})$")


def by_channel(paths: Sequence[Path], task: TaskSpec, alone: str) -> dict[str, dict[str, list[Path]]]:
    """Case -> channel -> paths of names that end in a channel; a name that is a channel belongs to the case `alone`."""
    known = {name.lower(): name for name in task.channels}
    known |= {alias: name for alias, name in _ALIASES.items() if name in task.channels and alias not in known}
    found: dict[str, dict[str, list[Path]]] = {}
    for path in paths:
        name = stem(path)
        for end in sorted(known, key=len, reverse=True):
            before = name[: len(name) - len(end)]
            if name.lower().endswith(end) and (not before or before[-1] in "_-. "):
                of_case = found.setdefault(before.rstrip("_-. ") or alone, {})
                of_case.setdefault(known[end], []).append(path)
                break
    return found


def by_number(paths: Sequence[Path], numbers: Mapping[str, str]) -> dict[str, dict[str, list[Path]]]:
    """Case -> channel -> paths of nnU-Net's names; empty where no file is numbered so."""
    found: dict[str, dict[str, list[Path]]] = {}
    for path in paths:
        number = _NUMBER.search(stem(path))
        if number:
            of_case = found.setdefault(stem(path)[: number.start()], {})
            if number[1] in numbers:
                of_case.setdefault(numbers[number[1]], []).append(path)
    return found


def channel_numbers(folder: Path, task: TaskSpec) -> dict[str, str]:
    """File number -> channel: as dataset.json beside the folder says, or in the task's order."""
    named: Sequence[str] = [name.lower() for name in task.channels]
    if (folder.parent / nnunet.DATASET).is_file():
        named = nnunet.read_dataset(folder.parent).channels
        unknown = [name for name in task.channels if name.lower() not in named]
        if unknown:
            rule = f"it must number the channels of task {task.name}"
            remedy = (
                f"call it so in {nnunet.DATASET}, or name the files: {','.join(f'{c}=FILE' for c in task.channels)}"
            )
            raise BadInfo(nnunet.DATASET, rule, f"no '{unknown[0]}' among {', '.join(named)}", remedy)
    return {f"{named.index(name.lower()):04d}": name for name in task.channels}


def case_name(paths: Sequence[Path], task: TaskSpec) -> str:
    """What a case of these files is called: what their names share, without channels and numbers."""
    stems = [_NUMBER.sub("", stem(path)) for path in paths]
    if len(stems) == 1:
        return stems[0].lstrip(".") or "case"
    told = by_channel([path.absolute() for path in paths], task, paths[0].absolute().parent.name)
    if len(told) == 1:
        return next(iter(told)).lstrip(".") or "case"
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*stems, strict=False))
    return "".join(letters[0] for letters in same).strip("_-. ") or stems[0].lstrip(".") or "case"
