"""Whose prediction of a case a page shows: the methods of a report, and their members by seed."""

__all__ = ["Choice", "Offer", "choose", "key_of", "offers", "reported_scores"]

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from segcal.analysis.ensembles import Recipe, recipes
from segcal.analysis.variants import PLAIN
from segcal.errors import UnknownName
from segcal.records import Method, ModelRef
from segcal.service.catalogue import LoadedReport, nearest_of
from segcal.service.explorer.case_maps import map_key


@dataclass(frozen=True)
class Offer:
    """A method of a report: a recipe alone, sampled, or as an ensemble of the lowest seeds."""

    method: Method
    recipe: Recipe

    @property
    def members(self) -> tuple[ModelRef, ...]:
        """Who predicts: of a single model the one whose validation Dice is the median."""
        if self.method.size == 1:
            return (self.recipe.members[self.recipe.typical],)
        return self.recipe.members[: self.method.size]

    @property
    def shown(self) -> tuple[ModelRef, ...]:
        """The members that a page lists: those of an ensemble, or every single model of the recipe."""
        return self.recipe.members if self.method.size == 1 else self.members


@dataclass(frozen=True)
class Choice:
    """A method, or one of its members by itself."""

    offer: Offer
    member: ModelRef | None = None

    @property
    def predicting(self) -> tuple[ModelRef, ...]:
        """The members whose mean is shown."""
        return self.offer.members if self.member is None else (self.member,)

    @property
    def title(self) -> str:
        """What stands above the pictures."""
        title, single = self.offer.method.title, self.predicting[0]
        return title if len(self.predicting) > 1 else f"{title}: seed {single.seed}"

    def key(self, split: str) -> str:
        """The name of its maps of a case of a split."""
        return key_of(self.predicting, split)


def key_of(refs: Sequence[ModelRef], split: str) -> str:
    """The name of what these members say of a case: it follows from their weights and settings."""
    return map_key([f"{ref.recipe} {ref.weights_sha256}" for ref in refs], split)


def offers(report: LoadedReport) -> list[Offer]:
    """Every method and size that the report scored, in the order of its tables; then the curve's other sizes."""
    tables = [table["rows"] for table in report.content["tables"] if table["key"] == "box"]
    order = [str(row[0]) for rows in tables for row in rows]
    frame = report.frame
    plain = frame.loc[(frame["variant"] == PLAIN).to_numpy(), ["recipe", "size"]].drop_duplicates()
    found = []
    for recipe in recipes([ModelRef(**member) for member in report.content["members"]]):
        for size in sorted(plain.loc[(plain["recipe"] == recipe.recipe).to_numpy(), "size"].tolist()):
            # A title says whether the method is sampled; the report's tables have one of the two.
            both = [Method(recipe.recipe, recipe.label, int(size), mc_samples=samples) for samples in (0, 1)]
            method = next((m for m in both if m.title in order), both[0])
            found.append(Offer(method, recipe))
    last = len(order)
    return sorted(found, key=lambda o: order.index(o.method.title) if o.method.title in order else last)


def choose(report: LoadedReport, title: str = "", seed: str = "") -> Choice:
    """The method of a title, "" for the last ensemble of the tables, and its member of a seed, "" for all of them.

    Raises UnknownName for a title or seed that the report does not have.
    """
    known = offers(report)
    tabled = [offer for offer in known if offer.method.title in report_rows(report)] or known
    if not title:
        offer = next((offer for offer in reversed(tabled) if offer.method.size > 1), tabled[-1])
    else:
        by_title = {offer.method.title: offer for offer in known}
        if title not in by_title:
            raise UnknownName(f"no method '{title}' in this report; {nearest_of(title, by_title)}")
        offer = by_title[title]
    if not seed:
        return Choice(offer)
    by_seed = {str(ref.seed): ref for ref in offer.shown}
    if seed not in by_seed:
        raise UnknownName(f"no member with seed '{seed}' of {offer.method.title}; {nearest_of(seed, by_seed)}")
    return Choice(offer, by_seed[seed])


def report_rows(report: LoadedReport) -> set[str]:
    """Titles of the rows of the report's main table."""
    return {str(row[0]) for table in report.content["tables"] if table["key"] == "box" for row in table["rows"]}


def reported_scores(report: LoadedReport, refs: Sequence[ModelRef], case_id: str) -> dict[str, float] | None:
    """What the report itself scored for just these members on a case; None where it drew no such subset."""
    frame = report.frame
    mine = (frame["variant"] == PLAIN) & (frame["recipe"] == refs[0].recipe) & (frame["size"] == len(refs))
    rows = frame[(mine & (frame["case_id"] == case_id)).to_numpy()]
    seeds = sorted(ref.seed for ref in refs)
    same = [sorted(int(seed) for seed in drawn) == seeds for drawn in rows["seeds"]]
    if not any(same):
        return None
    row: pd.Series = rows[same].iloc[0]
    return {str(name): float(row[name]) for name in frame.columns if "@" in str(name)}
