"""Residual networks (He et al., CVPR 2016) with torchvision's names, defaults and random initialisation order.

torchvision has the same networks, but takes longer to import than PyTorch: a process that only embeds a crop should not
wait for detection operators and the compiler.

As in torchvision, a block computes its shortcut after its residual. If several blocks read one feature map, gradients
are added in the order of these operations, so another order would change training in the last bit.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple, cast

from torch import Tensor, nn

from reid_ray.models.backbone import Norm


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut; [N, n_in, H, W] → [N, channels, H / stride, W / stride]."""

    expansion: ClassVar[int] = 1

    def __init__(
        self, n_in: int, channels: int, stride: int = 1, downsample: nn.Module | None = None, *, norm_layer: Norm
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = norm_layer(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = norm_layer(channels)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        residual += x if self.downsample is None else self.downsample(x)
        return cast(Tensor, self.relu(residual))


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions and a shortcut; the stride is in the 3×3 one (v1.5) unless it is moved later.

    [N, n_in, H, W] → [N, 4 · channels, H / stride, W / stride].
    """

    expansion: ClassVar[int] = 4

    def __init__(
        self, n_in: int, channels: int, stride: int = 1, downsample: nn.Module | None = None, *, norm_layer: Norm
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, channels, 1, bias=False)
        self.bn1 = norm_layer(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = norm_layer(channels)
        self.conv3 = nn.Conv2d(channels, channels * self.expansion, 1, bias=False)
        self.bn3 = norm_layer(channels * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.relu(self.bn2(self.conv2(residual)))
        residual = self.bn3(self.conv3(residual))
        residual += x if self.downsample is None else self.downsample(x)
        return cast(Tensor, self.relu(residual))


class Layout(NamedTuple):
    """Type and number of blocks of the four stages, and channels of the first stage."""

    block: type[BasicBlock | Bottleneck]
    depths: tuple[int, int, int, int]
    width: int = 64
    n_classes: int = 1000


LAYOUTS = {
    "resnet18": Layout(BasicBlock, (2, 2, 2, 2)),
    "resnet34": Layout(BasicBlock, (3, 4, 6, 3)),
    "resnet50": Layout(Bottleneck, (3, 4, 6, 3)),
    "resnet101": Layout(Bottleneck, (3, 4, 23, 3)),
    "resnet18_narrow": Layout(BasicBlock, (2, 2, 2, 2), width=8, n_classes=1),
}
"""`resnet18_narrow`, with an eighth of the channels, is specific to this project, for tests and for trying out a
pipeline: a checkpoint takes kilobytes, and a step milliseconds."""


class ResNet(nn.Module):
    """Stem, four stages `layer1` … `layer4`, and the classifier `fc`, which callers discard.

    The classifier consumes random numbers: with the same seed, the weights equal those of torchvision's network.
    """

    def __init__(self, layout: Layout, norm_layer: Norm) -> None:
        super().__init__()
        channels = layout.width
        self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm_layer(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        for number, depth in enumerate(layout.depths):
            width = layout.width * 2**number
            stage = _stage(layout.block, channels, width, depth, stride=2 if number else 1, norm_layer=norm_layer)
            self.add_module(f"layer{number + 1}", stage)
            channels = width * layout.block.expansion
        self.fc = nn.Linear(channels, layout.n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def _stage(
    block: type[BasicBlock | Bottleneck], n_in: int, width: int, depth: int, *, stride: int, norm_layer: Norm
) -> nn.Sequential:
    n_out = width * block.expansion
    shortcut = None
    if stride != 1 or n_in != n_out:
        shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), norm_layer(n_out))
    blocks = [block(n_in, width, stride, shortcut, norm_layer=norm_layer)]
    blocks += [block(n_out, width, norm_layer=norm_layer) for _ in range(depth - 1)]
    return nn.Sequential(*blocks)
