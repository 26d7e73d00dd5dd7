"""A loss of a plug-in: what its signature must be, and what becomes of its options."""

from dataclasses import replace

import pytest
import torch

from segcal.errors import UsageError
from segcal.learn.losses import LOSSES, bind, options_of, silent_choice
from segcal.trial import TrialConfig

CONFIG = TrialConfig(
    task="t", label="m", data_digest="d", in_channels=1, n_classes=2, dims=2, seed=0, loss="m", head="softmax",
    weights="none", class_weights=(1.0, 3.0), batch=1, smooth=0.5,
)  # fmt: skip
LOSS = "def mine(logits, truth, weights=None, {}):\n    return {}\n"


def install(packages, settings, returned="logits.mean()"):
    packages.install("more", LOSS.format(settings, returned), losses={"m": "mine"})


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("mine = 3", "a loss must be a function, got int"),
        ("def mine(p, y, w):\n    pass", r"a loss must take (logits, truth, weights, ...), got (p, y, w)"),
        ("def mine(logits, truth):\n    pass", "got (logits, truth)"),
        ("def mine(logits, truth, *, weights):\n    pass", "got (logits, truth, *, weights)"),
        ("def mine(logits, truth, weights, **more):\n    pass", "settings must have names of their own, got **more"),
        ("def mine(logits, truth, weights, gamma=print):\n    pass", "the default of an option must be a number"),
        (
            "import numpy\ndef mine(logits, truth, weights, gamma=numpy.float64(2)):\n    pass",
            "the default of an option must be a number",
        ),
        (
            "def mine(logits, truth, weights, gamma=float('nan')):\n    pass",
            "the default of an option must be a number",
        ),
    ],
)
def test_a_loss_whose_settings_cannot_be_named_is_left_out(packages, code, reason):
    packages.install("more", code, losses={"m": "mine"})
    assert "m" not in LOSSES
    assert reason in LOSSES.unknown("m")


def test_it_gets_the_trials_settings_and_its_options_by_name(packages):
    install(packages, "*, smooth, gamma=2.0", "logits.sum() * smooth * gamma + weights[1]")
    loss = bind(replace(CONFIG, loss_options={"gamma": 4.0}), torch.device("cpu"))
    assert loss(torch.ones(1, 2, 1, 1), torch.zeros(1, 1, 1)).item() == 2 * 0.5 * 4 + 3


def test_options_are_resolved_with_their_defaults(packages):
    install(
        packages, "*, head='sigmoid', gamma: float = 2, level=3, on=True, name='a', steps=(1, 2), maybe=None, seed=0"
    )
    assert options_of("m", {}) == {
        "gamma": 2.0, "level": 3, "on": True, "name": "a", "steps": [1, 2], "maybe": None,
    }  # fmt: skip
    assert type(options_of("m", {"gamma": 5})["gamma"]) is float
    assert options_of("m", {"maybe": 0.5})["maybe"] == 0.5
    assert silent_choice("m") == {"head": "sigmoid", "weights": "none", "seed": 0}
    assert options_of("soft_dice", {}) == {}


def test_a_whole_number_and_a_float_are_the_same_where_floats_are_meant(packages):
    install(packages, "*, maybe: float | None = None, steps=(0.5, 1.0), most: float | None = 3")
    whole, floats = {"maybe": 2, "steps": [1, 2]}, {"maybe": 2.0, "steps": [1.0, 2.0]}
    assert repr(options_of("m", whole)) == repr(options_of("m", floats)) == repr({**floats, "most": 3.0})
    assert options_of("m", {"most": None})["most"] is None
    with pytest.raises(UsageError, match="m maybe must be of type float, got 'much'"):
        options_of("m", {"maybe": "much"})


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"gama": 1.0}, "no option of m named 'gama'; did you mean 'gamma'\\? known: gamma, level, must"),
        ({"smooth": 1.0}, "smooth must stand in the recipe itself"),
        ({"gamma": "2"}, "m gamma must be of type float, got '2'"),
        ({"gamma": True}, "m gamma must be of type float, got True"),
        ({"gamma": float("inf")}, "m gamma must be of type float, got inf"),
        ({"level": 2.0}, "m level must be of type int, got 2.0"),
        ({"must": {"a": 1}}, "m must must be a number, a text or a list of them"),
        ({"gamma": 1.0}, "m must be given must, got {'gamma': 1.0}"),
    ],
)
def test_a_wrong_option_is_told(packages, given, reason):
    install(packages, "*, must, gamma=2.0, level=3")
    with pytest.raises(UsageError, match=reason):
        options_of("m", given if "must" in given or "must be given" in reason else {"must": 1, **given})


def test_a_built_in_has_no_options():
    with pytest.raises(UsageError, match="no option of soft_dice named 'gamma'; soft_dice has none"):
        options_of("soft_dice", {"gamma": 2.0})


def test_what_is_no_single_number_is_told(packages):
    install(packages, "*, gamma=2.0", "logits")
    with pytest.raises(UsageError, match=r"the loss 'm' of more 1\.0 .* must return one number.*got shape \(1, 2\)"):
        bind(CONFIG, torch.device("cpu"))(torch.ones(1, 2), torch.zeros(1))


def test_a_loss_that_is_not_here_is_told():
    with pytest.raises(UsageError, match="no loss named 'm'; known: cross_entropy, soft_dice"):
        bind(CONFIG, torch.device("cpu"))
