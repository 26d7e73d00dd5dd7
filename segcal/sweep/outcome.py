"""How the trials of a sweep ended."""

__all__ = ["Outcome"]

from dataclasses import dataclass, field


@dataclass
class Outcome:
    """Keys of trials."""

    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # with the reason
    unfinished: list[str] = field(default_factory=list)  # stopped by an interrupt
