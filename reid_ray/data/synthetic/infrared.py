"""Appearance of people and scenes in infrared, from separate random streams: it is independent of visible colours.

Near infrared (SYSU-MM01) is reflected light of a lamp at the camera. Dyes that differ to the eye reflect it alike, so
patterns and prints mostly vanish, and a garment's brightness is independent of its colour. Thermal infrared (RegDB) is
heat: skin is warm, clothes emit less of it the better they insulate, and objects are cold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from reid_ray.config.data import Spectrum
from reid_ray.data.synthetic.body import Array
from reid_ray.data.synthetic.cameras import Camera, Ground, Sensor, make_camera
from reid_ray.data.synthetic.people import Person, Slot
from reid_ray.data.synthetic.schedule import Station
from reid_ray.data.synthetic.shading import Beam
from reid_ray.data.synthetic.streams import Stream, generator

_CLOTHES = (Slot.UPPER, Slot.INNER, Slot.LOWER, Slot.HAT)

_COLOURS = (slice(0, 3), slice(3, 6), slice(11, 14))
"""Columns of a material's first colour, second colour and print colour."""

_REFLECTANCE = {0: (0.22, 0.4), 1: (0.22, 0.45), 2: (0.45, 0.7), 3: (0.25, 0.55)}
"""Range in the near infrared for each kind of `Ground`: plants are bright."""


@dataclass(frozen=True)
class Surroundings:
    """An infrared camera: its sensor, its lamp and its scene without people."""

    grounds: tuple[Ground, Ground]
    furniture_materials: Array
    beam: Beam
    sensor: Sensor


def infrared_rows(seed: int, pid: int, person: Person, spectrum: Spectrum) -> Array:
    """float64 [len(Slot), 16]: the materials of person `pid` in near infrared or heat, equal in all three channels.

    Shapes of patterns and prints are the person's; what they reflect or radiate depends on (seed, pid) alone.
    """
    draw = _near_infrared_person if spectrum == "near_infrared" else _thermal_person
    rows = person.material_rows()
    for columns, values in zip(_COLOURS, draw(seed, pid).T, strict=True):
        rows[:, columns] = values[:, None]
    return rows


@lru_cache(maxsize=4096)
def _near_infrared_person(seed: int, pid: int) -> Array:
    """[len(Slot), 3]: reflectances of the first colour, the second and the print."""
    rng = generator(seed, Stream.NEAR_INFRARED, pid)
    rows = []
    for slot in Slot:
        if slot == Slot.SKIN:
            values = [float(rng.uniform(0.5, 0.65))] * 3
        elif slot == Slot.HAIR:
            values = [float(rng.uniform(0.08, 0.45))] * 3
        elif slot in _CLOTHES:
            first = _cloth_reflectance(rng)
            values = [first, *(first if rng.random() < 0.7 else _cloth_reflectance(rng) for _ in range(2))]
        else:
            first = float(rng.uniform(0.05, 0.7))
            values = [first, *(first if rng.random() < 0.7 else float(rng.uniform(0.05, 0.7)) for _ in range(2))]
        rows.append(values)
    return np.array(rows)


def _cloth_reflectance(rng: np.random.Generator) -> float:
    """Most dyes are clear in the near infrared; a quarter of the garments are dark in it."""
    return float(rng.uniform(0.45, 0.9) if rng.random() < 0.75 else rng.uniform(0.05, 0.3))


_HEAT = {
    Slot.SKIN: (0.92, 1.0),
    Slot.UPPER: (0.25, 0.7),
    Slot.INNER: (0.45, 0.75),
    Slot.LOWER: (0.25, 0.7),
    Slot.SHOES: (0.15, 0.35),
    Slot.HAIR: (0.5, 0.65),
    Slot.HAT: (0.3, 0.55),
    Slot.BAG: (0.1, 0.25),
}
"""Range of a material's emitted heat; skin is about 1."""


@lru_cache(maxsize=4096)
def _thermal_person(seed: int, pid: int) -> Array:
    """[len(Slot), 3]: heat of each material. Dyes have none, so patterns and prints vanish."""
    rng = generator(seed, Stream.THERMAL, pid)
    return np.array([[float(rng.uniform(*_HEAT[slot]))] * 3 for slot in Slot])


@lru_cache(maxsize=64)
def surroundings(seed: int, station: Station) -> Surroundings:
    """The scene of an infrared camera, with its lamp and its sensor."""
    scene, sensor = make_camera(seed, station.scene), make_camera(seed, station.camid).sensor
    if station.spectrum == "near_infrared":
        return _lit(generator(seed, Stream.NEAR_INFRARED_SCENE, station.scene), scene, sensor)
    return _warm(generator(seed, Stream.THERMAL_SCENE, station.scene), scene, sensor)


def _lit(rng: np.random.Generator, scene: Camera, sensor: Sensor) -> Surroundings:
    middle = 0.5 * (scene.near + scene.far)
    down = scene.eye_height - 0.9
    length = math.hypot(middle, down)
    return Surroundings(
        grounds=(
            _ground(rng, scene.floor, _REFLECTANCE[scene.floor.kind], 0.25),
            _ground(rng, scene.wall, _REFLECTANCE[scene.wall.kind], 0.25),
        ),
        furniture_materials=_furniture(rng, scene, 0.1, 0.7),
        beam=Beam(
            direct=0.5,
            ambient=0.05,
            folds=1.0,
            reference=length,
            width=0.1,
            axis=(0.0, middle / length, -down / length),
        ),
        sensor=replace(
            sensor,
            matrix=np.eye(3),
            sharpness=0.8 * sensor.sharpness,
            defocus=sensor.defocus + 0.3,
            noise=2.0 * sensor.noise,
            monochrome=True,
        ),
    )


def _warm(rng: np.random.Generator, scene: Camera, sensor: Sensor) -> Surroundings:
    return Surroundings(
        grounds=(_ground(rng, scene.floor, (0.05, 0.2), 0.15), _ground(rng, scene.wall, (0.05, 0.2), 0.15)),
        furniture_materials=_furniture(rng, scene, 0.05, 0.22),
        beam=Beam(direct=0.2, ambient=0.8, folds=0.5),
        sensor=replace(
            sensor,
            matrix=np.eye(3),
            exposure=0.95,
            gamma=1.1,
            haze=0.0,
            sharpness=0.45,
            defocus=sensor.defocus + 1.0,
            monochrome=True,
        ),
    )


def _ground(rng: np.random.Generator, ground: Ground, levels: tuple[float, float], contrast: float) -> Ground:
    first = float(rng.uniform(*levels))
    second = first * float(1.0 + contrast * rng.uniform(-1.0, 1.0))
    return replace(ground, colour=(first,) * 3, second=(second,) * 3)


def _furniture(rng: np.random.Generator, scene: Camera, low: float, high: float) -> Array:
    materials = scene.furniture_materials.copy()
    for columns in _COLOURS:
        materials[:, columns] = rng.uniform(low, high, (len(materials), 1))
    return materials
