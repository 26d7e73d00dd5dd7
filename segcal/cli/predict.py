"""`segcal predict`: segment new images with a registered ensemble, and say how far each can be trusted."""

__all__ = ["add_predict"]

import argparse
import errno
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from segcal.cli.verb import add_verb, say
from segcal.progress import bars


def add_predict(verbs: Any) -> None:
    """The verb."""
    verb = add_verb(
        verbs, "predict", _predict, "segment new images with a registered ensemble, and say how far to trust each",
        "segcal predict --model models:/segcal-brain-ensemble@champion "
        "t1ce=P1_t1ce.nii.gz,t2=P1_t2.nii.gz,flair=P1_flair.nii.gz --out predictions",
    )  # fmt: skip
    verb.add_argument("images", nargs="+", metavar="IMAGE", help="an image (NIfTI, MetaImage, NRRD, a folder of DICOM "
                      "slices); channels as NAME=FILE,NAME=FILE or in the task's order; a 4-D NIfTI; a folder with the "
                      "files of a case (P1_t1ce.nii.gz, P1_0000.nii.gz) or with such folders")  # fmt: skip
    verb.add_argument("--model", required=True, metavar="URI", help="a registered ensemble: models:/NAME@ALIAS or "
                      "models:/NAME/VERSION (segcal ensemble list)")  # fmt: skip
    verb.add_argument("--out", type=Path, default=Path("predictions"), metavar="DIR",
                      help="a folder for each case is written below it (default: predictions)")  # fmt: skip


def _predict(arguments: argparse.Namespace) -> None:
    from segcal.ensemble.loaded import load_ensemble
    from segcal.ensemble.predict import predict_images
    from segcal.errors import BadData, SegcalError
    from segcal.ledger.store import open_store

    finished: list[str] = []

    def done(result: dict[str, Any]) -> None:
        finished.append(result["case"])
        if not arguments.json:
            print("\n".join(result_lines(result)), flush=True)

    out: Path = arguments.out
    try:
        ensemble = load_ensemble(open_store(new=False), arguments.model)
        found = predict_images(ensemble, arguments.images, out, bars(say), done)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"{len(finished)} cases are finished in {out}; the same command predicts all of them again"
        ) from None
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise SegcalError(
            f"{out} must have room for the maps, got a full disk after {len(finished)} cases, which are whole; free "
            "some, or give another --out"
        ) from None
    if arguments.json:
        print(json.dumps({"results": found.results, "failures": [asdict(failure) for failure in found.failures]}))
    if found.results:
        say(f"written: a folder for each case in {out.absolute()}")
    if found.failures:
        for failure in found.failures:
            say(f"failed: {failure.message}")
        total, names = len(found.results) + len(found.failures), ", ".join(failure.case for failure in found.failures)
        raise BadData(f"every case must be predicted, got {len(found.failures)} of {total} that were not: {names}")


def result_lines(result: dict[str, Any]) -> list[str]:
    """A result for people: the verdict, and a line a structure."""
    novelty = result["out_of_distribution"]
    if novelty is None:
        verdict = f"novelty not judged: {result['out_of_distribution_reason']}"
    else:
        sign, score = ">" if novelty["flag"] else "<=", novelty["score_nats"]
        found = "nothing is predicted" if score is None else f"mean H(S) {score:.3f} {sign}"
        verdict = (
            f"{'OUT OF DISTRIBUTION' if novelty['flag'] else 'not flagged'}: {found}"
            f"{', threshold' if score is None else ''} {novelty['threshold_nats']:.3f} nats "
            f"(false positives: {novelty['false_positive_rate']:.1%})"
        )
    lines = [f"{result['case']}  {verdict}"]
    width = max(map(len, result["structures"]))
    for name, of in result["structures"].items():
        entropy, dice = of["segment_entropy_nats"], of["predicted_dice"]
        told = f"  {name:{width}}  {of['volume_ml']:9.2f} ml"
        told += f"  H(S) {entropy:.3f}" if entropy is not None else "  not predicted"
        if dice:
            told += f"  Dice {dice['point']:.2f} ({dice['low']:.2f} to {dice['high']:.2f})"
            told += ", extrapolated" if dice["extrapolated"] else ""
        lines.append(told)
    return lines
