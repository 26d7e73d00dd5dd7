"""Scores made by hand, and studies of untrained networks: everything a report needs but training and MLflow."""

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from segcal.analysis.build_report import Material, build_report
from segcal.analysis.ensembles import recipes
from segcal.analysis.members import Member
from segcal.analysis.request import Request
from segcal.analysis.scores import SOURCE, TARGET, Scores
from segcal.data.prepare import prepare
from segcal.learn.fit import build
from segcal.measure.case import N_BINS, columns
from segcal.measure.grid import FINE
from segcal.records import ModelRef
from segcal.tasks import TaskSpec
from segcal.trial import TrialConfig
from segcal.volume import Case
from tests.conftest import write_blobs

SETTINGS = {
    "ce": ("cross_entropy", {"head": "softmax", "weights": "inverse_frequency", "class_weights": (0.3, 4.0, 1.0, 2.0)}),
    "dice": ("soft_dice", {"head": "sigmoid", "weights": "structures", "class_weights": (1.0, 1.0, 1.0, 1.0)}),
}


def quiet(line):
    """What a report says on its way, to nobody."""


def make_config(label="ce", seed=0, digest="d", classes=4, **changed):
    """Settings of a tiny network: of cross-entropy for a label that begins with ce, else of the Dice loss."""
    loss, settings = SETTINGS["ce" if label.startswith("ce") else "dice"]
    settings = settings | {"class_weights": settings["class_weights"][:classes]}
    sampled = {"dropout": 0.5} if "_mc" in label else {}
    common = {
        "task": "tiny", "data_digest": digest, "in_channels": 3, "n_classes": classes, "dims": 2, "batch": 4,
        "kernels": (4, 4, 8, 8), "mc_samples": 3,
    }  # fmt: skip
    return TrialConfig(label=label, loss=loss, seed=seed, **(common | settings | sampled | changed))


def make_member(config):
    """An untrained network; its first weights follow from the seed."""
    weights = {name: value.detach().numpy().copy() for name, value in build(config).state_dict().items()}
    content = b"".join(value.tobytes() for value in weights.values())
    return Member(config.seed, hashlib.sha256(config.label.encode() + content).hexdigest(), config, weights)


def make_ref(config, sha256="0", val_dice=0.5, created=0):
    return ModelRef(
        name=f"segcal-tiny-{config.recipe}", version=config.seed + 1, model_id="m", run_id="r", task="tiny",
        recipe=config.recipe, label=config.label, seed=config.seed, data_digest=config.data_digest, code_version="1",
        key=config.key, weights_sha256=sha256, val_dice=val_dice, epoch=1 + config.seed, created=created,
    )  # fmt: skip


def make_material(cohort, task, seeds, ood=None, **changed):
    """A study: label -> number of seeds."""
    members, refs = {}, []
    for label, count in seeds.items():
        for seed in range(count):
            config = make_config(label, seed, cohort.digest, **changed)
            member = make_member(config)
            members.setdefault(config.recipe, []).append(member)
            # The median of the validation Dice is in the middle of no list: 0.1, 0.4, 0.2, 0.5 ...
            refs.append(make_ref(config, member.sha256, val_dice=0.1 + 0.3 * (seed % 2) + 0.1 * (seed // 2)))
    return Material(task, cohort, ood, tuple(recipes(refs)), members)


def make_case(case_id="c1", shape=(4, 16, 16), seed=0, classes=4, site=""):
    """Random labels in a corner of noise."""
    rng = np.random.default_rng([seed, len(case_id)])
    truth = np.zeros(shape, np.uint8)
    truth[1:3, 2:9, 3:8] = rng.integers(0, classes, (2, 7, 5))
    return Case(case_id, rng.random((3, *shape), np.float32), truth, (3.0, 1.0, 1.0), site)


def make_rows(method, values, draw=0, *, variant="", split="test", domain=None, cases=None, seeds=None, full=True):
    """Rows of `Scores.frame`, one a patient; values: column -> a number a patient, or one for all."""
    length = max(len(np.atleast_1d(numbers)) for numbers in values.values())
    ids = [f"p{i:02d}" for i in range(length)] if cases is None else list(cases)
    domain = domain or (SOURCE if split == "test" else TARGET)
    wide = {name: np.broadcast_to(np.asarray(numbers, float), len(ids)) for name, numbers in values.items()}
    return [
        {
            "recipe": method.recipe, "label": method.label, "variant": variant, "size": method.size, "draw": draw,
            "seeds": tuple(range(draw, draw + method.size)) if seeds is None else seeds, "full": full,
            "case_id": case_id, "site": "", "split": split, "domain": domain,
            **{name: numbers[i] for name, numbers in wide.items()},
        }
        for i, case_id in enumerate(ids)
    ]  # fmt: skip


def make_scores(task, *parts, top=None, classwise=None, segments=None):
    """Scores out of rows; what they do not say is NaN, and bins that are not given are empty."""
    rows = [row for part in parts for row in part]
    frame = pd.DataFrame(rows)
    names = columns(task)
    unknown = set(frame.columns[11:]) - set(names)
    assert not unknown, unknown
    frame = frame.reindex(columns=[*frame.columns[:11], *names])
    for name in ("recipe", "label", "variant", "case_id", "site", "split", "domain"):
        frame[name] = frame[name].astype("category")
    full = int(frame.full.sum())
    return Scores(
        frame,
        np.zeros((full, 2, N_BINS, 3)) if top is None else top,
        np.zeros((full, 2, task.n_classes, N_BINS, 3)) if classwise is None else classwise,
        np.zeros((full, len(task.structures), FINE)) if segments is None else segments,
    )


def by_torch(member, case):
    """Probabilities (K, Z, Y, X) and their logarithms in float64, without segcal's heads and slabs."""
    net = build(member.config).eval()
    net.load_state_dict({name: torch.from_numpy(value) for name, value in member.weights.items()})
    image = torch.from_numpy(np.array(case.image))
    with torch.no_grad():
        z = net(image.swapaxes(0, 1)).swapaxes(0, 1) if member.config.dims == 2 else net(image[None])[0]
    z = z.double().numpy()
    if member.config.head == "sigmoid":
        z = np.concatenate([np.zeros_like(z[:1]), z])
    log_p = z - np.log(np.exp(z).sum(axis=0))
    return np.exp(log_p), log_p


@pytest.fixture(scope="session")
def gland() -> TaskSpec:
    """One structure."""
    return TaskSpec(
        name="gland", layout="nnunet", channels=("t2",), labels={1: "gland"}, spacing_mm=(None, None, None),
        crop=(32, 32), batch=4, ensemble_sizes=(1, 2, 5, 10), curve_draws=3,
    )  # fmt: skip


@pytest.fixture(scope="session")
def study_task(tiny_task) -> TaskSpec:
    return replace(tiny_task, ensemble_sizes=(1, 2, 4, 9))


@pytest.fixture(scope="session")
def ood_cohort(tmp_path_factory, tiny_task):
    """Three cases of other names than the test cases'."""
    return prepare(write_blobs(tmp_path_factory.mktemp("ood"), cases=3, seed=1), tiny_task, ood=True)


@pytest.fixture(scope="session")
def material(cohort, ood_cohort, study_task) -> Material:
    return make_material(cohort, study_task, {"ce": 4, "dice": 4, "ce_mc": 2, "dice_mc": 2}, ood_cohort)


@pytest.fixture(scope="session")
def study(material):
    """Report and scores of a whole study."""
    return build_report(Request("untrained", n_resamples=100), material, quiet)
