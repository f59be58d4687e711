"""Trunks: strides of every block, sizes, agreement with torchvision, IBN-a."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import resnet as tv

from reid_ray.models import Backbone, InstanceBatchNorm, build_backbone
from reid_ray.models.residual import BasicBlock, Bottleneck

BLOCKS = {
    "resnet18": [2, 2, 2, 2],
    "resnet50": [3, 4, 6, 3],
    "resnet101": [3, 4, 23, 3],
    "ibn_resnet50": [3, 4, 6, 3],
    "resnet18_narrow": [2, 2, 2, 2],
}
BASIC = {"resnet18", "resnet18_narrow"}


def stages(backbone: Backbone) -> list[nn.Sequential]:
    return [getattr(backbone, f"layer{number}") for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("last_stride", [1, 2])
@pytest.mark.parametrize("stride_in", ["conv1", "conv2"])
@pytest.mark.parametrize("name", list(BLOCKS))
def test_strides_of_every_block(name: str, stride_in: str, last_stride: int) -> None:
    backbone = build_backbone(name, stride_in=stride_in, last_stride=last_stride, norm=nn.BatchNorm2d)
    assert [len(stage) for stage in stages(backbone)] == BLOCKS[name]
    carrier = "conv1" if name in BASIC else stride_in
    for stage, stride in zip(stages(backbone), (1, 2, 2, last_stride), strict=True):
        for position, block in enumerate(stage):
            expected = stride if position == 0 else 1
            for conv in ("conv1", "conv2"):
                assert getattr(block, conv).stride == ((expected,) * 2 if conv == carrier else (1, 1))
            if block.downsample is not None:
                assert block.downsample[0].stride == (expected, expected)
    assert backbone.stride_in == (None if name in BASIC else stride_in)


@pytest.mark.parametrize(("last_stride", "height", "width"), [(1, 8, 4), (2, 4, 2)])
@pytest.mark.parametrize("stride_in", ["conv1", "conv2"])
@pytest.mark.parametrize(
    ("name", "channels"),
    [("resnet18", 512), ("resnet34", 512), ("resnet50", 2048), ("ibn_resnet50", 2048), ("resnet18_narrow", 64)],
)
def test_output_size(name: str, channels: int, stride_in: str, last_stride: int, height: int, width: int) -> None:
    backbone = build_backbone(name, stride_in=stride_in, last_stride=last_stride, norm=nn.BatchNorm2d).eval()
    with torch.no_grad():
        feature_map = backbone(torch.randn(1, 3, 128, 64))
    assert feature_map.shape == (1, channels, height, width)
    assert backbone.out_channels == channels


def test_the_narrow_trunk_has_the_layers_of_resnet18() -> None:
    narrow, full = (
        build_backbone(name, stride_in="conv2", last_stride=1, norm=nn.BatchNorm2d)
        for name in ("resnet18_narrow", "resnet18")
    )
    widths = {3: 3, 64: 8, 128: 16, 256: 32, 512: 64}
    assert [name for name, _ in narrow.named_modules()] == [name for name, _ in full.named_modules()]
    for (name, small), large in zip(narrow.state_dict().items(), full.state_dict().values(), strict=True):
        assert small.shape == tuple(widths.get(size, size) for size in large.shape), name


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_equals_torchvision_with_its_strides(name: str) -> None:
    torch.manual_seed(0)
    reference = getattr(torchvision.models, name)().eval()
    backbone = build_backbone(name, stride_in="conv2", last_stride=2, norm=nn.BatchNorm2d).eval()
    state = {key: value for key, value in reference.state_dict().items() if not key.startswith("fc.")}
    backbone.load_state_dict(state, strict=True)
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        expected = nn.Sequential(*list(reference.children())[:-2])(images)
        assert torch.equal(backbone(images), expected)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_random_weights_are_torchvisions(name: str) -> None:
    """A seed gives the weights that it has given as long as the networks were torchvision's own."""
    torch.manual_seed(0)
    expected = getattr(torchvision.models, name)().state_dict()
    torch.manual_seed(0)
    found = build_backbone(name, stride_in="conv2", last_stride=2, norm=nn.BatchNorm2d).state_dict()
    assert list(found) == [key for key in expected if not key.startswith("fc.")]
    assert all(torch.equal(found[key], expected[key]) for key in found)


def test_the_place_of_the_stride_is_another_function() -> None:
    """The trap: one state dict loads into both without an error."""
    torch.manual_seed(0)
    kinds = [
        build_backbone("resnet50", stride_in=place, last_stride=2, norm=nn.BatchNorm2d).eval()
        for place in ("conv1", "conv2")
    ]
    kinds[1].load_state_dict(kinds[0].state_dict(), strict=True)
    images = torch.randn(1, 3, 64, 32)
    with torch.no_grad():
        first, second = (backbone(images) for backbone in kinds)
    assert first.shape == second.shape
    assert not torch.allclose(first, second, rtol=0.1, atol=0.1)


def test_norm_layer_is_used_everywhere() -> None:
    made: list[int] = []

    def norm(channels: int) -> nn.Module:
        made.append(channels)
        return nn.Identity()

    backbone = build_backbone("resnet50", stride_in="conv2", last_stride=1, norm=norm)
    assert len(made) == 53
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())


def test_ibn_keys_are_those_of_the_public_weights() -> None:
    plain = build_backbone("resnet50", stride_in="conv2", last_stride=1, norm=nn.BatchNorm2d).state_dict()
    ibn = build_backbone("ibn_resnet50", stride_in="conv2", last_stride=1, norm=nn.BatchNorm2d).state_dict()
    replaced = [f"layer{stage}.{block}.bn1" for stage, n in ((1, 3), (2, 4), (3, 6)) for block in range(n)]
    batch_norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {key for key in plain if key.rpartition(".")[0] not in replaced}
    for prefix in replaced:
        expected |= {f"{prefix}.IN.weight", f"{prefix}.IN.bias"} | {f"{prefix}.BN.{name}" for name in batch_norm}
    assert set(ibn) == expected
    assert ibn["layer3.0.bn1.IN.weight"].shape == ibn["layer3.0.bn1.BN.weight"].shape == (128,)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("channels", [6, 7])
def test_instance_batch_norm_treats_each_half_its_way(channels: int, memory_format: torch.memory_format) -> None:
    torch.manual_seed(0)
    layer = InstanceBatchNorm(channels, nn.BatchNorm2d).double()
    nn.init.normal_(layer.IN.weight)
    nn.init.normal_(layer.IN.bias)
    features = torch.randn(4, channels, 5, 3, dtype=torch.float64).to(memory_format=memory_format)
    output = layer(features)
    for channel in range(3):
        for image in range(4):
            values = features[image, channel]
            normal = (values - values.mean()) / (values.var(correction=0) + 1e-5).sqrt()
            expected = normal * layer.IN.weight[channel] + layer.IN.bias[channel]
            torch.testing.assert_close(output[image, channel], expected)
    for channel in range(3, channels):
        values = features[:, channel]
        expected = (values - values.mean()) / (values.var(correction=0) + 1e-5).sqrt()
        torch.testing.assert_close(output[:, channel], expected)
    assert output.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize(("ours", "theirs", "width"), [(BasicBlock, tv.BasicBlock, 16), (Bottleneck, tv.Bottleneck, 4)])
def test_gradients_of_blocks_that_share_their_input_are_torchvision_s_bit_for_bit(ours, theirs, width):
    """As in ABMT, whose branches read one feature map: the order of operations is that of the sums."""
    gradients = []
    for block in (ours, theirs):
        torch.manual_seed(0)
        n_out = width * block.expansion
        blocks = [
            block(8, width, 1, nn.Sequential(nn.Conv2d(8, n_out, 1), nn.BatchNorm2d(n_out)), norm_layer=nn.BatchNorm2d)
            for _ in range(2)
        ]
        images = torch.randn(4, 8, 6, 6, dtype=torch.float64, requires_grad=True)
        feature_map = images.tanh()
        sum(each.double()(feature_map).square().sum() for each in blocks).backward()
        gradients.append(images.grad)
    assert torch.equal(*gradients)
