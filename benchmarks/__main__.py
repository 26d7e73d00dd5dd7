"""`python -m benchmarks VERB`: prints a table and writes it to benchmarks/results/MACHINE.json."""

import argparse
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.table import save, show


def main() -> None:
    """Parse and dispatch."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    verbs = parser.add_subparsers(required=True, dest="verb", metavar="VERB")
    prepare = verbs.add_parser("prepare", help="check and prepare a BraTS case; cores; the embedded cohorts")
    prepare.add_argument("--data", type=Path, metavar="DIR", help="a BraTS folder (default: a generated patient)")
    prepare.add_argument("--channels", default="t1ce,t2,flair", help="channels of its files (default: t1ce,t2,flair)")
    arguments = parser.parse_args()
    from benchmarks.prepare import measure

    machine = describe()
    rows = measure(arguments.data, tuple(arguments.channels.split(",")))
    print(show(machine, rows))
    print(save(Path(__file__).parent / "results", arguments.verb, machine, rows))


if __name__ == "__main__":
    main()
