"""What the URL of a case asks for: whose prediction, how it is shown, and where."""

__all__ = ["Asked", "Question", "asked", "known"]

import json
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import quote

import numpy as np
from fastapi import Depends, Query, Request

from segcal.data.prepared import MANIFEST
from segcal.environment import home
from segcal.errors import UnknownName
from segcal.records import ModelRef
from segcal.service.catalogue import Catalogue, LoadedReport, nearest_of
from segcal.service.explorer import case_slices as slices
from segcal.service.explorer.case_choice import Choice, choose, key_of
from segcal.volume import Case

VIEWS = ("3d", "slices")


@dataclass(frozen=True)
class Asked:
    """What a URL of a case asks for, checked."""

    report: LoadedReport
    case: Case
    split: str
    choice: Choice
    look: slices.Look
    at: tuple[int, int, int]  # voxel (z, y, x)
    view: str
    channels: tuple[str, ...]
    stored: bool  # the axes are as they were stored: nobody knows where the patient's left is

    @property
    def structures(self) -> list[str]:
        """Names of the classes 1, 2, ..."""
        return list(self.report.content["structures"])

    def name(self, refs: tuple[ModelRef, ...]) -> str:
        """The place of these members' maps in the store."""
        return f"{self.report.content['data_digest']}/{self.case.case_id}/{key_of(refs, self.split)}"

    @property
    def here(self) -> str:
        """Where the page is, without its query."""
        run, task = self.report.run.run_id, quote(self.report.task, safe="")
        return f"/reports/{run}/{task}/cases/{quote(self.case.case_id, safe='')}"

    def query(self) -> dict[str, str]:
        """The whole state, as it stands in the URL."""
        look = self.look
        member = self.choice.member
        return {
            "method": self.choice.offer.method.title, "member": "" if member is None else str(member.seed),
            "structure": self.structures[look.structure - 1], "layer": look.layer,
            "channel": self.channels[look.channel], "truth": str(int(look.truth)), "opacity": f"{look.opacity:g}",
            "threshold": f"{look.threshold:g}", "z": str(self.at[0]), "y": str(self.at[1]), "x": str(self.at[2]),
            "view": self.view,
        }  # fmt: skip


def asked(
    request: Request,
    run_id: str,
    task: str,
    case_id: str,
    method: str = "",
    member: str = "",
    structure: str = "",
    layer: str = "probability",
    channel: str = "",
    truth: bool = True,
    opacity: Annotated[float, Query(ge=0, le=1)] = 0.6,
    threshold: Annotated[float, Query(ge=0, le=3)] = 0.05,
    z: int | None = None,
    y: int | None = None,
    x: int | None = None,
    view: str = "3d",
) -> Asked:
    """The state in a URL. Raises UnknownName for names that are not in the report. A voxel outside is moved inside."""
    catalogue: Catalogue = request.app.state.catalogue
    report = catalogue.report(run_id, task)
    case, split = catalogue.case(run_id, task, case_id)
    channels, stored = _grid(report, len(case.image))
    structures = list(report.content["structures"])
    look = slices.Look(
        channel=channels.index(known("channel", channel or channels[-1], channels)),
        layer=known("layer", layer, slices.LAYERS),
        structure=1 + structures.index(known("structure", structure or structures[0], structures)),
        truth=truth, opacity=opacity, threshold=threshold,
    )  # fmt: skip
    middle = _middle(np.asarray(case.truth), look.structure)
    chosen = [m if v is None else v for m, v in zip(middle, (z, y, x), strict=True)]
    at = [max(0, min(v, n - 1)) for v, n in zip(chosen, case.truth.shape, strict=True)]
    choice = choose(report, method, member)
    return Asked(report, case, split, choice, look, (at[0], at[1], at[2]), known("view", view, VIEWS), channels, stored)


Question = Annotated[Asked, Depends(asked)]


def known(what: str, name: str, names: tuple[str, ...] | list[str]) -> str:
    """The name. Raises UnknownName for one that is not among `names`."""
    if name not in names:
        raise UnknownName(f"no {what} '{name}' here; {nearest_of(name, names)}")
    return name


def _middle(truth: np.ndarray, structure: int) -> tuple[int, int, int]:
    """A voxel worth to begin with: in the slice with most of the structures, the middle of one."""
    z = int(np.argmax((truth > 0).sum(axis=(1, 2)))) if truth.any() else len(truth) // 2
    for mask in (truth[z] == structure, truth[z] > 0, np.ones(truth[z].shape, bool)):
        if mask.any():
            rows, columns = np.nonzero(mask)
            return z, int(np.median(rows)), int(np.median(columns))
    return z, 0, 0


def _grid(report: LoadedReport, count: int) -> tuple[tuple[str, ...], bool]:
    """Names of the channels, and whether the axes are as stored; from the prepared data where they are there."""
    try:
        manifest = json.loads((home() / "prepared" / str(report.content["data_digest"]) / MANIFEST).read_text())
        parameters = manifest["parameters"]
        names = tuple(str(name) for name in parameters["channels"])
        if len(names) == count:
            return names, parameters["orientation"] == "stored"
    except (OSError, ValueError, KeyError):
        pass
    return tuple(f"channel {n}" for n in range(1, count + 1)), False
