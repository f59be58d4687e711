"""A split ResNet computes what the whole one does; copies of its last stages are independent."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reid_ray.models import Backbone, build_backbone, copy_stages, split_backbone


def make(name: str, *, stride_in: str = "conv2", last_stride: int = 1) -> Backbone:
    torch.manual_seed(0)
    return build_backbone(name, stride_in=stride_in, last_stride=last_stride, norm=nn.BatchNorm2d).eval()


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("at", ["conv4_1", "conv4_end"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50", "ibn_resnet50"])
def test_trunk_and_rest_are_the_whole(name: str, at: str) -> None:
    whole = make(name)
    trunk, rest = split_backbone(whole, at)
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        shared = trunk(images)
        assert torch.equal(rest(shared), whole(images))
    assert shared.shape == (2, trunk.out_channels, 4, 2)
    assert rest.out_channels == whole.out_channels
    assert {id(p) for part in (trunk, rest) for p in part.parameters()} == {id(p) for p in whole.parameters()}


def test_parameters_of_the_split_resnet50() -> None:
    with torch.device("meta"):
        trunk, rest = split_backbone(make("resnet50"))
    assert n_parameters(trunk) == 2_957_376
    assert n_parameters(rest) == 20_550_656
    with torch.device("meta"):
        trunk, rest = split_backbone(make("resnet50"), "conv4_end")
    assert list(dict(rest.named_children())) == ["layer4"]
    assert n_parameters(trunk) + n_parameters(rest) == 2_957_376 + 20_550_656


@pytest.mark.parametrize("stride_in", ["conv1", "conv2"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_copy_has_its_own_weights_and_its_own_stride(name: str, stride_in: str) -> None:
    trunk, rest = split_backbone(make(name, stride_in=stride_in))
    with_stride = copy_stages(rest, 2)
    reference = make(name, stride_in=stride_in, last_stride=2)
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(with_stride(trunk(images)), reference(images))
        assert rest(trunk(images)).shape[2:] == (4, 2)
    assert not {id(p) for p in with_stride.parameters()} & {id(p) for p in rest.parameters()}
    assert with_stride.state_dict().keys() == rest.state_dict().keys()
