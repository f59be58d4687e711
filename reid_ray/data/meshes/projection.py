"""Project a body mesh, rotated about the vertical, with its image's camera: GCL's structure images (thesis §5.3.1).

The result resembles HMR's renderer (Kanazawa et al., CVPR 2018): a smooth light grey body on white. The body rotates;
camera and lights are fixed. Two bodies that differ only in texture have the same projection.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import numpy.typing as npt

from reid_ray.data.meshes.kernels import lambert, rasterise, vertex_normals

Float64Array = npt.NDArray[np.float64]
ALBEDO = 0.73
"""Albedo of the body: the luma of the light blue that HMR's renderer paints it with."""

LIGHT_INTENSITIES = np.array([1.0, 1.0, 0.7])

WHITE = 255


class MeshArrays(Protocol):
    """The input of a projection; `reid_ray.data.meshes.Mesh` documents the arrays."""

    @property
    def vertices(self) -> npt.NDArray[np.float32]: ...
    @property
    def faces(self) -> npt.NDArray[np.int32]: ...
    @property
    def camera(self) -> npt.NDArray[np.float32]: ...
    @property
    def image_size(self) -> npt.NDArray[np.int32]: ...


def vertical_rotation(degrees: float) -> Float64Array:
    """R_y [3, 3], to be multiplied from the right to rows of points."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, 0.0, sin], [0.0, 1.0, 0.0], [-sin, 0.0, cos]])


LIGHT_POSITIONS: Float64Array = np.array(
    [[-200.0, -100.0, -100.0], [800.0, 10.0, 300.0], [-500.0, 500.0, 1000.0]]
) @ vertical_rotation(120.0)
"""Metres, in the camera's frame: in front on the right, behind on the left, in front on the left."""


def turned(vertices: npt.NDArray[np.floating], degrees: float, centre: npt.ArrayLike | None = None) -> Float64Array:
    """Vertices [V, 3] rotated about the vertical line through `centre` [3]: (v − c)·R_y + c, the mean by default."""
    points = np.asarray(vertices, dtype=np.float64)
    middle = points.mean(axis=0) if centre is None else np.asarray(centre, dtype=np.float64)
    return np.asarray((points - middle) @ vertical_rotation(degrees) + middle)


def scaled_camera(mesh: MeshArrays, height: int, width: int) -> tuple[float, float, float, float]:
    """(fx, fy, cx, cy) in pixels of an image of `height` × `width` with the same field of view as the mesh's image."""
    focal, cx, cy = map(float, mesh.camera)
    image_height, image_width = map(int, mesh.image_size)
    across, down = width / image_width, height / image_height
    return focal * across, focal * down, cx * across, cy * down


def project(mesh: MeshArrays, angle: float, *, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Render the mesh, rotated by `angle` degrees, as uint8 [height, width]: grey on white.

    The light at a vertex is the sum of three Lambert point lights; it is interpolated between vertices and truncated to
    bytes. No clipping is needed: with this albedo no surface is lighter than 0.86. Where parts of the turned body
    are behind the camera, the rest is drawn.
    """
    vertices = turned(mesh.vertices, angle)
    light = ALBEDO * lambert(vertices, vertex_normals(vertices, mesh.faces), LIGHT_POSITIONS, LIGHT_INTENSITIES)
    image = np.ones((height, width))
    rasterise(vertices, mesh.faces, light, *scaled_camera(mesh, height, width), image)
    return (WHITE * image).astype(np.uint8)
