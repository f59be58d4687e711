"""The network and the teacher."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from reid_ray.config.base import Search, Section

Backbone = Literal["resnet18", "resnet34", "resnet50", "resnet101", "ibn_resnet50"]


class BranchConfig(Section):
    """One branch of a network with several: a copy of the last stage, and what follows it."""

    pooling: Literal["avg", "max", "gem"] = "avg"
    """Global pooling."""
    n_extra: int = Field(default=0, ge=0)
    """Residual blocks after the last stage, of its kind and width."""


class ModelConfig(Section):
    """Backbone, pooling, normalisation. Defaults are the papers' common ground (ResNet-50, last stride 1, BN neck)."""

    backbone: Backbone = "resnet50"
    """Convolutional trunk."""
    weights: str | tuple[str, ...] | None = "torchvision"
    """Initial weights: `torchvision` (downloads ImageNet weights), null for random, or a file: of a backbone, or the
    exported model of a run with the same network (`checkpoints/model-last.pt`), which is taken whole. `run:PATH` is the
    last model of the run in that folder. A list gives one to each network of a method that trains several (MMT)."""
    stride_in: Literal["conv1", "conv2"] = "conv2"
    """Where a bottleneck's stride sits: `conv2` (3×3, torchvision) or `conv1` (1×1, ResNet v1 files). Keys match both,
    so a wrong value loads without an error and computes another function."""
    last_stride: Literal[1, 2] = 1
    """Stride of the last residual stage; 1 keeps a finer map (all papers)."""
    pooling: Literal["avg", "max", "gem"] = "avg"
    """Global pooling; `gem` is the generalised mean with a learnt exponent."""
    branches: tuple[BranchConfig, ...] = ()
    """Branches that share the trunk up to the last stage; `pooling` is not read then. Empty: one plain network. ABMT's
    are `[{pooling: avg}, {pooling: max, n_extra: 1}]`."""
    stem_relu: bool = True
    """A ReLU follows the first convolution, as in any ResNet. In the released ResNet-50 of MMT, ABMT and CAP, which
    made their tables, there is none."""
    bn_group: int | None = Field(default=8, ge=2)
    """Images per batch-norm group, counted in the global batch whatever the worker count; null = the whole batch.
    ICE was trained on 4 GPUs with 8 images each, so its recipe says 8."""
    bn_buffers: Literal["first", "mean"] = "first"
    """Running statistics from the first BN group of each batch (as DataParallel kept them; made the published
    tables) or from the mean over groups (sounder)."""
    ema: Annotated[float, Search(0.9, 0.9995)] = Field(default=0.999, ge=0, lt=1)
    """Teacher momentum α: θ_teacher ← α·θ_teacher + (1−α)·θ_student each step (Eq. 6.2); parameters only."""

    def weights_of(self, network: int = 0) -> str | None:
        """Initial weights of one network, counted from 0; where they are not a list, all networks have the same."""
        if isinstance(self.weights, tuple):
            return self.weights[network] if network < len(self.weights) else None
        return self.weights
