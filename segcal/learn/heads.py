"""From a network's logits to class probabilities. The head belongs to the recipe, as losses need different ones."""

__all__ = ["HEADS", "log_probabilities", "out_channels"]

import torch
import torch.nn.functional as F
from torch import Tensor

HEADS = ("softmax", "sigmoid", "raw_sum")


def out_channels(head: str, n_classes: int) -> int:
    """Channels the network needs: `sigmoid` has none for the background."""
    _check(head)
    return n_classes - 1 if head == "sigmoid" else n_classes


def log_probabilities(logits: Tensor, head: str) -> Tensor:
    """Log class probabilities (B, K, ...) of logits (B, channels, ...), in float32 or wider.

    softmax: over K logits. sigmoid: softmax([0, z_1 .. z_F]), the normalised odds of F structures against the
    background; equals the sigmoid for one structure. raw_sum: K sigmoids divided by their sum.
    """
    _check(head)
    z = logits if logits.dtype == torch.float64 else logits.float()
    if head == "raw_sum":
        log_sigmoid = F.logsigmoid(z)
        return log_sigmoid - torch.logsumexp(log_sigmoid, dim=1, keepdim=True)
    if head == "sigmoid":
        z = torch.cat([torch.zeros_like(z[:, :1]), z], dim=1)
    return F.log_softmax(z, dim=1)


def _check(head: str) -> None:
    if head not in HEADS:
        raise ValueError(f"head must be one of {', '.join(HEADS)}, got head={head!r}")
