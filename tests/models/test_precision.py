"""Convolutions under bfloat16 autocast against float32, on feature maps of one and more columns."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.config import TrainingConfig
from reid_ray.models.precision import bf16_autocast, computes_in_bf16, precision_on

pytestmark = pytest.mark.usefixtures("bf16_on_this_cpu")

# kernel, stride, padding; each is wrong in oneDNN's bfloat16 for some of the heights and widths below.
STRIDED = [(7, 2, 3), (3, 2, 1), (3, 2, 0), (4, 2, 1), (5, 2, 2), (3, 3, 1), (4, 4, 0)]


def outputs_and_gradients(layer: nn.Module, images: Tensor, *, bf16: bool) -> list[Tensor]:
    images = images.clone().requires_grad_()
    layer.zero_grad()
    with bf16_autocast(images, bf16):
        output = layer(images)
    torch.manual_seed(1)
    output.backward(torch.randn(output.shape).to(output.dtype))
    return [tensor.float() for tensor in (output.detach(), images.grad, layer.weight.grad)]


@pytest.mark.parametrize(("kernel", "stride", "padding"), STRIDED)
@pytest.mark.parametrize("channels_last", [False, True])
def test_strided_convolutions_stay_within_bfloat16_rounding(kernel, stride, padding, channels_last):
    torch.manual_seed(0)
    layer = nn.Conv2d(64, 128, kernel, stride, padding)
    for height in (1, 4, 16):
        for width in (1, 2, 3, 5, 8):
            if min(height, width) + 2 * padding < kernel:
                continue
            images = torch.randn(8, 64, height, width)
            if channels_last:
                images = images.to(memory_format=torch.channels_last)
            for found, expected in zip(
                outputs_and_gradients(layer, images, bf16=True),
                outputs_and_gradients(layer, images, bf16=False),
                strict=True,
            ):
                assert (found - expected).abs().max() < 0.03 * expected.abs().max(), (height, width)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_transposed_convolutions_stay_within_bfloat16_rounding(width):
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1)
    images = torch.randn(8, 64, 16, width)
    for found, expected in zip(
        outputs_and_gradients(layer, images, bf16=True), outputs_and_gradients(layer, images, bf16=False), strict=True
    ):
        assert (found - expected).abs().max() < 0.03 * expected.abs().max()


def test_only_convolutions_to_one_column_are_computed_in_float32():
    narrow, wide = torch.randn(2, 8, 4, 2), torch.randn(2, 8, 4, 3)
    weight = torch.randn(8, 8, 3, 3)
    with bf16_autocast(narrow, True):
        assert F.conv2d(narrow, weight, stride=2, padding=1).dtype == torch.float32
        assert F.conv2d(narrow.bfloat16(), weight.bfloat16(), None, (2, 2), (1, 1)).dtype == torch.float32
        assert F.conv2d(wide, weight, stride=2, padding=1).dtype == torch.bfloat16
        assert F.conv2d(narrow, weight, padding="same").dtype == torch.bfloat16
        assert F.conv2d(narrow, weight[:, :, :1, :1], stride=2).dtype == torch.bfloat16


def test_without_bf16_the_context_changes_nothing():
    images = torch.randn(2, 8, 4, 3)
    with bf16_autocast(images, False):
        assert not torch.is_autocast_enabled("cpu")
        assert F.conv2d(images, torch.randn(8, 8, 3, 3)).dtype == torch.float32
    with bf16_autocast(images.to("meta"), False):
        pass


@pytest.mark.parametrize("able", [False, True])
def test_bf16_depends_on_the_cpu(able, monkeypatch):
    monkeypatch.setattr("reid_ray.models.precision.cpu_supports_bf16", lambda: able)
    cpu, images = torch.device("cpu"), torch.randn(2, 8, 4, 3)
    assert computes_in_bf16(cpu) is able
    assert computes_in_bf16(torch.device("cuda"))
    assert precision_on(cpu, TrainingConfig(precision="bf16")) == ("bf16" if able else "float32")
    assert precision_on(cpu, TrainingConfig(precision="float64")) == "float64"
    with bf16_autocast(images, True):
        assert torch.is_autocast_enabled("cpu") is able
