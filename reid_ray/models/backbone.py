"""The trunk of a network: images → feature map, as a sequence of named stages."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Literal

from torch import Tensor, nn

StrideIn = Literal["conv1", "conv2"]
Norm = Callable[[int], nn.Module]


class Backbone(nn.Module):
    """Images [N, 3, H, W] → feature map [N, C, h, w]. State-dict keys are those of the trunk's original library.

    Attributes:
        out_channels: channels C of the feature map.
        stride_in: the convolution of a bottleneck that has the stride; None for networks without bottlenecks.
        middle: the stage at which networks with several branches split the trunk (`split_backbone`): blocks at 1/16 of
            the image's size; None for trunks that cannot be split.
        last: the stages that each branch copies (`build_branches`).
        library: library whose names the state dict uses and weights files must use; None for ResNets, whose names in
            many libraries are recognised (`weights_formats`).
        foldable: whether each batch norm normalises only the output of the convolution registered before it, so that
            extraction can fold it.
    """

    foldable = True

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        *,
        out_channels: int,
        stride_in: StrideIn | None,
        middle: str | None = None,
        last: tuple[str, ...] = (),
        library: str | None = None,
    ) -> None:
        super().__init__()
        for name, stage in stages.items():
            self.add_module(name, stage)
        self.out_channels = out_channels
        self.stride_in = stride_in
        self.middle = middle
        self.last = last
        self.library = library

    @property
    def weights_module(self) -> nn.Module:
        """The module whose state-dict keys match those of weights files."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        features = images
        for layer in self.children():
            features = layer(features)
        return features


def partial_backbone(stages: Mapping[str, nn.Module], *, like: Backbone, out_channels: int) -> Backbone:
    """Some stages of a network as a `Backbone`, which extraction can fold and lay out in memory like any other."""
    return Backbone(OrderedDict(stages), out_channels=out_channels, stride_in=like.stride_in)
