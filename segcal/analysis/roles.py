"""Which recipe plays which part of the paper: cross-entropy or Dice loss; alone, by MC dropout, as an ensemble."""

__all__ = ["PAPER_METHODS", "Roles"]

from collections.abc import Mapping
from dataclasses import dataclass, replace

from segcal.learn.losses import PAPER_CHOICE
from segcal.records import Method
from segcal.trial import TrialConfig

CE, DICE = "cross_entropy", "soft_dice"
# The paper's names of the rows of its tables: (loss, sampled by MC dropout, ensemble)
PAPER_METHODS = {
    "CE": (CE, False, False),
    "MCDO CE": (CE, True, False),
    "EN CE": (CE, False, True),
    "DSC": (DICE, False, False),
    "MCDO DSC": (DICE, True, False),
    "EN DSC": (DICE, False, True),
}


@dataclass(frozen=True)
class Roles:
    """The methods of an experiment, by the paper's names where they play its parts.

    Where several recipes could, it is the one with the paper's weights and head, then the one with most members.
    """

    methods: tuple[Method, ...]
    configs: Mapping[str, TrialConfig]
    pools: Mapping[str, int]

    def method(self, name: str) -> Method | None:
        """The method of one of PAPER_METHODS; None where the experiment has none."""
        loss, sampled, ensemble = PAPER_METHODS[name]
        found = [m for m in self.methods if (m.loss, m.mc_samples > 0, m.size > 1) == (loss, sampled, ensemble)]
        return max(found, key=self._rank, default=None)

    def ensemble(self, loss: str, size: int) -> Method | None:
        """An ensemble of just so many members, or a single model; None where the pool is smaller."""
        single = self.method("CE" if loss == CE else "DSC")
        if single is None or size > self.pools[single.recipe]:
            return None
        return replace(single, size=size)

    def _rank(self, method: Method) -> tuple[bool, int]:
        config = self.configs[method.recipe]
        usual = all(getattr(config, name) == value for name, value in PAPER_CHOICE[method.loss].items())
        return usual, self.pools[method.recipe]
