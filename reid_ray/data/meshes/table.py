"""The meshes of a table's rows, as configured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
from torch import Tensor

from reid_ray.config import DataConfig
from reid_ray.data.meshes.files import FileMeshes, MeshReader
from reid_ray.data.meshes.images import MeshImages, mesh_keys
from reid_ray.data.table import ImageTable


class TableMeshes:
    """Row → angle → projection, uint8 [1, height, width]: the items of the views with source `mesh`. Thread-safe.

    Args:
        table: the rows.
        config: of the table's images, including the source of meshes.
        height, width: size of the projections, pixels.
        cache_mb: memory for compressed projections; those that do not fit are computed at each use.
    """

    def __init__(self, table: ImageTable, config: DataConfig, *, height: int, width: int, cache_mb: int) -> None:
        self._keys = mesh_keys(table)
        self._images = MeshImages(
            mesh_reader(config),
            height=height,
            width=width,
            cache_mb=cache_mb,
            fit_missing=config.meshes.fit_missing,
        )
        self.available = available_rows(table, config)
        """bool [N]: the rows that have a projection."""

    def __call__(self, row: int, /) -> Callable[[int], Tensor]:
        """The projections of one row by angle; see `MeshImages.projection` for errors."""
        return partial(self._images.projection, self._keys[row])


def mesh_reader(config: DataConfig) -> MeshReader:
    """The reader of the meshes that the column `mesh` names."""
    if config.layout == "synthetic":
        from reid_ray.data.synthetic import SyntheticMeshes  # the renderer is imported only if it is used

        return SyntheticMeshes(config.synthetic)
    return FileMeshes(config.meshes.faces_file, config.meshes.body_model)


def available_rows(table: ImageTable, config: DataConfig) -> npt.NDArray[np.bool_]:
    """bool [N]: the rows that have a mesh or get a fitted one."""
    return np.array([key is not None or config.meshes.fit_missing for key in mesh_keys(table)], dtype=np.bool_)
