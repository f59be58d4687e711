"""The rasteriser against ray casting, pixel by pixel; light, normals and rotation against sums by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from seeds import SEEDS

from reid_ray.data.meshes import ANGLES, NOVEL_ANGLES, Mesh, fitted_mesh, project, turned
from reid_ray.data.meshes.kernels import lambert, rasterise, vertex_normals
from reid_ray.data.meshes.projection import ALBEDO, LIGHT_INTENSITIES, LIGHT_POSITIONS, scaled_camera

HEIGHT, WIDTH = 12, 10
CAMERA = (9.0, 11.0, 4.7, 6.2)
"""(fx, fy, cx, cy) of the small images."""

BACKGROUND = -5.0
UNCERTAIN = 1e-9
"""Barycentric coordinates nearer to 0 than this are decided by rounding; such pixels are not compared."""


def cast_ray(direction: np.ndarray, corners: np.ndarray) -> tuple[float, np.ndarray] | None:
    """Möller and Trumbore, 1997: depth and barycentric coordinates where a ray from the origin meets a triangle."""
    first, second = corners[1] - corners[0], corners[2] - corners[0]
    p = np.cross(direction, second)
    determinant = first @ p
    if determinant == 0.0:
        return None
    u = -corners[0] @ p / determinant
    q = np.cross(-corners[0], first)
    v = direction @ q / determinant
    depth = second @ q / determinant
    return depth, np.array([1 - u - v, u, v])


def naive_image(
    vertices: np.ndarray, faces: np.ndarray, values: np.ndarray, camera: tuple[float, ...], height: int, width: int
) -> np.ndarray:
    """float64 [H, W]; NaN where rounding decides what is seen."""
    fx, fy, cx, cy = camera
    image = np.full((height, width), BACKGROUND)
    for row in range(height):
        for column in range(width):
            direction = np.array([(column + 0.5 - cx) / fx, (row + 0.5 - cy) / fy, 1.0])
            nearest = math.inf
            for face in faces:
                hit = cast_ray(direction, vertices[face])
                if hit is None or hit[0] <= 0 or len(set(face.tolist())) < 3:
                    continue
                depth, weights = hit
                if np.abs(weights).min() < UNCERTAIN:
                    nearest, image[row, column] = 0.0, np.nan
                elif weights.min() > 0 and depth < nearest:
                    nearest, image[row, column] = depth, weights @ values[face]
    return image


def drawn(
    vertices: np.ndarray, faces: np.ndarray, values: np.ndarray, camera: tuple[float, ...] = CAMERA
) -> np.ndarray:
    image = np.full((HEIGHT, WIDTH), BACKGROUND)
    faces = np.asarray(faces, dtype=np.int32)
    rasterise(np.asarray(vertices, dtype=np.float64), faces, np.asarray(values, dtype=np.float64), *camera, image)
    return image


def triangles(seed: int, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    vertices = rng.uniform([-1.2, -1.2, 0.5], [1.2, 1.2, 4.0], (18, 3))
    if kind == "across the border":
        vertices[:, :2] *= 6
    elif kind == "partly behind":
        vertices[:, 2] -= 2.2
    elif kind == "small":
        vertices = np.tile(vertices, (4, 1)) + rng.normal(0, 0.1, (72, 3))
        vertices = vertices[:, None].repeat(3, 1).reshape(-1, 3) + rng.normal(0, 0.1, (216, 3))
    faces = np.arange(len(vertices)).reshape(-1, 3)
    if kind == "connected":
        faces = rng.integers(0, len(vertices), (20, 3))  # some with a vertex twice: no area
    return vertices, faces, rng.uniform(0, 1, len(vertices))


@pytest.mark.parametrize("kind", ["large", "across the border", "partly behind", "small", "connected"])
@settings(max_examples=4)
@given(seed=SEEDS)
def test_equals_ray_casting(kind: str, seed: int) -> None:
    vertices, faces, values = triangles(seed, kind)
    expected = naive_image(vertices, faces, values, CAMERA, HEIGHT, WIDTH)
    found = drawn(vertices, faces, values)
    certain = ~np.isnan(expected)
    assert certain.mean() > 0.95
    np.testing.assert_allclose(found[certain], expected[certain], rtol=0, atol=1e-9)
    covered = (expected[certain] != BACKGROUND).mean()
    assert covered > 0.05, "the case draws nothing"


def test_of_equal_depths_the_first_is_kept_and_a_nearer_one_wins() -> None:
    flat = np.array([[-3.0, -3, 2], [3, -3, 2], [0, 5, 2]])
    ahead = np.array([0, 0, 1])
    vertices = np.concatenate([flat, flat, flat - ahead, flat + ahead])
    values = np.repeat([1.0, 2.0, 3.0, 4.0], 3)
    faces = np.arange(12).reshape(4, 3)
    assert drawn(vertices, faces[[0, 1]], values)[6, 5] == pytest.approx(1.0)
    assert drawn(vertices, faces[[1, 0]], values)[6, 5] == pytest.approx(2.0)
    for order in ([0, 2, 3], [3, 2, 0], [2, 3, 0]):
        assert drawn(vertices, faces[order], values)[6, 5] == pytest.approx(3.0)


def test_no_gap_on_a_shared_edge_through_pixel_centres() -> None:
    """A square cut along its diagonal, which meets the centres of ten pixels; then turned by steps of 1°."""
    square = np.array([[-1.0, -1, 1], [1, -1, 1], [1, 1, 1], [-1, 1, 1]])
    faces = [[0, 1, 2], [0, 2, 3]]
    for degrees in range(90):
        turn = np.radians(degrees)
        rotated = square.copy()
        rotated[:, 0] = np.cos(turn) * square[:, 0] - np.sin(turn) * square[:, 1]
        rotated[:, 1] = np.sin(turn) * square[:, 0] + np.cos(turn) * square[:, 1]
        image = drawn(rotated, faces, np.ones(4), (5.0, 5.0, 5.0, 5.0))
        middle = image[2:8, 2:8]
        np.testing.assert_allclose(middle, 1.0, err_msg=f"at {degrees}°")
    aligned = drawn(square, faces, np.ones(4), (5.0, 5.0, 5.0, 5.0))
    np.testing.assert_allclose(aligned[:10], 1.0)
    assert (aligned[10:] == BACKGROUND).all()


@pytest.mark.parametrize(
    "corners",
    [
        [[0.0, 0, 2], [1, 1, 2], [2, 2, 2]],  # on a line
        [[0.5, 0.5, 2]] * 3,  # a point
        [[0.0, 0, 1], [0, 0, 2], [0, 1, 3]],  # the camera is in its plane
        [[-1.0, -1, -2], [1, -1, -2], [0, 1, -2]],  # behind
        [[-1.0, -1, 0], [1, -1, 0], [0, 1, 0]],  # in the camera's plane
        [[9.0, 9, 1], [10, 9, 1], [9, 10, 1]],  # out of the image
    ],
)
def test_triangles_that_nothing_is_seen_of(corners: list[list[float]]) -> None:
    assert (drawn(np.array(corners), [[0, 1, 2]], np.ones(3)) == BACKGROUND).all()


def test_interpolation_is_perspective_correct() -> None:
    """On a floor that recedes, the middle between two posts is not halfway up the image."""
    floor = np.array([[-1.0, 1, 1], [1, 1, 1], [1, 1, 3], [-1, 1, 3]])
    values = np.array([1.0, 1, 3, 3])  # the depth itself
    image = drawn(floor, [[0, 1, 2], [0, 2, 3]], values, (5.0, 10.0, 5.0, 0.0))
    for row in range(4, 9):
        assert image[row, 5] == pytest.approx(10.0 / (row + 0.5))


def test_normals_are_weighted_with_areas_and_point_outwards() -> None:
    rng = np.random.default_rng(0)
    vertices, faces = rng.normal(size=(7, 3)), rng.integers(0, 6, (9, 3)).astype(np.int32)  # vertex 6 has no face
    expected = np.zeros((7, 3))
    for face in faces:
        a, b, c = vertices[face]
        for vertex in face:
            expected[vertex] += np.cross(b - a, c - a)
    expected[:6] /= np.linalg.norm(expected[:6], axis=1, keepdims=True)
    np.testing.assert_allclose(vertex_normals(vertices, faces), expected, atol=1e-12)
    assert (vertex_normals(vertices, faces)[6] == 0).all()

    mesh = fitted_mesh(64, 32)
    points = mesh.vertices.astype(np.float64)
    outward = vertex_normals(points, mesh.faces)
    assert outward[points[:, 1].argmin(), 1] < -0.9, "the crown of the head looks up"


def test_light_is_the_sum_of_three_lambert_lights() -> None:
    rng = np.random.default_rng(1)
    vertices, normals = rng.normal([0, 0, 4], size=(20, 3)), rng.normal(size=(20, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    found = lambert(vertices, normals, LIGHT_POSITIONS, LIGHT_INTENSITIES)
    cos, sin = -0.5, math.sqrt(3) / 2  # of 120°
    lamps = [((-200, -100, -100), 1.0), ((800, 10, 300), 1.0), ((-500, 500, 1000), 0.7)]
    for vertex, normal, light in zip(vertices, normals, found, strict=True):
        expected = 0.0
        for (x, y, z), intensity in lamps:
            to_lamp = np.array([x * cos - z * sin, y, x * sin + z * cos]) - vertex
            expected += intensity * max(0.0, normal @ to_lamp / math.sqrt(to_lamp @ to_lamp))
        assert light == pytest.approx(expected, abs=1e-12)


def test_no_surface_is_so_light_that_a_byte_cannot_hold_it() -> None:
    normals = np.random.default_rng(4).normal(size=(20_000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    light = ALBEDO * lambert(np.tile([0.0, 0, 4], (len(normals), 1)), normals, LIGHT_POSITIONS, LIGHT_INTENSITIES)
    assert 0 <= light.min() < 0.02
    assert 0.85 < light.max() < 0.86


def test_rotation_by_the_number_of_the_reference() -> None:
    points = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
    expected = [[0.5, 0, 1], [0.5, 1, 0], [-0.5, 0, 0], [0.5, 0, 0]]
    np.testing.assert_allclose(turned(points, 90.0), expected, atol=1e-12)
    np.testing.assert_allclose(turned(points, 90.0, centre=(0.25, 0.25, 0.25)), expected, atol=1e-12)


def test_eight_turns_of_45_degrees_come_back() -> None:
    points = np.random.default_rng(2).normal(size=(30, 3))
    around = points
    for _ in range(8):
        around = turned(around, 45.0)
    np.testing.assert_allclose(around, points, atol=1e-12)


def test_a_projection_is_what_ray_casting_of_the_turned_and_lit_mesh_gives() -> None:
    rng = np.random.default_rng(3)
    mesh = Mesh(
        vertices=(rng.normal(size=(12, 3)) * [0.4, 0.8, 0.3] + [0, 0, 3]).astype(np.float32),
        faces=rng.integers(0, 12, (12, 3)).astype(np.int32),
        camera=np.array([40.0, 14.0, 31.0], dtype=np.float32),
        image_size=np.array([60, 30], dtype=np.int32),
    )
    camera = scaled_camera(mesh, 24, 10)
    np.testing.assert_allclose(camera, (40 / 3, 16.0, 14 / 3, 12.4))
    for angle in (0, 135):
        vertices = turned(mesh.vertices, angle)
        normals = vertex_normals(vertices, mesh.faces)
        light = ALBEDO * lambert(vertices, normals, LIGHT_POSITIONS, LIGHT_INTENSITIES)
        image = naive_image(vertices, mesh.faces, light, camera, 24, 10)
        image[image == BACKGROUND] = 1.0
        certain = ~np.isnan(image)
        expected = np.array([int(255 * value) for value in image[certain]])
        found = project(mesh, angle, height=24, width=10)
        assert found.dtype == np.uint8
        assert found.shape == (24, 10)
        assert np.abs(found[certain].astype(int) - expected).max() <= 1  # truncation of a value on a byte's border
        assert (found[certain] == expected).mean() > 0.98


def test_the_camera_keeps_what_the_image_shows_at_any_size() -> None:
    mesh = fitted_mesh(128, 64)
    small, large = project(mesh, 45, height=64, width=32), project(mesh, 45, height=128, width=64)
    blocks = (large < 255).reshape(64, 2, 32, 2).mean(axis=(1, 3))
    assert ((small < 255) == (blocks > 0.5))[(blocks == 0) | (blocks == 1)].all()


def test_faces_wound_inwards_change_the_light_and_not_the_silhouette() -> None:
    mesh = fitted_mesh(64, 32)
    inside_out = Mesh(mesh.vertices, np.ascontiguousarray(mesh.faces[:, ::-1]), mesh.camera, mesh.image_size)
    right, wrong = project(mesh, 0, height=64, width=32), project(inside_out, 0, height=64, width=32)
    assert ((right < 255) == (wrong < 255)).all()
    assert right[right < 255].mean() > wrong[right < 255].mean() + 50


def test_angles() -> None:
    assert ANGLES == (0, 45, 90, 135, 180, 225, 270, 315)
    assert NOVEL_ANGLES["seven"] == (45, 90, 135, 180, 225, 270, 315)
    assert NOVEL_ANGLES["six"] == (45, 90, 135, 180, 225, 270)
