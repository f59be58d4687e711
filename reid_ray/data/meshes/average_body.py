"""An average body that fills its image's box: a crude mesh for images without an estimated one.

It makes training run on real images without meshes; it ignores the person's posture and heading, so it cannot reproduce
published numbers.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reid_ray.data.meshes.files import Mesh

Float64Array = npt.NDArray[np.float64]
Point = tuple[float, float, float]

FOCAL_PER_HEIGHT = 500 / 224
"""Focal length in image heights, as HMR assumes for a crop."""

MARGIN = 0.05
"""Fraction of the image's height or width that is left free on each side, as detectors leave it."""

_SEGMENTS, _DOME_RINGS, _BODY_RINGS = 24, 6, 6


class _Limb(NamedTuple):
    """A round cone from `start` to `end` (m) with the radii at both; `depth` of the section as a share of its width."""

    start: Point
    end: Point
    first: float
    last: float
    depth: float = 1.0

    def mirrored(self) -> _Limb:
        (x, *start), (u, *end) = self.start, self.end
        return self._replace(start=(-x, start[0], start[1]), end=(-u, end[0], end[1]))


_TRUNK = {
    "head": _Limb((0.0, -0.64, 0.0), (0.0, -0.70, 0.0), 0.075, 0.072, depth=1.25),
    "neck": _Limb((0.0, -0.48, 0.0), (0.0, -0.60, 0.0), 0.055, 0.050),
    "torso": _Limb((0.0, -0.16, 0.0), (0.0, -0.40, 0.0), 0.130, 0.150, depth=0.66),
    "pelvis": _Limb((0.0, 0.02, 0.0), (0.0, -0.16, 0.0), 0.155, 0.130, depth=0.72),
}
_SIDE = {
    "upper arm": _Limb((0.17, -0.42, 0.0), (0.23, -0.13, 0.01), 0.050, 0.040),
    "forearm": _Limb((0.23, -0.13, 0.01), (0.25, 0.12, -0.03), 0.038, 0.028),
    "hand": _Limb((0.25, 0.12, -0.03), (0.25, 0.20, -0.04), 0.030, 0.024, depth=0.6),
    "thigh": _Limb((0.085, 0.05, 0.0), (0.095, 0.43, 0.0), 0.088, 0.056),
    "shin": _Limb((0.095, 0.43, 0.0), (0.10, 0.80, 0.02), 0.055, 0.038),
    "foot": _Limb((0.10, 0.84, 0.03), (0.11, 0.86, -0.13), 0.040, 0.035),
}


@lru_cache(maxsize=1)
def average_body() -> tuple[Float64Array, npt.NDArray[np.int32]]:
    """Vertices [V, 3] in metres and faces int32 [F, 3], read-only: a standing person who faces the camera.

    x right, y down, z away from the camera; the middle of the body's bounding box is the origin.
    """
    limbs = [*_TRUNK.values(), *_SIDE.values(), *(limb.mirrored() for limb in _SIDE.values())]
    solids = [_vertices(limb) for limb in limbs]
    one = _faces(len(solids[0]))
    body = np.concatenate(solids)
    triangles = np.concatenate([one + i * len(solids[0]) for i in range(len(solids))]).astype(np.int32)
    body -= (body.min(axis=0) + body.max(axis=0)) / 2
    body.flags.writeable = triangles.flags.writeable = False
    return body, triangles


def fitted_mesh(height: int, width: int) -> Mesh:
    """The average body as large as fits in an image of `height` × `width` pixels, in its middle, facing the camera."""
    body, faces = average_body()
    focal = FOCAL_PER_HEIGHT * height
    half_width, half_height, half_depth = body.max(axis=0)
    visible = (0.5 - MARGIN) * np.array([width, height])
    # The nearest parts look largest, so they determine the scale.
    depth = focal * float((np.array([half_width, half_height]) / visible).max()) + half_depth
    return Mesh(
        vertices=(body + np.array([0.0, 0.0, depth])).astype(np.float32),
        faces=faces,
        camera=np.array([focal, width / 2, height / 2], dtype=np.float32),
        image_size=np.array([height, width], dtype=np.int32),
    )


def _vertices(limb: _Limb) -> Float64Array:
    """[R, 3]: the pole beyond the start, rings from start to end, the pole beyond the end."""
    start, end = np.array(limb.start), np.array(limb.end)
    length = float(np.linalg.norm(end - start))
    along = (end - start) / length
    side = np.array([1.0, 0.0, 0.0]) - along[0] * along
    side /= np.linalg.norm(side)
    front = np.cross(along, side)

    latitudes = np.linspace(0.0, np.pi / 2, _DOME_RINGS + 1)[1:]
    shares = np.linspace(0.0, 1.0, _BODY_RINGS)
    heights = [-limb.first * np.cos(latitudes[:-1]), length * shares, length + limb.last * np.sin(latitudes[:-1])]
    radii = [
        limb.first * np.sin(latitudes[:-1]),
        limb.first + (limb.last - limb.first) * shares,
        limb.last * np.cos(latitudes[:-1]),
    ]
    turns = 2 * np.pi * np.arange(_SEGMENTS) / _SEGMENTS
    circle = np.cos(turns)[:, None] * side + limb.depth * np.sin(turns)[:, None] * front
    rings = [
        start + height * along + radius * circle
        for height, radius in zip(np.concatenate(heights), np.concatenate(radii), strict=True)
    ]
    return np.concatenate([[start - limb.first * along], *rings, [end + limb.last * along]])


def _faces(n_vertices: int) -> npt.NDArray[np.int64]:
    """[F, 3], anticlockwise from outside, of a solid with the vertices of `_vertices`."""
    n_rings = (n_vertices - 2) // _SEGMENTS
    here = np.arange(_SEGMENTS)
    after = (here + 1) % _SEGMENTS
    pole, last = 1 + n_rings * _SEGMENTS, 1 + (n_rings - 1) * _SEGMENTS
    faces = [np.stack([np.zeros_like(here), 1 + after, 1 + here], axis=1)]
    for ring in range(n_rings - 1):
        low, high = 1 + ring * _SEGMENTS, 1 + (ring + 1) * _SEGMENTS
        faces.append(np.stack([low + here, low + after, high + after], axis=1))
        faces.append(np.stack([low + here, high + after, high + here], axis=1))
    faces.append(np.stack([last + here, last + after, np.full_like(here, pole)], axis=1))
    return np.concatenate(faces)
