"""Body meshes of the synthetic world: format, agreement with the image, and how little they know of the person."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reid_ray.config.data import SyntheticConfig
from reid_ray.data.synthetic import BodyMesh, SyntheticMeshes, body_mesh, make_dataset, write_meshes
from reid_ray.data.synthetic.body import Posture, assemble, make_pose
from reid_ray.data.synthetic.mesh import bare, faces, level_camera
from reid_ray.data.synthetic.people import BagKind, HairStyle, Headwear, make_person
from reid_ray.data.synthetic.render import look_at
from reid_ray.data.synthetic.schedule import parse_key
from reid_ray.data.synthetic.world import arrange, frame_generator, person_mask
from reid_ray.errors import DataError

CONFIG = SyntheticConfig(n_train_ids=20, n_test_ids=0, images_per_id=6)
PATHS = make_dataset(CONFIG).table.paths


def _pixels(mesh: BodyMesh, height: int, width: int) -> np.ndarray:
    """[V, 2] x, y of the vertices in an image of another size, as a reader of the file projects them."""
    x, y, z = mesh.vertices.astype(np.float64).T
    focal, cx, cy = mesh.camera.astype(np.float64)
    scale = np.array([width, height]) / mesh.image_size[::-1]
    return np.stack([focal * x / z + cx, focal * y / z + cy], axis=1) * scale


def _silhouette(mesh: BodyMesh, height: int, width: int) -> np.ndarray:
    """bool [height, width]: pixels whose middle is in a triangle."""
    covered = np.zeros((height, width), dtype=bool)
    pixels = _pixels(mesh, height, width)
    for a, b, c in pixels[mesh.faces]:
        low = np.maximum(np.floor(np.min([a, b, c], axis=0)).astype(int), 0)
        high = np.minimum(np.ceil(np.max([a, b, c], axis=0)).astype(int), (width, height))
        x, y = np.meshgrid(np.arange(low[0], high[0]) + 0.5, np.arange(low[1], high[1]) + 0.5)
        sides = [(q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0]) for p, q in ((a, b), (b, c), (c, a))]
        inside = np.all([side >= 0 for side in sides], axis=0) | np.all([side <= 0 for side in sides], axis=0)
        covered[low[1] : low[1] + inside.shape[0], low[0] : low[0] + inside.shape[1]] |= inside
    return covered


def _dilated(mask: np.ndarray, radius: int) -> np.ndarray:
    """The mask grown by `radius` pixels in all directions."""
    padded = np.pad(mask, radius)
    height, width = mask.shape
    shifts = range(2 * radius + 1)
    return np.any([padded[y : y + height, x : x + width] for y in shifts for x in shifts], axis=0)


def test_format() -> None:
    first = body_mesh(CONFIG, PATHS[0])
    assert (first.vertices.dtype, first.faces.dtype) == (np.float32, np.int32)
    assert (first.camera.dtype, first.image_size.dtype) == (np.float32, np.int32)
    assert (first.camera.shape, first.image_size.shape) == ((3,), (2,))
    assert (first.faces.min(), first.faces.max()) == (0, len(first.vertices) - 1)
    for path in PATHS[::13]:
        mesh = body_mesh(CONFIG, path)
        assert mesh.vertices.shape == first.vertices.shape
        assert np.array_equal(mesh.faces, first.faces)
        assert np.isfinite(mesh.vertices).all()
        assert mesh.vertices[:, 2].min() > 1.0
        assert mesh.camera[0] > 0


def test_each_part_is_closed_and_turned_outwards() -> None:
    """Every edge is passed once in each direction, and the enclosed volume is positive."""
    triangles = faces(1).astype(int)
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    there = {tuple(edge) for edge in edges.tolist()}
    assert len(there) == len(edges)
    assert there == {(b, a) for a, b in there}
    n_vertices = int(triangles.max()) + 1
    for path in PATHS[::29]:
        mesh = body_mesh(CONFIG, path)
        vertices = mesh.vertices.astype(np.float64)
        for part in vertices.reshape(-1, n_vertices, 3):
            a, b, c = (part - part.mean(axis=0))[triangles].transpose(1, 0, 2)
            # Anticlockwise from outside in x right, y down, z forward, which is right-handed.
            assert np.einsum("nc,nc->", a, np.cross(b, c)) > 0


@pytest.mark.parametrize("config", [CONFIG, CONFIG.model_copy(update={"height": 256, "width": 128, "seed": 4})])
def test_the_silhouette_is_inside_the_person(config: SyntheticConfig) -> None:
    height, width = 128, 64
    agreement = []
    for path in make_dataset(config).table.paths[::9]:
        shot = parse_key(path, config)
        mask = person_mask(arrange(config, shot, frame_generator(config, shot)), height, width, alone=True)
        silhouette = _silhouette(body_mesh(config, path), height, width)
        assert silhouette.sum() > 0.35 * mask.sum()
        assert not (silhouette & ~_dilated(mask, 2)).any(), path
        agreement.append((silhouette & mask).sum() / silhouette.sum())
    assert min(agreement) > 0.93


@pytest.mark.parametrize("eye_height", [1.0, 2.5, 4.6])
def test_the_level_camera_sees_what_the_view_sees(eye_height: float) -> None:
    rng = np.random.default_rng(0)
    target = np.array([1.0, 6.0, 0.9])
    view = replace(look_at(np.array([0.0, 0.0, eye_height]), target), box=(-0.1, 0.2, 0.12, -0.17))
    points = target + rng.uniform(-0.9, 0.9, (50, 3))
    vertices, camera, size = level_camera(view, points)
    relative = points - view.eye
    depth = relative @ view.forward
    x = (relative @ view.right / depth + 0.1) / 0.22
    y = (0.2 - relative @ view.up / depth) / 0.37
    seen = _pixels(BodyMesh(vertices, faces(1), camera, size), 1, 1)
    assert np.allclose(seen[:, 1], y, atol=1e-4)
    assert np.allclose(seen[:, 0], x, atol=1e-3)  # the image's width is a whole number of pixels
    # Close to metres in axes of the floor: up is up, whatever the camera's pitch.
    level = np.array([view.forward[0], view.forward[1], 0.0]) / np.hypot(*view.forward[:2])
    true = np.stack([relative @ view.right, -relative[:, 2], relative @ level], axis=1)
    assert np.abs(vertices - true).max() < 0.2
    centre, _, _ = level_camera(view, target[None])
    assert np.allclose(centre, [[0.0, eye_height - 0.9, np.hypot(1.0, 6.0)]], atol=1e-5)


def test_bodies_stand_upright_at_their_height() -> None:
    for path in PATHS[::7]:
        mesh = body_mesh(CONFIG, path)
        stature = make_person(CONFIG.seed, parse_key(path, CONFIG).pid).build.stature
        tall = np.ptp(mesh.vertices[:, 1])
        assert tall == pytest.approx(stature, rel=0.12)


def test_a_mesh_shows_neither_clothes_nor_things() -> None:
    """People of one stature and girth have one body, however they are dressed and whatever they carry."""
    person, other = make_person(0, 3), make_person(0, 8)
    build = replace(other.build, stature=person.build.stature, girth=person.build.girth + 0.001)
    disguised = replace(
        other,
        build=build,
        gait=person.gait,
        hair=HairStyle.AFRO,
        headwear=Headwear.CAP,
        beard=True,
        bag=BagKind.BACKPACK,
    )
    pose = make_pose(person, 0.7, Posture.WALKING)
    bodies = [assemble(bare(each), pose) for each in (person, disguised)]
    assert np.array_equal(bodies[0].frame, bodies[1].frame)
    assert np.array_equal(bodies[0].shape, bodies[1].shape)
    assert len(bodies[0].frame) < len(assemble(disguised, pose).frame)


def test_girth_is_all_the_shape_that_differs() -> None:
    """Of 300 people of one stature, meshes tell a handful of classes apart."""
    pose = make_pose(make_person(0, 0), 0.7, Posture.WALKING)
    shapes = set()
    for pid in range(300):
        person = make_person(0, pid)
        person = replace(person, build=replace(person.build, stature=1.7), gait=make_person(0, 0).gait)
        shapes.add(assemble(bare(person), pose).shape.tobytes())
    assert len(shapes) <= 7


def test_noise_is_that_of_joint_angles_and_belongs_to_the_key() -> None:
    exact = body_mesh(CONFIG, PATHS[5])
    noisy = body_mesh(CONFIG, PATHS[5], noise=0.1)
    assert np.array_equal(exact.vertices, body_mesh(CONFIG, PATHS[5], noise=0.0).vertices)
    assert np.array_equal(noisy.vertices, body_mesh(CONFIG, PATHS[5], noise=0.1).vertices)
    assert np.array_equal(exact.camera, noisy.camera)
    assert np.array_equal(exact.image_size, noisy.image_size)
    moved = [
        np.abs(body_mesh(CONFIG, path, noise).vertices - body_mesh(CONFIG, path).vertices).mean()
        for noise in (0.02, 0.1, 0.3)
        for path in PATHS[::12]
    ]
    small, medium, large = np.array(moved).reshape(3, -1).mean(axis=1)
    assert 0.0 < small < 0.02 < medium < large < 0.2
    other = body_mesh(CONFIG, PATHS[6], noise=0.1).vertices - body_mesh(CONFIG, PATHS[6]).vertices
    assert not np.allclose(other, noisy.vertices - exact.vertices, atol=1e-3)


def test_the_column_names_meshes_that_the_reader_makes() -> None:
    config = CONFIG.model_copy(update={"mesh_noise": 0.1})
    table = make_dataset(config).table
    meshes = pickle.loads(pickle.dumps(SyntheticMeshes(config)))
    keys = table.arrow["mesh"].to_pylist()
    assert keys == table.paths
    read, expected = meshes.read(keys[4]), body_mesh(config, keys[4], 0.1)
    assert all(np.array_equal(a, b) for a, b in zip(read, expected, strict=True))
    with pytest.raises(DataError, match="has no image 'synthetic/p0001/c0/t0/0099'"):
        meshes.read("synthetic/p0001/c0/t0/0099")


def test_files_hold_the_same_arrays(tmp_path: Path) -> None:
    files = write_meshes(CONFIG, PATHS[:2], tmp_path)
    assert files == [tmp_path / f"{path}.npz" for path in PATHS[:2]]
    with np.load(files[1]) as stored:
        assert sorted(stored.files) == ["camera", "faces", "image_size", "vertices"]
        for name, array in body_mesh(CONFIG, PATHS[1])._asdict().items():
            assert stored[name].dtype == array.dtype
            assert np.array_equal(stored[name], array)


@pytest.mark.parametrize(
    "changes", [{"spectrum": "thermal", "n_cameras": 2}, {"spectrum": "near_infrared"}, {"tracklets_per_id": 2}]
)
def test_every_world_has_meshes(changes: dict[str, object]) -> None:
    config = SyntheticConfig.model_validate({"n_train_ids": 2, "n_test_ids": 0, "images_per_id": 6, **changes})
    for path in make_dataset(config).table.paths[::15]:
        shot = parse_key(path, config)
        mask = person_mask(arrange(config, shot, frame_generator(config, shot)), 64, 32, alone=True)
        silhouette = _silhouette(body_mesh(config, path), 64, 32)
        assert not (silhouette & ~_dilated(mask, 1)).any()
