"""The epochs of a trial, one line each, only ever appended: what a tracking server must be told, sooner or later."""

__all__ = ["SPOOL", "Line", "is_damaged", "line_of", "parse"]

import json
import math
from dataclasses import dataclass

from segcal.records import EpochRecord

SPOOL = "metrics.jsonl"


@dataclass(frozen=True)
class Line:
    """An epoch's numbers, and when it ended."""

    epoch: int  # from 1
    time_ms: int  # since 1970
    train_loss: float
    val_dice: float
    val_dice_by_structure: tuple[float, ...]  # NaN where it is not defined
    lr: float
    seconds: float
    step: str

    @property
    def record(self) -> EpochRecord:
        """The epoch without its weights."""
        return EpochRecord(
            self.epoch, self.train_loss, self.val_dice, self.val_dice_by_structure, self.lr, self.seconds,
            step=self.step,
        )  # fmt: skip

    def encoded(self) -> bytes:
        """One line of JSON; floats come back as they were, bit for bit."""
        content = dict(vars(self))
        content["val_dice_by_structure"] = [None if math.isnan(dice) else dice for dice in self.val_dice_by_structure]
        return json.dumps(content).encode() + b"\n"


def line_of(record: EpochRecord, time_ms: int) -> Line:
    """An epoch as a line of the spool; time_ms: since 1970, when it ended."""
    return Line(
        record.epoch, time_ms, record.train_loss, record.val_dice, tuple(record.val_dice_by_structure), record.lr,
        record.seconds, record.step,
    )  # fmt: skip


def parse(data: bytes) -> list[Line]:
    """Epochs 1, 2, ... up to the first that is not whole: a crash cuts the last one, damage any.

    One that is there twice counts as it was first: a process that was taken for dead wrote it again.
    """
    return _read(data)[0]


def is_damaged(data: bytes) -> bool:
    """Whether an epoch is not whole that no crash cut short."""
    return _read(data)[1] < data.count(b"\n")


def _read(data: bytes) -> tuple[list[Line], int]:
    """The epochs, and how many lines they and their doubles are."""
    lines: list[Line] = []
    texts = data.split(b"\n")[:-1]
    for read, text in enumerate(texts):
        try:
            content = json.loads(text)
            dice = tuple(math.nan if value is None else float(value) for value in content["val_dice_by_structure"])
            line = Line(**{**content, "val_dice_by_structure": dice})
        except (ValueError, TypeError, KeyError):
            return lines, read
        if type(line.epoch) is not int or not 1 <= line.epoch <= len(lines) + 1:
            return lines, read
        if line.epoch == len(lines) + 1:
            lines.append(line)
    return lines, len(texts)
