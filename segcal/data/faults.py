"""What can be wrong with a cohort on disk. A class per kind of fault; each names case, rule and remedy."""

__all__ = [
    "AmbiguousSeries", "BadGeometry", "BadInfo", "BadSplit", "Corrupt", "DataFault", "DoubledCase", "EmptyFile",
    "GridMismatch", "MissingCase", "MissingChannel", "NotFinite", "TooLarge", "Truncated", "UnknownLabel", "Unreadable",
    "UnsafePath",
]  # fmt: skip

from segcal.errors import BadData


class DataFault(BadData):
    """A rule that a case breaks, in one line."""

    def __init__(self, case_id: str, rule: str, got: str, remedy: str) -> None:
        super().__init__(f"{case_id}: {rule}, got {got}; {remedy}")
        self.case_id, self.rule, self.got, self.remedy = case_id, rule, got, remedy


class MissingCase(DataFault):
    """No case, or a case folder without images."""


class DoubledCase(DataFault):
    """The same case, or the same channel of a case, twice."""


class MissingChannel(DataFault):
    """A channel or the label file is absent."""


class UnsafePath(DataFault):
    """A file that lies outside the cohort's folder."""


class EmptyFile(DataFault):
    """A file of 0 bytes."""


class Truncated(DataFault):
    """A file that ends before its voxels do."""


class Corrupt(DataFault):
    """A compressed file whose checksum does not match."""


class Unreadable(DataFault):
    """Not a file of the expected format."""


class TooLarge(DataFault):
    """More voxels or bytes than a medical image has."""


class NotFinite(DataFault):
    """NaN or infinite voxels."""


class BadInfo(DataFault):
    """A file beside the images that does not say what is needed."""


class AmbiguousSeries(DataFault):
    """Several series that could be the one, and nothing that says which."""


class BadGeometry(DataFault):
    """Spacing or affine that no scanner writes."""


class GridMismatch(DataFault):
    """Images or labels of one case on different grids."""


class UnknownLabel(DataFault):
    """Label values outside the task's set."""


class BadSplit(DataFault):
    """Cases that cannot be divided into train, val and test."""
