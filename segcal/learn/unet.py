"""The paper's U-Net: five levels, two convolutions each, few kernels (section VI-A, after Ronneberger et al. 2015)."""

__all__ = ["UNet"]

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from segcal.trial import PAPER_KERNELS

DROPOUT_LEVELS = 3  # the innermost encoder and decoder levels, as in Bayesian SegNet


class UNet(nn.Module):
    """Images (B, C, Y, X) -> logits (B, out_channels, Y, X). Y and X are multiples of 2^(levels - 1).

    kernels: two for each encoder level, outermost first; the decoder mirrors them. Convolutions before a batch norm
    carry no bias, because the norm would remove it. `generator` makes the Gaussian (He et al. 2015) initialisation
    repeatable.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernels: Sequence[int] = PAPER_KERNELS,
        dropout: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if len(kernels) % 2 or len(kernels) < 4:
            raise ValueError(f"kernels must hold two for each of at least 2 levels, got {len(kernels)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got dropout={dropout}")
        pairs = list(zip(kernels[::2], kernels[1::2], strict=True))
        with torch.random.fork_rng(devices=[]):  # layers initialise themselves from the global generator first
            self._add_layers(in_channels, out_channels, pairs, dropout)
        self._initialise(generator)

    def _add_layers(self, in_channels: int, out_channels: int, pairs: list[tuple[int, int]], dropout: float) -> None:
        levels = len(pairs)
        self.encoder = nn.ModuleList()
        width = in_channels
        for level, (first, second) in enumerate(pairs):
            p = dropout if level >= levels - DROPOUT_LEVELS else 0.0
            self.encoder.append(_level(width, first, second, p))
            width = second
        self.up = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for level, (first, second) in reversed(list(enumerate(pairs[:-1]))):
            p = dropout if level >= levels - 1 - DROPOUT_LEVELS else 0.0
            self.up.append(nn.ConvTranspose2d(width, second, kernel_size=2, stride=2))
            self.decoder.append(_level(2 * second, second, first, p))
            width = first
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(width, out_channels, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        factor = 2 ** (len(self.encoder) - 1)
        if image.shape[-2] % factor or image.shape[-1] % factor:
            raise ValueError(f"image sides must be multiples of {factor}, got {tuple(image.shape[-2:])}")
        skips = []
        x = image
        for level, block in enumerate(self.encoder):
            x = block(self.pool(x) if level else x)
            skips.append(x)
        for up, block, skip in zip(self.up, self.decoder, reversed(skips[:-1]), strict=True):
            x = block(torch.cat([skip, up(x)], dim=1))
        logits: Tensor = self.head(x)
        return logits

    def seed_dropout(self, generator: torch.Generator) -> None:
        """Draw all dropout masks from this generator; it lives on the network's device."""
        for module in self.modules():
            if isinstance(module, Dropout):
                module.generator = generator

    def _initialise(self, generator: torch.Generator | None) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


class Dropout(nn.Module):
    """Dropout of single activations with a random generator of its own: repeatable without touching the global one."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        kept = torch.empty_like(x).bernoulli_(1 - self.p, generator=self.generator)
        return x * kept / (1 - self.p)


def _level(in_channels: int, first: int, second: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width, out in ((in_channels, first), (first, second)):
        layers += [nn.Conv2d(width, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
    if dropout:
        layers.append(Dropout(dropout))
    return nn.Sequential(*layers)
