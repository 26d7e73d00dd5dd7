from pathlib import Path

import numpy as np
import pytest

from segcal.analysis.ensembles import Subset
from segcal.analysis.evaluate import Evaluation
from segcal.analysis.score_cache import Stored
from segcal.analysis.scores import SOURCE, TARGET, collect, domains
from segcal.data.prepared import PreparedCohort
from segcal.measure.case import N_BINS, columns
from segcal.measure.grid import FINE
from segcal.records import Method
from tests.analysis.conftest import make_case, make_config, make_member, make_rows, make_scores

A, B = Method("a", "ce", 1), Method("b", "dice", 1)
PAIR = Method("a", "ce", 2)


def cohort(*entries):
    """Of (case, split, site)."""
    cases = [{"case_id": case_id, "split": split, "site": site} for case_id, split, site in entries]
    return PreparedCohort(Path(), {"cases": cases})


def test_everything_is_source_where_no_site_is_known():
    assert domains(cohort(("a", "train", ""), ("b", "val", ""), ("c", "test", "")), []) == {"c": SOURCE}


def test_a_test_set_of_one_foreign_site_is_source():
    found = domains(cohort(("a", "train", "CBICA"), ("b", "test", "TCIA"), ("c", "test", "TCIA")), [])
    assert found == {"b": SOURCE, "c": SOURCE}


def test_foreign_sites_are_target_where_the_learnt_ones_are_tested_on_too():
    found = domains(
        cohort(("a", "train", "CBICA"), ("v", "val", "Z"), ("b", "test", "TCIA"), ("c", "test", "CBICA"),
               ("d", "test", "Z")), [],
    )  # fmt: skip
    assert found == {"b": TARGET, "c": SOURCE, "d": SOURCE}  # the checkpoint was chosen on Z


def test_out_of_distribution_cases_are_target():
    found = domains(cohort(("a", "train", "X"), ("b", "test", "X")), [make_case("o", site="X")])
    assert found == {"b": SOURCE, "o": TARGET}


def test_a_patients_value_is_the_mean_over_draws_that_define_it(gland):
    scores = make_scores(
        gland,
        make_rows(A, {"dice@gland": [0.2, np.nan, np.nan]}),
        make_rows(A, {"dice@gland": [0.4, 0.6, np.nan]}, draw=1),
        make_rows(A, {"dice@gland": [9, 9, 9]}, variant="raw_sum"),
        make_rows(PAIR, {"dice@gland": [9, 9, 9]}),
        make_rows(B, {"dice@gland": [9, 9, 9]}),
        make_rows(A, {"dice@gland": [7.0]}, split="ood", cases=["o"]),
    )
    np.testing.assert_allclose(scores.by_patient(A, "dice@gland"), [0.3, 0.6, np.nan])
    np.testing.assert_allclose(scores.by_patient(A, "dice@gland", "raw_sum"), [9, 9, 9])
    np.testing.assert_allclose(scores.by_patient(A, "dice@gland", cases=["o"], split="ood"), [7])
    assert scores.cases == ["p00", "p01", "p02"]


def test_patients_are_in_one_order_whatever_the_rows(gland):
    scores = make_scores(
        gland,
        make_rows(A, {"nll@box": [3, 1, 2]}, cases=["c", "a", "b"]),
        make_rows(B, {"nll@box": [1, 2, 3]}, cases=["a", "b", "c"]),
        make_rows(A, {"nll@box": [20, 30]}, draw=1, cases=["b", "c"]),  # a draw without patient a
    )
    np.testing.assert_allclose(scores.by_patient(B, "nll@box"), [1, 2, 3])
    np.testing.assert_allclose(scores.by_patient(A, "nll@box"), [1, 11, 16.5])
    np.testing.assert_allclose(scores.by_draw(A, "nll@box"), [[1, 2, 3], [np.nan, 20, 30]])


def test_a_patient_that_a_method_does_not_have_is_missing(gland):
    scores = make_scores(gland, make_rows(A, {"nll@box": [1, 2]}), make_rows(B, {"nll@box": [1.0]}))
    np.testing.assert_allclose(scores.by_patient(B, "nll@box"), [1, np.nan])


def test_bins_are_pooled_over_draws_and_test_cases_only(gland):
    rng = np.random.default_rng(0)
    parts = (
        make_rows(A, {"nll@box": [1, 2]}), make_rows(PAIR, {"nll@box": [1, 2]}, full=False),
        make_rows(A, {"nll@box": [1, 2]}, draw=1), make_rows(A, {"nll@box": [1]}, split="ood", cases=["o"]),
        make_rows(A, {"nll@box": [1]}, variant="raw_sum"),
    )  # fmt: skip
    top = rng.random((6, 2, N_BINS, 3))  # rows of the frame: 0, 1, then 4, 5, then 6, then 7
    classwise = rng.random((6, 2, 2, N_BINS, 3))
    segments = rng.random((6, 1, FINE))
    scores = make_scores(gland, *parts, top=top, classwise=classwise, segments=segments)
    for at, region in enumerate(("box", "whole")):
        found = scores.pooled(A, region)
        np.testing.assert_allclose(found[0], top[:4, at].sum(axis=0))
        np.testing.assert_allclose(found[1], classwise[:4, at].sum(axis=0))
    of_case = scores.of_case(A, "p01", "test")
    np.testing.assert_allclose(of_case[0], top[1, 1] + top[3, 1])
    np.testing.assert_allclose(of_case[1], segments[1] + segments[3])
    np.testing.assert_allclose(scores.of_case(A, "o", "ood")[1], segments[4])


@pytest.fixture
def collected(gland):
    """Two members; a test case and one out of distribution, for which the curve was not asked for."""
    pool = {"a": [make_member(make_config("ce", seed, classes=2)) for seed in (3, 7)]}
    singles = [Subset("a", "ce", m, (m,)) for m in (0, 1)]
    pair = Subset("a", "ce", 0, (0, 1), full=False, decomposed=True)
    rng, names = np.random.default_rng(0), columns(gland)

    def stored(subset):
        bins = rng.random((2, N_BINS, 3)), rng.random((2, 2, N_BINS, 3)), rng.random((1, FINE))
        return Stored(rng.random(len(names)), *(bins if subset.full else (None,) * 3))

    def evaluation(case_id, subsets):
        keys = {subset: bytes([number]) for number, subset in enumerate(subsets)}
        return Evaluation(keys, {case_id: {key: stored(subset) for subset, key in keys.items()}})

    evaluations = {"test": evaluation("t", [*singles, pair]), "ood": evaluation("o", singles)}
    cases = {"test": [make_case("t", site="X")], "ood": [make_case("o", site="Y")]}
    return evaluations, [singles[0], pair, singles[1]], pool, cases, {"t": SOURCE, "o": TARGET}


def test_rows_say_who_and_where_and_bins_follow_them(collected, gland):
    evaluations, subsets, pool, cases, where = collected
    scores = collect(evaluations, subsets, pool, cases, where, gland)
    f = scores.frame
    assert list(zip(f.case_id, f.split, f.domain, f.site, f["size"], f.draw, f.seeds, f.full, strict=True)) == [
        ("t", "test", SOURCE, "X", 1, 0, (3,), True), ("t", "test", SOURCE, "X", 2, 0, (3, 7), False),
        ("t", "test", SOURCE, "X", 1, 1, (7,), True), ("o", "ood", TARGET, "Y", 1, 0, (3,), True),
        ("o", "ood", TARGET, "Y", 1, 1, (7,), True),
    ]  # fmt: skip
    np.testing.assert_array_equal(
        f.loc[1, columns(gland)].to_numpy(float), evaluations["test"].cases["t"][bytes([2])].metrics
    )
    order = [("test", "t", 0), ("test", "t", 1), ("ood", "o", 0), ("ood", "o", 1)]
    expected = [evaluations[split].cases[case][bytes([number])] for split, case, number in order]
    np.testing.assert_array_equal(scores.top, [stored.top for stored in expected])
    np.testing.assert_array_equal(scores.classwise, [stored.classwise for stored in expected])
    np.testing.assert_array_equal(scores.segments, [stored.segments for stored in expected])


def test_scores_that_were_asked_for_and_are_not_there_are_never_passed_over(collected, gland):
    evaluations, subsets, pool, cases, where = collected
    del evaluations["test"].cases["t"][bytes([2])]
    with pytest.raises(KeyError):
        collect(evaluations, subsets, pool, cases, where, gland)
