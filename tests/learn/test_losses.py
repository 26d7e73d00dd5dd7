import pytest
import torch

from segcal.learn.heads import HEADS, log_probabilities, out_channels
from segcal.learn.losses import LOSSES, cross_entropy, silent_choice, soft_dice

P = torch.tensor([0.05, 0.20, 0.35, 0.48, 0.55, 0.70, 0.90, 0.99], dtype=torch.float64)
Y = torch.tensor([[0, 0, 1, 0, 1, 0, 1, 1]])
Z = torch.log(P / (1 - P))
ONE, TWO = Z.view(1, 1, 8), torch.stack([-Z, Z]).unsqueeze(0)


@pytest.mark.parametrize(("smooth", "expected"), [(1.0, -0.605206073753), (0.0, -0.678832116788)])
def test_golden_dice_of_the_foreground(smooth, expected):
    assert soft_dice(ONE, Y, torch.ones(1), smooth).item() == pytest.approx(expected, abs=1e-12)


def test_golden_dice_with_the_background():
    loss = soft_dice(TWO, Y, torch.ones(2), 1.0, head="raw_sum", background=True)
    assert loss.item() == pytest.approx(-1.19062748605, abs=1e-11)


def test_golden_weighted_cross_entropy():
    logits = torch.stack([torch.zeros_like(Z), Z]).unsqueeze(0)
    weights = torch.tensor([0.5, 3.0], dtype=torch.float64)
    loss = cross_entropy(logits, Y, weights)
    assert loss.item() == pytest.approx(0.794422248627, abs=1e-12)
    assert (loss * 8 / weights[Y].sum()).item() == pytest.approx(0.453955570644, abs=1e-12)


def test_dice_weights_are_per_structure_or_per_class():
    logits, truth = torch.randn(2, 3, 5, 5, dtype=torch.float64), torch.randint(0, 4, (2, 5, 5))
    each = [soft_dice(logits, truth, torch.eye(3)[k]) for k in range(3)]
    weights = torch.tensor([1.0, 3.0, 1.0])
    assert soft_dice(logits, truth, weights).item() == pytest.approx(
        sum(w * e for w, e in zip(weights, each, strict=True)).item()
    )
    with_background = torch.cat([torch.tensor([9.0]), weights])
    assert soft_dice(logits, truth, with_background) == soft_dice(logits, truth, weights)
    with pytest.raises(ValueError, match="weights must hold 3 structures"):
        soft_dice(logits, truth, torch.ones(2))


def test_dice_per_image_is_the_mean_of_the_images():
    logits, truth = torch.randn(3, 2, 4, 4, dtype=torch.float64), torch.randint(0, 3, (3, 4, 4))
    alone = [soft_dice(logits[i : i + 1], truth[i : i + 1]).item() for i in range(3)]
    assert soft_dice(logits, truth, per_image=True).item() == pytest.approx(sum(alone) / 3)
    assert soft_dice(logits, truth).item() != pytest.approx(sum(alone) / 3)


def test_sigmoid_head_has_no_background_to_count():
    with pytest.raises(ValueError, match="background=True needs a channel"):
        soft_dice(ONE, Y, background=True)


@pytest.mark.parametrize("name", sorted(LOSSES.built_in))
class TestContract:
    """What every loss owes the training loop."""

    def problem(self, name, dtype=torch.float32):
        generator = torch.Generator().manual_seed(0)
        truth = torch.randint(0, 4, (3, 8, 8), generator=generator)
        channels = out_channels(silent_choice(name)["head"], 4)
        return torch.randn(3, channels, 8, 8, generator=generator).to(dtype), truth

    def right(self, name, truth, sign=1.0):
        channels = out_channels(silent_choice(name)["head"], 4)
        one_hot = torch.nn.functional.one_hot(truth, 4).permute(0, 3, 1, 2)[:, 4 - channels :]
        return sign * (20.0 * one_hot - 10.0)

    def test_is_a_finite_number_with_a_gradient(self, name):
        logits, truth = self.problem(name)
        logits.requires_grad_()
        loss = LOSSES[name](logits, truth, torch.ones(4))
        loss.backward()
        assert loss.shape == ()
        assert torch.isfinite(loss)
        assert torch.isfinite(logits.grad).all()
        assert logits.grad.abs().sum() > 0

    def test_the_truth_is_best(self, name):
        logits, truth = self.problem(name)
        loss = LOSSES[name]
        assert loss(self.right(name, truth), truth) < loss(logits, truth) < loss(self.right(name, truth, -1), truth)

    def test_order_of_the_images_does_not_matter(self, name):
        logits, truth = self.problem(name, torch.float64)
        order = torch.tensor([2, 0, 1])
        assert LOSSES[name](logits[order], truth[order]).item() == pytest.approx(LOSSES[name](logits, truth).item())

    def test_descends(self, name):
        logits, truth = self.problem(name)
        logits.requires_grad_()
        optimiser = torch.optim.Adam([logits], lr=0.1)
        values = []
        for _ in range(20):
            loss = LOSSES[name](logits, truth, torch.ones(4))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            values.append(loss.item())
        assert values[-1] < values[0] - 0.1

    def test_extreme_logits_stay_finite(self, name):
        logits, truth = self.problem(name)
        extreme = (1e4 * logits).requires_grad_()
        LOSSES[name](extreme, truth).backward()
        assert torch.isfinite(extreme.grad).all()


@pytest.mark.parametrize("head", HEADS)
def test_probabilities_sum_to_one(head):
    logits = 5 * torch.randn(2, out_channels(head, 4), 6, 6)
    probs = log_probabilities(logits, head).exp()
    assert probs.shape == (2, 4, 6, 6)
    torch.testing.assert_close(probs.sum(dim=1), torch.ones(2, 6, 6))


def test_sigmoid_head_of_one_structure_is_the_sigmoid():
    probs = log_probabilities(Z.view(1, 1, 8), "sigmoid").exp()
    torch.testing.assert_close(probs[0, 1], P)


def test_sigmoid_head_chooses_the_best_channel_from_one_half():
    logits = torch.randn(4, 3, 9, 9)
    best, channel = torch.sigmoid(logits).max(dim=1)
    expected = torch.where(best >= 0.5, channel + 1, 0)
    assert torch.equal(log_probabilities(logits, "sigmoid").argmax(dim=1), expected)


def test_raw_sum_is_sigmoids_over_their_sum():
    logits = torch.randn(1, 4, 5, dtype=torch.float64)
    raw = torch.sigmoid(logits)
    torch.testing.assert_close(log_probabilities(logits, "raw_sum").exp(), raw / raw.sum(dim=1, keepdim=True))


def test_log_probabilities_survive_underflow():
    log_p = log_probabilities(torch.tensor([[[0.0], [500.0]]]), "softmax")
    assert log_p.flatten().tolist() == [-500.0, 0.0]


def test_unknown_head():
    with pytest.raises(ValueError, match="head must be one of softmax, sigmoid, raw_sum, got head='tanh'"):
        out_channels("tanh", 2)
