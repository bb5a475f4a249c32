"""Features of networks that know nothing of feature taps."""

import pytest
import torch
from torch import nn

from nlcl_plugin.errors import InputError
from nlcl_plugin.models.module_features import ModuleFeatures


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.twice = nn.Conv2d(4, 4, 3, padding=1)
        self.unused = nn.Conv2d(4, 4, 1)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Conv2d(4, 1, 3)
        self.passes = 0

    def forward(self, x):
        x = torch.relu_(self.first(x))
        x = torch.relu_(self.twice(self.twice(x)))
        x = self.norm(x)
        self.passes += 1
        return self.last(x)


def test_features_are_the_first_outputs_of_the_modules_in_the_order_of_the_names():
    net, images = Net(), torch.rand(2, 3, 8, 8)
    first = net.first(images)
    twice, also_first = ModuleFeatures(net, ["twice", "first"], "modules")(images)
    assert torch.equal(also_first, first)  # though the network changes it in place
    assert torch.equal(twice, net.twice(first.relu()))
    assert net.passes == 0  # what comes after the last of them is left out
    assert not [module for module in net.modules() if module._forward_hooks]


def test_a_network_that_holds_still_keeps_statistics_weights_and_modes():
    net = Net()
    net.norm.eval()
    net.last.bias.requires_grad_(False)
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    features = ModuleFeatures(net, ["norm"], "modules")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with features.frozen():
        features(images)[0].square().sum().backward()
    assert images.grad.abs().max() > 0
    assert all(p.grad is None for p in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert [name for name, module in net.named_modules() if not module.training] == ["norm"]
    assert [name for name, p in net.named_parameters() if not p.requires_grad] == ["last.bias"]


def test_a_module_without_features_is_named():
    with pytest.raises(InputError, match=r"^modules: 'unused' does not run in a forward pass; name another module"):
        ModuleFeatures(Net(), ["unused"], "modules")(torch.rand(1, 3, 8, 8))
