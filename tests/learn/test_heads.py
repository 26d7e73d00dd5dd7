import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from segcal.learn.heads import HEADS, log_probabilities, out_channels
from segcal.measure.calibration import brier, nll

LOGITS = arrays(np.float64, (1, 3, 5), elements=st.floats(-20, 20, width=32))
quick = settings(deadline=None, max_examples=60, database=None)


def probabilities(logits, head):
    return log_probabilities(torch.as_tensor(logits), head).exp().numpy()


@pytest.mark.parametrize(("head", "channels"), [("softmax", 4), ("sigmoid", 3), ("raw_sum", 4)])
def test_only_the_sigmoid_head_has_no_channel_for_the_background(head, channels):
    assert out_channels(head, 4) == channels


def test_golden_softmax_scores():
    logits = np.array([[2, 1, 0], [0, 3, -1], [1, 1, 1], [-2, 0, 4]], dtype=float).T[None]
    probs, truth = probabilities(logits, "softmax")[0], np.array([0, 1, 2, 1])
    assert nll(probs, truth) == pytest.approx(1.39817082395, abs=1e-11)
    assert brier(probs, truth) == pytest.approx(0.694344034294, abs=1e-12)


def test_three_heads_by_hand():
    """Logits ln 3 and 0: odds 3 and 1; sigmoids 3/4 and 1/2."""
    logits = np.array([math.log(3), 0.0]).reshape(1, 2, 1)
    assert probabilities(logits, "softmax").ravel() == pytest.approx([3 / 4, 1 / 4], abs=1e-15)
    assert probabilities(logits, "sigmoid").ravel() == pytest.approx([1 / 5, 3 / 5, 1 / 5], abs=1e-15)
    assert probabilities(logits, "raw_sum").ravel() == pytest.approx([3 / 5, 2 / 5], abs=1e-15)


@quick
@given(LOGITS, st.sampled_from(HEADS))
def test_probabilities_are_positive_and_sum_to_1(logits, head):
    probs = probabilities(logits, head)
    assert probs.shape == (1, 4 if head == "sigmoid" else 3, 5)
    assert (probs > 0).all()
    np.testing.assert_allclose(probs.sum(axis=1), 1, rtol=1e-12)


@quick
@given(arrays(np.float64, (2, 1, 6), elements=st.floats(-30, 30, width=32)))
def test_one_structure_is_the_sigmoid(logits):
    np.testing.assert_allclose(probabilities(logits, "sigmoid")[:, 1], 1 / (1 + np.exp(-logits[:, 0])), rtol=1e-12)


@quick
@given(LOGITS)
def test_sigmoid_head_takes_the_best_channel_above_one_half_and_else_the_background(logits):
    best = logits.max(axis=1)
    expected = np.where(best > 0, logits.argmax(axis=1) + 1, 0)
    distinct = np.sort(np.concatenate([np.zeros((1, 1, 5)), logits], axis=1), axis=1)
    clear = np.diff(distinct, axis=1)[:, -1] > 1e-9  # a tie is a matter of rounding
    found = log_probabilities(torch.from_numpy(logits), "sigmoid").argmax(dim=1).numpy()
    np.testing.assert_array_equal(found[clear], expected[clear])


@quick
@given(LOGITS, st.permutations(range(3)), st.sampled_from(["softmax", "raw_sum"]))
def test_classes_may_be_renamed(logits, order, head):
    renamed = probabilities(logits[:, order], head)
    np.testing.assert_allclose(renamed, probabilities(logits, head)[:, order], rtol=1e-12)


@pytest.mark.parametrize("head", HEADS)
def test_half_precision_is_widened_and_double_is_kept(head):
    logits = torch.tensor([[0.5, -1.0, 2.0]]).view(1, 3, 1)  # exact in bfloat16
    assert log_probabilities(logits.double(), head).dtype == torch.float64
    found = log_probabilities(logits.bfloat16(), head)
    assert found.dtype == torch.float32
    assert torch.equal(found, log_probabilities(logits, head))


@pytest.mark.parametrize("head", HEADS)
def test_log_probabilities_are_exact_where_probabilities_underflow(head):
    logits = torch.tensor([200.0, -200.0]).view(1, 2, 1)
    expected = {"softmax": [0, -400], "sigmoid": [-200, 0, -400], "raw_sum": [0, -200]}[head]
    assert log_probabilities(logits, head).flatten().tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "call", [lambda: out_channels("tanh", 2), lambda: log_probabilities(torch.zeros(1, 2), "tanh")]
)
def test_an_unknown_head_names_the_known_ones(call):
    with pytest.raises(ValueError, match="head must be one of softmax, sigmoid, raw_sum, got head='tanh'"):
        call()
