"""Mesh files: what is read, and one line for everything that is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reid_ray.data.meshes import FileMeshes, Mesh, fitted_mesh, project, write_mesh
from reid_ray.errors import DataError

TETRAHEDRON = {
    "vertices": np.array([[0, 0, 2], [1, 0, 2], [0, 1, 2], [0, 0, 3]], dtype=np.float32),
    "faces": np.array([[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]], dtype=np.int32),
    "camera": np.array([50, 8, 16], dtype=np.float32),
    "image_size": np.array([32, 16], dtype=np.int32),
}


def write(file: Path, without: str = "", **arrays: Any) -> str:
    content = {**TETRAHEDRON, **arrays}
    content.pop(without, None)
    np.savez(file, **content)
    return str(file)


def test_a_mesh_comes_back_as_it_was_written(tmp_path: Path) -> None:
    mesh = fitted_mesh(128, 64)
    write_mesh(mesh, tmp_path / "a.npz")
    found = FileMeshes().read(str(tmp_path / "a.npz"))
    for name in ("vertices", "faces", "camera", "image_size"):
        assert np.array_equal(getattr(found, name), getattr(mesh, name))
        assert getattr(found, name).dtype == getattr(mesh, name).dtype


def test_other_number_types_become_those_of_the_format(tmp_path: Path) -> None:
    wide = {name: values.astype(np.float64 if name in ("vertices", "camera") else np.int64)
            for name, values in TETRAHEDRON.items()}  # fmt: skip
    mesh = FileMeshes().read(write(tmp_path / "a.npz", **wide))
    assert (mesh.vertices.dtype, mesh.faces.dtype) == (np.float32, np.int32)
    assert (mesh.camera.dtype, mesh.image_size.dtype) == (np.float32, np.int32)


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_faces_shared_by_many_meshes(tmp_path: Path, suffix: str) -> None:
    shared = tmp_path / f"faces{suffix}"
    if suffix == ".npz":
        np.savez(shared, faces=TETRAHEDRON["faces"])
    else:
        np.save(shared, TETRAHEDRON["faces"])
    (tmp_path / "meshes").mkdir()
    named = write(tmp_path / "meshes" / "a.npz", without="faces", faces_file=np.array(f"../faces{suffix}"))
    bare = write(tmp_path / "meshes" / "b.npz", without="faces")
    own = write(tmp_path / "meshes" / "c.npz", faces=TETRAHEDRON["faces"][:2])
    assert np.array_equal(FileMeshes().read(named).faces, TETRAHEDRON["faces"])
    assert np.array_equal(FileMeshes(faces_file=str(shared)).read(bare).faces, TETRAHEDRON["faces"])
    assert len(FileMeshes(faces_file=str(shared)).read(own).faces) == 2
    with pytest.raises(DataError, match=r"b\.npz has no 'faces'; add them"):
        FileMeshes().read(bare)

    mesh = Mesh(**TETRAHEDRON)
    write_mesh(mesh, tmp_path / "meshes" / "d.npz", faces_file=f"../faces{suffix}")
    assert np.array_equal(FileMeshes().read(str(tmp_path / "meshes" / "d.npz")).faces, mesh.faces)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"without": "vertices"}, r"a\.npz has no 'vertices'; it has camera, faces, image_size"),
        ({"without": "camera"}, "has no 'camera'"),
        ({"without": "image_size"}, "has no 'image_size'"),
        ({"vertices": np.zeros((4, 2))}, r"float64 \[4, 2\] for 'vertices'; it should be any×3"),
        ({"vertices": np.array(["a"])}, "for 'vertices'"),
        ({"camera": np.ones(4)}, r"\[4\] for 'camera'; it should be 3"),
        ({"image_size": np.ones((2, 1))}, "for 'image_size'"),
        ({"faces": TETRAHEDRON["faces"].astype(float)}, "for 'faces'; it should be whole numbers"),
        ({"faces": TETRAHEDRON["faces"].reshape(-1)}, "for 'faces'"),
        ({"faces": TETRAHEDRON["faces"] + 1}, r"faces of the vertices 1 to 4, but 4 vertices"),
        ({"faces": TETRAHEDRON["faces"] - 1}, r"faces of the vertices -1 to 2"),
        ({"faces": TETRAHEDRON["faces"] + np.int64(2**32)}, "for 'faces'; it should be vertices counted from 0"),
        ({"faces": TETRAHEDRON["faces"] - np.int64(2**32)}, "for 'faces'; it should be vertices counted from 0"),
        ({"faces": np.zeros((0, 3), dtype=int)}, "no vertices or no faces"),
        ({"vertices": np.zeros((0, 3))}, "no vertices or no faces"),
        ({"vertices": TETRAHEDRON["vertices"] - [0, 0, 2]}, r"behind the camera \(z is 0\)"),
        ({"vertices": TETRAHEDRON["vertices"] * [1, 1, -1]}, r"behind the camera \(z is -3\)"),
        ({"vertices": TETRAHEDRON["vertices"] * [1, np.nan, 1]}, "NaN or infinite values in 'vertices'"),
        ({"camera": np.array([np.inf, 1, 1])}, "NaN or infinite values in 'camera'"),
        ({"camera": np.array([0.0, 1, 1])}, "focal length 0"),
        ({"image_size": np.array([32, 0])}, r"image size \[32, 0\]"),
        ({"faces_file": np.array("none.npz"), "without": "faces"}, r"Cannot read the faces file .*none\.npz"),
    ],
)
def test_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        FileMeshes().read(write(tmp_path / "a.npz", **changes))
    assert "\n" not in str(error.value)


def test_files_that_are_no_meshes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read the mesh file .*none\.npz: No such file"):
        FileMeshes().read(str(tmp_path / "none.npz"))
    whole = Path(write(tmp_path / "whole.npz")).read_bytes()
    pickled = tmp_path / "pickled.npz"
    np.savez(pickled, vertices=np.array([{}], dtype=object))
    contents = {"empty.npz": b"", "text.npz": b"vertices", "cut.npz": whole[:300], "pickled.npz": pickled.read_bytes()}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name} is not a NumPy \.npz file of plain arrays") as error:
            FileMeshes().read(str(tmp_path / name))
        assert "\n" not in str(error.value)


def test_a_mesh_read_from_its_file_is_projected(tmp_path: Path) -> None:
    mesh = FileMeshes().read(write(tmp_path / "a.npz"))
    image = project(mesh, 0, height=32, width=16)
    # (0, 0, 2) is seen at (8, 16) and (0, 1, 2) at (8, 41): below the corner, nothing to the left of column 8.
    assert (image[:, :8] == 255).all()
    assert (image[:16] == 255).all()
    assert (image[16:, 8] < 255).all()
