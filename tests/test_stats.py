import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from segcal.stats import bootstrap_ci, bootstrap_means, correlation, holm, paired_bootstrap, spread

VALUES = np.random.default_rng(5).lognormal(size=30)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_means_equal_resampling_row_by_row():
    counts = rng(1).multinomial(30, np.full(30, 1 / 30), size=50)
    rows = [np.repeat(VALUES, count).mean() for count in counts]
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
