"""The model card of an ensemble, Markdown: for the clinician who is to rely on it, or not."""

__all__ = ["Evidence", "model_card", "summary"]

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from segcal.analysis.compare import cell_of
from segcal.analysis.scores import TARGET
from segcal.ensemble.foresight import Honesty, predicted_dice
from segcal.ensemble.manifest import Manifest, task_of
from segcal.measure.case import column
from segcal.records import Table
from segcal.report.tables import interval, markdown, number

SPLITS = {"val": "validation", "test": "test", "ood": "out of distribution"}
FEW = 20  # cases; intervals from fewer are too narrow


@dataclass(frozen=True)
class Evidence:
    """What a card says besides the manifest."""

    name: str  # registered model
    frame: pd.DataFrame = field(repr=False)  # a row a case: case_id, split, domain, site, and metric@where
    honesty: Mapping[str, Honesty | None]  # structure -> its line, each case left out in turn
    data: Table  # cases, sites and slices of each split
    samples: int  # of Monte Carlo dropout; 0: none
    loss: str
    software: Mapping[str, str]
    n_resamples: int
    seed: int


def summary(manifest: Manifest) -> str:
    """One line: what the registry shows beside a version."""
    of = {name: manifest.scores.get(f"test.dice.{name}") for name in task_of(manifest).structures}
    dice = ", ".join(f"{name} {value:.3f}" for name, value in of.items() if value is not None)
    nll = manifest.scores.get("test.nll.box")
    parts = [f"test Dice {dice}"] if dice else []
    parts += [f"test NLL in the box {number(nll)}"] if nll is not None else []
    return "; ".join([f"{_members(manifest)} of recipe {manifest.label} ({_selection(manifest)})", *parts])


def model_card(manifest: Manifest, evidence: Evidence) -> str:
    """The whole card."""
    sections = (_what, _scores, _dice, _novelty, _data, _member_table, _limits, _use, _versions)
    return "\n".join(section(manifest, evidence) for section in sections)


def _what(manifest: Manifest, evidence: Evidence) -> str:
    task = task_of(manifest)
    per = "slice by slice" if task.dims == 2 else "over the whole volume at once"
    sampled = (
        f" Each network predicts with dropout switched on, {evidence.samples} times, and the mean counts "
        "(Monte Carlo dropout)." if evidence.samples else ""
    )  # fmt: skip
    sides = zip("zyx", task.spacing_mm, strict=True)
    grid = ", ".join(f"{axis} as acquired" if side is None else f"{axis} {side:g} mm" for axis, side in sides)
    channels = "channel" if len(task.channels) == 1 else "channels"
    crop = ", ".join(f"{axis} {side}" for axis, side in zip("zyx"[-task.dims :], task.crop, strict=True))
    return (
        f"# {evidence.name}: {_members(manifest)}, recipe {manifest.label}\n\n"
        f"Marks **{_list(task.structures)}** in scans with the {channels} **{_list(task.channels)}**, and says for "
        "every voxel how probable each structure is.\n\n"
        f"- **What it is:** {_members(manifest)} (U-Nets, {per}, loss {evidence.loss}) that differ in nothing but "
        f"their random seed. Its probability is the mean of theirs.{sampled} They are {_selection(manifest)}.\n"
        f"- **What it sees:** images resampled to {grid}, cropped or padded to {crop} voxels around their centre, each "
        "channel scaled to [0, 1].\n"
        "- **What it is for:** research. It is **not a medical device**, and no decision on a patient may rest on it.\n"
    )


def _scores(manifest: Manifest, evidence: Evidence) -> str:
    frame, task = evidence.frame, task_of(manifest)
    splits = [split for split in SPLITS if (frame.split == split).any()]
    head = [f"{SPLITS[split]} ({manifest.cases[split]} cases)" for split in splits]
    rows = [(f"Dice {name}", column("dice", name), 1.0) for name in task.structures]
    rows += [(f"HD95 {name}, mm", column("hd95", name), 1.0) for name in task.structures]
    for region, where in (("box", "in the box"), ("whole", "whole volume")):
        named = (("NLL", "nll", 1.0), ("Brier score", "brier", 1.0), ("ECE, %", "ece", 100.0))
        rows += [(f"{title}, {where}", column(metric, region), scale) for title, metric, scale in named]
    lines = ["## How good it is\n", f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for title, name, scale in rows:
        cells = []
        for split in splits:
            values = frame.loc[frame.split == split, name].to_numpy(dtype=float) * scale
            cell = cell_of(values, evidence.seed, evidence.n_resamples)
            ci, of = interval(cell.ci), f" (n={cell.n})" if cell.excluded else ""
            cells.append(number(cell.point) + (f" [{ci}]" if ci else "") + of)
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines.append(
        f"\nMeans over patients, [95% bootstrap interval of the mean, {evidence.n_resamples} resamples]; n: patients "
        "for whom the score is defined, where that is not all.\n\n"
        "- **Dice**: overlap with the expert's contour, 1 is perfect. **HD95**: how far the outlines are apart, but "
        "for the worst 5%.\n"
        "- **NLL**, **Brier**, **ECE**: how far the probabilities can be trusted, 0 is perfect. Of voxels that are "
        "called 80% certain, 80% should be right; ECE is the mean distance from that, in per cent.\n"
        f"- **Box**: the structures with a margin of {task.box_margin_mm:g} mm and {task.box_margin_slices} slices. "
        "The whole volume is mostly background, which is easy.\n"
        "- The validation cases chose the checkpoint of each network" + _and_members(manifest) + ": their scores "
        "flatter. Judge by the test cases."
    )
    few = [SPLITS[split] for split in splits if manifest.cases[split] < FEW]
    if few:
        lines.append(f"- Fewer than {FEW} cases ({_list(few)}): intervals are wide, and bootstrap's too narrow.")
    return "\n".join(lines) + "\n"


def _dice(manifest: Manifest, evidence: Evidence) -> str:
    lines = [
        "## What it foretells of a new scan: Dice\n",
        "H(S), the mean uncertainty over the voxels that it gives to a structure (in nats, 0 to 0.693), foretells the "
        "Dice that an expert's contour would give. The interval is where the Dice of 95 of 100 such scans lies.\n",
        "| structure | cases | H(S) seen | Dice at the lowest H(S) | at the mean | at the highest | inside the "
        "interval | mean error |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, line in manifest.dice.items():
        if line is None:
            lines.append(f"| {name} | too few | | no prediction | | | | |")
            continue
        at = [_ends(predicted_dice(line, x)) for x in (line.low_entropy, line.mean_entropy, line.high_entropy)]
        seen = f"{number(line.low_entropy)}–{number(line.high_entropy)}"
        honest = evidence.honesty.get(name)
        held = ("", "") if honest is None else (f"{honest.coverage:.0%} of {honest.n}", number(honest.mean_abs_error))
        lines.append(f"| {name} | {line.n} | {seen} | {' | '.join(at)} | {' | '.join(held)} |")
    lines.append(
        "\nLeast squares of logit Dice on H(S) over the validation and test cases like the training data. Inside the "
        "interval, and the mean error of the predicted Dice: of these cases, each left out of the fit in turn.\n\n"
        "- Beyond the H(S) seen, the prediction is a guess.\n"
        "- A structure that is not found has no H(S), and nothing is foretold of it: it may be absent, or missed.\n"
        "- For scans unlike the training data the interval need not hold." + _held(manifest, evidence) + "\n"
    )
    return "\n".join(lines)


def _held(manifest: Manifest, evidence: Evidence) -> str:
    """How many segments of out-of-distribution cases have the Dice that was foretold; empty where there are none."""
    target = evidence.frame[evidence.frame.domain == TARGET]
    inside = []
    for name, line in manifest.dice.items():
        known = target[[column("entropy", name), column("dice", name)]].dropna()
        for entropy, dice in known.to_numpy(dtype=float) if line is not None else ():
            _, low, high = predicted_dice(line, entropy)
            inside.append(low <= dice <= high)
    if not inside:
        return ""
    absent = sum(line is not None for line in manifest.dice.values()) * len(target) - len(inside)
    others = f" In {absent} nothing was found or drawn, and nothing foretold." if absent else ""
    return f" Here it held for {sum(inside)} of {len(inside)} structures that it found in such scans.{others}"


def _novelty(manifest: Manifest, evidence: Evidence) -> str:
    found, title = manifest.novelty, "## What it foretells of a new scan: is it unlike the training data?\n\n"
    if found is None:
        return (
            f"{title}Too few cases were scored, or nothing is found in many of them: no scan is flagged, which does "
            "not mean that it is like them.\n"
        )
    text = (
        f"{title}A scan is **flagged** where its H(S), mean over the structures found, exceeds **{found.threshold:.3f} "
        f"nats**, or where it finds nothing at all. Of scans like the training data in which it finds something, "
        f"{found.false_positive_rate:.1%} are flagged without reason on average (split conformal, {found.n_source} "
        "validation and test cases; exact for scans that are drawn like these, without ties)."
    )
    if found.false_positive_rate > 0.05:
        text += f" It is the highest value of the {found.n_source} cases: no threshold from so few promises less."
    if found.detected is None:
        return (
            f"{text} How many unlike scans it finds is **not known**: the experiment has no out-of-distribution cases. "
            "A scan that is not flagged may still be unlike.\n"
        )
    entropies = [column("entropy", name) for name in manifest.dice]
    empty = int(evidence.frame.loc[evidence.frame.domain == TARGET, entropies].isna().all(axis=1).sum())
    flagged = round(found.detected * found.n_target)
    nothing = f": {empty} because it found nothing, {flagged - empty} by H(S)" if empty else ""
    return (
        f"{text}\n\nOf {found.n_target} out-of-distribution cases it flags {flagged}, **{found.detected:.0%}**"
        f"{nothing}. A scan that is not flagged may still be unlike.\n"
    )


def _data(manifest: Manifest, evidence: Evidence) -> str:
    axes = ", ".join(
        f"{axis} {low:.3g}" + ("" if f"{low:.3g}" == f"{high:.3g}" else f" to {high:.3g}")
        for axis, (low, high) in zip("zyx", manifest.native_spacing_mm, strict=True)
    )
    table = markdown(evidence.data).partition("\n\n")[2]  # without its title
    return f"## Data\n\n{table}\nTraining scans were acquired with a spacing of {axes} mm.\n"


def _member_table(manifest: Manifest, evidence: Evidence) -> str:
    lines = [
        "## Members\n",
        "| registered version | seed | validation Dice | sha256 of the weights |",
        "|---|---|---|---|",
    ]
    for m in manifest.members:
        lines.append(f"| {m.name}/{m.version} | {m.seed} | {m.val_dice:.4f} | `{m.weights_sha256[:16]}…` |")
    lines.append(
        "\nThe weights stay where they are; a member that is gone or altered stops the ensemble from loading.\n"
    )
    return "\n".join(lines)


def _limits(manifest: Manifest, evidence: Evidence) -> str:
    task = task_of(manifest)
    return (
        "## Limits\n\n"
        f"- It knows scans like those above only: {_list(task.channels)}, this population, these scanners and "
        "spacings. Elsewhere its probabilities may be wrong and sure.\n"
        "- A low uncertainty is no proof: networks that were trained alike may err alike.\n"
        "- Probabilities are of voxels, not of a diagnosis; a volume that follows from them has an error of its own.\n"
        f"- The scores are of {manifest.cases.get('test', 0)} test cases of this experiment, and of these contours. "
        "Measure on your own cases before you rely on it.\n"
    )


def _use(manifest: Manifest, evidence: Evidence) -> str:
    task = task_of(manifest)
    sizes = (len(task.channels), *(task.crop if task.dims == 3 else ("Z", *task.crop)))
    return (
        "## How to use it\n\n```bash\n"
        f"segcal predict --model models:/{evidence.name}@champion IMAGE... --out DIR\n```\n\n```python\n"
        "import mlflow.pyfunc  # with MLFLOW_TRACKING_URI set, and segcal installed\n\n"
        f'model = mlflow.pyfunc.load_model("models:/{evidence.name}@champion")\n'
        f"found = model.predict(image)  # prepared: float32 ({', '.join(map(str, sizes))}) in [0, 1]\n"
        'found["probabilities"], found["labels"], found["entropy"], found["confidence"]\n```\n\n'
        "A new version is `@candidate`; `segcal ensemble promote` makes it `@champion`.\n"
    )


def _versions(manifest: Manifest, evidence: Evidence) -> str:
    software = ", ".join(f"{name} {version}" for name, version in evidence.software.items())
    ood = f", out of distribution {manifest.ood_digest}" if manifest.ood_digest else ""
    return (
        f"## Versions\n\nExperiment {manifest.experiment}, recipe {manifest.recipe}, data {manifest.data_digest}{ood}. "
        f"segcal {manifest.code_version}, {software}. Created {manifest.created}. Method: Mehrtash et al., IEEE "
        "Transactions on Medical Imaging 39 (2020). Threshold: Vovk, Gammerman & Shafer, Algorithmic Learning in a "
        "Random World (2005); Angelopoulos & Bates, Conformal Prediction: A Gentle Introduction (2023).\n"
    )


def _members(manifest: Manifest) -> str:
    count = len(manifest.members)
    return "1 network" if count == 1 else f"{count} networks"


def _selection(manifest: Manifest) -> str:
    return {
        "best": "the best of this recipe by validation Dice",
        "random": f"drawn at random from this recipe, seed {manifest.selection_seed}",
        "all": "all of this recipe",
    }.get(manifest.select, manifest.select)


def _and_members(manifest: Manifest) -> str:
    return ", and the members" if manifest.select == "best" else ""


def _ends(prediction: tuple[float, float, float]) -> str:
    point, low, high = prediction
    return f"{point:.2f} ({low:.2f}–{high:.2f})"


def _list(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
