"""GCL's layers against loops in NumPy over images, channels and pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reid_ray.models.gcl.layers import (
    SLOPE,
    AdaptiveResidualBlock,
    ConvBlock,
    ImageLayerNorm,
    ResidualBlock,
    adaptive_instance_norm,
    init_kaiming,
    init_normal,
    instance_norm,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def leaky(values: np.ndarray) -> np.ndarray:
    return np.where(values < 0, SLOPE * values, values)


def naive_conv(features: np.ndarray, conv: nn.Conv2d, stride: int = 1, dilation: int = 1) -> np.ndarray:
    """[C, H, W] → [C', H', W'], pixel by pixel, with borders reflected."""
    weight, bias = conv.weight.detach().numpy(), conv.bias.detach().numpy()
    reach = dilation * (weight.shape[-1] // 2)
    _, height, width = features.shape

    def inside(position: int, size: int) -> int:
        position = abs(position)
        return position if position < size else 2 * (size - 1) - position

    rows, columns = range(0, height, stride), range(0, width, stride)
    output = np.empty((len(weight), len(rows), len(columns)))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            total = bias.copy()
            for y in range(weight.shape[-2]):
                for x in range(weight.shape[-1]):
                    at = inside(row + dilation * y - reach, height), inside(column + dilation * x - reach, width)
                    total += weight[:, :, y, x] @ features[:, at[0], at[1]]
            output[:, i, j] = total
    return output


def naive_instance_norm(features: np.ndarray) -> np.ndarray:
    return np.stack([(channel - channel.mean()) / np.sqrt(channel.var() + 1e-5) for channel in features])


@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(1, 1, 1), (3, 1, 1), (3, 2, 1), (3, 1, 3), (5, 1, 1)])
@pytest.mark.parametrize("activation", [True, False])
@pytest.mark.parametrize("normed", [True, False])
def test_conv_block(kernel: int, stride: int, dilation: int, activation: bool, normed: bool) -> None:
    norm = instance_norm if normed else None
    block = ConvBlock(2, 3, kernel, stride=stride, dilation=dilation, norm=norm, activation=activation).double()
    images = random(2, 2, 8, 6)
    found = block(images).detach().numpy()
    for image, output in zip(images.numpy(), found, strict=True):
        expected = naive_conv(image, block.conv, stride, dilation)
        if normed:
            expected = naive_instance_norm(expected)
        np.testing.assert_allclose(output, leaky(expected) if activation else expected, atol=1e-10)


def test_residual_block() -> None:
    block = ResidualBlock(3, instance_norm).double()
    images = random(2, 3, 6, 5)
    for image, output in zip(images.numpy(), block(images).detach().numpy(), strict=True):
        hidden = leaky(naive_instance_norm(naive_conv(image, block.first.conv)))
        expected = image + naive_instance_norm(naive_conv(hidden, block.second.conv))
        np.testing.assert_allclose(output, expected, atol=1e-10)


def test_adaptive_residual_block() -> None:
    block = AdaptiveResidualBlock(3).double()
    images, weights, biases = random(2, 3, 6, 5), random(2, 6, seed=1), random(2, 6, seed=2)
    found = block(images, weights, biases).detach().numpy()
    for n, image in enumerate(images.numpy()):
        w, b = weights[n].numpy()[:, None, None], biases[n].numpy()[:, None, None]
        hidden = leaky(w[:3] * naive_instance_norm(naive_conv(image, block.first.conv)) + b[:3])
        expected = image + w[3:] * naive_instance_norm(naive_conv(hidden, block.second.conv)) + b[3:]
        np.testing.assert_allclose(found[n], expected, atol=1e-10)


def test_adaptive_norm_by_the_numbers_of_the_reference() -> None:
    found = adaptive_instance_norm(
        torch.tensor([1.0, 3.0], dtype=torch.float64).reshape(1, 1, 1, 2),
        torch.tensor([[2.0]], dtype=torch.float64),
        torch.tensor([[5.0]], dtype=torch.float64),
    )
    torch.testing.assert_close(found.flatten().tolist(), [3.00001, 6.99999], rtol=0, atol=1e-6)


def test_layer_norm_by_the_numbers_of_the_reference() -> None:
    norm = ImageLayerNorm(1).double()
    nn.init.ones_(norm.gamma)
    found = norm(torch.tensor([1.0, 2, 3, 4], dtype=torch.float64).reshape(1, 1, 2, 2)).flatten().tolist()
    torch.testing.assert_close(found, [-1.161886, -0.387295, 0.387295, 1.161886], rtol=0, atol=1e-6)


def test_layer_norm_is_of_each_image_over_all_channels() -> None:
    norm = ImageLayerNorm(3).double()
    nn.init.normal_(norm.beta)
    images = random(4, 3, 5, 2) * torch.tensor([1.0, 10, 0.1, 0])[:, None, None, None]
    gamma, beta = (values.detach().numpy()[:, None, None] for values in (norm.gamma, norm.beta))
    for image, output in zip(images.numpy(), norm(images).detach().numpy(), strict=True):
        expected = gamma * (image - image.mean()) / (image.std(ddof=1) + 1e-5) + beta
        np.testing.assert_allclose(output, expected, atol=1e-10)


def test_layer_norm_starts_from_a_uniform_scale() -> None:
    norm = ImageLayerNorm(4000)
    assert norm.gamma.min() >= 0
    assert norm.gamma.max() < 1
    assert float(norm.gamma.detach().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(norm.gamma.detach().std()) == pytest.approx(12**-0.5, abs=0.02)
    assert not norm.beta.any()


def test_initial_weights() -> None:
    torch.manual_seed(0)
    layers = nn.ModuleList([nn.Conv2d(32, 64, 3), nn.Linear(288, 200)])
    layers.apply(init_kaiming)
    for layer in layers:  # fan-in 288 both
        assert float(layer.weight.detach().std()) == pytest.approx((2 / 288) ** 0.5, rel=0.05)
        assert not layer.bias.any()
    layers.apply(init_normal)
    for layer in layers:
        assert float(layer.weight.detach().std()) == pytest.approx(0.02, rel=0.05)
        assert not layer.bias.any()


def test_biases_that_a_norm_takes_out_are_not_trained() -> None:
    """Their gradient is rounding alone; those before other norms, or none, do count."""
    assert not ConvBlock(2, 2, 3, norm=instance_norm).conv.bias.requires_grad
    assert ConvBlock(2, 2, 3, norm=ImageLayerNorm).conv.bias.requires_grad
    assert ConvBlock(2, 2, 3).conv.bias.requires_grad
    block = AdaptiveResidualBlock(2)
    assert not block.first.conv.bias.requires_grad
    assert not block.second.conv.bias.requires_grad
