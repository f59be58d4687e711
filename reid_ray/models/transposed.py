"""Decoders of vectors: a fully connected layer, then transposed convolutions. Used by IS-GAN and DG-VAE."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.models.backbone import Norm
from reid_ray.models.batchnorm import GroupBatchNorm

SLOPE = 0.2
"""Slope of the leaky ReLUs in generators, decoders and discriminators (IS-GAN's released code)."""

DROPOUT_RATE = 0.2


class TransposedDecoder(nn.Module):
    """Vectors [N, in_dim] → maps or images [N, channels[-1], h · 2^(n−1), w · 2^(n−1)], n transposed convolutions.

    A fully connected layer to channels[0], a transposed convolution with the kernel `start` = (h, w), which expands a
    vector to a map of that size, and a transposed convolution with kernel 4, stride 2, padding 1 for each further entry
    of `channels`. Convolutions have no bias. Each layer except the last is followed by batch norm and leaky ReLU; the
    first `n_dropouts` layers also by dropout.

    Dropout masks are arguments, which the caller draws for the global batch. Batch norms are `GroupBatchNorm`
    (the papers: batch norm of the whole batch on one GPU, which is `bn_group: null`).

    Attributes:
        channels: of the fully connected layer and of each transposed convolution.
        n_dropouts: layers with dropout, counted from the fully connected one.
        dropout_rate: fraction of values that dropout sets to zero.
    """

    def __init__(
        self,
        in_dim: int,
        channels: Sequence[int],
        norm: Norm,
        *,
        start: tuple[int, int] = (6, 2),
        n_dropouts: int | None = None,
        dropout_rate: float = DROPOUT_RATE,
        tanh: bool = False,
    ) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.start = start
        self.n_dropouts = len(channels) - 1 if n_dropouts is None else min(n_dropouts, len(channels) - 1)
        self.dropout_rate = dropout_rate
        self.tanh = tanh
        self.fc = nn.Linear(in_dim, channels[0])
        self.fc.bias.requires_grad_(False)  # the norm cancels it: its gradient is rounding error, which Adam amplifies
        kernels = [start] + [(4, 4)] * (len(channels) - 2)
        self.convolutions = nn.ModuleList(
            nn.ConvTranspose2d(n_in, n_out, kernel, stride=2 if i else 1, padding=1 if i else 0, bias=False)
            for i, (n_in, n_out, kernel) in enumerate(zip(channels, channels[1:], kernels, strict=False))
        )
        self.norms = nn.ModuleList(norm(width) for width in channels[:-1])

    def mask_shapes(self, n: int) -> list[tuple[int, ...]]:
        """Shapes of the dropout masks for `n` vectors, in the order that `forward` expects."""
        sizes = [(), *((self.start[0] << i, self.start[1] << i) for i in range(len(self.convolutions)))]
        return [(n, width, *size) for width, size in zip(self.channels, sizes, strict=True)][: self.n_dropouts]

    def forward(self, vectors: Tensor, masks: Sequence[Tensor] | None) -> Tensor:
        """Decode vectors [N, in_dim].

        Args:
            vectors: [N, in_dim].
            masks: with the shapes of `mask_shapes(N)` and any dtype: 1 keeps a value (scaled by 1 / (1 − rate)), 0
                drops it. None: no dropout, as in evaluation.
        """
        if masks is not None and len(masks) != self.n_dropouts:
            raise ValueError(f"{len(masks)} dropout masks for {self.n_dropouts} layers; mask_shapes gives their shapes")
        features: Tensor = self.fc(vectors)
        for i, (norm, convolution) in enumerate(zip(self.norms, self.convolutions, strict=True)):
            features = F.leaky_relu(norm(features), SLOPE)
            if masks is not None and i < self.n_dropouts:
                features = features * masks[i].to(features.dtype) / (1 - self.dropout_rate)
            features = convolution(features[:, :, None, None] if i == 0 else features)
        return features.tanh() if self.tanh else features

    def initialise(self) -> None:
        """IS-GAN's initial weights, from torch's global generator; see `initialise_like_mgn`."""
        initialise_like_mgn(self)
        first = self.norms[0]  # of vectors: unchanged in the released code
        if isinstance(first, GroupBatchNorm):
            nn.init.ones_(first.weight)


def initialise_like_mgn(module: nn.Module) -> None:
    """Initialise IS-GAN's new layers as in MGN's released code, from torch's global generator.

    Convolutions normal by fan-in, fully connected layers normal by fan-out (He et al., 2015), biases 0, batch-norm
    weights N(1, 0.02²).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in")
        elif isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out")
        elif isinstance(layer, GroupBatchNorm):
            nn.init.normal_(layer.weight, 1.0, 0.02)
        bias = getattr(layer, "bias", None)
        if isinstance(bias, nn.Parameter):
            nn.init.zeros_(bias)
