"""The files of one case, as a layout finds them."""

__all__ = ["CaseFiles", "Found", "ImageFile"]

from dataclasses import dataclass, field
from pathlib import Path

from segcal.data.faults import DataFault


@dataclass(frozen=True)
class ImageFile:
    """One image on disk: a file, a component of a 4-D file, or the slices of a DICOM series."""

    paths: tuple[Path, ...]
    component: int | None = None
    series: str = ""  # SeriesInstanceUID; files of other series among the paths are left out

    @property
    def name(self) -> str:
        """What people call it: the file, or the folder of the slices."""
        return self.paths[0].parent.name if self.series else self.paths[0].name


@dataclass(frozen=True)
class CaseFiles:
    """One case on disk: one image a channel, in the task's order, and the label map."""

    case_id: str
    root: Path  # the cohort's folder; no file may lie outside it
    channels: dict[str, ImageFile]
    label: ImageFile
    site: str = ""  # "" where the names do not tell
    group: str = ""  # the part of the cohort, such as HGG or training
    patient: str = ""  # cases of one patient are never divided; "" stands for a patient with this case alone
    split: str = ""  # train, val or test, where the layout says so
    label_values: dict[int, int] = field(default_factory=dict)  # value in the file -> the task's; empty: the same
    label_has_own_grid: bool = False  # drawn on another grid than the image's, and resampled onto it

    @property
    def images(self) -> dict[str, ImageFile]:
        """Every image of the case."""
        return {**self.channels, "label": self.label}


@dataclass(frozen=True)
class Found:
    """What a layout finds below a folder."""

    cases: list[CaseFiles] = field(default_factory=list)
    faults: list[DataFault] = field(default_factory=list)
