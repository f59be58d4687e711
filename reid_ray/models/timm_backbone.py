"""timm backbones (`model.backbone=timm:NAME`): features only, grouped batch norms, token sequences as feature maps."""

from __future__ import annotations

import difflib
from contextlib import suppress
from importlib import import_module
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from reid_ray.errors import ConfigError
from reid_ray.models.backbone import Backbone, Norm
from reid_ray.models.batchnorm import GroupBatchNorm

PREFIX = "timm:"

N_SUGGESTED = 3


class GroupBatchNormAct(GroupBatchNorm):
    """A `GroupBatchNorm` followed by an activation, like timm's `BatchNormAct2d`, with the same state-dict keys."""

    def __init__(self, norm: GroupBatchNorm, act: nn.Module) -> None:
        super().__init__(norm.num_features, group=norm.group, buffers=norm.running_from)
        self.act = act

    def forward(self, input: Tensor) -> Tensor:
        return cast(Tensor, self.act(super().forward(input)))


class TimmBackbone(Backbone):
    """A network of timm without its head: images [N, 3, H, W] → [N, C, h, w].

    The tokens of a transformer become a map, without class and register tokens. State-dict keys are timm's with the
    prefix `net.`.
    """

    foldable = False  # layers may be registered in another order than they are computed

    def __init__(self, net: nn.Module, *, out_channels: int) -> None:
        super().__init__({"net": net}, out_channels=out_channels, stride_in=None, library="timm")

    @property
    def weights_module(self) -> nn.Module:
        return cast(nn.Module, self.net)

    def forward(self, images: Tensor) -> Tensor:
        net: Any = self.net
        features: Tensor = net.forward_features(images)
        if features.dim() == 3:
            height, width = net.patch_embed.dynamic_feat_size(images.shape[2:])
            tokens = features[:, net.num_prefix_tokens :]
            # shape[0], not len(): exporters take the latter for a constant, and fix the batch size.
            features = tokens.transpose(1, 2).reshape(tokens.shape[0], self.out_channels, height, width)
        elif _channels_last(net):
            features = features.permute(0, 3, 1, 2)
        return features


def build_timm_backbone(name: str, norm: Norm) -> TimmBackbone:
    """The network `name` of timm with random weights, its batch norms replaced by `GroupBatchNorm`.

    Networks without batch norms, such as most transformers, are unchanged: layer norm is per image.

    Raises:
        ConfigError: timm is not installed, it has no such network, or the network cannot be used as a backbone: it
            draws random numbers (dropout), its type of batch norm cannot be grouped, or it has no feature map.
    """
    timm: Any = _timm()
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=N_SUGGESTED)
        hint = f"; similar names: {', '.join(near)}" if near else ""
        raise ConfigError(f"model.backbone={PREFIX}{name}: timm {timm.__version__} has no such network{hint}.")
    net = _create(timm, name)
    _group_batch_norms(net, norm, f"{PREFIX}{name}")
    _refuse_randomness(net, f"{PREFIX}{name}")
    patches = getattr(net, "patch_embed", None)
    if getattr(patches, "strict_img_size", False):
        height, width = cast(Any, patches).img_size
        raise ConfigError(
            f"model.backbone={PREFIX}{name} takes images of {height}×{width} pixels only; choose a network for images "
            f"of any size."
        )
    if not hasattr(net, "forward_features"):
        raise ConfigError(f"model.backbone={PREFIX}{name} has no feature map; choose another network.")
    return TimmBackbone(net, out_channels=int(cast(Any, net).num_features))


def _create(timm: Any, name: str) -> nn.Module:
    """The network without head; for images of any size and without stochastic depth if it has these options."""
    options = {"pretrained": False, "num_classes": 0, "global_pool": ""}
    for more in ({"dynamic_img_size": True, "drop_path_rate": 0.0}, {"drop_path_rate": 0.0}):
        with suppress(TypeError):  # raised by networks that have no such option
            return cast(nn.Module, timm.create_model(name, **options, **more))
    return cast(nn.Module, timm.create_model(name, **options))


def _group_batch_norms(net: nn.Module, norm: Norm, name: str) -> None:
    """Replace batch norms in place, with their initial weights and statistics."""
    for parent in list(net.modules()):
        for key, layer in list(parent.named_children()):
            if not isinstance(layer, _BatchNorm):
                continue
            plain = type(layer).__name__ in ("BatchNorm1d", "BatchNorm2d", "BatchNormAct2d")
            if not plain or not layer.affine or not layer.track_running_stats:
                raise ConfigError(
                    f"model.backbone={name}: its {type(layer).__name__} cannot be computed in groups of model.bn_group "
                    f"images; choose another network."
                )
            grouped = cast(GroupBatchNorm, norm(layer.num_features))
            if hasattr(layer, "act"):
                grouped = GroupBatchNormAct(grouped, cast(nn.Module, layer.act))
            grouped.eps = layer.eps
            grouped.momentum = grouped.momentum if layer.momentum is None else layer.momentum
            grouped.load_state_dict(layer.state_dict())
            setattr(parent, key, grouped)


def _refuse_randomness(net: nn.Module, name: str) -> None:
    for layer in net.modules():
        share = layer.p if isinstance(layer, _DropoutNd) else getattr(layer, "drop_prob", 0.0)
        if share:
            raise ConfigError(
                f"model.backbone={name} has {type(layer).__name__} of {share:g}, which draws other numbers in each "
                f"process; choose a network without it."
            )


def _channels_last(net: nn.Module) -> bool:
    """Whether the network's feature map is [N, h, w, C], as in Swin."""
    return str(getattr(net, "output_fmt", "NCHW")).endswith("NHWC")


def _timm() -> Any:
    try:
        return import_module("timm")
    except ImportError as error:
        raise ConfigError(
            "model.backbone=timm:NAME needs timm, which is not installed; pip install 'reid-ray[timm]', or use a "
            "backbone of this package."
        ) from error
