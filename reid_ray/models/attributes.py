"""A feature in two parts: a segment per attribute, and the rest for the identity (AM0BH-Attr, Sabri et al., §4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.errors import ConfigError
from reid_ray.models.embedder import Embedder

PIECE_DIM = 16
"""Q, the number of entries per attribute (fig. 2 of the paper varies it)."""

Retrieve = Literal["id", "all"]


class SplitEmbedding(NamedTuple):
    """Output for a batch of images, in float32 or better.

    Attributes:
        pooled: [N, C], before the BN neck.
        feature: [N, C], after it, not normalised.
        attributes: f_a [N, M·Q], the first entries of `feature`.
        identity: f_id [N, C − M·Q], the rest.
    """

    pooled: Tensor
    feature: Tensor
    attributes: Tensor
    identity: Tensor


class AttributeHead(nn.Module):
    """Normalised classifiers of M attributes, without bias, each on its own segment of Q entries of f_a.

    `attribute_loss(f_a, attributes, head.weight, n_values=head.n_values, …)` trains it.

    Attributes:
        weight: [M, V, Q], a row per value; V is the largest number of values. Rows for values that an attribute does
            not have are not read and get no gradient.
        n_values: int64 [M], a buffer.
    """

    n_values: Tensor

    def __init__(self, n_values: Sequence[int], piece_dim: int = PIECE_DIM) -> None:
        super().__init__()
        if not n_values or min(n_values) < 2:
            raise ConfigError(
                f"Attributes with {list(n_values)} values cannot be classified; each needs at least two: check the "
                f"attr_ columns of the training split."
            )
        self.weight = nn.Parameter(torch.empty(len(n_values), max(n_values), piece_dim))
        nn.init.normal_(self.weight)  # directions are uniform on the sphere; norms do not matter
        self.register_buffer("n_values", torch.tensor(n_values))

    @property
    def dim(self) -> int:
        """M·Q, the size of f_a."""
        return self.weight.shape[0] * self.weight.shape[2]

    def forward(self, features: Tensor) -> Tensor:
        """Cosines [N, M, V] of the segments of f_a [N, M·Q] to the values; −inf for values that an attribute lacks."""
        n_attributes, greatest, piece_dim = self.weight.shape
        pieces = F.normalize(features.reshape(-1, n_attributes, piece_dim), dim=2)
        cosines = torch.einsum("nmq,mvq->nmv", pieces, F.normalize(self.weight, dim=2))
        absent = torch.arange(greatest, device=self.n_values.device) >= self.n_values[:, None]
        return cosines.masked_fill(absent, -torch.inf)

    def predict(self, features: Tensor) -> Tensor:
        """The most likely value of each attribute, int64 [N, M], from f_a [N, M·Q]."""
        cosines: Tensor = self(features)
        return cosines.argmax(dim=2)


class AttributeEmbedder(nn.Module):
    """Images → a feature whose first part predicts attributes and whose rest retrieves.

    Attributes:
        embedder: images → BN neck's output.
        head: attribute classifiers.
        retrieve: the retrieval feature: `id` for f_id, as in the paper; `all` for the whole vector.
        attribute_names: names of the predicted attributes in order; empty if unknown.
    """

    def __init__(
        self,
        embedder: Embedder,
        head: AttributeHead,
        *,
        retrieve: Retrieve = "id",
        attribute_names: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if head.dim >= embedder.dim:
            raise ConfigError(
                f"The attributes take {head.dim} of the feature's {embedder.dim} entries and leave none for the "
                f"identity; use fewer entries per attribute."
            )
        self.embedder = embedder
        self.head = head
        self.retrieve = retrieve
        self.attribute_names = tuple(attribute_names)

    @property
    def identity_dim(self) -> int:
        """Size of f_id: 2048 − 27·16 = 1616 on Market-1501, 2048 − 23·16 = 1680 on DukeMTMC-reID."""
        return self.embedder.dim - self.head.dim

    @property
    def dim(self) -> int:
        """Size of the retrieval feature."""
        return self.identity_dim if self.retrieve == "id" else self.embedder.dim

    def forward(self, images: Tensor) -> SplitEmbedding:
        """Embed images [N, 3, H, W]: RGB, normalised with ImageNet's mean and standard deviation."""
        pooled, feature = self.embedder(images)
        attributes, identity = feature.split([self.head.dim, self.identity_dim], dim=1)
        return SplitEmbedding(pooled, feature, attributes, identity)

    def embed(self, images: Tensor) -> Tensor:
        """The retrieval feature, L2-normalised: f_id, or all."""
        return self._retrieved(self(images))

    def embed_and_predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The retrieval feature [N, dim], and the most likely value of each attribute, int64 [N, M]."""
        found = self(images)
        return self._retrieved(found), self.head.predict(found.attributes)

    def predict_attributes(self, images: Tensor) -> Tensor:
        """The most likely value of each attribute, int64 [N, M]."""
        return self.head.predict(self(images).attributes)

    def _retrieved(self, found: SplitEmbedding) -> Tensor:
        return F.normalize(found.identity if self.retrieve == "id" else found.feature)
