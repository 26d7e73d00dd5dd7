"""A prepared cohort: memory-mapped cases and the manifest that says what they are."""

__all__ = ["MANIFEST", "PreparedCohort", "is_whole", "open_prepared"]

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segcal.errors import BadData
from segcal.volume import Case

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class PreparedCohort:
    """Cases on one grid, by split."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def digest(self) -> str:
        """Hash of the manifest: of the sources, the task and how they were prepared."""
        digest: str = self.manifest["digest"]
        return digest

    @property
    def class_voxels(self) -> tuple[int, ...]:
        """Voxels of each class over train and val, for inverse-frequency weights."""
        return tuple(self.manifest["class_voxels"])

    def counts(self) -> dict[str, int]:
        """Cases in each split."""
        splits = [entry["split"] for entry in self.manifest["cases"]]
        return {split: splits.count(split) for split in dict.fromkeys(("train", "val", "test", *splits))}

    def cases(self, split: str) -> list[Case]:
        """The cases of a split, their arrays mapped into memory and read when they are touched.

        torch takes them as they are, without a copy; what is written to them stays in memory and never reaches a file.
        """
        return [self._open(entry) for entry in self.manifest["cases"] if entry["split"] == split]

    def _open(self, entry: dict[str, Any]) -> Case:
        case_id = entry["case_id"]
        z, y, x = entry["spacing_mm"]
        return Case(
            case_id=case_id,
            image=np.load(self.folder / f"{case_id}.image.npy", mmap_mode="c"),
            truth=np.load(self.folder / f"{case_id}.truth.npy", mmap_mode="c"),
            spacing_mm=(z, y, x),
            site=entry["site"],
        )


def open_prepared(folder: Path) -> PreparedCohort:
    """A folder that `prepare` finished; raises BadData for any other."""
    path = folder / MANIFEST
    if not path.exists():
        raise BadData(
            f"prepared data must have a manifest, got none in {folder}; "
            "set SEGCAL_HOME to where they are, or call the same `segcal sweep` again (it trains nothing twice)"
        )
    again = "call `segcal data prepare` or the same `segcal sweep` again: they are prepared anew"
    try:
        manifest = json.loads(path.read_text())
        torn = [entry["case_id"] for entry in manifest["cases"] if not is_whole(folder, entry)]
    except (ValueError, KeyError, TypeError) as error:
        raise BadData(f"{path} must be a manifest of prepared data, got {type(error).__name__}; {again}") from None
    if torn:
        raise BadData(f"prepared data in {folder} must be whole, got damaged files of {torn[0]}; {again}")
    return PreparedCohort(folder, manifest)


def is_whole(folder: Path, entry: dict[str, Any]) -> bool:
    """Whether a case's arrays are there with the sizes that they were written with."""
    paths = {name: folder / f"{entry['case_id']}.{name}.npy" for name in ("image", "truth")}
    return all(path.is_file() and path.stat().st_size == entry[f"{name}_bytes"] for name, path in paths.items())
