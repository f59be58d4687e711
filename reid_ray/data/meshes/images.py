"""Structure images of a table's rows: projections of meshes, or images that another renderer has written.

A cell of the column `mesh` names either a mesh (`.npz`) or a grey image at 0°, `FOLDER/render/NAME`, whose other views
are `FOLDER/render_45/NAME` … `FOLDER/render_315/NAME`: the folders that GCL's released code reads. A row without a mesh
is not used for generation, but for everything else.
"""

from __future__ import annotations

import threading
import zlib

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from reid_ray.data.angles import ANGLES
from reid_ray.data.meshes.average_body import fitted_mesh
from reid_ray.data.meshes.files import MESH_SUFFIX, MeshReader
from reid_ray.data.meshes.projection import project
from reid_ray.data.table import ImageTable
from reid_ray.data.views import resize
from reid_ray.errors import DataError
from reid_ray.io.paths import Location, as_path
from reid_ray.types import IntArray

RENDER = "render"

COMPRESSION = 1
"""zlib's fastest level: a projection of 256×128 shrinks to 6 kB, in a tenth of the time that drawing it takes."""


class MeshImages:
    """Projections of meshes at the angles of `ANGLES`, cached in memory, compressed, as far as they fit.

    Thread-safe. Each projection is a function of its mesh and angle alone, so the cache does not affect results.

    Args:
        reader: reads the meshes that keys name.
        height, width: size of the projections, pixels.
        cache_mb: memory of the cache; projections that do not fit are computed at each use.
        fit_missing: use `fitted_mesh` where there is no mesh.
    """

    def __init__(
        self, reader: MeshReader, *, height: int, width: int, cache_mb: int, fit_missing: bool = False
    ) -> None:
        self._reader = reader
        self._size = (height, width)
        self._capacity = cache_mb * 2**20
        self._fit_missing = fit_missing
        self._cache: dict[tuple[str | None, int], bytes] = {}
        self._used = 0
        self._lock = threading.Lock()

    def projection(self, key: str | None, angle: int) -> Tensor:
        """uint8 [1, height, width]: the structure image of `key`, turned by `angle` degrees.

        Args:
            key: a value of the column `mesh`.
            angle: one of `ANGLES`.

        Raises:
            DataError: a mesh or an image that cannot be read; no mesh where `fit_missing` is off.
        """
        if angle not in ANGLES:
            raise ValueError(f"projection at {angle}°: meshes are projected at {', '.join(map(str, ANGLES))}")
        cached = self._cache.get((key, angle))
        if cached is not None:
            pixels = np.frombuffer(bytearray(zlib.decompress(cached)), dtype=np.uint8)
            return torch.from_numpy(pixels.reshape(1, *self._size))
        image = self._draw(key, angle)
        self._keep((key, angle), image)
        return image

    def _draw(self, key: str | None, angle: int) -> Tensor:
        height, width = self._size
        if key is None and not self._fit_missing:
            raise DataError("An image without a mesh has no projection; leave such rows out, or fit an average body.")
        if key is not None and is_rendered(key):
            return resize(read_rendered(key, angle), height, width)
        mesh = fitted_mesh(height, width) if key is None else self._reader.read(key)
        return torch.from_numpy(project(mesh, angle, height=height, width=width))[None]

    def _keep(self, key: tuple[str | None, int], image: Tensor) -> None:
        if self._used >= self._capacity:
            return
        data = zlib.compress(image.numpy().tobytes(), COMPRESSION)
        with self._lock:
            if key not in self._cache and self._used + len(data) <= self._capacity:
                self._cache[key] = data
                self._used += len(data)


def mesh_keys(table: ImageTable) -> list[str | None]:
    """The column `mesh`, one cell per row; None where there is no mesh or no such column."""
    if "mesh" not in table.arrow.column_names:
        return [None] * len(table)
    return [key or None for key in table.arrow["mesh"].to_pylist()]


def rows_with_mesh(table: ImageTable) -> IntArray:
    """int64, ascending: the rows that can be used for generation."""
    return np.flatnonzero([key is not None for key in mesh_keys(table)]).astype(np.int64)


def with_rendered(table: ImageTable, folder: Location) -> ImageTable:
    """The table with a column `mesh` that names the rendered images in a folder with the released code's layout.

    An image of the training split has its 0° view at `folder`/train/render/NAME, with the photo's own file name; those
    of query and gallery are in `folder`/test. Rows without such a file get an empty cell.

    Raises:
        DataError: neither folder exists.
    """
    folders = {
        "train": folder / "train" / RENDER,
        "query": folder / "test" / RENDER,
        "gallery": folder / "test" / RENDER,
    }
    present = {place: {file.name for file in place.iterdir()} for place in set(folders.values()) if place.is_dir()}
    if not present:
        raise DataError(f"There is no folder {folders['train']} or {folders['query']} with rendered meshes.")
    keys = []
    for path, split in zip(table.paths, table.arrow["split"].to_pylist(), strict=True):
        name, place = as_path(path).name, folders[split]
        keys.append(str(place / name) if name in present.get(place, ()) else None)
    arrow = table.arrow.drop_columns(["mesh"]) if "mesh" in table.arrow.column_names else table.arrow
    return ImageTable(arrow.append_column("mesh", pa.array(keys, pa.string())), table.name)


def is_rendered(key: str) -> bool:
    """Whether a mesh cell names rendered images; otherwise it names a mesh."""
    return as_path(key).parent.name == RENDER and not key.endswith(MESH_SUFFIX)


def rendered_view(key: str, angle: int) -> Location:
    """The file of a view, derived from the file of the view at 0°."""
    front = as_path(key)
    return front if angle == 0 else front.parent.parent / f"{RENDER}_{angle}" / front.name


def read_rendered(key: str, angle: int) -> Tensor:
    """uint8 [1, H, W], the rendered image of a view, unchanged; `DataError` naming it where it cannot be read."""
    from torchvision.io import ImageReadMode, decode_image  # slow to import; runs without meshes do without it

    file = rendered_view(key, angle)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read the rendered mesh {file}: {error.strerror or error}.") from error
    try:
        image: Tensor = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.GRAY)
    except (RuntimeError, ValueError) as error:  # ValueError: an empty file
        raise DataError(f"Cannot decode the rendered mesh {file} ({str(error).splitlines()[0]}).") from error
    return image
