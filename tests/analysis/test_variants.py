import numpy as np
import pytest

from segcal.analysis.variants import VARIANTS, prior_corrected, raw_sum
from tests.analysis.conftest import make_config


def volume(*members):
    """Probabilities (members, K, Z=1, Y=1, X) of lists by member, voxel and class."""
    return np.array(members, np.float32).transpose(0, 2, 1)[:, :, None, None]


def test_prior_correction_divides_by_the_weights_and_renormalises():
    config = make_config("ce", classes=2)  # weights 0.3 and 4
    found = prior_corrected(volume([[0.5, 0.5], [0.9, 0.1]], [[0.2, 0.8], [0.0, 1.0]]), config)
    expected = [
        [[(5 / 3) / (5 / 3 + 0.125), 0.125 / (5 / 3 + 0.125)], [3 / 3.025, 0.025 / 3.025]],
        [[(2 / 3) / (2 / 3 + 0.2), 0.2 / (2 / 3 + 0.2)], [0.0, 1.0]],
    ]
    np.testing.assert_allclose(found, volume(*expected), rtol=1e-6)
    assert found.dtype == np.float32


def test_prior_correction_undoes_the_weights_of_the_minimiser():
    truth = np.array([0.7, 0.1, 0.15, 0.05])
    config = make_config("ce")
    learnt = truth * config.class_weights / np.dot(truth, config.class_weights)
    np.testing.assert_allclose(prior_corrected(volume([learnt]), config).ravel(), truth, rtol=1e-6)


def test_raw_sum_of_one_structure_is_its_sigmoid():
    p = np.random.default_rng(0).random((2, 3))
    probs = np.stack([1 - p, p], axis=1).astype(np.float32)[:, :, None, None]
    np.testing.assert_allclose(raw_sum(probs, make_config("dice", classes=2)), probs, rtol=2e-6)


def test_raw_sum_reads_the_sigmoids_of_the_logits():
    z = np.array([[1.5, -2.0, 0.3], [-4.0, 0.0, 5.0]])  # two voxels, three structures
    odds = np.concatenate([np.ones((2, 1)), np.exp(z)], axis=1)
    sigmoid = 1 / (1 + np.exp(-z))
    every = np.concatenate([np.prod(1 - sigmoid, axis=1, keepdims=True), sigmoid], axis=1)
    found = raw_sum(volume(odds / odds.sum(axis=1, keepdims=True)), make_config("dice"))
    np.testing.assert_allclose(found, volume(every / every.sum(axis=1, keepdims=True)), rtol=1e-5)


@pytest.mark.parametrize("name", ["prior_corrected", "raw_sum"])
def test_certainty_stays_certainty(name):
    certain = np.eye(4)[None]  # one voxel for each class
    found = VARIANTS[name].read(volume(*certain), make_config("ce" if name == "prior_corrected" else "dice"))
    np.testing.assert_array_equal(found, volume(*certain))


@pytest.mark.parametrize("name", ["prior_corrected", "raw_sum"])
def test_readings_are_probabilities(name):
    rng = np.random.default_rng(1)
    probs = rng.dirichlet(np.full(4, 0.05), (3, 50)).astype(np.float32)
    probs[0, 0] = [0.0, 0.5, 0.5, 0.0]  # certainly not the background
    found = VARIANTS[name].read(volume(*probs), make_config("dice"))
    assert np.isfinite(found).all()
    assert found.min() >= 0
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "readings"),
    [
        (make_config("ce"), ["prior_corrected"]),
        (make_config("ce", weights="none", class_weights=(1.0, 1.0, 1.0, 1.0)), []),
        (make_config("ce_mc"), []),
        (make_config("dice"), ["raw_sum"]),
        (make_config("dice", classes=2), []),
        (make_config("dice", head="softmax"), []),
        (make_config("dice", class_weights=(1.0, 1.0, 3.0, 1.0), head="softmax"), []),
        (make_config("dice_mc"), []),
    ],
)
def test_a_reading_applies_where_it_says_something(config, readings):
    assert [name for name, variant in VARIANTS.items() if variant.applies(config)] == readings
