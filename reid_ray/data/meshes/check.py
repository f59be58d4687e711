"""List all problems of a table's meshes, without stopping at the first."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from reid_ray.data.angles import ANGLES
from reid_ray.data.meshes.files import MeshReader
from reid_ray.data.meshes.images import is_rendered, mesh_keys, read_rendered, rendered_view
from reid_ray.data.meshes.projection import MeshArrays
from reid_ray.data.readers.scan import Problem
from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError, StorageError
from reid_ray.io.paths import as_path


def mesh_problems(table: ImageTable, reader: MeshReader, *, threads: int = 4) -> list[Problem]:
    """Read every mesh that the column `mesh` names, and every view of those that are rendered images.

    Problems are files that are missing or invalid, meshes entirely outside their image, and meshes whose faces point
    inwards, which would be lit from the wrong side. An empty cell is not a problem.

    Returns:
        Problems by path, each mesh once however many rows name it.
    """
    keys = sorted({key for key in mesh_keys(table) if key is not None})
    with ThreadPoolExecutor(threads) as pool:
        found = pool.map(lambda key: list(_problems(key, reader)), keys)
        return [problem for problems in found for problem in problems]


def _problems(key: str, reader: MeshReader) -> Iterator[Problem]:
    if is_rendered(key):
        for angle in ANGLES:
            yield from _view_problems(key, angle)
        return
    try:
        mesh = reader.read(key)
    except (DataError, StorageError) as error:
        yield Problem("unreadable" if _exists(key) else "missing", key, str(error))
        return
    if signed_volume(mesh) < 0:
        what = f"The faces of the mesh {key} point inwards; swap two columns of 'faces', so that they are anticlockwise"
        yield Problem("unreadable", key, f"{what} from outside.")
    if not in_image(mesh):
        what = (
            f"No vertex of the mesh {key} is in its image; 'camera' must be in pixels of 'image_size' (height, width)"
        )
        yield Problem("unreadable", key, f"{what}.")


def _view_problems(key: str, angle: int) -> Iterator[Problem]:
    file = rendered_view(key, angle)
    try:
        read_rendered(key, angle)
    except (DataError, StorageError) as error:
        yield Problem("unreadable" if _exists(str(file)) else "missing", str(file), str(error))


def _exists(path: str) -> bool:
    try:
        return as_path(path).is_file()
    except (OSError, StorageError):
        return False


def signed_volume(mesh: MeshArrays) -> float:
    """Signed volume in cubic metres, negative if the faces point inwards; an open mesh is closed through its mean."""
    points = np.asarray(mesh.vertices, dtype=np.float64)
    points = points - points.mean(axis=0)
    a, b, c = (points[mesh.faces[:, corner]] for corner in range(3))
    return float(np.einsum("fi,fi->", a, np.cross(b, c))) / 6.0


def in_image(mesh: MeshArrays) -> bool:
    """Whether any vertex is projected into the image."""
    focal, cx, cy = map(float, mesh.camera)
    height, width = map(int, mesh.image_size)
    x, y, z = np.asarray(mesh.vertices, dtype=np.float64).T
    across, down = focal * x / z + cx, focal * y / z + cy
    return bool(((across >= 0) & (across <= width) & (down >= 0) & (down <= height)).any())
