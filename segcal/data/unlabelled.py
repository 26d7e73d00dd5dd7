"""Images without labels, as somebody who wants a prediction names them: files, DICOM series, folders of cases.

A channel is told by its name (`t1ce=FILE`; files that end in `_t1ce`), by its number as nnU-Net writes it (`_0000`), or
by its place: in a list of files, or among the components of a 4-D NIfTI.
"""

__all__ = ["Unlabelled", "UnlabelledCase", "case_of_files", "find_unlabelled"]

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from segcal.data.case_files import ImageFile
from segcal.data.channel_names import by_channel, by_number, case_name, channel_numbers
from segcal.data.faults import (
    DataFault,
    DoubledCase,
    MissingCase,
    MissingChannel,
    Unreadable,
    UnsafePath,
)
from segcal.data.layouts import nnunet
from segcal.data.layouts.listing import files, folders, stem
from segcal.data.voxels.dicom import peek
from segcal.data.voxels.nifti import peek_nifti
from segcal.data.voxels.streams import check_path
from segcal.errors import UsageError, nearest
from segcal.tasks import TaskSpec

RESULT = "result.json"  # in the folder of a case that was predicted before
DEPTH = 3  # of folders below the one that is named: BraTS17/HGG/CASE
_NIFTI = (".nii", ".nii.gz")
_LABELS = re.compile(r"(^|[_\-. ])(seg|segm|segmentation|gt|labels?|mask)$", re.IGNORECASE)
_LABEL_FOLDERS = re.compile(r"annotations?|labels?(tr|ts)?|masks?|seg|segmentations?|gt", re.IGNORECASE)


@dataclass(frozen=True)
class UnlabelledCase:
    """One case to predict: an image a channel, in the task's order."""

    case_id: str
    root: Path  # no file may lie outside it
    channels: dict[str, ImageFile]


@dataclass(frozen=True)
class Unlabelled:
    """What somebody's words stand for: cases, and what is none."""

    cases: list[UnlabelledCase] = field(default_factory=list)
    faults: list[DataFault] = field(default_factory=list)


def find_unlabelled(argument: str, task: TaskSpec) -> Unlabelled:
    """The cases that an argument of the command line stands for; no voxel is read.

    argument: a file, a DICOM folder, files divided by commas (`a.nii.gz,b.nii.gz` in the task's order, or
    `t1ce=a.nii.gz,...`), a folder with one case, or a folder of cases. Raises UsageError for an unknown channel name.
    """
    path = Path(argument)
    try:
        if not argument.strip():  # an unset variable of a shell is no word for the folder it stands in
            raise MissingCase("an image", "it must have a name", "an empty one", "name a file or a folder")
        if not _exists(path) and ("," in argument or "=" in argument):
            with _readable(argument):
                return Unlabelled([_listed(argument, task)])
        if not _exists(path):
            raise MissingCase(argument, "an image must be there", "no such file or folder", "check the path")
        folder = Path(os.path.abspath(path))  # the folder names its case: never ".."
        with _readable(folder.name or argument):
            if not path.is_dir():
                return Unlabelled([case_of_files([path], task)])
            return _in_folder(folder, folder, task, DEPTH)
    except DataFault as fault:
        return Unlabelled([], [fault])


def case_of_files(
    paths: Sequence[Path] | Mapping[str, Path], task: TaskSpec, case_id: str = "", root: Path | None = None
) -> UnlabelledCase:
    """One case of files that somebody named: one a channel, by name or in the task's order; or one 4-D NIfTI.

    A folder among them is a DICOM series. case_id: told by the names of the files where empty. root: the folder that no
    file may leave; None trusts the paths as they are. Raises UsageError for an unknown channel name, a DataFault for
    another number of channels than the task's.
    """
    given = list(paths.values()) if isinstance(paths, Mapping) else list(paths)
    case_id = case_id or case_name(given, task)
    root = root or Path(given[0].absolute().anchor if given else "/")
    if isinstance(paths, Mapping):
        unknown = [name for name in paths if name not in task.channels]
        if unknown:
            raise UsageError(f"task {task.name}: no channel named '{unknown[0]}'; {nearest(unknown[0], task.channels)}")
        missing = [name for name in task.channels if name not in paths]
        if missing:
            raise _wrong_channels(case_id, task, f"no {', '.join(missing)}")
        return UnlabelledCase(case_id, root, {name: _image(paths[name], case_id) for name in task.channels})
    if len(given) == 1 and len(task.channels) != 1 and given[0].name.lower().endswith(_NIFTI):
        return UnlabelledCase(case_id, root, _components(given[0], root, case_id, task))
    if len(given) != len(task.channels):
        raise _wrong_channels(case_id, task, _count(given))
    if len(given) == 1 and given[0].name.lower().endswith(_NIFTI):
        check_path(given[0], root, case_id)
        components = peek_nifti(given[0], case_id).components
        if components != 1:
            raise _wrong_channels(case_id, task, f"{components} in {given[0].name}")
    images = [_image(path, case_id) for path in given]
    return UnlabelledCase(case_id, root, dict(zip(task.channels, images, strict=True)))


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # no name that a file can have
        return False


def _listed(argument: str, task: TaskSpec) -> UnlabelledCase:
    """`a.nii.gz,b.nii.gz` or `t1ce=a.nii.gz,t2=b.nii.gz`."""
    parts = [part.strip() for part in argument.split(",") if part.strip()]
    # What comes before = is a channel where it is one, or where all parts say so: a path may hold = too
    named = [part.partition("=") for part in parts]
    if not all(mark for _, mark, _ in named) and not any(name in task.channels and mark for name, mark, _ in named):
        return case_of_files([Path(part) for part in parts], task)
    unnamed = next((part for part, (_, mark, _) in zip(parts, named, strict=True) if not mark), None)
    if unnamed is not None:
        raise UsageError(f"either every file must have its channel (t1ce=FILE) or none, got '{unnamed}' without one")
    found: dict[str, Path] = {}
    for name, _, path in named:
        if name in found:
            raise DoubledCase(argument, f"channel {name} must be there once", "two files", "remove one of them")
        found[name] = Path(path)
    return case_of_files(found, task)


def _in_folder(folder: Path, root: Path, task: TaskSpec, depth: int) -> Unlabelled:
    """The cases of a folder: its files, the slices of one series, or what its folders hold."""
    if nnunet.recognise(folder):
        remedy = f"name the folder of images: {folder / 'imagesTs'}"
        return Unlabelled(
            [], [MissingCase(folder.name, "a folder of images is needed", "a whole nnU-Net dataset", remedy)]
        )
    images = [path for path in files(folder) if not path.name.lower().endswith(".dcm")]
    if images:
        return _of_files(images, folder, root, task)
    slices = _slices(folder)
    if slices:
        case_id = folder.name
        if len(task.channels) != 1:
            return Unlabelled([], [_wrong_channels(case_id, task, "one DICOM series")])
        return Unlabelled([UnlabelledCase(case_id, root, {task.channels[0]: ImageFile(slices)})])
    inside = [entry for entry in folders(folder) if not _LABEL_FOLDERS.fullmatch(entry.name)]
    predicted = [entry for entry in inside if (entry / RESULT).is_file()]  # --out may lie among the images
    inside = [entry for entry in inside if entry not in predicted]
    told = by_channel(inside, task, folder.name)
    if len(task.channels) > 1 and folder.name in told:  # a folder of slices for each channel
        return _collect({folder.name: told[folder.name]}, root, task)
    found = Unlabelled()
    for entry in inside if depth else []:
        below = _below(entry, root, task, depth - 1)
        found.cases.extend(below.cases)
        found.faults.extend(below.faults)
    below_root = predicted and folder != root
    if not found.cases and not found.faults and not below_root:
        rule = "a folder must hold images (NIfTI, MetaImage, NRRD or DICOM) or folders of them"
        got, remedy = "none", "check the path"
        if inside:  # then depth is 0
            got, remedy = f"further folders, {DEPTH + 1} below the one that is named", "name one nearer to the images"
        found.faults.append(MissingCase(folder.name, rule, got, remedy))
    return found


def _below(entry: Path, root: Path, task: TaskSpec, depth: int) -> Unlabelled:
    """The cases of a folder that was found, not named; one that is not looked into is a fault, and stops no other."""
    try:
        if entry.is_symlink():
            rule, got = "a folder must lie in the one that is named", f"a link to {os.readlink(entry)}"
            raise UnsafePath(entry.name, rule, got, "name it itself")
        with _readable(entry.name):
            return _in_folder(entry, root, task, depth)
    except DataFault as fault:
        return Unlabelled([], [fault])


@contextmanager
def _readable(case_id: str) -> Iterator[None]:
    """What the operating system refuses becomes a fault of the case."""
    try:
        yield
    except OSError as error:
        got = f"{error.strerror or error} ({error.filename})"
        raise Unreadable(case_id, "its files must be readable", got, "check who may read them") from None


def _of_files(images: list[Path], folder: Path, root: Path, task: TaskSpec) -> Unlabelled:
    """Cases of the image files of one folder."""
    try:
        numbers = channel_numbers(folder, task)
    except DataFault as fault:
        return Unlabelled([], [fault])
    named = by_channel(images, task, folder.name) or by_number(images, numbers)
    if named:
        found = _collect(named, root, task)
        found.faults.extend(_left_over(images, named, folder, task))
        return found
    found = Unlabelled()
    for path in images:
        if _LABELS.search(stem(path)):
            continue  # a label map beside its image
        try:
            with _readable(stem(path)):
                found.cases.append(case_of_files([path], task, stem(path), root))
        except DataFault as fault:
            found.faults.append(fault)
    if not found.cases and not found.faults:
        names = ", ".join(path.name for path in images[:3])
        found.faults.append(MissingCase(folder.name, "a folder must hold images", f"label maps only ({names})",
                                        "name the folder of the images"))  # fmt: skip
    return found


def _left_over(images: list[Path], named: Mapping[str, object], folder: Path, task: TaskSpec) -> list[DataFault]:
    """A fault of each file that belongs to no case, such as one with a misspelt name; further channels do."""
    if folder.name in named:
        return []
    left = [path for path in images if not stem(path).startswith(tuple(named)) and not _LABELS.search(stem(path))]
    rule = f"a file beside others must end in its channel ({', '.join(task.channels)}) or its number"
    return [MissingChannel(stem(path), rule, path.name, "rename it, or move it away") for path in left]


def _collect(named: Mapping[str, Mapping[str, list[Path]]], root: Path, task: TaskSpec) -> Unlabelled:
    """A case of each name that has every channel once, a fault of each other."""
    found = Unlabelled()
    for case_id, channels in sorted(named.items()):
        missing = [name for name in task.channels if name not in channels]
        doubled = [name for name, paths in channels.items() if len(paths) > 1]
        try:
            if missing:
                raise _wrong_channels(case_id, task, f"no {', '.join(missing)}")
            if doubled:
                both = " and ".join(path.name for path in channels[doubled[0]])
                raise DoubledCase(case_id, f"channel {doubled[0]} must be there once", both, "remove one of them")
            with _readable(case_id):
                images = {name: _image(channels[name][0], case_id) for name in task.channels}
            found.cases.append(UnlabelledCase(case_id, root, images))
        except DataFault as fault:
            found.faults.append(fault)
    return found


def _image(path: Path, case_id: str) -> ImageFile:
    """A file, or the series in a folder."""
    path = path.absolute()
    if not path.is_dir():
        return ImageFile((path,))
    slices = _slices(path)
    if not slices:
        raise MissingChannel(case_id, f"the folder {path.name} must hold DICOM slices", "none", "restore them")
    return ImageFile(slices)


def _slices(folder: Path) -> tuple[Path, ...]:
    """The files of a DICOM series: by their names, as a damaged slice must not be left out in silence."""
    inside = sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.is_file())
    called = [entry for entry in inside if entry.suffix.lower() in (".dcm", ".ima") or entry.suffix[1:].isdigit()]
    bare = [entry for entry in inside if not entry.suffix and entry.name != "DICOMDIR" and peek(entry)]
    found = sorted(called + bare)
    return tuple(found) if bare or any(peek(entry) for entry in called) else ()


def _components(path: Path, root: Path, case_id: str, task: TaskSpec) -> dict[str, ImageFile]:
    """The components of a 4-D NIfTI, one a channel."""
    check_path(path, root, case_id)
    components = peek_nifti(path, case_id).components
    if components != len(task.channels):
        raise _wrong_channels(case_id, task, f"{components} in {path.name}")
    return {name: ImageFile((path.absolute(),), component) for component, name in enumerate(task.channels)}


def _wrong_channels(case_id: str, task: TaskSpec, got: str) -> MissingChannel:
    n = len(task.channels)
    rule = f"task {task.name} needs {n} channel{'s' * (n > 1)} ({', '.join(task.channels)})"
    remedy = f"name them: {','.join(f'{name}=FILE' for name in task.channels)}" if n > 1 else "name one image a case"
    return MissingChannel(case_id, rule, got, remedy)


def _count(paths: Sequence[Path]) -> str:
    names = ", ".join(path.name for path in paths[:4])
    return f"{len(paths)} ({names})" if paths else "0"
