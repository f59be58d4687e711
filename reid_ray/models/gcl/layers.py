"""Layers that GCL's generator and discriminators share: padded convolutions, their norms, residual blocks.

All norms are per image, so a generated image does not depend on the other images of its batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.2
"""Slope of every leaky ReLU."""

EPS = 1e-5

Norm = Callable[[int], nn.Module]


class ImageLayerNorm(nn.Module):
    """Layer norm of an image over all channels and positions, then scale and shift per channel. [N, C, H, W] → same.

    (x − mean)/(std + 10⁻⁵)·γ + β. Unlike `nn.LayerNorm`: the standard deviation is the unbiased one, ε is added to it
    and not to the variance, and γ is initialised from U(0, 1).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels))
        self.beta = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        std, mean = torch.std_mean(features, dim=(1, 2, 3), keepdim=True)
        normalised = (features - mean) / (std + EPS)
        return normalised * self.gamma[:, None, None] + self.beta[:, None, None]


class ConvBlock(nn.Module):
    """Reflection padding that keeps the size (except for the stride), convolution with bias, norm, leaky ReLU.

    Before an instance norm the bias stays 0: the norm cancels it, so its gradient is only rounding error, which Adam
    would amplify to steps of the learning rate.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        norm: Norm | None = None,
        activation: bool = True,
    ) -> None:
        super().__init__()
        self.padding = dilation * (kernel // 2)
        self.conv = nn.Conv2d(n_in, n_out, kernel, stride=stride, dilation=dilation)
        self.norm = None if norm is None else norm(n_out)
        if isinstance(self.norm, nn.InstanceNorm2d):
            keep_bias(self.conv)
        self.activation = activation

    def forward(self, features: Tensor) -> Tensor:
        padded = F.pad(features, [self.padding] * 4, mode="reflect") if self.padding else features
        features = self.conv(padded)
        if self.norm is not None:
            features = self.norm(features)
        return F.leaky_relu(features, SLOPE) if self.activation else features


class ResidualBlock(nn.Module):
    """x + block(block(x)), 3×3; no activation in the second block or after the sum. [N, C, H, W] → same."""

    def __init__(self, channels: int, norm: Norm | None = None) -> None:
        super().__init__()
        self.first = ConvBlock(channels, channels, 3, norm=norm)
        self.second = ConvBlock(channels, channels, 3, norm=norm, activation=False)

    def forward(self, features: Tensor) -> Tensor:
        residual: Tensor = self.second(self.first(features))
        return features + residual


class AdaptiveResidualBlock(nn.Module):
    """A residual block whose convolutions are followed by adaptive instance norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvBlock(channels, channels, 3, activation=False)
        self.second = ConvBlock(channels, channels, 3, activation=False)
        keep_bias(self.first.conv)
        keep_bias(self.second.conv)

    def forward(self, features: Tensor, weights: Tensor, biases: Tensor) -> Tensor:
        """Features [N, C, H, W]; weights and biases [N, 2·C], those of the first norm first."""
        (first_weight, second_weight), (first_bias, second_bias) = weights.chunk(2, dim=1), biases.chunk(2, dim=1)
        residual = F.leaky_relu(adaptive_instance_norm(self.first(features), first_weight, first_bias), SLOPE)
        return features + adaptive_instance_norm(self.second(residual), second_weight, second_bias)


def adaptive_instance_norm(features: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """AdaIN (Huang & Belongie, ICCV 2017): weight·(x − mean)/√(variance + 10⁻⁵) + bias, per image and channel.

    Args:
        features: [N, C, H, W]; mean and (biased) variance are over a channel's positions.
        weight, bias: [N, C].
    """
    return weight[:, :, None, None] * F.instance_norm(features, eps=EPS) + bias[:, :, None, None]


def keep_bias(layer: nn.Conv2d) -> None:
    """Freeze a bias that a norm cancels."""
    if layer.bias is not None:
        layer.bias.requires_grad_(False)


def instance_norm(channels: int) -> nn.Module:
    """Instance norm without parameters."""
    return nn.InstanceNorm2d(channels, eps=EPS)


def init_kaiming(module: nn.Module) -> None:
    """Convolutions and linear layers: Kaiming's normal by fan-in (gain √2), biases 0. For `nn.Module.apply`."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_in")
        _zero_bias(module)


def init_normal(module: nn.Module) -> None:
    """Convolutions: N(0, 0.02²), biases 0. For `nn.Module.apply`."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.normal_(module.weight, std=0.02)
        _zero_bias(module)


def _zero_bias(module: nn.Conv2d | nn.Linear) -> None:
    if module.bias is not None:
        nn.init.zeros_(module.bias)
