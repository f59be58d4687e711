"""Ray casting: each pixel's ray is intersected with the nearest part, and the result is stored in the G-buffer.

The G-buffer is the only geometric input of a shader (visible light, infrared, labels): a new modality is a new shader.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reid_ray.data.synthetic.body import Array, Parts
from reid_ray.data.synthetic.compiled import compiled

FloatImage = npt.NDArray[np.float32]


@dataclass(frozen=True)
class View:
    """A pinhole at `eye` (m) with unit axes; pixel (x, y) looks along forward + a·right + b·up.

    `box` is (left, top, right, bottom) on the plane one metre ahead; `top` is greater than `bottom`.
    """

    eye: Array
    right: Array
    up: Array
    forward: Array
    box: tuple[float, float, float, float] = (-1.0, 1.0, 1.0, -1.0)


@dataclass(frozen=True)
class GBuffer:
    """The visible surface at each pixel.

    Attributes:
        part: int32 [H, W], index of the part, −1 = none.
        depth: float32 [H, W], metres along the view axis, +inf where there is no part.
        normal: float32 [H, W, 3], unit, in world coordinates.
        surface: float32 [H, W, 3], angle around the part (rad, 0 = front), arc length (m), height along the
            part (m).
    """

    part: npt.NDArray[np.int32]
    depth: FloatImage
    normal: FloatImage
    surface: FloatImage


def look_at(eye: Array, target: Array) -> View:
    """A level camera at `eye` that looks at `target`."""
    forward = (target - eye) / np.linalg.norm(target - eye)
    flat = math.hypot(forward[0], forward[1])
    right = np.array([forward[1] / flat, -forward[0] / flat, 0.0])
    return View(eye, right, np.cross(right, forward), forward)


def bounds(view: View, parts: Parts) -> Array:
    """[P, 4] left, top, right, bottom of each part on the view plane, from bounding spheres at both ends."""
    starts, axes = parts.frame[:, :3], parts.frame[:, 9:12]
    ends = starts + axes * parts.shape[:, 2:3]
    width = parts.shape[:, :2].max(axis=1)
    is_box = parts.shape[:, 7] > 0.5
    reach = np.where(is_box, np.hypot(parts.shape[:, 0], parts.shape[:, 1]), 0.0)
    low, high = (
        np.where(is_box, reach, parts.shape[:, 3 + i] * np.maximum(width, parts.shape[:, 5 + i])) for i in (0, 1)
    )
    rectangles = []
    for points, radius in ((starts, low), (ends, high)):
        relative = points - view.eye
        depth = np.maximum(relative @ view.forward, 0.1)
        a, b = relative @ view.right / depth, relative @ view.up / depth
        margin = 1.06 * radius / depth
        rectangles.append(np.stack([a - margin, -(b + margin), a + margin, -(b - margin)], axis=1))
    left_top = np.minimum(rectangles[0], rectangles[1])[:, :2]
    right_bottom = np.maximum(rectangles[0], rectangles[1])[:, 2:]
    rectangle: Array = np.concatenate([left_top, right_bottom], axis=1) * np.array([1.0, -1.0, 1.0, -1.0])
    return rectangle


def render(view: View, parts: Parts, height: int, width: int) -> GBuffer:
    """The G-buffer of `parts` through the view's box at `height` × `width` pixels."""
    left, top, right, bottom = view.box
    rectangles = bounds(view, parts)
    scale = np.array([width / (right - left), height / (bottom - top)] * 2)
    pixels = (rectangles - np.array([left, top, left, top])) * scale
    spans = np.concatenate([np.floor(pixels[:, :2]), np.ceil(pixels[:, 2:])], axis=1)
    spans = np.clip(spans, 0, [width, height, width, height]).astype(np.int64)
    buffer = GBuffer(
        part=np.full((height, width), -1, dtype=np.int32),
        depth=np.full((height, width), np.inf, dtype=np.float32),
        normal=np.zeros((height, width, 3), dtype=np.float32),
        surface=np.zeros((height, width, 3), dtype=np.float32),
    )
    camera = np.stack([view.eye, view.forward, view.right, view.up])
    _fill(parts.frame, parts.shape, spans, camera, np.array(view.box), buffer.part, buffer.depth, buffer.normal,
          buffer.surface)  # fmt: skip
    return buffer


@compiled
def _hit_round_cone(
    ox: float, oy: float, oz: float, dx: float, dy: float, dz: float,
    length: float, r0: float, r1: float, dome0: float, dome1: float,
) -> tuple[float, float, float, float]:  # fmt: skip
    """Nearest positive t and the normal of o + t·d with the cone x² + y² = (r0 + k z)² and its two domes."""
    best, nx, ny, nz = np.inf, 0.0, 0.0, 0.0
    k = (r1 - r0) / length
    ro = r0 + k * oz
    qa = dx * dx + dy * dy - k * k * dz * dz
    qb = ox * dx + oy * dy - k * ro * dz
    root = qb * qb - qa * (ox * ox + oy * oy - ro * ro)
    if root > 0.0 and abs(qa) > 1e-12:
        root = math.sqrt(root)
        for sign in (-1.0, 1.0):
            t = (-qb + sign * root) / qa
            z = oz + t * dz
            if 0.0 < t < best and 0.0 <= z <= length:
                best = t
                nx, ny, nz = ox + t * dx, oy + t * dy, -k * (r0 + k * z)
    for end in range(2):
        radius = r1 if end else r0
        flatten = 1.0 / (dome1 if end else dome0)
        z0 = (oz - length if end else oz) * flatten
        dzf = dz * flatten
        qa = dx * dx + dy * dy + dzf * dzf
        qb = ox * dx + oy * dy + z0 * dzf
        root = qb * qb - qa * (ox * ox + oy * oy + z0 * z0 - radius * radius)
        if root > 0.0:
            t = (-qb - math.sqrt(root)) / qa
            z = z0 + t * dzf
            if 0.0 < t < best and (z >= 0.0 if end else z <= 0.0):
                best = t
                nx, ny, nz = ox + t * dx, oy + t * dy, z * flatten
    return best, nx, ny, nz


@compiled
def _hit_box(
    ox: float,
    oy: float,
    oz: float,
    dx: float,
    dy: float,
    dz: float,
    half_x: float,
    half_y: float,
    length: float,
) -> tuple[float, float, float, float]:
    """Nearest positive t and the normal of the ray with |x| ≤ half_x, |y| ≤ half_y, 0 ≤ z ≤ length."""
    near, far, axis, side = -np.inf, np.inf, 0, 0.0
    for i in range(3):
        o = ox if i == 0 else (oy if i == 1 else oz - 0.5 * length)
        d = dx if i == 0 else (dy if i == 1 else dz)
        half = half_x if i == 0 else (half_y if i == 1 else 0.5 * length)
        if abs(d) < 1e-9:
            d = 1e-9
        t0, t1 = (-half - o) / d, (half - o) / d
        if t0 > t1:
            t0, t1 = t1, t0
        if t0 > near:
            near, axis, side = t0, i, (-1.0 if d > 0 else 1.0)
        far = min(far, t1)
    if near > far or near <= 0.0:
        return np.inf, 0.0, 0.0, 0.0
    return near, side if axis == 0 else 0.0, side if axis == 1 else 0.0, side if axis == 2 else 0.0


@compiled
def _fill(
    frame: Array, shape: Array, spans: npt.NDArray[np.int64], camera: Array, box: Array,
    part: npt.NDArray[np.int32], depth: FloatImage, normal: FloatImage, surface: FloatImage,
) -> None:  # fmt: skip
    height, width = part.shape
    step_a, step_b = (box[2] - box[0]) / width, (box[3] - box[1]) / height
    for p in range(frame.shape[0]):
        is_box = shape[p, 7] > 0.5
        # The ray in the part's own coordinates, where a round cone's section is a circle.
        wide = 1.0 if is_box else 1.0 / shape[p, 0]
        deep = 1.0 if is_box else 1.0 / shape[p, 1]
        local = np.zeros((4, 3))
        for row in range(4):
            for axis in range(3):
                for i in range(3):
                    value = camera[row, i] - (frame[p, i] if row == 0 else 0.0)
                    local[row, axis] += value * frame[p, 3 + 3 * axis + i]
            local[row, 0] *= wide
            local[row, 1] *= deep
        ox, oy, oz = local[0, 0], local[0, 1], local[0, 2]
        length, r0, r1 = shape[p, 2], shape[p, 3], shape[p, 4]
        arc = 0.5 * (r0 + r1)
        for y in range(spans[p, 1], spans[p, 3]):
            b = box[1] + (y + 0.5) * step_b
            for x in range(spans[p, 0], spans[p, 2]):
                a = box[0] + (x + 0.5) * step_a
                dx = local[1, 0] + a * local[2, 0] + b * local[3, 0]
                dy = local[1, 1] + a * local[2, 1] + b * local[3, 1]
                dz = local[1, 2] + a * local[2, 2] + b * local[3, 2]
                if is_box:
                    t, nx, ny, nz = _hit_box(ox, oy, oz, dx, dy, dz, shape[p, 0], shape[p, 1], length)
                else:
                    t, nx, ny, nz = _hit_round_cone(ox, oy, oz, dx, dy, dz, length, r0, r1, shape[p, 5], shape[p, 6])
                if t >= depth[y, x]:
                    continue
                depth[y, x] = t
                part[y, x] = p
                hx, hy = ox + t * dx, oy + t * dy
                angle = math.atan2(hx, hy)
                surface[y, x, 0] = angle
                surface[y, x, 1] = hx + hy if is_box else angle * arc
                surface[y, x, 2] = oz + t * dz
                nx *= wide
                ny *= deep
                norm = 1.0 / math.sqrt(nx * nx + ny * ny + nz * nz)
                for i in range(3):
                    normal[y, x, i] = norm * (nx * frame[p, 3 + i] + ny * frame[p, 6 + i] + nz * frame[p, 9 + i])
