"""What happens in the world: who passes which camera when, and the picture of one such moment.

An image is a `Shot` (person, camera, tracklet, frame). A tracklet is one walk of a person past a camera; its
frames share path, posture and company, and differ in phase, box, exposure and noise.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from reid_ray.config.data import SyntheticConfig
from reid_ray.data.synthetic.body import Parts, Posture, assemble, join, make_pose
from reid_ray.data.synthetic.cameras import Light, make_camera
from reid_ray.data.synthetic.people import Person, Slot, make_person
from reid_ray.data.synthetic.render import View, bounds, look_at, render
from reid_ray.data.synthetic.sensor import expose
from reid_ray.data.synthetic.shading import shade_visible
from reid_ray.data.synthetic.streams import Stream, generator
from reid_ray.errors import DataError

_FIRST_PASSER_BY = 1_000_000
"""Distractors are people with pids from here on; they are never labelled."""


@dataclass(frozen=True, order=True)
class Shot:
    """One image's place in the world. Its key is the image's `path` in the table."""

    pid: int
    camid: int
    tracklet: int
    frame: int

    @property
    def key(self) -> str:
        return f"synthetic/p{self.pid:04d}/c{self.camid}/t{self.tracklet}/{self.frame:04d}"


_KEY = re.compile(r"synthetic/p(\d{4,9})/c(\d{1,9})/t(\d{1,9})/(\d{4,9})")


def parse_key(key: str, config: SyntheticConfig) -> Shot:
    """The shot that `key` names; `DataError` where the world of `config` has none such."""
    match = _KEY.fullmatch(key)
    if match is None:
        raise DataError(f"'{key}' is not an image of the synthetic world; keys look like '{Shot(3, 2, 0, 7).key}'.")
    shot = Shot(*map(int, match.groups()))
    n_people = config.n_train_ids + config.n_test_ids
    if shot.pid >= n_people or shot not in schedule(config, shot.pid) or shot.key != key:
        raise DataError(
            f"The synthetic world of seed {config.seed} with {n_people} people has no image '{key}'; "
            f"take keys from a table made with the same settings."
        )
    return shot


@lru_cache(maxsize=8192)
def schedule(config: SyntheticConfig, pid: int) -> tuple[Shot, ...]:
    """A person's `images_per_id` shots, sorted; walks of up to five frames, mostly each at another camera."""
    rng = generator(config.seed, Stream.SCHEDULE, pid)
    longest = min(5, max(1, config.images_per_id // 2))
    cameras = rng.permutation(config.n_cameras)
    shots: list[Shot] = []
    tracklet = 0
    while len(shots) < config.images_per_id:
        length = int(rng.integers(min(3, longest), longest + 1))
        length = min(length, config.images_per_id - len(shots))
        # The first two walks are at different cameras; later ones return to a seen camera now and then.
        seen = min(tracklet, config.n_cameras)
        revisits = tracklet >= config.n_cameras or (tracklet >= 2 and rng.random() < 0.15)
        camid = int(cameras[rng.integers(seen)] if revisits else cameras[tracklet])
        shots.extend(Shot(pid, camid, tracklet, frame) for frame in range(length))
        tracklet += 1
    return tuple(sorted(shots))


@dataclass(frozen=True)
class Walk:
    """What the frames of one tracklet share. Places and steps in metres per frame, angles in radians."""

    start: tuple[float, float]
    step: tuple[float, float]
    heading: float
    phase: float
    phase_step: float
    posture: Posture
    clouds: float
    exposure: float
    passer_by: Person | None
    passer_by_offset: tuple[float, float]
    passer_by_heading: float
    box_shift: tuple[float, float]


@lru_cache(maxsize=4096)
def make_walk(seed: int, pid: int, camid: int, tracklet: int) -> Walk:
    """Tracklet number `tracklet` of person `pid`, at camera `camid`."""
    rng = generator(seed, Stream.TRACKLET, pid, camid, tracklet)
    camera = make_camera(seed, camid)
    away = camera.path + (math.pi if rng.random() < 0.5 else 0.0)
    heading = away + float(rng.normal(0.0, 0.3))
    posture = Posture(int(rng.choice(4, p=(0.68, 0.12, 0.12, 0.08))))
    speed = 0.03 if posture == Posture.STANDING else float(rng.uniform(0.12, 0.3))
    start = (float(rng.uniform(-1, 1)) * camera.half_width, float(rng.uniform(camera.near, camera.far)))
    side = float(rng.choice((-1, 1)))
    return Walk(
        start=start,
        step=(-math.sin(heading) * speed, math.cos(heading) * speed),
        heading=heading,
        phase=float(rng.uniform(0, 2 * math.pi)),
        phase_step=float(rng.uniform(0.4, 1.0)),
        posture=posture,
        clouds=float(rng.uniform(0.5, 1.1)),
        exposure=float(np.exp(rng.normal(0.0, 0.1))),
        passer_by=make_person(seed, _FIRST_PASSER_BY + int(rng.integers(500))) if rng.random() < 0.18 else None,
        passer_by_offset=(side * float(rng.uniform(0.35, 0.8)), float(rng.uniform(-0.9, 2.5))),
        passer_by_heading=heading + (math.pi if rng.random() < 0.4 else 0.0),
        box_shift=(float(rng.normal(0, 0.02)), float(rng.normal(0, 0.015))),
    )


def draw(config: SyntheticConfig, shot: Shot) -> npt.NDArray[np.uint8]:
    """uint8 RGB [H, W, 3] of one shot."""
    rng = generator(config.seed, Stream.FRAME, shot.pid, shot.camid, shot.tracklet, shot.frame)
    person = make_person(config.seed, shot.pid)
    camera = make_camera(config.seed, shot.camid)
    walk = make_walk(config.seed, shot.pid, shot.camid, shot.tracklet)
    place = (walk.start[0] + walk.step[0] * shot.frame, walk.start[1] + walk.step[1] * shot.frame)
    phase = walk.phase + walk.phase_step * shot.frame
    body = assemble(person, make_pose(person, phase, walk.posture)).placed(place, walk.heading, 0)
    groups, materials = [body], [person.material_rows()]
    walkers = [(*place, person.build.stature)]
    if walk.passer_by is not None:
        other = walk.passer_by
        beside = (place[0] + walk.passer_by_offset[0], place[1] + walk.passer_by_offset[1])
        pose = make_pose(other, phase + 2.0, Posture.WALKING)
        groups.append(assemble(other, pose).placed(beside, walk.passer_by_heading, len(Slot)))
        materials.append(other.material_rows())
        walkers.append((*beside, other.build.stature))
    groups.append(camera.furniture.placed((0.0, 0.0), 0.0, len(Slot) * len(materials)))
    materials.append(camera.furniture_materials)
    eye = np.array([0.0, 0.0, camera.eye_height])
    view = look_at(eye, np.array([*place, 0.5 * person.build.stature]))
    view = replace(view, box=_detected_box(view, body, walk, rng))
    parts = join(groups)
    buffer = render(view, parts, config.height, config.width)
    light = _light_now(camera.light, walk.clouds)
    linear_image = shade_visible(buffer, parts.cover, np.concatenate(materials), np.array(walkers), camera, light, view)
    motion = 0.0 if walk.posture == Posture.STANDING else abs(float(rng.normal(0.0, 0.6))) * config.width / 64
    exposure = walk.exposure * float(np.exp(rng.normal(0.0, 0.03)))
    return expose(linear_image, camera.sensor, exposure, motion, rng)


def _light_now(light: Light, clouds: float) -> Light:
    """The camera's light with the sun dimmed or brightened by `clouds`."""
    sun = tuple(clouds * value for value in light.sun)
    return replace(light, sun=(sun[0], sun[1], sun[2]))


def _detected_box(view: View, body: Parts, walk: Walk, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """The crop that a person detector would give: head to feet, shifted, scaled and sometimes cut."""
    rectangles = bounds(view, body)[body.cover[:, 6] > 0.0]
    left, bottom = rectangles[:, 0].min(), rectangles[:, 3].min()
    right, top = rectangles[:, 2].max(), rectangles[:, 1].max()
    height = top - bottom
    width = float(np.clip(1.1 * (right - left), 0.38 * height, 0.56 * height))
    middle = 0.5 * (left + right) + height * (walk.box_shift[0] + rng.normal(0.0, 0.01))
    bottom += height * (walk.box_shift[1] + rng.normal(0.0, 0.01))
    top += height * (walk.box_shift[1] + rng.normal(0.0, 0.008))
    if rng.random() < 0.06:
        bottom += height * rng.uniform(0.05, 0.25)
    margin = 0.025 * height
    half = 0.5 * width * float(np.exp(rng.normal(0.0, 0.03)))
    return middle - half, top + margin, middle + half, bottom - margin
