"""Scenes: each camera's location, optics, light, colour response and background, from (seed, camid).

Scene coordinates: the camera stands over the origin and looks along +y; x to the right, z up, metres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from reid_ray.data.synthetic.body import BOX, ROUND_CONE, Array, Parts
from reid_ray.data.synthetic.people import Colour, Material, Pattern, linear
from reid_ray.data.synthetic.streams import Stream, generator


@dataclass(frozen=True)
class Ground:
    """A textured plane: 0 plain, 1 tiles or bricks, 2 grass or foliage, 3 panels or bars; `period` in metres."""

    kind: int
    colour: Colour
    second: Colour
    period: float


@dataclass(frozen=True)
class Light:
    """Sun and sky. `sun_direction` points to the sun, unit length; colours are irradiance in linear RGB."""

    sun_direction: Colour
    sun: Colour
    sky: Colour


@dataclass(frozen=True)
class Sensor:
    """The sensor's response to linear light.

    `matrix` [3, 3] mixes colours (row = output); `sharpness` is the crop's native height as a share of the
    rendered one; `defocus` is in rendered pixels; `noise` is in display units 0 … 1; `quality` is a
    JPEG-like 1 … 100. A monochrome sensor gives its three channels one noise.
    """

    matrix: Array
    exposure: float
    gamma: float
    haze: float
    sharpness: float
    defocus: float
    noise: float
    quality: float
    monochrome: bool = False


@dataclass(frozen=True)
class Camera:
    """One camera and its scene.

    People walk at distances `near` … `far` within `half_width` of the axis, along a path whose direction is
    `path` (rad; 0 = away from the camera) or its reverse. `furniture` are fixed solids whose material rows
    follow `furniture_materials`.
    """

    eye_height: float
    near: float
    far: float
    half_width: float
    path: float
    wall_distance: float
    floor: Ground
    wall: Ground
    light: Light
    sensor: Sensor
    furniture: Parts
    furniture_materials: Array


@lru_cache(maxsize=256)
def make_camera(seed: int, camid: int) -> Camera:
    """Camera `camid` of the world `seed`."""
    rng = generator(seed, Stream.CAMERA, camid)
    near = float(rng.uniform(5.0, 9.0))
    far = near + float(rng.uniform(2.5, 5.0))
    half_width = float(rng.uniform(1.2, 2.4))
    # Consecutive ids see different sides, as in a network of cameras around a square.
    path = (camid % 3 - 1) * 0.8 + float(rng.uniform(-0.3, 0.3))
    furniture, materials = _draw_furniture(rng, near, far, half_width)
    return Camera(
        eye_height=float(rng.uniform(2.0, 4.6)),
        near=near,
        far=far,
        half_width=half_width,
        path=path,
        wall_distance=far + float(rng.uniform(1.5, 7.0)),
        floor=_draw_ground(rng, _FLOORS),
        wall=_draw_ground(rng, _WALLS),
        light=_draw_light(rng),
        sensor=_draw_sensor(rng),
        furniture=furniture,
        furniture_materials=materials,
    )


# Streets of one town: grey to beige, so that the background hardly reveals the identity.
_FLOORS = (
    (0, (118, 117, 114), (106, 105, 103)),
    (1, (146, 142, 135), (120, 116, 110)),
    (1, (132, 122, 114), (112, 104, 98)),
    (0, (142, 137, 128), (126, 122, 114)),
    (2, (122, 126, 106), (104, 110, 90)),
)
_WALLS = (
    (0, (150, 146, 138), (136, 132, 126)),
    (1, (132, 116, 108), (148, 140, 132)),
    (2, (92, 106, 82), (66, 80, 62)),
    (3, (146, 150, 154), (90, 98, 108)),
)


def _draw_ground(
    rng: np.random.Generator, choices: tuple[tuple[int, tuple[int, int, int], tuple[int, int, int]], ...]
) -> Ground:
    kind, colour, second = choices[int(rng.integers(len(choices)))]
    factor = float(np.exp(rng.normal(0, 0.15)))
    first, other = (tuple(factor * v for v in linear(rgb)) for rgb in (colour, second))
    return Ground(kind, (first[0], first[1], first[2]), (other[0], other[1], other[2]), float(rng.uniform(0.4, 1.1)))


def _draw_light(rng: np.random.Generator) -> Light:
    azimuth, elevation = float(rng.uniform(0, 2 * math.pi)), float(rng.uniform(0.5, 1.15))
    sunny = float(rng.uniform(0.0, 0.8))
    warmth = float(rng.normal(0.0, 0.06))
    sun = 0.15 + 0.95 * sunny
    sky = 1.05 - 0.5 * sunny
    return Light(
        (
            math.cos(azimuth) * math.cos(elevation),
            math.sin(azimuth) * math.cos(elevation),
            math.sin(elevation),
        ),
        (sun * (1.05 + warmth), sun, sun * (0.92 - warmth)),
        (sky * (0.96 + warmth), sky, sky * (1.05 - warmth)),
    )


def _draw_sensor(rng: np.random.Generator) -> Sensor:
    saturation = float(rng.uniform(0.7, 1.15))
    grey = np.full((3, 3), 1 / 3)
    balance = np.exp(rng.normal(0.0, 0.06, 3))
    balance /= balance.mean()
    matrix = balance[:, None] * (saturation * np.eye(3) + (1 - saturation) * grey + rng.normal(0, 0.03, (3, 3)))
    return Sensor(
        matrix=matrix,
        exposure=float(np.exp(rng.normal(0.0, 0.2))),
        gamma=float(rng.uniform(1.8, 2.6)),
        haze=float(rng.uniform(0.0, 0.02)),
        sharpness=float(rng.uniform(0.5, 0.95)),
        defocus=float(rng.uniform(0.2, 0.9)),
        noise=float(rng.uniform(0.008, 0.025)),
        quality=float(rng.uniform(45, 90)),
    )


def _draw_furniture(rng: np.random.Generator, near: float, far: float, half_width: float) -> tuple[Parts, Array]:
    """Poles, bins and parked things next to and behind the path, some between it and the camera."""
    rows, materials = [], []
    for index in range(int(rng.integers(2, 6))):
        place = [
            float(rng.uniform(-1, 1)) * (half_width + 1.5),
            float(rng.uniform(near - 1.5, far + 1.5)),
            0.0,
        ]
        if rng.random() < 0.5:
            radius = float(rng.uniform(0.03, 0.09))
            shape = [1.0, 1.0, float(rng.uniform(1.0, 4.0)), radius, radius, 1.0, 1.0, ROUND_CONE]
        else:
            shape = [
                *rng.uniform(0.15, 0.5, 2).tolist(),
                float(rng.uniform(0.4, 1.1)),
                0.0,
                0.0,
                1.0,
                1.0,
                BOX,
            ]
        rows.append([*place, *np.eye(3).reshape(-1).tolist(), *shape, *[index] * 2, 1e3, index, 0.0, 0.0, 0.0])
        shade = int(rng.integers(40, 190))
        tint = rng.integers(-25, 25, 3)
        colour = linear((shade + int(tint[0]), shade + int(tint[1]), shade + int(tint[2])))
        materials.append(Material(colour, linear((40, 40, 40)), Pattern(int(rng.choice((0, 0, 0, 1)))), 0.25).row())
    table = np.array(rows, dtype=np.float64)
    return Parts(table[:, :12], table[:, 12:20], table[:, 20:]), np.array(materials, dtype=np.float64)
