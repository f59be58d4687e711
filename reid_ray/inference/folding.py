"""Optimise a network for extraction: fold batch norms into convolutions, and use oneDNN layouts for bfloat16 on CPUs.

A ResNet-50 at 128×64 extracts a third more images per second on two CPU cores than the unfolded network.
"""

from __future__ import annotations

import copy
import warnings
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils import mkldnn

from reid_ray.devices import cpu_supports_bf16
from reid_ray.models.backbone import Backbone
from reid_ray.models.batchnorm import GroupBatchNorm
from reid_ray.models.precision import bf16_autocast
from reid_ray.models.residual import BasicBlock, Bottleneck

_ONEDNN_LAYERS = (Backbone, BasicBlock, Bottleneck, nn.Conv2d, nn.Identity, nn.MaxPool2d, nn.ReLU, nn.Sequential)


def for_extraction(model: nn.Module) -> nn.Module:
    """A faster copy of `model` in evaluation mode, equal up to rounding.

    In every `Backbone` that allows it, the running statistics are folded into the preceding convolutions. If the
    network computes in bfloat16 on a CPU, the weights of a ResNet are also reordered once for oneDNN instead of at each
    call.
    """
    copied = copy.deepcopy(model).eval()
    for module in list(copied.modules()):
        if isinstance(module, Backbone) and module.foldable:
            fold_batch_norms(module)
    device = next(copied.parameters()).device
    for module in list(copied.modules()):
        backbone = getattr(module, "backbone", None)
        if getattr(module, "bf16", False) and isinstance(backbone, Backbone) and _has_onednn_layouts(backbone, device):
            module.backbone = OneDNNBackbone(backbone)
    return copied


def fold_batch_norms(backbone: Backbone) -> None:
    """Fold each batch norm into the convolution directly before it."""
    for parent in backbone.modules():
        previous: nn.Module | None = None
        for name, child in parent.named_children():
            if isinstance(child, GroupBatchNorm) and isinstance(previous, nn.Conv2d):
                previous.weight, previous.bias = fuse_conv_bn_weights(
                    previous.weight,
                    previous.bias,
                    cast(Tensor, child.running_mean),
                    cast(Tensor, child.running_var),
                    child.eps,
                    child.weight,
                    child.bias,
                )
                setattr(parent, name, nn.Identity())
            previous = child


class OneDNNBackbone(nn.Module):
    """A folded backbone that computes in bfloat16 in oneDNN's own layouts. [N, 3, H, W] → bfloat16 [N, C, h, w].

    Images so narrow that their map has a single column are computed again by the layers as they are, under
    `bf16_autocast`: oneDNN's strided convolutions to one column are wrong.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.out_channels = backbone.out_channels
        self.plain = backbone
        with warnings.catch_warnings():  # to_mkldnn uses TorchScript, which PyTorch deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            self.layers = mkldnn.to_mkldnn(backbone, torch.bfloat16)  # type: ignore[no-untyped-call]

    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            feature_map = cast(Tensor, self.layers(images.to(torch.bfloat16).to_mkldnn()).to_dense())
        if feature_map.shape[-1] > 1:
            return feature_map
        with bf16_autocast(images, True):
            return cast(Tensor, self.plain(images).to(torch.bfloat16))


def _has_onednn_layouts(backbone: Backbone, device: torch.device) -> bool:
    """Whether oneDNN has bfloat16 layouts for all layers here; a folded ResNet without IBN is known to work."""
    return (
        device.type == "cpu"
        and bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]
        and cpu_supports_bf16()
        and all(isinstance(module, _ONEDNN_LAYERS) for module in backbone.modules())
    )
