import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from segcal.stats import (
    auroc,
    bootstrap_ci,
    bootstrap_means,
    bootstrap_of,
    correlation,
    correlations,
    draws_error,
    effect_size,
    fpr_at_tpr,
    hierarchical_bootstrap,
    holm,
    paired_bootstrap,
    paired_tests,
    spread,
)
from segcal.stats.resamples import multinomial_chunks

VALUES = np.random.default_rng(5).lognormal(size=30)


def rng(seed=0):
    return np.random.default_rng(seed)


def drawn(generator, n, n_resamples):
    """Patients of each resample, drawn one after another."""
    return generator.integers(0, n, size=(n_resamples, n))


def counted(generator, n, n_resamples):
    return np.array([np.bincount(row, minlength=n) for row in drawn(generator, n, n_resamples)])


def test_means_equal_resampling_row_by_row():
    rows = [VALUES[patients].mean() for patients in drawn(rng(1), 30, 50)]
    np.testing.assert_allclose(bootstrap_means(VALUES, rng(1), 50), rows, rtol=1e-14)


def test_columns_share_their_resamples():
    table = np.stack([VALUES, VALUES**2, 1 - VALUES], axis=1)
    means = bootstrap_means(table, rng(1), 20)
    np.testing.assert_allclose(means[:, 0], bootstrap_means(VALUES, rng(1), 20))
    np.testing.assert_allclose(means[:, 2], 1 - means[:, 0])


@pytest.mark.parametrize(("method", "scipys"), [("percentile", "percentile"), ("bca", "BCa")])
def test_intervals_agree_with_scipy(method, scipys):
    mine = bootstrap_ci(VALUES, rng(), 50_000, method=method)
    theirs = scipy_stats.bootstrap((VALUES,), np.mean, n_resamples=50_000, method=scipys, rng=1).confidence_interval
    assert mine == pytest.approx((theirs.low, theirs.high), rel=0.015)


def test_percentile_interval_is_the_quantiles_of_the_resampled_means():
    means = bootstrap_means(VALUES, rng(2), 500)
    expected = tuple(np.quantile(means, [0.05, 0.95]))
    assert bootstrap_ci(VALUES, rng(2), 500, level=0.9) == pytest.approx(expected)


def test_bca_leans_towards_the_long_tail():
    low, high = bootstrap_ci(VALUES, rng(), 5000)
    bca_low, bca_high = bootstrap_ci(VALUES, rng(), 5000, method="bca")
    assert bca_low > low
    assert bca_high > high


def test_interval_covers_the_mean_as_often_as_it_says():
    generator = rng(3)
    hits = 0
    for _ in range(300):
        low, high = bootstrap_ci(generator.normal(1, 1, 40), generator, 300)
        hits += low <= 1 <= high
    assert 0.90 <= hits / 300 <= 0.98


def test_seed_decides():
    assert bootstrap_ci(VALUES, rng(1), 100) == bootstrap_ci(VALUES, rng(1), 100)
    assert bootstrap_ci(VALUES, rng(1), 100) != bootstrap_ci(VALUES, rng(2), 100)


def test_few_patients_and_undefined_values():
    assert np.isnan(bootstrap_ci([], rng())).all()
    assert np.isnan(bootstrap_ci([1.0, np.nan], rng())).all()
    assert bootstrap_ci([2.0, 2.0, np.nan], rng()) == (2.0, 2.0)
    assert bootstrap_ci([*VALUES, np.nan], rng(1), 99) == bootstrap_ci(VALUES, rng(1), 99)


def test_spread_is_percentiles_of_patients():
    assert spread(np.arange(101.0)) == pytest.approx((2.5, 97.5))
    assert np.isnan(spread([])).all()


def test_smallest_p_is_two_over_resamples_plus_one():
    assert paired_bootstrap(VALUES + 5, VALUES, rng(), 100) == pytest.approx(2 / 101)  # 0.0198: never below 0.01
    assert paired_bootstrap(VALUES, VALUES + 5, rng(), 9999) == pytest.approx(2 / 10_000)


def test_equal_methods_have_p_1():
    assert paired_bootstrap(VALUES, VALUES, rng(), 100) == 1.0


def test_p_is_uniform_where_nothing_differs():
    generator = rng(8)
    p = [paired_bootstrap(generator.normal(size=40), generator.normal(size=40), generator, 200) for _ in range(300)]
    assert np.mean(np.array(p) < 0.05) < 0.10
    assert scipy_stats.kstest(p, "uniform").statistic < 0.12


def test_pairs_with_an_undefined_value_are_left_out():
    a, b = np.append(VALUES, [np.nan, 1.0]), np.append(VALUES + 1, [2.0, np.nan])
    assert paired_bootstrap(a, b, rng(), 100) == paired_bootstrap(VALUES, VALUES + 1, rng(), 100)
    assert np.isnan(paired_bootstrap([1.0], [2.0], rng()))


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.01, np.nan, 0.04]), [0.02, np.nan, 0.04])
    assert holm([]).size == 0
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_and_keeps_the_order(p):
    adjusted = holm(p)
    assert (adjusted >= np.array(p) - 1e-15).all()
    assert (adjusted <= np.minimum(1, len(p) * np.array(p)) + 1e-12).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(adjusted[order]) >= 0).all()


def test_correlation_equals_scipy():
    x, y = VALUES, VALUES * 2 + rng(4).normal(size=30)
    expected = scipy_stats.linregress(x, y)
    assert correlation([*x, np.nan], [*y, 1.0]) == pytest.approx(
        (expected.rvalue, expected.pvalue, expected.slope, expected.intercept)
    )
    assert np.isnan(correlation([1, 2], [1, 2])).all()
    assert np.isnan(correlation([1, 1, 1], [1, 2, 3])).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_ci(VALUES, rng(), level=1.0), "level must lie between 0 and 1, got level=1.0"),
        (lambda: bootstrap_ci(VALUES, rng(), method="bc"), "method must be 'percentile' or 'bca'"),
        (lambda: bootstrap_means(VALUES, rng(), 0), "n_resamples must be at least 1, got n_resamples=0"),
        (lambda: paired_bootstrap([1, 2], [1, 2, 3], rng()), "must pair the same patients"),
        (lambda: bootstrap_ci(np.ones((2, 2)), rng()), "one number per patient"),
        (lambda: holm([0.5, 1.5]), r"p_values must lie in \[0, 1\], got 1.5"),
        (lambda: paired_tests(VALUES, rng()), r"must be \(patients, columns\), got shape \(30,\)"),
        (lambda: paired_tests([[1.0], [np.inf]], rng()), "must be finite or NaN, got inf"),
        (lambda: paired_tests([[1.0], [2.0]], rng(), 0), "n_resamples must be at least 1, got n_resamples=0"),
        (lambda: effect_size([1, 2], [1, 2, 3]), "must pair the same patients"),
        (lambda: correlations([1, 2], [1, 2, 3]), "must pair the same patients"),
        (lambda: hierarchical_bootstrap(np.ones((2, 3)), np.ones((2, 4)), rng()), "of the same patients"),
        (lambda: hierarchical_bootstrap(np.ones((2, 3)), np.ones((2, 3)), rng(), 0), "got n_resamples=0"),
        (lambda: fpr_at_tpr([1.0], [1.0], 0.0), "tpr must be above 0 and at most 1, got tpr=0.0"),
        (lambda: draws_error([1.0, 2.0], 4, 3), "size must be at least 1 and at most pool=3, got size=4"),
        (lambda: draws_error([1.0, 2.0], 0, 3), "got size=0"),
        (lambda: draws_error([1.0, 2.0], 1, 0), "pool must be at least 1, got pool=0"),
        (lambda: bootstrap_of(3, lambda _: 0.0, rng(), 0), "n_resamples must be at least 1, got n_resamples=0"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_bca_follows_efrons_formula_on_the_same_resamples(level):
    means = bootstrap_means(VALUES, np.random.default_rng(2), 2000)
    bias = scipy_stats.norm.ppf(np.mean(means < VALUES.mean()))
    left_out = np.array([np.delete(VALUES, i).mean() for i in range(VALUES.size)])
    lean = left_out.mean() - left_out
    acceleration = (lean**3).sum() / (6 * (lean**2).sum() ** 1.5)
    z = bias + scipy_stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    tails = scipy_stats.norm.cdf(bias + z / (1 - acceleration * z))
    found = bootstrap_ci(VALUES, np.random.default_rng(2), 2000, level, "bca")
    assert found == pytest.approx(tuple(np.quantile(means, tails)), rel=1e-12)


def test_p_does_not_depend_on_the_unit():
    a = np.array([1.0, 2.0, -3.0])
    one, tenth = (paired_bootstrap(x, 0 * x, np.random.default_rng(0), 9999) for x in (a, np.array([0.1, 0.2, -0.3])))
    assert one == tenth


def test_counts_follow_the_multinomial():
    """Means n/n = 1, variances (1 - 1/n), covariances -1/n; each resample holds n patients."""
    counts = next(multinomial_chunks(rng(7), 8, 40_000))
    assert (counts.sum(axis=1) == 8).all()
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.02)
    np.testing.assert_allclose(np.cov(counts.T), np.eye(8) - 1 / 8, atol=0.03)
    expected = scipy_stats.binom.pmf(np.arange(9), 8, 1 / 8)
    np.testing.assert_allclose(np.bincount(counts[:, 0].astype(int), minlength=9) / 40_000, expected, atol=0.01)


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_chunks_of_counts_are_the_whole_matrix(chunk, monkeypatch):
    monkeypatch.setattr("segcal.stats.resamples.CHUNK", chunk * 30)
    one, other = rng(1), rng(1)
    whole = counted(one, 30, 50)
    np.testing.assert_array_equal(np.concatenate(list(multinomial_chunks(other, 30, 50))), whole)
    assert one.random() == other.random()


@pytest.mark.parametrize("chunk", [1 << 20, 1000])
def test_many_tests_equal_one_by_one(chunk, monkeypatch):
    monkeypatch.setattr("segcal.stats.resamples.CHUNK", chunk)
    differences = rng(2).normal(0.2, 1, size=(25, 6))
    differences[:, 5] = 0
    one_by_one = [paired_bootstrap(column, 0 * column, rng(9), 999) for column in differences.T]
    assert paired_tests(differences, rng(9), 999).tolist() == one_by_one
    assert one_by_one[5] == 1.0
    # A gap in one column changes no other column.
    differences[3, 0] = np.nan
    assert paired_tests(differences, rng(9), 999)[1:].tolist() == one_by_one[1:]


def test_many_tests_with_gaps_by_hand():
    differences = np.array([[3.0, np.nan, np.nan], [-1.0, 2.0, np.nan], [np.nan, -1.0, 1.0]])
    counts = counted(rng(4), 3, 200)
    p = []
    for column in differences[:, :2].T:
        rows = [np.repeat(column, count) for count in counts]
        means = [np.nanmean(row) for row in rows if not np.isnan(row).all()]
        assert len(means) < 200
        tail = 1 + min(sum(mean <= 0 for mean in means), sum(mean >= 0 for mean in means))
        p.append(min(1, 2 * tail / (len(means) + 1)))
    np.testing.assert_allclose(paired_tests(differences, rng(4), 200), [*p, np.nan], rtol=1e-14)


def test_many_tests_of_nothing():
    assert paired_tests(np.empty((5, 0)), rng()).shape == (0,)
    assert np.isnan(paired_tests(np.empty((0, 2)), rng())).all()
    assert np.isnan(paired_tests([[1.0, np.nan]], rng())).all()


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(1, 60))
def test_many_tests_give_probabilities_that_ignore_the_sign(seed, patients, n_resamples):
    generator = rng(seed)
    differences = generator.normal(size=(patients, 4))
    differences[generator.random(differences.shape) < 0.3] = np.nan
    p = paired_tests(differences, rng(seed), n_resamples)
    known = ~np.isnan(p)
    np.testing.assert_array_equal(known, (~np.isnan(differences)).sum(axis=0) >= 2)
    assert ((p[known] > 0) & (p[known] <= 1)).all()
    np.testing.assert_array_equal(p, paired_tests(-differences, rng(seed), n_resamples))


def test_effect_size_by_hand():
    assert effect_size([3.0, 5.0, np.nan, 10.0], [1.0, 1.0, 1.0, 4.0]) == pytest.approx(4 / 2)  # differences 2, 4, 6
    assert effect_size([1.0, 1.0, 4.0], [3.0, 5.0, 10.0]) == pytest.approx(-2)
    assert np.isnan(effect_size([1.0], [2.0]))
    assert np.isnan(effect_size([1.1, 2.1, 3.1], [1.0, 2.0, 3.0]))  # the same difference but for rounding
    assert np.isnan(effect_size([], []))


def test_crossed_bootstrap_equals_loops_over_copies():
    a, b = rng(1).normal(0.3, 1, size=(3, 5)), rng(2).normal(size=(4, 5))
    a[1, 2] = a[0, 4] = b[3, 0] = np.nan
    draws = rng(6)
    counts = [counted(draws, n, 400) for n in (3, 4, 5)]
    means = []
    for of_a, of_b, of_patients in zip(*counts, strict=True):
        first = np.repeat(np.repeat(a, of_a, axis=0), of_patients, axis=1)
        second = np.repeat(np.repeat(b, of_b, axis=0), of_patients, axis=1)
        means.append(np.nanmean(first) - np.nanmean(second))
    low, high = np.quantile(means, [0.05, 0.95])
    p = 2 * (1 + min(np.sum(np.array(means) <= 0), np.sum(np.array(means) >= 0))) / 401
    found = hierarchical_bootstrap(a, b, rng(6), 400, level=0.9)
    assert found == pytest.approx((np.nanmean(a) - np.nanmean(b), low, high, p), rel=1e-12)
    assert hierarchical_bootstrap(a, b, rng(7), 400, level=0.9) != found


def test_crossed_bootstrap_knows_that_seeds_differ():
    """Both recipes are the same, but each trained network is off by a common amount for all patients."""
    generator = rng(11)
    crossed, patients_only = 0, 0
    for _ in range(60):
        patient = generator.normal(size=40)
        a, b = (patient + generator.normal(size=(10, 1)) + 0.3 * generator.normal(size=(10, 40)) for _ in range(2))
        crossed += hierarchical_bootstrap(a, b, generator, 400)[3] < 0.05
        patients_only += paired_bootstrap(a.mean(axis=0), b.mean(axis=0), generator, 400) < 0.05
    assert crossed <= 9  # 15%: percentiles of ten seeds are a little narrow
    assert patients_only >= 45


def test_crossed_bootstrap_finds_a_true_difference():
    a, b = rng(1).normal(size=(10, 40)), rng(2).normal(size=(10, 40)) + 0.5
    difference, low, high, p = hierarchical_bootstrap(a, b, rng(), 999)
    assert low < difference < high < 0
    assert p == pytest.approx(2 / 1000)


def test_crossed_bootstrap_of_too_little():
    a = rng(1).normal(size=(2, 5))
    for first, second in ((a[:1], a), (a, a[:1]), (a[:, :1], a[:, :1])):
        difference, *rest = hierarchical_bootstrap(first, second, rng())
        assert difference == pytest.approx(first.mean() - second.mean())
        assert np.isnan(rest).all()
    assert np.isnan(hierarchical_bootstrap(np.full((2, 5), np.nan), a, rng())).all()
    assert hierarchical_bootstrap(a, a[::-1], rng(), 50)[0] == pytest.approx(0)
    assert hierarchical_bootstrap(np.ones((2, 5)), np.ones((3, 5)), rng(), 50) == (0, 0, 0, 1)


def test_correlations_equal_scipy():
    x, y = VALUES, VALUES**2 + rng(4).normal(size=30)
    found = correlations([*x, np.nan, 1.0], [*y, 1.0, np.inf])
    assert found.n == 30
    pearson, spearman = scipy_stats.pearsonr(x, y), scipy_stats.spearmanr(x, y)
    assert (found.pearson_r, found.pearson_p) == pytest.approx((pearson.statistic, pearson.pvalue))
    assert (found.spearman_r, found.spearman_p) == pytest.approx((spearman.statistic, spearman.pvalue))
    assert (found.slope, found.intercept) == pytest.approx(tuple(np.polyfit(x, y, 1)))


def test_correlations_of_too_little():
    for x, y, n in (([1, 2], [1, 2], 2), ([1, 1, 1], [1, 2, 3], 3), ([], [], 0)):
        found = correlations(x, y)
        assert found.n == n
        assert np.isnan([found.pearson_r, found.spearman_r, found.spearman_p, found.slope]).all()


SCORES = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=15)


@settings(deadline=None, max_examples=100)
@given(SCORES, SCORES)
def test_auroc_counts_pairs(source, target):
    won = np.subtract.outer(target, source)
    assert auroc(source, target) == pytest.approx(np.mean((won > 0) + 0.5 * (won == 0)))
    assert auroc(source, target) + auroc(target, source) == pytest.approx(1, abs=1e-15)
    assert auroc(np.exp(source), np.exp(target)) == auroc(source, target)


@settings(deadline=None, max_examples=100)
@given(SCORES, SCORES, st.floats(0.01, 1))
def test_threshold_is_the_largest_that_flags_enough(source, target, tpr):
    share, threshold = fpr_at_tpr(source, target, tpr)
    enough = [score for score in target if np.mean(np.array(target) >= score) >= tpr]
    assert threshold == max(enough)
    assert share == np.mean(np.array(source) >= threshold)


def test_detection_equals_sklearn():
    metrics = pytest.importorskip("sklearn.metrics")
    source, target = rng(1).normal(size=60).round(1), rng(2).normal(1, 1, size=40).round(1)
    truth, scores = np.repeat([0, 1], [60, 40]), np.concatenate([source, target])
    assert auroc(source, target) == pytest.approx(metrics.roc_auc_score(truth, scores), abs=1e-12)
    fpr, tpr, thresholds = metrics.roc_curve(truth, scores, drop_intermediate=False)
    first = np.argmax(tpr >= 0.95)
    assert fpr_at_tpr(source, target) == pytest.approx((fpr[first], thresholds[first]), abs=1e-12)


def test_detection_of_nothing_and_of_undefined_scores():
    assert np.isnan(auroc([], [1.0]))
    assert np.isnan(auroc([1.0], [np.nan]))
    assert auroc([1.0, np.nan, 2.0], [3.0, np.nan]) == 1.0
    assert np.isnan(fpr_at_tpr([1.0], [])).all()
    share, threshold = fpr_at_tpr([], [1.0, 2.0])
    assert np.isnan(share)
    assert threshold == 1.0


def test_exactly_95_of_100_targets_are_enough():
    assert fpr_at_tpr(np.arange(100.0), np.arange(100.0), 0.95) == (0.95, 5.0)
    assert fpr_at_tpr(np.arange(100.0), np.arange(100.0), 0.07) == (0.07, 93.0)


@pytest.mark.parametrize("size", [1, 10, 50, 90])
def test_overlapping_draws_are_corrected(size):
    """Members with independent effects of standard deviation 2: the mean of M has the error 2 / sqrt(M)."""
    generator, found, naive = rng(size), [], []
    for _ in range(60):
        members = generator.normal(0, 2, size=100)
        draws = [generator.choice(members, size, replace=False).mean() for _ in range(50)]
        found.append(draws_error(draws, size, 100) ** 2)
        naive.append(np.var(draws, ddof=1))
    assert np.sqrt(np.mean(found)) == pytest.approx(2 / np.sqrt(size), rel=0.06)
    assert np.sqrt(np.mean(naive)) == pytest.approx(2 / np.sqrt(size) * np.sqrt((100 - size) / 99), rel=0.06)


def test_draws_error_by_hand():
    assert draws_error([1.0, 3.0, np.nan], 2, 5) == pytest.approx(np.sqrt(2) / np.sqrt(3 / 4))
    assert draws_error([1.0, 3.0], 1, 5) == pytest.approx(np.sqrt(2))
    assert np.isnan([draws_error([1.0, 3.0], 5, 5), draws_error([1.0], 2, 5), draws_error([1.0, 1.0], 1, 1)]).all()
    assert np.isnan(draws_error([], 2, 5))


def test_bootstrap_of_a_mean_is_the_interval_of_the_mean():
    found = bootstrap_of(30, lambda patients: VALUES[patients].mean(), rng(), 20_000)
    assert found == pytest.approx(bootstrap_ci(VALUES, rng(1), 20_000), rel=0.02)
    assert found != bootstrap_of(30, lambda patients: VALUES[patients].mean(), rng(1), 20_000)


def test_bootstrap_of_groups_draws_each_on_its_own():
    source, target = rng(1).normal(size=60), rng(2).normal(1, 1, size=40)
    low, high = bootstrap_of((60, 40), lambda i, j: auroc(source[i], target[j]), rng(), 3000)
    area = auroc(source, target)
    assert low < area < high
    # Hanley and McNeil 1982, Eq. 2
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    error = np.sqrt((area * (1 - area) + 39 * (q1 - area**2) + 59 * (q2 - area**2)) / (60 * 40))
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.15)


def test_bootstrap_of_undefined_results():
    few = bootstrap_of(4, lambda patients: np.nan if 0 in patients else 1.0, rng(), 500)  # (3/4)^4 = 32% defined
    assert np.isnan(few).all()
    most = bootstrap_of(4, lambda patients: 1.0 if 0 in patients else np.nan, rng(), 500)
    assert most == (1.0, 1.0)
    assert np.isnan(bootstrap_of(1, lambda _: 1.0, rng())).all()
    assert np.isnan(bootstrap_of((5, 0), lambda *_: 1.0, rng())).all()
