from dataclasses import replace

import numpy as np
import pytest

from segcal.analysis.effects import NO_METHOD, check_effects
from segcal.analysis.roles import Roles
from segcal.records import Method
from segcal.stats import auroc
from tests.analysis.conftest import make_config, make_rows, make_scores

METHODS = {
    "CE": Method("ce", "ce", 1, "cross_entropy"),
    "MCDO CE": Method("ce_mc", "ce_mc", 1, "cross_entropy", 3),
    "EN CE": Method("ce", "ce", 10, "cross_entropy"),
    "DSC": Method("dice", "dice", 1, "soft_dice"),
    "MCDO DSC": Method("dice_mc", "dice_mc", 1, "soft_dice", 3),
    "EN DSC": Method("dice", "dice", 10, "soft_dice"),
}
FIVE = Method("dice", "dice", 5, "soft_dice")
NOISE = np.array([0.01, -0.01, 0.02, -0.02, 0.0, 0.0])
PATIENTS = len(NOISE)


def roles_of(*names, pool=10):
    methods = tuple(METHODS[name] for name in names)
    configs = {m.recipe: make_config(m.recipe, classes=2) for m in methods}
    return Roles(methods, configs, {m.recipe: pool for m in methods})


EVERY = roles_of(*METHODS)


@pytest.fixture
def check(gland):
    """Effects by name; given: method -> columns, where a number stands for every patient, with a little noise."""

    def of(given, roles=EVERY, ood=None, task=gland, resamples=200, noise=NOISE):
        parts = []
        for name, numbers in given.items():
            method = FIVE if name == "FIVE" else METHODS[name]
            wide = {c: v + noise * (1 + i) if np.isscalar(v) else v for i, (c, v) in enumerate(numbers.items())}
            parts.append(make_rows(method, wide))
        for name, numbers in (ood or {}).items():
            method = METHODS[name]
            count = len(next(iter(numbers.values())))
            parts.append(make_rows(method, numbers, split="ood", cases=[f"o{i}" for i in range(count)]))
        found = check_effects(make_scores(task, *parts), roles, task, 0, resamples)
        return {effect.name: effect for effect in found}

    return of


def pairs(a, b, column, **more):
    """The same column of two methods: value of a, value of b, by rising patient so that differences scatter."""
    rising = np.linspace(0, 0.1, PATIENTS)
    return {a[0]: {column: a[1] + rising}, b[0]: {column: b[1] + rising + NOISE}, **more}


def test_all_laws_are_there_in_their_order(check):
    found = check({"CE": {"nll@box": 1.0}})
    assert list(found) == ["L1", "L2", "L3", "L4", "L5", "L6", "L7", "L8 CE", "L8 DSC"]


@pytest.mark.parametrize(
    ("law", "a", "b", "column", "passing", "failing", "open_"),
    [
        ("L1", "DSC", "CE", "nll@box", 0.5, -0.5, 0.0),
        ("L2", "DSC", "CE", "dice@gland", 0.02, -0.2, -0.01),
        ("L3", "DSC", "CE", "ece@box", 0.3, -0.3, 0.0),
        ("L5", "EN DSC", "CE", "nll@box", -0.5, 0.5, 0.0),
        ("L8 CE", "EN CE", "MCDO CE", "nll@box", -0.5, 0.5, 0.0),
        ("L8 DSC", "EN DSC", "MCDO DSC", "nll@box", -0.5, 0.5, 0.0),
    ],
)
def test_a_difference_passes_fails_or_stays_open(check, law, a, b, column, passing, failing, open_):
    for difference, verdict in ((passing, "PASS"), (failing, "FAIL"), (open_, "INCONCLUSIVE")):
        found = check(pairs((a, 1 + difference), (b, 1.0), column))[law]
        assert found.verdict == verdict
        assert found.value == pytest.approx(difference - NOISE.mean())
        assert found.ci.low <= found.value <= found.ci.high
        low, high = found.ci.low, found.ci.high
        assert low < 0 < high or verdict != "INCONCLUSIVE" or law == "L2"


def test_no_difference_at_all(check):
    same = {"nll@box": 1.0, "ece@box": 0.1, "dice@gland": 0.5}
    found = check(dict.fromkeys(METHODS, same))
    verdicts = {law: found[law].verdict for law in ("L1", "L2", "L3", "L5", "L8 CE", "L8 DSC")}
    assert verdicts == {"L1": "FAIL", "L2": "PASS", "L3": "FAIL", "L5": "FAIL", "L8 CE": "PASS", "L8 DSC": "PASS"}
    assert (found["L1"].ci.low, found["L1"].ci.high) == (0.0, 0.0)


def test_differences_are_paired_and_patients_without_a_pair_left_out(check):
    given = {
        "CE": {"nll@box": np.array([1.0, 9.0, np.nan, 4.0, 2.0, 3.0, 5.0, 6.0])},
        "DSC": {"nll@box": np.array([1.5, 9.5, 7.0, np.nan, 2.5, 3.5, 5.5, 6.5])},
    }
    found = check(given)["L1"]
    assert (found.value, found.ci.low, found.ci.high, found.verdict) == (0.5, 0.5, 0.5, "PASS")


def test_dice_is_the_mean_of_the_structures_a_patient_has(gland):
    task = replace(gland, labels={1: "a", 2: "b"})
    scores = make_scores(
        task,
        make_rows(METHODS["CE"], {"dice@a": [0.5, 0.5, np.nan], "dice@b": [0.7, np.nan, np.nan]}),
        make_rows(METHODS["DSC"], {"dice@a": [0.9, 0.5, 0.1], "dice@b": [0.7, np.nan, 0.1]}),
    )
    found = {e.name: e for e in check_effects(scores, EVERY, task, 0, 50)}["L2"]
    assert found.value == pytest.approx(((0.8 - 0.6) + (0.5 - 0.5)) / 2)


def test_one_patient_decides_nothing(check):
    one = {"nll@box": np.array([1.0]), "ece@box": np.array([0.1]), "dice@gland": np.array([0.5])}
    other = {"nll@box": np.array([2.0]), "ece@box": np.array([0.3]), "dice@gland": np.array([0.7])}
    found = check({"CE": one, "DSC": other, "EN DSC": one, "FIVE": one, "EN CE": one, "MCDO CE": other})
    assert {effect.verdict for effect in found.values()} == {"INCONCLUSIVE"}
    assert (found["L1"].value, found["L1"].note) == (1.0, "1 of at least 6 patients that a verdict needs")
    assert found["L4"].value == pytest.approx(0.5)
    assert found["L5"].value == 0.0


@pytest.mark.parametrize(("five", "verdict"), [(0.5, "PASS"), (0.95, "FAIL"), (0.85, "INCONCLUSIVE")])
def test_l4_compares_five_networks_with_one(check, five, verdict):
    before = np.linspace(1, 2, PATIENTS)
    after = five * before + 4 * NOISE
    found = check({"DSC": {"nll@box": before}, "FIVE": {"nll@box": after}, "EN DSC": {"nll@box": 0.0}})["L4"]
    assert found.value == pytest.approx(1 - after.mean() / before.mean())  # of means, not a mean of ratios
    assert found.verdict == verdict
    rng = np.random.default_rng(0)
    drawn = [rng.integers(PATIENTS, size=PATIENTS) for _ in range(200)]
    resampled = [1 - after[at].mean() / before[at].mean() for at in drawn]
    assert (found.ci.low, found.ci.high) == pytest.approx(tuple(np.quantile(resampled, [0.025, 0.975])))


def test_l2_allows_a_loss_of_a_hundredth(check):
    for loss, verdict in ((0.009, "PASS"), (0.011, "FAIL")):
        found = check({"CE": {"dice@gland": np.full(6, 0.5)}, "DSC": {"dice@gland": np.full(6, 0.5 - loss)}})["L2"]
        assert found.verdict == verdict


def test_a_pool_that_is_too_small_is_named(check, gland):
    small = roles_of("CE", "DSC", pool=4)
    found = check(pairs(("DSC", 1.5), ("CE", 1.0), "nll@box"), small)
    for law in ("L4", "L5"):
        assert (found[law].verdict, found[law].note) == ("INCONCLUSIVE", "the pool holds 4 networks")
        assert np.isnan([found[law].value, found[law].ci.low]).all()
    assert found["L8 CE"].note == NO_METHOD


def test_sizes_that_were_not_drawn_are_named(check, gland):
    task = replace(gland, ensemble_sizes=(1, 2))
    found = check(pairs(("DSC", 1.5), ("CE", 1.0), "nll@box"), roles_of("CE", "DSC", pool=20), task=task)
    assert found["L4"].note == "no ensembles of 5 were drawn"
    assert found["L5"].note == "no ensembles of 10 were drawn"


@pytest.mark.parametrize("only", ["CE", "DSC"])
def test_without_one_of_the_losses(check, only):
    found = check({only: {"nll@box": 1.0, "dice@gland": 0.5, "entropy@gland": 0.3}}, roles_of(only))
    lacking = {"L1", "L2", "L3", "L5", "L8 CE", "L8 DSC"} | ({"L4", "L6", "L7"} if only == "CE" else set())
    assert {name for name, effect in found.items() if effect.note == NO_METHOD} == lacking
    assert all(effect.verdict == "INCONCLUSIVE" for effect in found.values() if effect.name != "L6")


def test_l6_is_pearsons_r_over_segments_with_patients_resampled(gland, check):
    task = replace(gland, labels={1: "a", 2: "b"})
    entropy = {"a": np.array([0.1, 0.2, 0.3, 0.4, np.nan, 0.6]), "b": np.array([0.15, 0.3, 0.35, 0.5, 0.55, 0.6])}
    dice = {"a": np.array([0.9, 0.8, 0.75, 0.5, 0.0, 0.3]), "b": np.array([0.9, 0.7, 0.7, np.nan, 0.4, 0.25])}
    given = {f"entropy@{s}": v for s, v in entropy.items()} | {f"dice@{s}": v for s, v in dice.items()}
    found = check({"EN DSC": given, "DSC": dict.fromkeys(given, 0.5)}, task=task)["L6"]
    x, d = np.concatenate([*entropy.values()]), np.concatenate([*dice.values()])
    kept = np.isfinite(x) & np.isfinite(d)
    y = np.log(np.clip(d[kept], 0.001, 0.999) / (1 - np.clip(d[kept], 0.001, 0.999)))
    assert found.value == pytest.approx(np.corrcoef(x[kept], y)[0, 1])
    rng, resampled = np.random.default_rng(0), []
    table = np.stack([*entropy.values()]), np.stack([*dice.values()])
    for _ in range(200):
        at = rng.integers(6, size=6)
        h, d = table[0][:, at].ravel(), table[1][:, at].ravel()
        kept = np.isfinite(h) & np.isfinite(d)
        d = np.clip(d[kept], 0.001, 0.999)
        resampled.append(np.corrcoef(h[kept], np.log(d / (1 - d)))[0, 1])
    assert (found.ci.low, found.ci.high) == pytest.approx(tuple(np.quantile(resampled, [0.025, 0.975])))
    assert found.verdict == "PASS"


@pytest.mark.parametrize(("slope", "verdict"), [(-1, "PASS"), (1, "FAIL"), (0, "INCONCLUSIVE")])
def test_l6_passes_fails_or_stays_open(check, slope, verdict):
    entropy = np.linspace(0.1, 0.6, PATIENTS)
    dice = 0.5 + slope * (entropy - 0.35) if slope else np.array([0.5, 0.6, 0.7, 0.4, 0.5, 0.3])
    found = check({"DSC": {"entropy@gland": entropy, "dice@gland": dice}}, roles_of("DSC"))["L6"]
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("target", "verdict"),
    [
        ([0.7, 0.8, 0.9, 0.95, 0.75, 0.85], "PASS"),
        ([0.0, 0.05, 0.05, 0.01, 0.02, 0.03], "FAIL"),
        ([0.2, 0.4, 0.5, 0.6, 0.1, 0.3], "INCONCLUSIVE"),
        ([0.7, 0.8, 0.9, 0.95], "INCONCLUSIVE"),  # too few
    ],
)
def test_l7_tells_domains_apart(check, target, verdict):
    source = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.3, np.nan])
    given = {"EN DSC": {"entropy@gland": source, "dice@gland": [0.5] * 7}}
    away = {"entropy@gland": np.array([*target, np.nan]), "dice@gland": [0.5] * (len(target) + 1)}
    found = check(given, ood={"EN DSC": away})["L7"]
    assert found.value == pytest.approx(auroc(source[:6], target))
    assert found.verdict == verdict


def test_l7_without_target_cases_is_open(check):
    found = check({"EN DSC": {"entropy@gland": 0.3, "dice@gland": 0.5}})["L7"]
    assert (found.verdict, found.note) == ("INCONCLUSIVE", "no out-of-distribution cases")
    nothing = {"entropy@gland": [np.nan], "dice@gland": [0.0]}
    found = check({"EN DSC": {"entropy@gland": 0.3, "dice@gland": 0.5}}, ood={"EN DSC": nothing})["L7"]
    assert found.verdict == "INCONCLUSIVE"
