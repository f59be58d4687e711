"""Body meshes in files: one `.npz` per image, named in the table's column `mesh`.

| key | array | meaning |
|---|---|---|
| `vertices` | float32 [V, 3] | metres in camera coordinates: x right, y down, z forward |
| `camera` | float32 [3] | (f, cx, cy) in pixels of the image: a vertex is seen at (f·x/z + cx, f·y/z + cy) |
| `image_size` | int32 [2] | (H, W), pixels of the image that the camera is of |
| `faces` | int32 [F, 3] | triangles, anticlockwise from outside; or |
| `faces_file` | string | path from the mesh's folder to a `.npz` with `faces` (or a `.npy`) that many meshes share |

Pixel coordinates start at the image's corner: the centre of the first pixel is (½, ½). Instead of vertices and camera,
a file can hold the 85 numbers of HMR (`theta`, see `reid_ray.data.meshes.body_model`).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn, Protocol

import numpy as np
import numpy.typing as npt

from reid_ray.data.meshes.arrays import Arrays, read_arrays
from reid_ray.data.meshes.body_model import Crop, hmr_mesh, load_body_model
from reid_ray.data.meshes.projection import MeshArrays
from reid_ray.errors import DataError
from reid_ray.io.paths import Location, as_path, resolve_beside

MESH_SUFFIX = ".npz"


class MeshReader(Protocol):
    """Reads one mesh. Implementations are cheap to pickle, so that they can be sent to Ray actors."""

    def read(self, path: str) -> MeshArrays:
        """The mesh that `path` names; `DataError` naming it where it cannot be used."""
        ...


@dataclass(frozen=True, eq=False)
class Mesh:
    """A body mesh in the camera of its image.

    Attributes:
        vertices: float32 [V, 3], metres, x right, y down, z forward; z is positive.
        faces: int32 [F, 3], 0 … V−1, anticlockwise from outside.
        camera: float32 [3], (f, cx, cy) in pixels of `image_size`.
        image_size: int32 [2], (H, W).
    """

    vertices: npt.NDArray[np.float32]
    faces: npt.NDArray[np.int32]
    camera: npt.NDArray[np.float32]
    image_size: npt.NDArray[np.int32]


@dataclass(frozen=True)
class FileMeshes:
    """Meshes in `.npz` files; paths of the column `mesh` are file paths, or URIs in an object store.

    Attributes:
        faces_file: a file with the `faces` of all meshes that hold neither `faces` nor `faces_file`.
        body_model: the SMPL model that converts the 85 numbers of HMR to vertices; needed for files with `theta` only.
    """

    faces_file: str | None = None
    body_model: str | None = None

    def read(self, path: str) -> Mesh:
        """The mesh in one file.

        Raises:
            DataError: no such file, not a `.npz`, a key that is missing or has another shape, faces with an invalid
                vertex number, NaN or infinite values, a vertex that is not in front of the camera, `theta` without a
                model.
        """
        file = as_path(path)
        arrays = read_arrays(file, "mesh file")
        if "theta" in arrays:
            return checked(self._from_theta(arrays, path), path)
        faces = arrays["faces"] if "faces" in arrays else self._shared_faces(arrays, file)
        return checked(
            Mesh(
                vertices=_array(arrays, "vertices", (None, 3), np.float32, path),
                faces=_as_faces(faces, path),
                camera=_array(arrays, "camera", (3,), np.float32, path),
                image_size=_array(arrays, "image_size", (2,), np.int32, path),
            ),
            path,
        )

    def _shared_faces(self, arrays: Arrays, file: Location) -> npt.NDArray[Any]:
        if "faces_file" in arrays:
            return shared_faces(str(resolve_beside(file.parent, str(arrays["faces_file"]))))
        if self.faces_file is not None:
            return shared_faces(self.faces_file)
        raise DataError(
            f"The mesh file {file} has no 'faces'; add them, or 'faces_file' with the path of a file that has them."
        )

    def _from_theta(self, arrays: Arrays, path: str) -> Mesh:
        if self.body_model is None:
            raise DataError(
                f"The mesh file {path} holds HMR's 85 numbers; give the SMPL body model that turns them to vertices, "
                "or write 'vertices'."
            )
        model = load_body_model(self.body_model)
        crop = None
        if "crop_scale" in arrays:
            start = _array(arrays, "crop_start", (2,), np.float64, path)
            crop = Crop(float(_array(arrays, "crop_scale", (), np.float64, path)), (float(start[0]), float(start[1])))
        size = _array(arrays, "image_size", (2,), np.int32, path)
        vertices, camera = hmr_mesh(model, _array(arrays, "theta", (85,), np.float64, path), size, crop)
        return Mesh(vertices, model.faces, camera, size)


def write_mesh(mesh: MeshArrays, path: Location, *, faces_file: str | None = None) -> None:
    """Write a mesh; with `faces_file`, a path relative to the mesh's folder, the faces are not stored in the mesh's
    file."""
    faces = {"faces": np.asarray(mesh.faces, np.int32)} if faces_file is None else {"faces_file": np.array(faces_file)}
    content = io.BytesIO()
    np.savez(
        content,
        vertices=np.asarray(mesh.vertices, np.float32),
        camera=np.asarray(mesh.camera, np.float32),
        image_size=np.asarray(mesh.image_size, np.int32),
        **faces,
    )
    path.write_bytes(content.getvalue())


def checked(mesh: Mesh, path: str) -> Mesh:
    """The mesh unchanged; `DataError` if it cannot be projected. `path` is for the message."""
    n_vertices = len(mesh.vertices)
    if not n_vertices or not len(mesh.faces):
        raise DataError(f"The mesh file {path} has no vertices or no faces; leave its cell in the table empty instead.")
    for name, values in (("vertices", mesh.vertices), ("camera", mesh.camera)):
        if not np.isfinite(values).all():
            raise DataError(f"The mesh file {path} has NaN or infinite values in '{name}'; estimate the mesh again.")
    low, high = int(mesh.faces.min()), int(mesh.faces.max())
    if low < 0 or high >= n_vertices:
        raise DataError(
            f"The mesh file {path} has faces of the vertices {low} to {high}, but {n_vertices} vertices (counted from "
            "0); use the faces of the same body model."
        )
    nearest = float(mesh.vertices[:, 2].min())
    if nearest <= 0:
        raise DataError(
            f"The mesh file {path} has vertices behind the camera (z is {nearest:.3g}); write camera coordinates in "
            "metres, with z forward."
        )
    if mesh.camera[0] <= 0 or mesh.image_size.min() <= 0:
        raise DataError(
            f"The mesh file {path} has focal length {mesh.camera[0]:.3g} and image size {mesh.image_size.tolist()}; "
            "all must be positive."
        )
    return mesh


@lru_cache(maxsize=4)
def shared_faces(path: str) -> npt.NDArray[np.int32]:
    """int32 [F, 3], read-only: the array `faces` of a `.npz`, or that of a `.npy`. Read once per process.

    Raises:
        DataError: there is no such file, or it has no faces.
    """
    faces = _as_faces(_array(read_arrays(as_path(path), "faces file"), "faces", (None, 3), None, path), path)
    faces.flags.writeable = False
    return faces


def _array(
    arrays: Arrays, name: str, shape: tuple[int | None, ...], dtype: type[np.generic] | None, path: str
) -> npt.NDArray[Any]:
    """Check an array and convert it to `dtype`; None allows any length in `shape` and any `dtype`."""
    if name not in arrays:
        raise DataError(f"The mesh file {path} has no '{name}'; it has {', '.join(sorted(arrays)) or 'nothing'}.")
    array = arrays[name]
    fits = len(array.shape) == len(shape) and all(
        wanted in (None, found) for wanted, found in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype.kind not in "iuf":
        wanted = "×".join("any" if length is None else str(length) for length in shape) or "one number"
        _refuse_array(path, name, f"{array.dtype} {list(array.shape)}", wanted)
    return array if dtype is None else array.astype(dtype)


def _as_faces(faces: npt.NDArray[Any], path: str) -> npt.NDArray[np.int32]:
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu":
        _refuse_array(path, "faces", f"{faces.dtype} {list(faces.shape)}", "whole numbers, any×3")
    limits = np.iinfo(np.int32)
    if faces.size and not limits.min <= int(faces.min()) <= int(faces.max()) <= limits.max:
        # A cast would wrap round to another vertex.
        _refuse_array(path, "faces", f"vertices {faces.min()} to {faces.max()}", "vertices counted from 0")
    return np.ascontiguousarray(faces, dtype=np.int32)


def _refuse_array(path: str, name: str, found: str, wanted: str) -> NoReturn:
    raise DataError(f"The mesh file {path} has {found} for '{name}'; it should be {wanted}.")
