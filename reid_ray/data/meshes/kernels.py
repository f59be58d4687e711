"""Numba kernels of mesh projection: light at the vertices, and a z-buffer.

They release the interpreter lock, so that the loader's threads project in parallel. They use no fast-math: the same
mesh gives the same bytes in every process.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_PIXEL_SLACK = 1e-6
"""Bounding boxes are widened by this, in pixels: rounding must not lose a pixel whose centre is on a vertex."""


@numba.njit(cache=True, nogil=True, error_model="numpy")
def vertex_normals(vertices: Array, faces: Array) -> Array:
    """float64 [V, 3]: sum of the normals of a vertex's faces, weighted with their areas; unit, or 0 without any.

    A normal points to the side from which the face's vertices are anticlockwise.
    """
    normals = np.zeros((len(vertices), 3))
    for face in range(len(faces)):
        i, j, k = faces[face, 0], faces[face, 1], faces[face, 2]
        ax, ay, az = (
            vertices[j, 0] - vertices[i, 0],
            vertices[j, 1] - vertices[i, 1],
            vertices[j, 2] - vertices[i, 2],
        )
        bx, by, bz = (
            vertices[k, 0] - vertices[i, 0],
            vertices[k, 1] - vertices[i, 1],
            vertices[k, 2] - vertices[i, 2],
        )
        x, y, z = ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx
        for vertex in (i, j, k):
            normals[vertex, 0] += x
            normals[vertex, 1] += y
            normals[vertex, 2] += z
    for vertex in range(len(vertices)):
        x, y, z = normals[vertex, 0], normals[vertex, 1], normals[vertex, 2]
        length = math.sqrt(x * x + y * y + z * z)
        if length > 0.0:
            normals[vertex, 0] = x / length
            normals[vertex, 1] = y / length
            normals[vertex, 2] = z / length
    return normals


@numba.njit(cache=True, nogil=True, error_model="numpy")
def lambert(vertices: Array, normals: Array, positions: Array, intensities: Array) -> Array:
    """float64 [V]: Σ over point lights of intensity · max(0, cosine of normal and direction to the light).

    Args:
        positions: [L, 3], in the frame of the vertices.
        intensities: [L].
    """
    light = np.zeros(len(vertices))
    for vertex in range(len(vertices)):
        for lamp in range(len(positions)):
            x = positions[lamp, 0] - vertices[vertex, 0]
            y = positions[lamp, 1] - vertices[vertex, 1]
            z = positions[lamp, 2] - vertices[vertex, 2]
            facing = x * normals[vertex, 0] + y * normals[vertex, 1] + z * normals[vertex, 2]
            if facing > 0.0:
                light[vertex] += intensities[lamp] * facing / math.sqrt(x * x + y * y + z * z)
    return light


@numba.njit(cache=True, nogil=True, error_model="numpy")
def rasterise(
    vertices: Array, faces: Array, values: Array, fx: float, fy: float, cx: float, cy: float, image: Array
) -> None:
    """Draw triangles over `image` with a z-buffer; a pixel gets the nearest triangle's value at its centre.

    Pixel (row r, column c) looks along d = ((c + ½ − cx)/fx, (r + ½ − cy)/fy, 1). With a triangle's vertices as the
    columns of M, M·w = d determines everything: the ray meets the triangle where no w is negative, at depth 1/Σw,
    with value Σ w·value / Σw, which is perspective-correct. Nothing is divided by a vertex's depth, so triangles that
    reach behind the camera need no clipping. Both sides of a triangle are drawn; edges belong to it; of triangles at
    the same depth the first is kept.

    Args:
        vertices: float64 [V, 3], x right, y down, z forward.
        faces: int32 [F, 3].
        values: float64 [V].
        image: float64 [H, W], changed where a triangle is.
    """
    height, width = image.shape
    columns, rows = np.empty(len(vertices)), np.empty(len(vertices))
    for vertex in range(len(vertices)):
        columns[vertex] = fx * vertices[vertex, 0] / vertices[vertex, 2] + cx
        rows[vertex] = fy * vertices[vertex, 1] / vertices[vertex, 2] + cy
    nearness = np.zeros((height, width))  # 1 / depth: 0 is infinitely far
    for face in range(len(faces)):
        i, j, k = faces[face, 0], faces[face, 1], faces[face, 2]
        xi, yi, zi = vertices[i, 0], vertices[i, 1], vertices[i, 2]
        xj, yj, zj = vertices[j, 0], vertices[j, 1], vertices[j, 2]
        xk, yk, zk = vertices[k, 0], vertices[k, 1], vertices[k, 2]
        if zi <= 0.0 and zj <= 0.0 and zk <= 0.0:
            continue
        left, right, top, bottom = 0, width - 1, 0, height - 1
        if zi > 0.0 and zj > 0.0 and zk > 0.0:
            left, right = _covered(columns[i], columns[j], columns[k], width)
            top, bottom = _covered(rows[i], rows[j], rows[k], height)
        if left > right or top > bottom:
            continue
        # Rows of det(M)·M⁻¹. Shared edges give the same numbers with opposite signs: no pixel falls between triangles.
        ai, bi, ci = yj * zk - zj * yk, zj * xk - xj * zk, xj * yk - yj * xk
        aj, bj, cj = yk * zi - zk * yi, zk * xi - xk * zi, xk * yi - yk * xi
        ak, bk, ck = yi * zj - zi * yj, zi * xj - xi * zj, xi * yj - yi * xj
        determinant = xi * ai + yi * bi + zi * ci
        if determinant == 0.0:  # no area, or seen edge-on
            continue
        sign = 1.0 if determinant > 0.0 else -1.0
        for row in range(top, bottom + 1):
            dy = (row + 0.5 - cy) / fy
            for column in range(left, right + 1):
                dx = (column + 0.5 - cx) / fx
                wi = sign * (ai * dx + bi * dy + ci)
                wj = sign * (aj * dx + bj * dy + cj)
                wk = sign * (ak * dx + bk * dy + ck)
                if wi < 0.0 or wj < 0.0 or wk < 0.0:
                    continue
                total = wi + wj + wk
                near = total / (sign * determinant)
                if near > nearness[row, column]:
                    nearness[row, column] = near
                    image[row, column] = (wi * values[i] + wj * values[j] + wk * values[k]) / total


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _covered(a: float, b: float, c: float, size: int) -> tuple[int, int]:
    """First and last of the `size` pixels whose centres are between the lowest and the highest of three coordinates."""
    low, high = min(a, b, c) - 0.5 - _PIXEL_SLACK, max(a, b, c) - 0.5 + _PIXEL_SLACK
    first = 0 if low <= 0.0 else (size if low > size - 1 else math.ceil(low))
    last = size - 1 if high >= size - 1 else (-1 if high < 0.0 else math.floor(high))
    return first, last
