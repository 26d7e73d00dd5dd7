"""Which trials a sweep is to train: kept beside their records, to tell what is left and what changed."""

__all__ = ["Planned", "PlannedTrial", "changes", "read_plans", "write_plan"]

import json
from dataclasses import asdict, dataclass
from urllib.parse import quote

from segcal.journal.storage import Storage

PLANS = "plans"


@dataclass(frozen=True)
class PlannedTrial:
    """A trial by its content key."""

    key: str
    label: str
    seed: int
    epochs: int  # at most

    @property
    def name(self) -> str:
        """For people: its recipe and its seed."""
        return f"{self.label} seed {self.seed}"


@dataclass(frozen=True)
class Planned:
    """The trials that the newest call of a sweep on a task asked for."""

    task: str
    data: str  # the folder that was named
    data_digest: str
    trials: tuple[PlannedTrial, ...]


def read_plans(sweep: Storage) -> dict[str, Planned]:
    """The plans of an experiment by their task; one that is damaged is left out: the next sweep writes it anew."""
    plans, folder = {}, sweep.at(PLANS)
    for name in folder.names():
        try:
            content = json.loads(folder.read(name))
            trials = tuple(PlannedTrial(**trial) for trial in content.pop("trials"))
            plan = Planned(**content, trials=trials)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        plans[plan.task] = plan
    return plans


def write_plan(sweep: Storage, plan: Planned) -> None:
    """Put a plan in place of its task's last one."""
    sweep.at(PLANS).write(f"{quote(plan.task, safe='')}.json", json.dumps(asdict(plan), indent=1).encode())


def changes(before: Planned | None, now: Planned) -> list[str]:
    """What is different from the last call, in lines for people. Nothing is ever deleted for it."""
    if before is None:
        return []
    said = []
    if before.data_digest != now.data_digest:
        where = (
            f"the data in {now.data} changed" if before.data == now.data else f"the data are those in {now.data} now"
        )
        said.append(f"{where}: digest {now.data_digest}, before {before.data_digest}; every trial is a new one")
    old, new = ({trial.key: trial.name for trial in plan.trials} for plan in (before, now))
    added, removed = ([names[key] for key in names if key not in other] for names, other in ((new, old), (old, new)))
    if added:
        said.append(f"{len(added)} trials are new since the last call: {_listed(added)}")
    if removed:
        said.append(f"{len(removed)} trials are no longer asked for, and kept: {_listed(removed)}")
    return said


def _listed(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
