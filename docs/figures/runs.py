"""The runs that the pictures show: the demo of the README, the reader of the tutorial, some generated patients."""

__all__ = ["Runs"]

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from docs.walk import Walk, expected_code, steps

TUTORIAL = Path(__file__).parents[1] / "tutorial.md"
DEMO = (
    "segcal sweep --task brain",
    "segcal report --experiment calib",
    "segcal ensemble create --experiment calib --recipe dice --select all --promote",
)
PREDICTED = "Brats17_TCIA_P30_1"
SHEETS = (  # folder, how it is made, the cohort in it
    ("hearts", "segcal data demo --task heart --cases 4 --size 144 --out hearts", "hearts"),
    ("prostates", "segcal data demo --task prostate --cases 12 --size 144 --out prostates", "prostates/PROMISE12"),
)


class Runs:
    """What was run below a folder. Called again it is kept: sweeps and reports go on, the tutorial is walked once."""

    def __init__(self, store: Path) -> None:
        self.store = store

    @cached_property
    def demo(self) -> Path:
        """A folder in which the README's commands were given."""
        folder = self._folder("demo")
        for command in DEMO:
            self._run(command, folder)
        case = folder / ".segcal" / "embedded" / "brain-v2" / "HGG" / PREDICTED
        model = "models:/segcal-brain-ensemble@champion"
        self._run(f"segcal predict --model {model} --out predictions {shlex.quote(str(case))}", folder)
        return folder

    @cached_property
    def tutorial(self) -> Path:
        """A folder in which the tutorial was walked through."""
        folder = self._folder("tutorial")
        mark = folder / ".walked"
        if mark.exists():
            return folder
        if any(path.name != ".segcal" for path in folder.iterdir()):
            raise SystemExit(f"the tutorial was left half-way in {folder}; remove that folder, and call again")
        walk, todo = Walk(folder, self.environment(folder)), steps(TUTORIAL.read_text())
        for step, after in zip(todo, [*todo[1:], None], strict=True):
            self._say(step.command or f"edit {step.file}")
            code, output = walk.take(step)
            if code != expected_code(step, after):
                raise SystemExit(f"line {step.line} of tutorial.md ended with {code}:\n{output[-2000:]}")
        mark.touch()
        return folder

    @cached_property
    def sheets(self) -> list[Path]:
        """The first page of the contact sheets of generated hearts and prostates."""
        folder = self._folder("sheets")
        for name, command, cohort in SHEETS:
            if not (folder / name).exists():
                self._run(command, folder)
            self._run(f"segcal data sheet {cohort} --out drawn/{name}", folder)
        return [folder / "drawn" / name / "sheet-01.png" for name, _, _ in SHEETS]

    def environment(self, folder: Path) -> dict[str, str]:
        """Everything stays in the folder, whatever the caller's shell says."""
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        tracking = f"sqlite:///{folder / 'mlflow.db'}"
        return {"SEGCAL_HOME": str(folder / ".segcal"), "MLFLOW_TRACKING_URI": tracking, "PATH": tools,
                "SEGCAL_STORAGE": "", "RAY_ADDRESS": ""}  # fmt: skip

    def _folder(self, name: str) -> Path:
        folder = self.store / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _run(self, command: str, folder: Path) -> None:
        self._say(command)
        words: Sequence[str] = shlex.split(command)
        done = subprocess.run(words, cwd=folder, env=os.environ | self.environment(folder), text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
        if done.returncode:
            raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stdout[-2000:]}")

    def _say(self, what: str) -> None:
        print(f"  {what}", file=sys.stderr, flush=True)
