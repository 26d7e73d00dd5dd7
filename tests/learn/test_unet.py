import itertools

import pytest
import torch
from torch import nn

from segcal.learn.unet import Dropout, UNet

SMALL = (4, 4, 8, 8, 8, 8)


@pytest.mark.parametrize(("channels", "classes", "count"), [(1, 2, 486_418), (3, 4, 486_580)])
def test_has_the_papers_half_million_parameters(channels, classes, count):
    assert sum(p.numel() for p in UNet(channels, classes).parameters()) == count


@pytest.mark.parametrize("size", [(16, 16), (96, 96), (48, 80)])
@pytest.mark.parametrize("batch", [1, 3])
def test_keeps_the_size_of_the_image(size, batch):
    net = UNet(3, 4).eval()
    with torch.inference_mode():
        assert net(torch.zeros(batch, 3, *size)).shape == (batch, 4, *size)


def test_no_bias_before_batch_norm():
    for block in UNet(1, 2).modules():
        if isinstance(block, nn.Sequential):
            for layer, following in itertools.pairwise(block):
                if isinstance(following, nn.BatchNorm2d):
                    assert layer.bias is None


def test_weights_are_gaussian_with_the_variance_of_he():
    weight = UNet(1, 2, generator=torch.Generator().manual_seed(0)).encoder[4][3].weight
    assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)


def test_same_generator_same_weights_and_other_seed_other_weights():
    one, two, other = (UNet(1, 2, SMALL, generator=torch.Generator().manual_seed(s)).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])


def dropout_levels(blocks):
    return [any(isinstance(layer, Dropout) for layer in block) for block in blocks]


def test_dropout_is_in_the_three_innermost_levels_on_each_side():
    net = UNet(1, 2, dropout=0.5)
    assert dropout_levels(net.encoder) == [False, False, True, True, True]  # outermost first
    assert dropout_levels(net.decoder) == [True, True, True, False]  # innermost first
    assert not any(isinstance(module, Dropout) for module in UNet(1, 2).modules())


def test_dropout_draws_from_its_own_generator():
    net = UNet(1, 2, SMALL, dropout=0.5).train()
    image = torch.randn(2, 1, 16, 16)
    state = torch.get_rng_state()
    results = []
    for seed in (5, 5, 6):
        net.seed_dropout(torch.Generator().manual_seed(seed))
        results.append(net(image))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    net.eval()
    assert torch.equal(net(image), net(image))


def test_dropout_keeps_the_mean():
    layer = Dropout(0.25)
    layer.generator = torch.Generator().manual_seed(0)
    dropped = layer(torch.ones(100_000))
    assert dropped.unique().tolist() == pytest.approx([0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(("kernels", "dropout"), [((8, 8, 16), 0.0), ((8, 8), 0.0), (SMALL, 1.0), (SMALL, -0.1)])
def test_bad_arguments(kernels, dropout):
    with pytest.raises(ValueError, match="must"):
        UNet(1, 2, kernels, dropout)


def test_a_size_the_levels_cannot_halve_is_refused():
    with pytest.raises(ValueError, match=r"multiples of 4, got \(18, 16\)"):
        UNet(1, 2, SMALL)(torch.zeros(1, 1, 18, 16))


def test_volumes_have_the_same_depth_and_kernels_in_3d():
    flat, deep = UNet(1, 2), UNet(1, 2, dims=3)
    kernels = [[m.out_channels for m in net.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)] for net in (flat, deep)]
    assert kernels[0] == kernels[1]
    convolutions = [m for m in deep.modules() if isinstance(m, nn.Conv3d) and m.kernel_size == (3, 3, 3)]
    assert len(convolutions) == 18
    # three times the weights in each 3-wide kernel, twice in each 2-wide one, the same in the head and the norms
    expected = 0
    for module in flat.modules():
        if isinstance(module, nn.Conv2d):
            expected += sum(p.numel() for p in module.parameters()) * (3 if module.kernel_size == (3, 3) else 1)
        elif isinstance(module, nn.ConvTranspose2d):
            expected += module.weight.numel() * 2 + module.bias.numel()
        elif isinstance(module, nn.BatchNorm2d):
            expected += sum(p.numel() for p in module.parameters())
    assert sum(p.numel() for p in deep.parameters()) == expected
    with torch.inference_mode():
        assert deep.eval()(torch.zeros(2, 1, 16, 32, 48)).shape == (2, 2, 16, 32, 48)


@pytest.mark.parametrize(
    ("dims", "shape"), [(3, (1, 1, 32, 32)), (3, (1, 1, 8, 16, 16)), (2, (1, 1, 16, 16, 16)), (2, (1, 1, 16, 24))]
)
def test_sides_that_do_not_fit(dims, shape):
    with pytest.raises(ValueError, match=f"image must have {dims} sides that are multiples of 16"):
        UNet(1, 2, dims=dims)(torch.zeros(shape))


def test_dims_other_than_2_and_3():
    with pytest.raises(ValueError, match="dims must be 2 or 3, got dims=4"):
        UNet(1, 2, dims=4)
