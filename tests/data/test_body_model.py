"""SMPL's formula with a small body of random numbers against loops over vertices, joints and coefficients."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from seeds import SEEDS

from reid_ray.data.meshes import FileMeshes
from reid_ray.data.meshes.body_model import SMPL_ARRAYS, Crop, body_model, hmr_mesh, rotation
from reid_ray.errors import DataError

N_VERTICES, N_JOINTS, N_SHAPES = 9, 24, 10


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    skinning = rng.uniform(size=(N_VERTICES, N_JOINTS))
    parents = [4294967295, *(int(rng.integers(0, joint)) for joint in range(1, N_JOINTS))]
    return {
        "v_template": rng.normal(size=(N_VERTICES, 3)),
        "shapedirs": rng.normal(size=(N_VERTICES, 3, N_SHAPES)),
        "posedirs": 0.1 * rng.normal(size=(N_VERTICES, 3, 9 * (N_JOINTS - 1))),
        "J_regressor": rng.normal(size=(N_JOINTS, N_VERTICES)) / N_VERTICES,
        "weights": skinning / skinning.sum(axis=1, keepdims=True),
        "kintree_table": np.array([parents, range(N_JOINTS)], dtype=np.uint32),
        "f": rng.integers(0, N_VERTICES, (6, 3)),
    }


def naive_vertices(model: dict[str, np.ndarray], pose: np.ndarray, shape: np.ndarray) -> np.ndarray:
    """Homogeneous 4×4 transforms, composed joint by joint and blended vertex by vertex."""
    rest = model["v_template"].copy()
    for s, coefficient in enumerate(shape):
        rest += coefficient * model["shapedirs"][:, :, s]
    joints = np.array([sum(model["J_regressor"][j, v] * rest[v] for v in range(N_VERTICES)) for j in range(N_JOINTS)])
    turns = [rotation(axis_angle) for axis_angle in pose]
    features = np.concatenate([(turn - np.eye(3)).reshape(-1) for turn in turns[1:]])
    posed = rest.copy()
    for p, feature in enumerate(features):
        posed += feature * model["posedirs"][:, :, p]

    def transform(turn: np.ndarray, offset: np.ndarray) -> np.ndarray:
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = turn, offset
        return matrix

    chain = [transform(turns[0], joints[0])]
    for j in range(1, N_JOINTS):
        parent = int(model["kintree_table"][0, j])
        chain.append(chain[parent] @ transform(turns[j], joints[j] - joints[parent]))
    vertices = []
    for v in range(N_VERTICES):
        blended = sum(model["weights"][v, j] * chain[j] @ transform(np.eye(3), -joints[j]) for j in range(N_JOINTS))
        vertices.append((blended @ [*posed[v], 1.0])[:3])
    return np.array(vertices)


@settings(max_examples=3)
@given(seed=SEEDS)
def test_vertices(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    pose, shape = rng.normal(size=(N_JOINTS, 3)), rng.normal(size=N_SHAPES)
    found = body_model(arrays(seed)).vertices(pose, shape)
    np.testing.assert_allclose(found, naive_vertices(arrays(seed), pose, shape), atol=1e-9)


def test_rest_pose_is_the_shaped_template() -> None:
    model = body_model(arrays())
    np.testing.assert_allclose(model.vertices(np.zeros((N_JOINTS, 3)), np.zeros(N_SHAPES)), model.template, atol=1e-12)


def test_rotation_about_an_axis() -> None:
    np.testing.assert_allclose(rotation(np.array([0, 0, np.pi / 2])) @ [1, 0, 0], [0, 1, 0], atol=1e-15)
    np.testing.assert_allclose(rotation(np.array([np.pi / 3, 0, 0])) @ [0, 2, 0], [0, 1, np.sqrt(3)], atol=1e-15)
    np.testing.assert_allclose(rotation(np.zeros(3)), np.eye(3))
    turn = rotation(np.array([0.3, -1.2, 0.7]))
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1.0)


def test_the_camera_of_hmr() -> None:
    """A point of the crop lands where undoing crop and scale puts it."""
    theta = np.zeros(85)
    theta[:3] = 0.8, 0.1, -0.2
    model = body_model(arrays())
    crop = Crop(1.75, (-30.0, 12.0))
    vertices, camera = hmr_mesh(model, theta, np.array([128, 64], dtype=np.int32), crop)
    depth = 500 / (0.5 * 224 * 0.8)
    np.testing.assert_allclose(vertices, model.template + np.array([0.1, -0.2, depth]), rtol=1e-6)
    for x, y, z in vertices:
        in_crop = np.array([500 * x / z + 112, 500 * y / z + 112])
        in_image = (in_crop + crop.start) / crop.scale
        found = [camera[0] * x / z + camera[1], camera[0] * y / z + camera[2]]
        np.testing.assert_allclose(found, in_image, rtol=1e-5, atol=1e-5)


def test_without_a_crop_the_whole_image_is_centred() -> None:
    _, camera = hmr_mesh(body_model(arrays()), np.array([1.0] + [0.0] * 84), np.array([128, 64], dtype=np.int32))
    np.testing.assert_allclose(camera, [500 * 128 / 224, 32, 64], rtol=1e-6)


def test_files_of_85_numbers(tmp_path: Path) -> None:
    np.savez(tmp_path / "smpl.npz", **arrays())
    theta = np.random.default_rng(0).normal(size=85)
    theta[0] = 0.9
    file = str(tmp_path / "a.npz")
    np.savez(file, theta=theta, image_size=[128, 64], crop_scale=1.5, crop_start=[3, -4])
    mesh = FileMeshes(body_model=str(tmp_path / "smpl.npz")).read(file)
    vertices, camera = hmr_mesh(body_model(arrays()), theta, np.array([128, 64]), Crop(1.5, (3, -4)))
    assert np.array_equal(mesh.vertices, vertices)
    assert np.array_equal(mesh.camera, camera)
    assert mesh.faces.shape == (6, 3)
    with pytest.raises(DataError, match="HMR's 85 numbers; give the SMPL body model"):
        FileMeshes().read(file)
    for size in (0.0, -1.0):
        np.savez(file, theta=np.array([size] + [0.0] * 84), image_size=[128, 64])
        with pytest.raises(DataError, match=r"NaN or infinite|behind the camera"):
            FileMeshes(body_model=str(tmp_path / "smpl.npz")).read(file)


def test_body_models_that_are_none(tmp_path: Path) -> None:
    file = str(tmp_path / "a.npz")
    np.savez(file, theta=np.ones(85), image_size=[128, 64])
    for without in SMPL_ARRAYS:
        content = arrays()
        del content[without]
        np.savez(tmp_path / f"no_{without}.npz", **content)
        with pytest.raises(DataError, match=rf"The body model .* has no {without}; it should be SMPL's file"):
            FileMeshes(body_model=str(tmp_path / f"no_{without}.npz")).read(file)
    content = arrays()
    content["J_regressor"] = content["J_regressor"][:20]
    np.savez(tmp_path / "few.npz", **content)
    with pytest.raises(DataError, match="HMR's poses need 24 joints"):
        FileMeshes(body_model=str(tmp_path / "few.npz")).read(file)
