"""The files of one case, as a layout finds them."""

__all__ = ["CaseFiles", "Found"]

from dataclasses import dataclass, field
from pathlib import Path

from segcal.data.faults import DataFault


@dataclass(frozen=True)
class CaseFiles:
    """One case on disk: one image file a channel, in the task's order, and the label file."""

    case_id: str
    root: Path  # the cohort's folder; no file may lie outside it
    channels: dict[str, Path]
    label: Path
    site: str = ""  # "" where the names do not tell
    group: str = ""  # the folder of the cohort, such as HGG

    @property
    def sources(self) -> dict[str, Path]:
        """Every file of the case."""
        return {**self.channels, "label": self.label}


@dataclass(frozen=True)
class Found:
    """What a layout finds below a folder."""

    cases: list[CaseFiles] = field(default_factory=list)
    faults: list[DataFault] = field(default_factory=list)
