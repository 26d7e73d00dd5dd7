"""How the trials of a sweep ended."""

__all__ = ["DEATHS", "DIED", "Outcome"]

from dataclasses import dataclass, field

DEATHS = 3  # of a trial's process, each of which it survives
DIED = f"its process died {DEATHS + 1} times: killed, out of memory, or crashed"


@dataclass
class Outcome:
    """Keys of trials."""

    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)  # with the reason
    unfinished: list[str] = field(default_factory=list)  # stopped by an interrupt
