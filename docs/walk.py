"""Walks through a page as its reader does: every command of it is run, in order, in an empty folder.

python -m docs.walk PAGE FOLDER      prints commands, output and seconds; exits with 1 where the page is wrong

- A line of a ```console block that begins with `$ ` is a command, the lines below it are what it prints. `…` in them
  stands for anything; a line of `…` alone for any lines. Numbers with a point (0.229) and the port of a URL may differ,
  because other processors round otherwise; whole numbers, names and words may not.
- A ```yaml block that begins with `# in NAME:` is what the reader changes in that file: its lines replace those with
  the same keys.
- A command must end with 0, but where the page shows another one's `echo $?` after it.
- `segcal serve` runs until its first page was fetched, then gets a Ctrl-C, and must end with 130. It is given a free
  port (`--port 0`): the only words that are put into a command.
"""

__all__ = ["Step", "Walk", "missing", "steps"]

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"^```(console|bash|yaml)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EDIT = re.compile(r"# in (\S+):.*")
NUMBER = re.compile(r"\d+\.\d+(?:e[-+]?\d+)?|(?<=127\.0\.0\.1:)\d+")
PROMPT, ANYTHING = "$ ", "…"
LONGEST_S = 3600


@dataclass(frozen=True)
class Step:
    """Something that the reader does: a command and what the page shows of its output, or an edit of a file."""

    line: int  # of the page
    command: str = ""
    shown: tuple[str, ...] = ()
    file: str = ""  # that is edited
    fields: tuple[str, ...] = ()  # the new lines of it


def steps(page: str) -> list[Step]:
    """What a page asks its reader to do, in order."""
    found: list[Step] = []
    for block in BLOCK.finditer(page):
        line, lines = page[: block.start(2)].count("\n") + 1, block[2].splitlines()
        if block[1] == "yaml":
            edit = EDIT.match(lines[0])
            found += [Step(line, file=edit[1], fields=tuple(lines[1:]))] if edit else []
            continue
        for number, text in enumerate(lines, start=line):
            if text.startswith(PROMPT):
                found.append(Step(number, text.removeprefix(PROMPT)))
            elif found and found[-1].command.endswith("\\"):
                found[-1] = Step(found[-1].line, found[-1].command[:-1] + text.strip())
            else:
                last = found.pop()
                found.append(Step(last.line, last.command, (*last.shown, text)))
    return found


def missing(shown: tuple[str, ...], output: str) -> str | None:
    """The first line that a page shows and a command did not print, in this order; None where all are there."""
    remaining, skipped = [line.rstrip() for line in output.splitlines()], True
    for line in shown:
        if line.strip() == ANYTHING:
            skipped = True
            continue
        pattern = _pattern(line)
        at = next((n for n, printed in enumerate(remaining) if pattern.fullmatch(printed)), None)
        if at is None or (at > 0 and not skipped):
            return line
        remaining, skipped = remaining[at + 1 :], False
    return None


class Walk:
    """A reader in a folder; `environment` is added to this process's own, whose Python's programs come first."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        self.folder, self.environment = folder, os.environ | {"PATH": tools} | environment
        self.last_code = 0

    def take(self, step: Step) -> tuple[int, str]:
        """Do a step; its exit code and what it printed."""
        if step.file:
            self._edit(step)
            return 0, ""
        if shlex.split(step.command)[:2] == ["segcal", "serve"]:
            return self._serve(f"{step.command} --port 0")
        process = self._start(f"(exit {self.last_code}); {step.command}")
        output, _ = process.communicate(timeout=LONGEST_S)
        self.last_code = process.returncode
        return process.returncode, output

    def _start(self, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(["bash", "-c", command], cwd=self.folder, env=self.environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip

    def _serve(self, command: str) -> tuple[int, str]:
        """Start the service, fetch its first page, end it as Ctrl-C does."""
        process = self._start(f"exec {command}")
        assert process.stdout is not None
        said, url = "", None
        while url is None and (line := process.stdout.readline()):
            said += line
            url = re.search(r"http://127\.0\.0\.1:\d+", line)
        try:
            if url:
                urllib.request.urlopen(url[0], timeout=60).close()
        finally:
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=60)
        self.last_code = process.returncode
        if process.returncode == 128 + signal.SIGINT:
            self.last_code = 0  # what the reader wanted
        return self.last_code, said + rest

    def _edit(self, step: Step) -> None:
        path = self.folder / step.file
        lines = path.read_text().splitlines()
        for field in step.fields:
            key = field.partition(":")[0] + ":"
            at = [number for number, line in enumerate(lines) if line.startswith(key)]
            if len(at) != 1:
                raise ValueError(f"line {step.line}: {step.file} must have one line '{key}', got {len(at)}")
            lines[at[0]] = field.partition("  #")[0]
        path.write_text("\n".join(lines) + "\n")


def expected_code(step: Step, after: Step | None) -> int:
    """What the page says that the command exits with."""
    told = after is not None and after.command == "echo $?" and after.shown
    return int(after.shown[0]) if told and after else 0


def _pattern(line: str) -> re.Pattern[str]:
    """What a shown line allows."""
    parts = []
    for part in line.rstrip().split(ANYTHING):
        texts = [re.escape(text) for text in NUMBER.split(part)]
        parts.append(r"[\d.e+-]+".join(texts))
    return re.compile(".*".join(parts))


def main() -> int:
    """Walk and tell."""
    if len(sys.argv) != 3:
        print("usage: python -m docs.walk PAGE FOLDER", file=sys.stderr)
        return 2
    page, folder = Path(sys.argv[1]).read_text(), Path(sys.argv[2]).absolute()
    folder.mkdir(parents=True)
    walk, wrong = Walk(folder, {"SEGCAL_HOME": str(folder / ".segcal")}), 0
    todo = steps(page)
    for step, after in zip(todo, [*todo[1:], None], strict=True):
        print(f"{PROMPT}{step.command or f'edit {step.file}'}", flush=True)
        start = time.monotonic()
        code, output = walk.take(step)
        print(f"{output}[exit {code}, {time.monotonic() - start:.1f} s]", flush=True)
        unseen, expected = missing(step.shown, output), expected_code(step, after)
        if unseen is not None or code != expected:
            wrong += 1
            got = f"this line: {unseen}" if code == expected else f"the exit code {expected}"
            print(f"WRONG: line {step.line} of the page says {got}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
