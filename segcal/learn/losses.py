"""Training losses (paper: section V-A). A loss is one function here and one line in LOSSES."""

__all__ = ["LOSSES", "PAPER_CHOICE", "bind", "cross_entropy", "soft_dice"]

import inspect
from collections.abc import Callable
from dataclasses import fields

import torch
import torch.nn.functional as F
from torch import Tensor

from segcal.learn.heads import log_probabilities
from segcal.trial import TrialConfig


def cross_entropy(logits: Tensor, truth: Tensor, weights: Tensor | None = None, *, head: str = "softmax") -> Tensor:
    """Weighted cross-entropy (Eq. 1): -1/N sum_i w(y_i) ln p(y_i), in nats, divided by the number of pixels.

    logits (B, channels, ...), truth (B, ...) integer classes, weights (K,) or None for ones. A structure-only head
    gets its background from `head`. An empty batch gives NaN.
    """
    log_p = log_probabilities(logits, head)
    picked = F.nll_loss(log_p, truth.long(), weight=None if weights is None else weights.to(log_p), reduction="sum")
    return picked / truth.numel()


def soft_dice(
    logits: Tensor,
    truth: Tensor,
    weights: Tensor | None = None,
    smooth: float = 1.0,
    *,
    head: str = "sigmoid",
    background: bool = False,
    per_image: bool = False,
) -> Tensor:
    """Soft Dice loss (Eq. 2): -2 sum_k w_k (sum_i p_ik y_ik) / (sum_i [p_ik + y_ik] + smooth).

    logits (B, channels, ...): of the structures 1..F for the sigmoid head, of the classes 0..F for the others; truth
    (B, ...) integer classes. p is the sigmoid of each channel, or the softmax for that head. weights: one for each
    structure (F,) or each class (F+1,), or None for ones. The background counts only where asked for. The sums run
    over the whole mini-batch, or over each image with the mean of the losses (`per_image`).
    """
    z = logits if logits.dtype == torch.float64 else logits.float()
    if head == "sigmoid" and background:
        raise ValueError("background=True needs a channel for it, got head='sigmoid'; use softmax or raw_sum")
    p = torch.softmax(z, dim=1) if head == "softmax" else torch.sigmoid(z)
    if head != "sigmoid" and not background:
        p = p[:, 1:]
    first = 0 if background else 1
    classes = torch.arange(first, first + p.shape[1], device=truth.device).view(1, -1, *[1] * (truth.dim() - 1))
    y = (truth.unsqueeze(1) == classes).to(p)
    axes = [axis for axis in range(p.dim()) if axis != 1 and not (per_image and axis == 0)]
    dice = (p * y).sum(axes) / ((p + y).sum(axes) + smooth)  # (k,) or (B, k)
    if weights is not None:
        if len(weights) not in (p.shape[1], p.shape[1] + 1):
            raise ValueError(f"weights must hold {p.shape[1]} structures, or all classes, got {len(weights)}")
        dice = dice * weights[-p.shape[1] :].to(dice)
    return -2 * dice.sum(-1).mean()


# A loss takes (logits, truth, weights) and, by keyword, whichever settings of a trial its signature names.
LOSSES: dict[str, Callable[..., Tensor]] = {"cross_entropy": cross_entropy, "soft_dice": soft_dice}

# What a recipe means when it names only the loss: the paper's choice.
PAPER_CHOICE = {
    "cross_entropy": {"head": "softmax", "weights": "inverse_frequency"},
    "soft_dice": {"head": "sigmoid", "weights": "structures"},
}


def bind(config: TrialConfig, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """The trial's loss as a function of (logits, truth)."""
    function = LOSSES[config.loss]
    named = set(inspect.signature(function).parameters) & {f.name for f in fields(config)} - {"weights"}
    settings = {name: getattr(config, name) for name in named}
    weights = torch.tensor(config.class_weights, device=device)
    return lambda logits, truth: function(logits, truth, weights, **settings)
