"""Network and teacher."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field

from reid_ray.config.base import Search, Section

Backbone = Literal[
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "ibn_resnet50",
    "osnet_x0_25",
    "osnet_x0_5",
    "osnet_x0_75",
    "osnet_x1_0",
    "osnet_ain_x0_25",
    "osnet_ain_x0_5",
    "osnet_ain_x0_75",
    "osnet_ain_x1_0",
    "resnet18_narrow",
]
TIMM = re.compile(r"timm:[A-Za-z0-9_.\-]+")


def _backbone(name: str) -> str:
    known = get_args(Backbone)
    if name not in known and not TIMM.fullmatch(name):
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean '{near[0]}'?)" if near else ""
        raise ValueError(f"'{name}' is not a backbone{hint}; use {', '.join(known)} or timm:NAME")
    return name


class BranchConfig(Section):
    """One branch of a multi-branch network: a copy of the last stage, and its head."""

    pooling: Literal["avg", "max", "gem"] = "avg"
    """Global pooling."""
    n_extra: int = Field(default=0, ge=0)
    """Additional residual blocks after the last stage, with the same type and width."""


class ModelConfig(Section):
    """Backbone, pooling, normalisation. Defaults are common to the papers (ResNet-50, last stride 1, BN neck)."""

    backbone: Annotated[str, AfterValidator(_backbone)] = "resnet50"
    """Trunk: resnet18, resnet34, resnet50, resnet101, ibn_resnet50; osnet_x0_25, osnet_x0_5, osnet_x0_75, osnet_x1_0,
    and osnet_ain_ with the same widths; `timm:NAME`, a network of timm (extra `timm`). `resnet18_narrow` has an eighth
    of the channels, for tests and for trying out a pipeline. docs/models.md compares them."""
    weights: str | tuple[str, ...] | None = "torchvision"
    """Initial weights: `torchvision` (downloads ImageNet weights), null for random, or a file: the weights of a
    backbone, or the exported model of a run with the same network (`checkpoints/model-last.pt`), which is loaded
    completely. `run:PATH` is the last model of the run in the folder PATH. A list assigns one entry to each network of
    a method that trains several (MMT)."""
    stride_in: Literal["conv1", "conv2"] = "conv2"
    """Convolution with the stride of a bottleneck: `conv2` (3×3, torchvision) or `conv1` (1×1, ResNet v1 files). Keys
    match both, so a wrong value loads without an error and computes another function. Not used by OSNet and timm."""
    last_stride: Literal[1, 2] = 1
    """Stride of the last residual stage; 1 keeps a larger feature map (all papers)."""
    pooling: Literal["avg", "max", "gem"] = "avg"
    """Global pooling; `gem` is the generalised mean with a learnt exponent. Unused with `branches`."""
    branches: tuple[BranchConfig, ...] = ()
    """Branches that share the trunk up to the last stage. Empty: a single-branch network. ABMT uses `[{pooling: avg},
    {pooling: max, n_extra: 1}]`."""
    stem_relu: bool = True
    """ReLU after the first convolution, as in any ResNet. The released ResNet-50 of MMT, ABMT and CAP, which produced
    their tables, has none."""
    bn_group: int | None = Field(default=8, ge=2)
    """Images per batch-norm group of the global batch, independent of the worker count; null = the whole batch. ICE was
    trained on 4 GPUs with 8 images each, hence 8."""
    bn_buffers: Literal["first", "mean"] = "first"
    """Source of running statistics: the first BN group of each batch (as in DataParallel; produced the published
    tables), or the mean over groups (statistically sounder)."""
    ema: Annotated[float, Search(0.9, 0.9995)] = Field(default=0.999, ge=0, lt=1)
    """EMA momentum α of the teacher: θ_teacher ← α·θ_teacher + (1−α)·θ_student at each step (Eq. 6.2); parameters
    only."""

    def weights_of(self, network: int = 0) -> str | None:
        """Initial weights of one network, counted from 0; all networks share them if they are not a list."""
        if isinstance(self.weights, tuple):
            return self.weights[network] if network < len(self.weights) else None
        return self.weights
