"""Shade a G-buffer with materials: visible light, or infrared, whose image is one channel in three copies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from reid_ray.data.synthetic.body import Array
from reid_ray.data.synthetic.cameras import Camera, Ground, Light
from reid_ray.data.synthetic.compiled import compiled
from reid_ray.data.synthetic.people import Colour
from reid_ray.data.synthetic.render import FloatImage, GBuffer, View


def shade_visible(
    buffer: GBuffer, cover: Array, materials: Array, walkers: Array, camera: Camera, light: Light, view: View
) -> FloatImage:
    """Linear RGB [H, W, 3].

    `cover` [P, 7] and `materials` [M, 16] are those of `body.Parts` and `people.Material`; `walkers` [A, 3]
    contain the position (x, y) and stature of everyone who casts a shadow; `light` is the camera's at this moment.
    """
    image = np.empty(buffer.normal.shape, dtype=np.float32)
    eyes = np.stack([view.eye, view.forward, view.right, view.up])
    lamps = np.array([light.sun_direction, light.sun, light.sky])
    grounds = np.array([_ground_row(camera.floor), _ground_row(camera.wall)])
    _shade(
        buffer.part, buffer.normal, buffer.surface, cover, materials, walkers, eyes, np.array(view.box),
        lamps, grounds, camera.wall_distance, image,
    )  # fmt: skip
    return image


@dataclass(frozen=True)
class Beam:
    """Signal of an infrared camera from a surface of reflectance, or heat, a.

    signal = a · (`ambient` + `direct` · |n·v|) · falloff, n the normal and v the direction to the camera. A lamp at the
    camera falls off as (`reference` / distance)² · exp(−(1 − cos) / `width`), cos that of the angle to its axis; heat
    needs no lamp and does not fall off.

    Attributes:
        axis: unit vector along which the lamp points.
        reference: distance at which the lamp gives 1, metres; 0 = no lamp.
        folds: how much folds of cloth and grain of the ground vary the signal; 1 as in visible light, 0 not at all.
    """

    direct: float
    ambient: float
    folds: float
    reference: float = 0.0
    width: float = 1.0
    axis: Colour = (0.0, 1.0, 0.0)


def shade_infrared(
    buffer: GBuffer,
    cover: Array,
    materials: Array,
    grounds: tuple[Ground, Ground],
    wall_distance: float,
    beam: Beam,
    view: View,
) -> FloatImage:
    """Infrared signal [H, W, 3], three equal channels.

    `materials` [M, 16] are rows like those of visible light, in which the first number of each colour is the
    infrared reflectance or heat; `grounds` are the floor and the wall, likewise.
    """
    image = np.empty(buffer.normal.shape, dtype=np.float32)
    eyes = np.stack([view.eye, view.forward, view.right, view.up])
    lamp = np.array([beam.direct, beam.ambient, beam.folds, beam.reference, beam.width, *beam.axis])
    _shade_mono(
        buffer.part, buffer.depth, buffer.normal, buffer.surface, cover, materials, eyes, np.array(view.box), lamp,
        np.array([_ground_row(ground) for ground in grounds]), wall_distance, image,
    )  # fmt: skip
    return image


def _ground_row(ground: Ground) -> list[float]:
    return [float(ground.kind), *ground.colour, *ground.second, ground.period]


@compiled
def _hash(x: int, y: int, seed: int) -> float:
    """A fixed pseudo-random number in [0, 1) for integer coordinates."""
    h = (x * 374761393 + y * 668265263 + seed * 974711) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFF) / 65536.0


@compiled
def _noise(x: float, y: float, seed: int) -> float:
    """Smooth value noise in [0, 1) with one cell per unit."""
    x0, y0 = math.floor(x), math.floor(y)
    fx, fy = x - x0, y - y0
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    ix, iy = int(x0), int(y0)
    top = _hash(ix, iy, seed) * (1 - fx) + _hash(ix + 1, iy, seed) * fx
    low = _hash(ix, iy + 1, seed) * (1 - fx) + _hash(ix + 1, iy + 1, seed) * fx
    return top * (1 - fy) + low * fy


@compiled
def _share(x: float) -> float:
    """The fraction of x."""
    return x - math.floor(x)


@compiled
def _second_weight(row: Array, s: float, v: float) -> float:
    """Weight of a material's second colour at arc length s and height v, 0 … 1."""
    pattern, period, duty, seed = int(row[6]), row[7], row[8], int(row[9])
    if pattern == 1:
        return 1.0 if _share(v / period) < duty else 0.0
    if pattern == 2:
        return 1.0 if _share(s / (0.6 * period)) < 0.4 * duty + 0.1 else 0.0
    if pattern == 3:
        across = 1.0 if _share(s / period) < duty else 0.0
        along = 1.0 if _share(v / period) < duty else 0.0
        return 0.5 * (across + along)
    if pattern == 4:
        row_shift = 0.5 * (math.floor(v / (0.7 * period)) % 2)
        x, y = _share(s / (0.7 * period) + row_shift) - 0.5, _share(v / (0.7 * period)) - 0.5
        return 1.0 if x * x + y * y < 0.2 * duty else 0.0
    if pattern == 5:
        return 1.0 if abs(v - 0.4 * (0.2 + period)) < 0.2 * duty else 0.0
    if pattern == 6:
        return min(1.0, max(0.0, v / 0.4))
    if pattern == 7:
        return 1.0 if _noise(s / (0.6 * period), v / (0.6 * period), seed) > 1.0 - duty else 0.0
    if pattern == 8:
        return 1.0 if _share((s + v) / period) < duty else 0.0
    return 0.0


@compiled
def _in_figure(row: Array, x: float, y: float) -> bool:
    """Whether a print covers the point (x, y), its extent being −1 … 1."""
    figure = int(row[10])
    if abs(x) > 1.0 or abs(y) > 1.0:
        return False
    if figure == 1:
        return x * x + y * y < 0.9
    if figure == 2:
        return 0.35 < x * x + y * y < 1.0
    if figure == 3:
        return True
    if figure == 4:
        return abs(x) < 0.5 * (1.0 - y)
    if figure == 5:
        return _share(1.5 * (y + 1.0)) < 0.5
    if figure == 6:
        return abs(x) < 0.35 or abs(y) < 0.35
    return _hash(int(2.5 * abs(x)), int(2.5 * (y + 1.0)), int(row[9])) < 0.5


@compiled
def _ground_weight(row: Array, x: float, y: float, seed: int) -> float:
    """Weight of a ground's second colour at (x, y) metres."""
    kind, period = int(row[0]), row[7]
    if kind == 1:
        shift = 0.5 * (math.floor(2.0 * y / period) % 2)
        joint = _share(x / period + shift) < 0.1 or _share(2.0 * y / period) < 0.2
        tone = 0.5 * _hash(math.floor(x / period + shift), math.floor(2.0 * y / period), seed)
        return 1.0 if joint else tone
    if kind == 2:
        coarse = _noise(x / (0.5 * period), y / (0.5 * period), seed)
        return min(1.0, max(0.0, 2.2 * (0.6 * coarse + 0.4 * _noise(x * 9.0, y * 9.0, seed + 1)) - 0.6))
    if kind == 3:
        return 1.0 if _share(x / (2.0 * period)) < 0.45 and _share(y / (2.5 * period) + 0.3) < 0.6 else 0.0
    return _noise(x / period, y / period, seed)


@compiled
def _shows_print(row: Array, angle: float, s: float, v: float) -> bool:
    """Whether the material's print covers this point of a trunk or bag, on the front or on the back."""
    x = s
    if row[15] < 0.0:
        x = math.copysign(math.pi * abs(s / angle) - abs(s), angle) if abs(angle) > 1.0 else 1e3
    return _in_figure(row, x / row[14], (v - 0.22) / row[14])


@compiled
def _seen_material(p: int, surface: FloatImage, cover: Array, materials: Array) -> tuple[int, float, bool, float]:
    """Material at a point of part p, weight of its second colour, whether its print shows, and the light on folds."""
    angle, s, v = surface[0], surface[1], surface[2]
    is_open = cover[4] > 0.0 and abs(angle) < cover[4]
    slot = int(cover[3] if is_open else (cover[0] if v < cover[2] else cover[1]))
    row = materials[slot]
    printed = cover[5] > 0.0 and row[10] > 0.0 and _shows_print(row, angle, s, v)
    # Folds of cloth: a low-frequency variation of the light that the smooth solids lack.
    fold = 0.84 + 0.32 * _noise(s * 14.0 + p, v * 9.0, p)
    return slot, _second_weight(row, s, v), printed, fold


@compiled
def _shade_part(
    pixel: FloatImage,
    p: int,
    normal: FloatImage,
    surface: FloatImage,
    cover: Array,
    materials: Array,
    lamps: Array,
) -> None:
    slot, weight, printed, fold = _seen_material(p, surface, cover, materials)
    row = materials[slot]
    facing = normal[0] * lamps[0, 0] + normal[1] * lamps[0, 1] + normal[2] * lamps[0, 2]
    sunlight, skylight = max(0.0, facing) * fold, (0.62 + 0.38 * normal[2]) * fold
    for c in range(3):
        base = row[11 + c] if printed else row[c] * (1.0 - weight) + row[3 + c] * weight
        pixel[c] = base * (lamps[1, c] * sunlight + lamps[2, c] * skylight)


@compiled
def _floor_light(x: float, y: float, walkers: Array, lamps: Array) -> tuple[float, float]:
    """Shares of sun and sky light that reach the floor at (x, y): less in people's shadows and close to their feet."""
    sun_x, sun_y, sun_z = lamps[0, 0], lamps[0, 1], lamps[0, 2]
    flat = math.hypot(sun_x, sun_y)
    sunlight, skylight = sun_z, 1.0
    for i in range(walkers.shape[0]):
        ex, ey = x - walkers[i, 0], y - walkers[i, 1]
        along, across = -(ex * sun_x + ey * sun_y) / flat, abs(ex * sun_y - ey * sun_x) / flat
        if -0.1 < along < walkers[i, 2] * flat / sun_z:
            sunlight *= min(1.0, max(0.15, (across - 0.12) / 0.1))
        skylight *= 1.0 - 0.45 * math.exp(-(ex * ex + ey * ey) / 0.09)
    return sunlight, skylight


@compiled
def _meet_ground(eye: Array, direction: Array, wall_distance: float) -> tuple[bool, float, float, float]:
    """Whether a ray meets the floor (or else the wall), at which t, and where on the plane, metres."""
    to_wall = (wall_distance - eye[1]) / max(direction[1], 1e-6)
    to_floor = -eye[2] / direction[2] if direction[2] < 0.0 else np.inf
    is_floor = to_floor < to_wall
    t = min(to_floor, to_wall)
    x = eye[0] + t * direction[0]
    y = eye[1] + t * direction[1] if is_floor else eye[2] + t * direction[2]
    return is_floor, t, x, y


@compiled
def _shade_ground(
    pixel: FloatImage,
    eye: Array,
    direction: Array,
    walkers: Array,
    lamps: Array,
    grounds: Array,
    wall_distance: float,
) -> None:
    is_floor, _, x, y = _meet_ground(eye, direction, wall_distance)
    row = grounds[0] if is_floor else grounds[1]
    if is_floor:
        sunlight, skylight = _floor_light(x, y, walkers, lamps)
    else:
        sunlight, skylight = max(0.0, -lamps[0, 1]), 0.7
    weight = _ground_weight(row, x, y, 11 if is_floor else 23)
    grain = 0.85 + 0.3 * _noise(x * 7.0, y * 7.0, 31)
    for c in range(3):
        tone = row[1 + c] * (1.0 - weight) + row[4 + c] * weight
        pixel[c] = tone * grain * (lamps[1, c] * sunlight + lamps[2, c] * skylight)


@compiled
def _shade(
    part: npt.NDArray[np.int32], normal: FloatImage, surface: FloatImage, cover: Array, materials: Array,
    walkers: Array, camera: Array, box: Array, lamps: Array, grounds: Array, wall_distance: float, image:
    FloatImage,
) -> None:  # fmt: skip
    height, width = part.shape
    direction = np.empty(3)
    for y in range(height):
        b = box[1] + (y + 0.5) * (box[3] - box[1]) / height
        for x in range(width):
            p = part[y, x]
            if p >= 0:
                _shade_part(image[y, x], p, normal[y, x], surface[y, x], cover[p], materials, lamps)
                continue
            a = box[0] + (x + 0.5) * (box[2] - box[0]) / width
            for i in range(3):
                direction[i] = camera[1, i] + a * camera[2, i] + b * camera[3, i]
            _shade_ground(image[y, x], camera[0], direction, walkers, lamps, grounds, wall_distance)


@compiled
def _falloff(direction: Array, t: float, lamp: Array) -> float:
    """Relative irradiance at t · direction of a lamp at the eye; 1 without a lamp."""
    if lamp[3] == 0.0:
        return 1.0
    length = math.sqrt(direction[0] ** 2 + direction[1] ** 2 + direction[2] ** 2)
    cosine = (direction[0] * lamp[5] + direction[1] * lamp[6] + direction[2] * lamp[7]) / length
    ratio = lamp[3] / (t * length)
    return float(ratio * ratio * math.exp((cosine - 1.0) / lamp[4]))


@compiled
def _shade_mono(
    part: npt.NDArray[np.int32], depth: FloatImage, normal: FloatImage, surface: FloatImage, cover: Array,
    materials: Array, camera: Array, box: Array, lamp: Array, grounds: Array, wall_distance: float, image: FloatImage,
) -> None:  # fmt: skip
    height, width = part.shape
    ray = np.empty(3)
    for py in range(height):
        b = box[1] + (py + 0.5) * (box[3] - box[1]) / height
        for px in range(width):
            a = box[0] + (px + 0.5) * (box[2] - box[0]) / width
            for i in range(3):
                ray[i] = camera[1, i] + a * camera[2, i] + b * camera[3, i]
            length = math.sqrt(ray[0] ** 2 + ray[1] ** 2 + ray[2] ** 2)
            p = part[py, px]
            if p >= 0:
                slot, weight, printed, fold = _seen_material(p, surface[py, px], cover[p], materials)
                row, t = materials[slot], depth[py, px]
                base = row[11] if printed else row[0] * (1.0 - weight) + row[3] * weight
                n = normal[py, px]
                facing = abs(n[0] * ray[0] + n[1] * ray[1] + n[2] * ray[2]) / length
                base *= 1.0 + lamp[2] * (fold - 1.0)
            else:
                is_floor, t, x, y = _meet_ground(camera[0], ray, wall_distance)
                row = grounds[0] if is_floor else grounds[1]
                weight = _ground_weight(row, x, y, 11 if is_floor else 23)
                base = row[1] * (1.0 - weight) + row[4] * weight
                base *= 1.0 + lamp[2] * (0.3 * _noise(x * 7.0, y * 7.0, 31) - 0.15)
                facing = abs(ray[2] if is_floor else ray[1]) / length
            image[py, px, :] = base * (lamp[1] + lamp[0] * facing) * _falloff(ray, t, lamp)
