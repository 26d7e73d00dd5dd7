import pytest
import torch
from torch import nn

from segcal.learn.fold import folded
from segcal.learn.unet import UNet

SMALL = (4, 4, 8, 8, 8, 8)


def network(dims=2, dropout=0.0):
    net = UNet(2, 3, SMALL, dropout, dims, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():  # as after training: statistics, scales and shifts of its own
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
            for value in (module.running_mean, module.bias.data):
                value.normal_(generator=generator)
            for value in (module.running_var, module.weight.data):
                value.uniform_(0.2, 3.0, generator=generator)
    return net.eval()


@pytest.mark.parametrize("dims", [2, 3])
def test_the_same_function_without_a_batch_norm(dims):
    net, picture = network(dims), torch.rand(2, 2, *[16] * dims, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        single = folded(net)(picture)
        one, other = net.double()(picture.double()), folded(net)(picture.double())
    assert not any(isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d) for module in folded(net).modules())
    assert (one - other).abs().max() < 1e-12 * one.abs().max()
    assert 0 < (single - one).abs().max() < 1e-4 * one.abs().max()


def test_the_network_itself_goes_on_as_it_was():
    net, picture = network(), torch.rand(1, 2, 16, 16, generator=torch.Generator().manual_seed(2))
    names = list(net.state_dict())
    before = net(picture)
    folded(net)
    assert torch.equal(net(picture), before)
    assert list(net.state_dict()) == names


def test_dropout_stays_where_it_was():
    net, picture = network(dropout=0.5), torch.rand(1, 2, 16, 16, generator=torch.Generator().manual_seed(2))

    def sampled(which):
        with torch.inference_mode(), which.sampling(torch.Generator().manual_seed(3)):
            return which(picture)

    found = sampled(net)
    assert (sampled(folded(net)) - found).abs().max() < 1e-5 * found.abs().max()
    assert (found - net(picture)).abs().max() > 0.01 * found.abs().max()
