"""`python -m benchmarks VERB`: prints a table and writes it to benchmarks/results/MACHINE.json."""

import argparse
import importlib
from pathlib import Path

from benchmarks.machine import describe
from benchmarks.table import save, show

VERBS = {  # module of this folder -> help
    "train": "a training step on a core, or on a GPU; trials side by side",
    "infer": "probabilities of a volume by several members",
    "mc_dropout": "the mean of Monte Carlo samples",
    "prepare": "check and prepare a BraTS case; cores; the embedded cohorts",
    "hd95": "the 95th percentile Hausdorff distance of many predictions",
    "grid": "all singles and ensembles of a pool against NumPy and torch; memory of a volume",
    "bootstrap": "intervals and tests over patients against SciPy and NumPy's loops",
    "evaluate": "scoring beside the inference it goes with",
    "platform": "what a sweep costs beside the training: starting it, a trial, the registry",
    "service": "pages of segcal serve under 50 readers at once",
    "report": "a report of 400 models whose scores are known",
}


def main() -> None:
    """Parse and dispatch."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    verbs = parser.add_subparsers(required=True, dest="verb", metavar="VERB")
    parsers = {verb: verbs.add_parser(verb, help=text) for verb, text in VERBS.items()}
    prepare = parsers["prepare"]
    prepare.add_argument("--data", type=Path, metavar="DIR", help="a BraTS folder (default: a generated patient)")
    prepare.add_argument("--channels", default="t1ce,t2,flair", help="channels of its files (default: t1ce,t2,flair)")
    arguments = vars(parser.parse_args())
    verb = arguments.pop("verb")
    if "channels" in arguments:
        arguments["channels"] = tuple(arguments["channels"].split(","))
    try:
        measure = importlib.import_module(f"benchmarks.{verb}").measure
    except ModuleNotFoundError as error:
        remedy = f"pip install {error.name}"
        raise SystemExit(f"benchmarks {verb}: needs {error.name}, which is not installed; {remedy}") from None

    machine = describe()
    rows = measure(**arguments)
    print(show(machine, rows))
    print(save(Path(__file__).parent / "results", verb, machine, rows))


if __name__ == "__main__":
    main()
