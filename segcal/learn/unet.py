"""The paper's U-Net: five levels, two convolutions each, few kernels (section VI-A, after Ronneberger et al. 2015)."""

__all__ = ["UNet"]

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcal.trial import PAPER_KERNELS


@dataclass(frozen=True)
class Layers:
    """The layers of one number of dimensions."""

    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    up: Callable[..., nn.Module]
    pool: Callable[..., nn.Module]


LAYERS = {
    2: Layers(nn.Conv2d, nn.BatchNorm2d, nn.ConvTranspose2d, nn.MaxPool2d),
    3: Layers(nn.Conv3d, nn.BatchNorm3d, nn.ConvTranspose3d, nn.MaxPool3d),
}
DROPOUT_LEVELS = 3  # the innermost encoder and decoder levels, as in Bayesian SegNet


class UNet(nn.Module):
    """Images (B, C, Y, X) -> logits (B, out_channels, Y, X), or volumes (B, C, Z, Y, X) for dims = 3 (appendix F).

    Sides are multiples of 2^(levels - 1). Both kinds have the same depth and kernels; only the layers differ.
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
        dims: int = 2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if len(kernels) % 2 or len(kernels) < 4:
            raise ValueError(f"kernels must hold two for each of at least 2 levels, got {len(kernels)}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got dropout={dropout}")
        if dims not in LAYERS:
            raise ValueError(f"dims must be 2 or 3, got dims={dims}")
        self.dims = dims
        pairs = list(zip(kernels[::2], kernels[1::2], strict=True))
        with torch.random.fork_rng(devices=[]):  # layers initialise themselves from the global generator first
            self._add_layers(dims, in_channels, out_channels, pairs, dropout)
        self._initialise(generator)

    def _add_layers(
        self, dims: int, in_channels: int, out_channels: int, pairs: list[tuple[int, int]], dropout: float
    ) -> None:
        layers = LAYERS[dims]
        levels = len(pairs)
        self.encoder = nn.ModuleList()
        width = in_channels
        for level, (first, second) in enumerate(pairs):
            p = dropout if level >= levels - DROPOUT_LEVELS else 0.0
            self.encoder.append(_level(dims, width, first, second, p))
            width = second
        self.up = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for level, (first, second) in reversed(list(enumerate(pairs[:-1]))):
            p = dropout if level >= levels - 1 - DROPOUT_LEVELS else 0.0
            self.up.append(layers.up(width, second, kernel_size=2, stride=2))
            self.decoder.append(_level(dims, 2 * second, second, first, p))
            width = first
        self.pool = layers.pool(2)
        self.head = layers.conv(width, out_channels, kernel_size=1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, K, ...) of images (B, C, ...). Raises ValueError for sides that the levels cannot halve."""
        return self.finish(self.prefix(image))

    def prefix(self, image: Tensor) -> list[Tensor]:
        """What no dropout touches: the encoder's activations, outermost first, up to the first dropout.

        Monte Carlo samples of one image share it. Without dropout it is the whole encoder. Raises ValueError for
        sides that the levels cannot halve.
        """
        factor = 2 ** (len(self.encoder) - 1)
        sides = tuple(image.shape[-self.dims :])
        if image.dim() != self.dims + 2 or any(side % factor for side in sides):
            raise ValueError(f"image must have {self.dims} sides that are multiples of {factor}, got {sides}")
        skips: list[Tensor] = []
        for block in self.encoder:
            assert isinstance(block, nn.Sequential)
            x = self.pool(skips[-1]) if skips else image
            if isinstance(block[-1], Dropout):
                return [*skips, block[:-1](x)]
            skips.append(block(x))
        return skips

    def merged(self, prefix: list[Tensor]) -> list[Tensor]:
        """What the prefix's skips add to the first convolution of their decoder levels, outermost first.

        A convolution of the joined skip and upsampled channels is the sum of theirs, and the skip's is the same for all
        samples. The last activation of the prefix meets a dropout and is not among them.
        """
        *skips, _ = prefix
        blocks = list(self.decoder)[::-1][: len(skips)]
        return [_convolved(b, skip, slice(skip.shape[1]), bias=True) for b, skip in zip(blocks, skips, strict=True)]

    def finish(self, prefix: list[Tensor], merged: Sequence[Tensor] = ()) -> Tensor:
        """Logits of a prefix: the first dropout and all that follows it.

        merged: of the prefix, which may then hold one image where the logits are of many samples.
        """
        skips = list(prefix)
        reached = self.encoder[len(skips) - 1]
        assert isinstance(reached, nn.Sequential)
        last = reached[-1]
        if isinstance(last, Dropout):
            skips[-1] = last(skips[-1])
        for block in self.encoder[len(skips) :]:
            skips.append(block(self.pool(skips[-1])))
        x = skips[-1]
        for level, up, block in zip(reversed(range(len(skips) - 1)), self.up, self.decoder, strict=True):
            assert isinstance(block, nn.Sequential)
            if level < len(merged):
                rest = _convolved(block, up(x), slice(skips[level].shape[1], None), bias=False)
                x = block[1:](rest.add_(merged[level]))
            else:
                x = block(torch.cat([skips[level], up(x)], dim=1))
        logits: Tensor = self.head(x)
        return logits

    @contextlib.contextmanager
    def sampling(self, generator: torch.Generator) -> Iterator[None]:
        """Dropout drops, with masks from this generator, while everything else predicts (Gal and Ghahramani 2016)."""
        layers = [module for module in self.modules() if isinstance(module, Dropout)]
        before = [layer.generator for layer in layers]
        self.eval()
        for layer in layers:
            layer.train()
            layer.generator = generator
        try:
            yield
        finally:  # training goes on with the masks it would have had
            for layer, own in zip(layers, before, strict=True):
                layer.eval()
                layer.generator = own

    def seed_dropout(self, generator: torch.Generator) -> None:
        """Draw all dropout masks from this generator; it lives on the network's device."""
        for module in self.modules():
            if isinstance(module, Dropout):
                module.generator = generator

    def _initialise(self, generator: torch.Generator | None) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
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


def _convolved(block: nn.Module, x: Tensor, inputs: slice, bias: bool) -> Tensor:
    """The share of some input channels in a block's first convolution."""
    first = next(block.children())
    assert isinstance(first, nn.Conv2d | nn.Conv3d)
    convolve = F.conv2d if x.dim() == 4 else F.conv3d
    return convolve(x, first.weight[:, inputs], first.bias if bias else None, padding=1)


def _level(dims: int, in_channels: int, first: int, second: int, dropout: float) -> nn.Sequential:
    kinds = LAYERS[dims]
    layers: list[nn.Module] = []
    for width, out in ((in_channels, first), (first, second)):
        layers += [kinds.conv(width, out, 3, padding=1, bias=False), kinds.norm(out), nn.ReLU(inplace=True)]
    if dropout:
        layers.append(Dropout(dropout))
    return nn.Sequential(*layers)
