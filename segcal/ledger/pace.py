"""How often a running trial writes: soon at first, so that it can be watched, then seldom, so that it costs nothing."""

__all__ = ["wait_s", "writes_of"]

import math

SHORTEST_S, LONGEST_S = 5.0, 60.0


def wait_s(age_s: float) -> float:
    """Seconds from a write at this age of the trial to the next: as many as it is old, between 5 s and a minute."""
    return min(max(age_s, SHORTEST_S), LONGEST_S)


def writes_of(seconds: float) -> int:
    """Writes of a trial that takes so long, the one at its end with them."""
    age_s, count = wait_s(0.0), 1
    while age_s < min(seconds, LONGEST_S):  # from then on one a minute
        count, age_s = count + 1, age_s + wait_s(age_s)
    return count + max(0, math.ceil((seconds - age_s) / LONGEST_S))
