"""OSNet trunks, with torchreid's names in the state dict.

* OSNet (Zhou et al., "Omni-Scale Feature Learning for Person Re-Identification", ICCV 2019): a block adds four streams
  of one to four light 3×3 convolutions, scaled by a gate that all streams share.
* OSNet-AIN (Zhou et al., "Learning Generalisable Omni-Scale Representations for Person Re-Identification", TPAMI 2021):
  instance norm in the stem and in the residual of some blocks, found by architecture search, for unseen cameras.

torchreid's networks end in a linear layer with batch norm and ReLU (`fc`) and a classifier. Here pooling and BN neck
follow the trunk, as for any other backbone: trunks are compatible with torchreid's files, heads are not.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.models.backbone import Backbone, Norm

CHANNELS = (64, 256, 384, 512)
"""Channels of the stem and of the three stages, at width 1."""

WIDTHS = {"x0_25": 0.25, "x0_5": 0.5, "x0_75": 0.75, "x1_0": 1.0}

AIN_BLOCKS = ((True, True), (False, True), (True, False))
"""Which blocks of the three stages have an instance norm."""

N_STREAMS = 4
REDUCTION = 4
"""Ratio of a block's channels to those of its streams."""
GATE_REDUCTION = 16


class ConvNorm(nn.Module):
    """Convolution without bias, normalisation, and ReLU; the last two are optional."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        norm: nn.Module | None,
        *,
        size: int = 1,
        stride: int = 1,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(n_in, n_out, size, stride, padding=size // 2, bias=False)
        self.bn = norm
        self.relu = nn.ReLU(inplace=True) if relu else None

    def forward(self, features: Tensor) -> Tensor:
        features = self.conv(features)
        if self.bn is not None:
            features = self.bn(features)
        return features if self.relu is None else self.relu(features)


class LightConv(nn.Module):
    """A factorised 3×3 convolution: 1×1 across channels, then depthwise 3×3; followed by batch norm and ReLU."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = norm(channels)

    def forward(self, features: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv2(self.conv1(features))))


class ChannelGate(nn.Module):
    """Scales each channel by a number in 0 … 1 that depends on the means of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // GATE_REDUCTION, 1)
        self.fc2 = nn.Conv2d(channels // GATE_REDUCTION, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        means = features.mean(dim=(2, 3), keepdim=True)
        gates: Tensor = self.fc2(F.relu(self.fc1(means))).sigmoid()
        return features * gates


class LightStream(nn.Module):
    """A sequence of light convolutions, named as in OSNet-AIN."""

    def __init__(self, channels: int, depth: int, norm: Norm) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(LightConv(channels, norm) for _ in range(depth)))

    def forward(self, features: Tensor) -> Tensor:
        streamed: Tensor = self.layers(features)
        return streamed


class OmniScaleBlock(nn.Module):
    """The block of OSNet and OSNet-AIN, which differ in the names of streams. [N, n_in, h, w] → [N, n_out, h, w].

    Args:
        ain: use the names of OSNet-AIN.
        instance_norm: instance norm instead of batch norm at the end of the residual.
    """

    def __init__(self, n_in: int, n_out: int, norm: Norm, *, ain: bool = False, instance_norm: bool = False) -> None:
        super().__init__()
        self.n_in, self.n_out, self.ain = n_in, n_out, ain
        channels = n_out // REDUCTION
        self.conv1 = ConvNorm(n_in, channels, norm(channels))
        if ain:
            self.conv2 = nn.ModuleList(LightStream(channels, depth, norm) for depth in range(1, N_STREAMS + 1))
        else:
            self.conv2a = LightConv(channels, norm)
            for depth, letter in enumerate("bcd", start=2):
                layers = (LightConv(channels, norm) for _ in range(depth))
                self.add_module(f"conv2{letter}", nn.Sequential(*layers))
        self.gate = ChannelGate(channels)
        self.conv3 = ConvNorm(channels, n_out, None if instance_norm else norm(n_out), relu=False)
        self.IN = nn.InstanceNorm2d(n_out, affine=True) if instance_norm else None
        self.downsample = ConvNorm(n_in, n_out, norm(n_out), relu=False) if n_in != n_out else None

    def streams(self) -> list[nn.Module]:
        """The four streams, of one to four light convolutions."""
        return list(self.conv2) if self.ain else [self.conv2a, *(getattr(self, f"conv2{name}") for name in "bcd")]

    def forward(self, features: Tensor) -> Tensor:
        reduced = self.conv1(features)
        residual = self.conv3(sum(self.gate(stream(reduced)) for stream in self.streams()))
        if self.IN is not None:
            residual = self.IN(residual)
        shortcut = features if self.downsample is None else self.downsample(features)
        return F.relu(residual + shortcut)


def build_osnet(name: str, norm: Norm) -> Backbone:
    """A trunk with random weights: convolutions normal (He et al., 2015, by fan-out), as in torchreid.

    Its map has 1/16 of the image's height and width. Parameters at width 1: 1,905,828 in the trunk; torchreid's 2.2
    million include its head of 262,656 + 1,024.

    Args:
        name: `osnet_` or `osnet_ain_`, followed by a width: x0_25, x0_5, x0_75, x1_0.
    """
    ain = name.startswith("osnet_ain_")
    width = WIDTHS[name.removeprefix("osnet_ain_").removeprefix("osnet_")]
    stem, *channels = (round(width * n) for n in CHANNELS)
    stem_norm = nn.InstanceNorm2d(stem, affine=True) if ain else norm(stem)
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=ConvNorm(3, stem, stem_norm, size=7, stride=2), maxpool=nn.MaxPool2d(3, stride=2, padding=1)
    )
    for i, (n_in, n_out) in enumerate(pairwise((stem, *channels))):
        with_instance_norm = AIN_BLOCKS[i] if ain else (False, False)
        blocks: list[nn.Module] = [
            OmniScaleBlock(n_in if j == 0 else n_out, n_out, norm, ain=ain, instance_norm=instance_norm)
            for j, instance_norm in enumerate(with_instance_norm)
        ]
        transition = nn.Sequential(ConvNorm(n_out, n_out, norm(n_out)), nn.AvgPool2d(2, stride=2))
        is_last = i == len(channels) - 1
        stages[f"conv{i + 2}"] = nn.Sequential(*blocks, *([] if ain or is_last else [transition]))
        if ain and not is_last:
            stages[f"pool{i + 2}"] = transition
    stages["conv5"] = ConvNorm(channels[-1], channels[-1], norm(channels[-1]))
    backbone = Backbone(
        stages,
        out_channels=channels[-1],
        stride_in=None,
        middle="conv4",
        last=("conv4", "conv5"),
        library="torchreid",
    )
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return backbone
