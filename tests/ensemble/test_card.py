"""The card says what its numbers are, and what they are not."""

from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest

from segcal.ensemble.card import Evidence, model_card, summary
from segcal.ensemble.foresight import Honesty, dice_line
from segcal.ensemble.manifest import Manifest, MemberVersion, Novelty
from segcal.measure.case import columns
from segcal.records import Table
from segcal.stats import bootstrap_ci

ENTROPY = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
DICE = [0.95, 0.9, 0.85, 0.7, 0.6, 0.5]


def make_frame(task, ood=0) -> pd.DataFrame:
    """2 validation and 4 test cases, and some out of distribution in the first of which nothing is found."""
    rows = []
    for at in range(6 + ood):
        split, domain = ("val" if at < 2 else "test", "source") if at < 6 else ("ood", "target")
        row = {"case_id": f"P{at}", "split": split, "domain": domain, "site": ""} | dict.fromkeys(columns(task), 0.25)
        for name in task.structures:
            missed = at == 6
            row[f"entropy@{name}"] = np.nan if missed else ENTROPY[at % 6]
            row[f"dice@{name}"] = 0.0 if missed else DICE[at % 6]
            row[f"hd95@{name}"] = np.nan if missed else 3.0
        rows.append(row)
    return pd.DataFrame(rows)


@pytest.fixture
def manifest(tiny_task) -> Manifest:
    line = dice_line(ENTROPY, DICE)
    return Manifest(
        1, "calib", asdict(tiny_task), "soft_dice-1", "dice", "best", 0,
        tuple(MemberVersion("segcal-tiny-soft_dice-1", v, "m", v - 1, f"{v}" * 64, 0.7 + v / 100) for v in (1, 3)),
        "d1", None, "0.1+g1", "2026-01-01T00:00:00+00:00", ((3.0, 5.0), (1.0, 1.0), (1.0, 1.0)),
        {"non-enhancing": None, "edema": line, "enhancing": line}, Novelty(0.55, 1 / 7, 6),
        {"test.dice.edema": 0.6625, "test.nll.box": 0.25}, {"val": 2, "test": 4},
    )  # fmt: skip


def evidence_of(task, **changed) -> Evidence:
    data = Table("data", "Data", "Digest d1.", ("cases",), (("train", ("3",)),))
    given = {
        "name": "segcal-tiny-ensemble", "frame": make_frame(task), "data": data, "samples": 0, "loss": "soft_dice",
        "honesty": {"edema": Honesty(6, 5 / 6, 0.031), "enhancing": None, "non-enhancing": None},
        "software": {"torch": "2.13.0"}, "n_resamples": 200, "seed": 0,
    }  # fmt: skip
    return Evidence(**(given | changed))


@pytest.fixture
def card(manifest, tiny_task) -> str:
    return model_card(manifest, evidence_of(tiny_task))


def test_summary(manifest):
    assert summary(manifest) == (
        "2 networks of recipe dice (the best of this recipe by validation Dice); test Dice edema 0.662; test NLL in "
        "the box 0.250"
    )
    assert summary(replace(manifest, scores={}, select="random", selection_seed=7, members=manifest.members[:1])) == (
        "1 network of recipe dice (drawn at random from this recipe, seed 7)"
    )


def test_scores_with_their_intervals(card):
    low, high = bootstrap_ci(DICE[2:], np.random.default_rng(0), 200)
    val = bootstrap_ci(DICE[:2], np.random.default_rng(0), 200)
    assert "| | validation (2 cases) | test (4 cases) |" in card
    assert f"| Dice edema | 0.925 [{val[0]:.3f}–{val[1]:.3f}] | 0.662 [{low:.3f}–{high:.3f}] |" in card
    assert "| ECE, %, in the box | 25.00 [25.00–25.00] | 25.00 [25.00–25.00] |" in card
    assert "- Fewer than 20 cases (validation and test): intervals are wide, and bootstrap's too narrow." in card
    assert "chose the checkpoint of each network, and the members: their scores flatter." in card


def test_members_data_and_versions(card):
    assert f"| segcal-tiny-soft_dice-1/3 | 2 | 0.7300 | `{'3' * 16}…` |" in card
    assert "Training scans were acquired with a spacing of z 3 to 5, y 1, x 1 mm." in card
    assert "segcal 0.1+g1, torch 2.13.0. Created 2026-01-01T00:00:00+00:00." in card
    assert "Digest d1." in card
    assert "float32 (3, Z, 32, 32) in [0, 1]" in card


def test_what_entropy_foretells(card):
    row = next(line for line in card.splitlines() if line.startswith("| edema"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:3] == ["6", "0.100–0.600"]
    assert cells[6:] == ["83% of 6", "0.031"]
    point, low, high = (float(text) for text in cells[4].replace("(", "").replace(")", "").replace("–", " ").split())
    assert low < point < high
    assert point == pytest.approx(0.79, abs=0.02)
    assert "| non-enhancing | too few | | no prediction | | | | |" in card
    assert "A structure that is not found has no H(S)" in card


def test_the_threshold_and_what_it_means(card, manifest, tiny_task):
    assert "exceeds **0.550 nats**, or where it finds nothing at all." in card
    assert "Of scans like the training data in which it finds something, 14.3% are flagged without reason" in card
    assert "It is the highest value of the 6 cases: no threshold from so few promises less." in card
    assert "How many unlike scans it finds is **not known**" in card
    fine = replace(manifest, novelty=Novelty(0.55, 0.05, 19))
    assert "no threshold from so few" not in model_card(fine, evidence_of(tiny_task))
    none = model_card(replace(manifest, novelty=None), evidence_of(tiny_task))
    assert "no scan is flagged, which does not mean that it is like them" in none


def test_cases_out_of_distribution(manifest, tiny_task):
    known = replace(
        manifest, cases=manifest.cases | {"ood": 3}, ood_digest="d2", novelty=Novelty(0.15, 1 / 7, 6, 3, 1 / 3)
    )
    card = model_card(known, evidence_of(tiny_task, frame=make_frame(tiny_task, ood=3)))
    assert "| out of distribution (3 cases) |" in card
    assert "Of 3 out-of-distribution cases it flags 1, **33%**: 1 because it found nothing, 0 by H(S). A scan" in card
    assert "Here it held for 4 of 4 structures that it found in such scans. In 2 nothing was found or drawn" in card
    assert "3.00 [3.00–3.00] (n=2) |" in card  # HD95 of those in which something is found
    assert "data d1, out of distribution d2." in card


def test_it_is_not_a_medical_device(card):
    assert "It is **not a medical device**, and no decision on a patient may rest on it." in card
    assert "nan" not in card.lower().replace("enhancing", "")


def test_monte_carlo_dropout_is_told(manifest, tiny_task):
    assert "20 times, and the mean counts (Monte Carlo dropout)" in model_card(
        manifest, evidence_of(tiny_task, samples=20)
    )


def test_networks_over_volumes(manifest, tiny_task):
    volumes = replace(tiny_task, crop=(16, 32, 32), spacing_mm=(None, 0.5, 0.5), channels=("t2",))
    card = model_card(replace(manifest, task=asdict(volumes)), evidence_of(tiny_task))
    assert "over the whole volume at once" in card
    assert "with the channel **t2**" in card
    assert "resampled to z as acquired, y 0.5 mm, x 0.5 mm, cropped or padded to z 16, y 32, x 32 voxels" in card
    assert "float32 (1, 16, 32, 32) in [0, 1]" in card
