"""Training losses (paper: section V-A). A loss is one function here and one line in LOSSES; or a plug-in's function."""

__all__ = ["LOSSES", "PAPER_CHOICE", "bind", "cross_entropy", "options_of", "silent_choice", "soft_dice"]

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from segcal.errors import UsageError, nearest
from segcal.learn.heads import log_probabilities
from segcal.plugins import Extensions
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
    over the whole mini-batch, or over each image with the mean of the losses (`per_image`). Raises ValueError for
    weights of another number, and for a background that the head has no channel for.
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


Loss = Callable[..., Tensor]

# What a loss may ask for by the names of its parameters. Any other parameter is an option: `loss_options` of a recipe.
_SETTINGS = {f.name for f in fields(TrialConfig) if f.metadata["identity"]} - {"weights", "loss_options", "plugins"}
_FIRST = ("logits", "truth", "weights")
_PLAIN = {"float": float, "int": int, "bool": bool, "str": str}


def _accept(name: str, given: Any) -> Loss:
    """A plug-in's loss, whose settings can all be named and put on record."""
    if not callable(given):
        raise ValueError(f"a loss must be a function, got {type(given).__name__}")
    parameters = list(inspect.signature(given).parameters.values())
    in_order = all(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters[:3])
    if tuple(p.name for p in parameters[:3]) != _FIRST or not in_order:
        raise ValueError(f"a loss must take (logits, truth, weights, ...), got {inspect.signature(given)}")
    for p in parameters[3:]:
        if p.kind not in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
            raise ValueError(f"a loss's settings must have names of their own, got {p}")
        if p.name not in _SETTINGS and p.default is not p.empty and not _is_plain(p.default):
            raise ValueError(f"the default of an option must be a number, a text or a list of them, got {p}")
    function: Loss = given
    return function


# A loss takes (logits, truth, weights) and, by keyword, whichever settings of a trial its signature names.
LOSSES: Extensions[Loss] = Extensions(
    "losses", "loss", {"cross_entropy": cross_entropy, "soft_dice": soft_dice}, _accept
)

# What a recipe means when it names only the loss: the paper's choice.
PAPER_CHOICE = {
    "cross_entropy": {"head": "softmax", "weights": "inverse_frequency"},
    "soft_dice": {"head": "sigmoid", "weights": "structures"},
}


def silent_choice(loss: str) -> dict[str, Any]:
    """What a recipe means when it names only the loss: the paper's choice, or a plug-in's own defaults."""
    if loss in PAPER_CHOICE:
        return {**PAPER_CHOICE[loss]}
    parameters = inspect.signature(LOSSES[loss]).parameters.values()
    own = {p.name: p.default for p in parameters if p.name in _SETTINGS and p.default is not p.empty}
    return {"head": "softmax", "weights": "none", **own}


def options_of(loss: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Every option of a loss with its value: as given, or the default. Raises UsageError for a name or a value.

    A number where the default or the annotation is a float becomes one, in a list of them too: 2 and 2.0 are the
    same recipe.
    """
    known = {
        p.name: p for p in list(inspect.signature(LOSSES[loss]).parameters.values())[3:] if p.name not in _SETTINGS
    }
    for name in given:
        if name in _SETTINGS:
            raise UsageError(
                f"loss_options: {name} must stand in the recipe itself, got it among the loss's own options"
            )
        if name not in known:
            hint = nearest(str(name), known) if known else f"{loss} has none"
            raise UsageError(f"loss_options: no option of {loss} named '{name}'; {hint}")
    for name, parameter in known.items():
        if name not in given and parameter.default is parameter.empty:
            raise UsageError(f"loss_options: {loss} must be given {name}, got {dict(given) or 'nothing'}")
    return {name: _value(f"{loss} {name}", p, given.get(name, p.default)) for name, p in known.items()}


def bind(config: TrialConfig, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """The trial's loss as a function of (logits, truth). Raises UsageError where it cannot be loaded."""
    if config.loss not in LOSSES:
        raise UsageError(LOSSES.unknown(config.loss))
    function, plugin = LOSSES[config.loss], LOSSES.plugin(config.loss)
    settings = {name: getattr(config, name) for name in set(inspect.signature(function).parameters) & _SETTINGS}
    settings |= config.loss_options
    weights = torch.tensor(config.class_weights, device=device)

    def loss(logits: Tensor, truth: Tensor) -> Tensor:
        value = function(logits, truth, weights, **settings)
        if plugin and not (isinstance(value, Tensor) and value.shape == ()):
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise UsageError(
                f"the loss '{config.loss}' of {plugin} must return one number, a tensor of shape (), got {got}"
            )
        return value

    return loss


def _value(what: str, parameter: inspect.Parameter, given: Any) -> Any:
    """An option's value as it is hashed and kept."""
    annotated, default = parameter.annotation, parameter.default
    named = annotated.__name__ if isinstance(annotated, type) else str(annotated)  # such as float, or "float | None"
    kind = _PLAIN.get(named.removesuffix(" | None"))
    if kind is None and type(default) in _PLAIN.values():
        kind = type(default)
    if kind is float and type(given) is int:
        given = float(given)
    if isinstance(default, list | tuple) and isinstance(given, list) and any(type(part) is float for part in default):
        given = [float(part) if type(part) is int else part for part in given]
    if given is None and named.endswith(" | None"):
        return None
    if not _is_plain(given) or (kind and type(given) is not kind and given is not default):
        rule = f"be of type {kind.__name__}" if kind else "be a number, a text or a list of them"
        raise UsageError(f"loss_options: {what} must {rule}, got {given!r}")
    return list(given) if isinstance(given, tuple) else given


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(part) for part in value)
    if type(value) is float:  # not a kind of it, such as numpy's, that files cannot hold
        return math.isfinite(value)
    return value is None or type(value) in (bool, int, str)
