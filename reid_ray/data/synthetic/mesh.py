"""Body meshes of the synthetic world, as a mesh estimator such as HMR would give them for an image.

A mesh shows position and posture of the body in the camera and box of its image, and little of the identity. It is a
naked body: no clothes, hair, hat or bag. It has the person's stature, and the girth in steps of a tenth; all other
proportions are average. The posture is that of the image, so it includes the amplitudes of the person's gait, and an
arm that holds a bag hangs still. `noise` blurs these as an estimator does.

File format: `vertices` float32 [V, 3] in camera coordinates, metres, x right, y down, z forward; `faces` int32 [F, 3],
the same for all images, anticlockwise from outside; `camera` float32 [3] = (f, cx, cy) in pixels of `image_size` int32
[2] = (H, W), which is the whole image. A vertex is seen at (f·x/z + cx, f·y/z + cy), measured from the image's corner,
so that the first pixel's middle is (½, ½).

The file's camera is level, as for an estimator that expects upright people: y is the true vertical, so that a mesh
rotated about it stays upright. It projects each point to the same pixel as the image's own camera, which looks down.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reid_ray.config.data import SyntheticConfig
from reid_ray.data.synthetic.body import Array, Parts, Pose, assemble, make_pose
from reid_ray.data.synthetic.people import BagKind, HairStyle, Headwear, LowerKind, Outfit, Person, make_person
from reid_ray.data.synthetic.render import View
from reid_ray.data.synthetic.schedule import parse_key
from reid_ray.data.synthetic.streams import Stream, generator
from reid_ray.data.synthetic.world import arrange, frame_generator

_HEIGHT = 1024
"""Pixels of the image in which a mesh's camera is given. The sides of its box are rounded to whole pixels there."""

_SEGMENTS = 16
_DOME = np.radians((0.0, 30.0, 60.0))
"""Latitudes of the rings on a dome; its pole is a vertex."""


class BodyMesh(NamedTuple):
    """A mesh in its image's camera; the module's docstring describes the arrays."""

    vertices: npt.NDArray[np.float32]
    faces: npt.NDArray[np.int32]
    camera: npt.NDArray[np.float32]
    image_size: npt.NDArray[np.int32]


@dataclass(frozen=True)
class SyntheticMeshes:
    """Makes the mesh that a key of the table's column `mesh` names, with the noise of the configuration."""

    config: SyntheticConfig

    def read(self, path: str) -> BodyMesh:
        """The mesh of one image; `DataError` for a key that is not in this world."""
        return body_mesh(self.config, path, self.config.mesh_noise)


def body_mesh(config: SyntheticConfig, key: str, noise: float = 0.0) -> BodyMesh:
    """The body in the image `key`, seen by the image's camera through the image's box.

    Args:
        noise: standard deviation of the error in each joint angle and in the heading, radians; drawn from the key.

    Raises:
        DataError: this world has no image of that key.
    """
    shot = parse_key(key, config)
    scene = arrange(config, shot, frame_generator(config, shot))
    person, walk = make_person(config.seed, shot.pid), scene.walk
    rng = generator(config.seed, Stream.MESH, shot.pid, shot.camid, shot.tracklet, shot.frame)
    pose = _estimated(make_pose(person, walk.phase_at(shot.frame), walk.posture), noise, rng)
    heading = walk.heading + noise * float(rng.standard_normal())
    body = assemble(bare(person), pose).placed(walk.place(shot.frame), heading, 0)
    vertices, camera, image_size = level_camera(scene.view, _vertices(body))
    return BodyMesh(vertices, faces(len(body.frame)), camera, image_size)


def write_meshes(config: SyntheticConfig, keys: Iterable[str], folder: Path, noise: float | None = None) -> list[Path]:
    """Write the meshes of `keys` as `folder`/KEY.npz, with the noise of the configuration unless another is given."""
    files = []
    for key in keys:
        mesh = body_mesh(config, key, config.mesh_noise if noise is None else noise)
        file = folder / f"{key}.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **mesh._asdict())
        files.append(file)
    return files


def bare(person: Person) -> Person:
    """The person as a mesh shows it: without clothes and objects, and with mostly average proportions."""
    build = replace(person.build, girth=round(person.build.girth, 1), shoulders=1.0, hips=1.0, legs=1.0, head=1.0)
    outfit = Outfit(
        sleeve=0.0, hem=0.0, opening=0.0, coat=0.0, upper_looseness=0.0, lower_kind=LowerKind.TROUSERS,
        lower_length=0.0, lower_looseness=0.0, boot=0.0,
    )  # fmt: skip
    return replace(
        person, build=build, outfit=outfit, hair=HairStyle.BALD, headwear=Headwear.NONE, beard=False, bag=BagKind.NONE
    )


def _estimated(pose: Pose, noise: float, rng: np.random.Generator) -> Pose:
    """The pose with an error in each angle; knees and elbows do not bend backwards."""
    angles: dict[str, tuple[float, float] | float] = {}
    for field in fields(pose):
        true = getattr(pose, field.name)
        error = noise * rng.standard_normal(np.shape(true))
        least = 0.0 if field.name in ("knees", "elbows") else -np.inf
        value = np.maximum(np.asarray(true) + error, least)
        angles[field.name] = (float(value[0]), float(value[1])) if value.ndim else float(value)
    return Pose(**angles)  # type: ignore[arg-type]


def level_camera(
    view: View, points: Array
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    """Convert world points [N, 3] to vertices of a level camera with the same projections; also returns camera and
    image size.

    With pitch φ and a, b the coordinates on the view plane, a point at level distance Z has the level slopes X/Z =
    a / cos φ and Y/Z = tan φ − b / cos² φ, exactly on the view's axis and to first order around it. The vertex is the
    point with these slopes, so that its pixel is exact and its place is off by a few per cent of the body's size.
    """
    level = np.array([view.forward[0], view.forward[1], 0.0])
    cosine = float(np.linalg.norm(level))
    slope = -float(view.forward[2]) / cosine
    relative = points - view.eye
    depth = relative @ view.forward
    a, b, z = relative @ view.right / depth, relative @ view.up / depth, relative @ level / cosine
    vertices = np.stack([a / cosine, slope - b / cosine**2, np.ones_like(z)], axis=1) * z[:, None]
    left, top, right, bottom = view.box
    rows = _HEIGHT / (top - bottom)
    columns = rows * cosine
    focal = columns * cosine
    camera = np.array([focal, -columns * left, rows * top - focal * slope], dtype=np.float32)
    image_size = np.array([_HEIGHT, round(columns * (right - left))], dtype=np.int32)
    return vertices.astype(np.float32), camera, image_size


def _vertices(parts: Parts) -> Array:
    """World coordinates [P · R, 3] of round cones' surfaces: the lower pole, rings from end to end, the upper pole."""
    angles = 2.0 * np.pi * np.arange(_SEGMENTS) / _SEGMENTS
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    points = []
    for frame, shape in zip(parts.frame, parts.shape, strict=True):
        section, length, low, high = shape[:2], shape[2], shape[3], shape[4]
        radii = [low * np.cos(angle) for angle in _DOME[::-1]] + [high * np.cos(angle) for angle in _DOME]
        heights = [-low * shape[5] * np.sin(angle) for angle in _DOME[::-1]]
        heights += [length + high * shape[6] * np.sin(angle) for angle in _DOME]
        rings = [
            np.column_stack([r * circle * section, np.full(_SEGMENTS, z)]) for r, z in zip(radii, heights, strict=True)
        ]
        poles = [[[0.0, 0.0, -low * shape[5]]], [[0.0, 0.0, length + high * shape[6]]]]
        local = np.concatenate([poles[0], *rings, poles[1]])
        axes = frame[3:].reshape(3, 3)
        # Frames of hanging parts are left-handed; they are mirrored so that all faces keep their orientation.
        local[:, 0] *= np.sign(np.linalg.det(axes))
        points.append(frame[:3] + local @ axes)
    return np.concatenate(points)


@lru_cache(maxsize=4)
def faces(n_parts: int) -> npt.NDArray[np.int32]:
    """int32 [F, 3] for `n_parts` parts, read-only; the same for all bodies."""
    ring = np.arange(_SEGMENTS)
    following = (ring + 1) % _SEGMENTS
    n_rings = 2 * len(_DOME)
    top = 1 + n_rings * _SEGMENTS
    triangles = [np.stack([np.zeros_like(ring), 1 + following, 1 + ring], axis=1)]
    for index in range(n_rings - 1):
        start = 1 + index * _SEGMENTS
        lower, upper = start + ring, start + _SEGMENTS + ring
        next_lower, next_upper = start + following, start + _SEGMENTS + following
        triangles += [np.stack([lower, next_lower, next_upper], axis=1), np.stack([lower, next_upper, upper], axis=1)]
    last = top - _SEGMENTS
    triangles.append(np.stack([last + ring, last + following, np.full_like(ring, top)], axis=1))
    one = np.concatenate(triangles)
    every = (one + (top + 1) * np.arange(n_parts)[:, None, None]).reshape(-1, 3).astype(np.int32)
    every.flags.writeable = False
    return every
