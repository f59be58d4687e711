"""Attributes that a network predicts together with its feature, in the same pass over the images.

They are appended to the features as columns, so extraction, storage and transfer of features do not change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor, nn

from reid_ray.data.table import ATTRIBUTE_PREFIX, ImageTable
from reid_ray.types import UNKNOWN, FeatureRows, FloatArray, IntArray


def predicted_attributes(network: nn.Module) -> tuple[str, ...]:
    """Names of the attributes that a network predicts; empty if it predicts none or does not know their names."""
    return tuple(getattr(network, "attribute_names", ()))


class EmbedAndPredict(nn.Module):
    """A network whose `embed` returns features followed by predictions, [N, D + M]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def embed(self, images: Tensor) -> Tensor:
        features, values = self.network.embed_and_predict(images)  # type: ignore[operator]
        return torch.cat([features, values.to(features.dtype)], dim=1)


@dataclass(frozen=True)
class FeatureColumns:
    """Some columns of features, read by rows like features."""

    features: FeatureRows
    columns: slice

    @property
    def shape(self) -> tuple[int, ...]:
        n_rows, dim = self.features.shape
        return n_rows, len(range(*self.columns.indices(dim)))

    def __getitem__(self, rows: slice, /) -> FloatArray:
        return self.features[rows][:, self.columns]


def split_predictions(features: FeatureRows, n_attributes: int) -> tuple[FeatureRows, FeatureRows]:
    """Split the output of `EmbedAndPredict` into features [N, D] and predictions [N, M]."""
    dim = features.shape[1] - n_attributes
    return FeatureColumns(features, slice(0, dim)), FeatureColumns(features, slice(dim, None))


def attributes_by_name(table: ImageTable, names: tuple[str, ...]) -> IntArray:
    """int64 [N, M], the attributes with these names; `UNKNOWN` for names that the table does not have."""
    values, own = table.attributes, table.attribute_names
    unknown = np.full(len(table), UNKNOWN, dtype=np.int64)
    columns = [values[:, own.index(name)] if name in own else unknown for name in names]
    return np.stack(columns, axis=1) if columns else np.empty((len(table), 0), dtype=np.int64)


def attribute_columns(table: ImageTable, names: tuple[str, ...], values: npt.NDArray[np.int8]) -> pa.Table:
    """Path and `attr_NAME` of each image; values are [N, M]."""
    columns = {ATTRIBUTE_PREFIX + name: pa.array(values[:, m], pa.int8()) for m, name in enumerate(names)}
    return pa.table({"path": table.arrow["path"], **columns})
