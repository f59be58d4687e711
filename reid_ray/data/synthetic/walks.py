"""Walks: what the frames of one tracklet share, and how a person moves from frame to frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from reid_ray.config.data import SyntheticConfig
from reid_ray.data.synthetic.body import Posture
from reid_ray.data.synthetic.cameras import Camera, make_camera
from reid_ray.data.synthetic.people import Person, make_person
from reid_ray.data.synthetic.schedule import schedule, stations
from reid_ray.data.synthetic.streams import Stream, generator

_FIRST_PASSER_BY = 1_000_000
"""Distractors are people with pids from here on; they are never labelled."""

_N_PASSERS_BY = 500

_LONGEST_PATH = 4.4
"""Metres of a video's walk; every scene has room for it."""


@dataclass(frozen=True)
class Walk:
    """Properties shared by the frames of one tracklet. Positions are in metres, steps in metres per frame, angles in
    radians.

    Attributes:
        passer_by: pid of the other person, None = alone. At frame f it is `passer_by_offset` + f · `passer_by_step`
            away from the person.
        box_shift: the detector's constant error, as a share of the box's height, to the right and up.
        box_sway: amplitude of a slow error that is added to it, likewise; it turns by `box_turn` a frame.
    """

    start: tuple[float, float]
    step: tuple[float, float]
    heading: float
    phase: float
    phase_step: float
    posture: Posture
    clouds: float
    exposure: float
    passer_by: int | None
    passer_by_offset: tuple[float, float]
    passer_by_heading: float
    box_shift: tuple[float, float]
    passer_by_step: tuple[float, float] = (0.0, 0.0)
    box_sway: tuple[float, float] = (0.0, 0.0)
    box_turn: float = 0.0

    def place(self, frame: int) -> tuple[float, float]:
        """Position of the person, metres."""
        return self.start[0] + self.step[0] * frame, self.start[1] + self.step[1] * frame

    def passer_by_place(self, frame: int) -> tuple[float, float]:
        """Position of the other person, metres."""
        x, y = self.place(frame)
        return (
            x + (self.passer_by_offset[0] + self.passer_by_step[0] * frame),
            y + (self.passer_by_offset[1] + self.passer_by_step[1] * frame),
        )

    def phase_at(self, frame: int) -> float:
        """The phase of walking, radians."""
        return self.phase + self.phase_step * frame

    def box_error(self, frame: int) -> tuple[float, float]:
        """The detector's systematic error, as a share of the box's height, to the right and up."""
        turn = self.box_turn * frame
        return (
            self.box_shift[0] + self.box_sway[0] * math.sin(turn),
            self.box_shift[1] + self.box_sway[1] * math.cos(turn),
        )


@lru_cache(maxsize=4096)
def make_walk(config: SyntheticConfig, pid: int, camid: int, tracklet: int) -> Walk:
    """Tracklet number `tracklet` of person `pid`, at camera `camid`."""
    station = stations(config)[camid]
    ids = (pid, station.moments, tracklet)
    camera = make_camera(config.seed, station.scene)
    walk = _short_walk(generator(config.seed, Stream.TRACKLET, *ids), camera)
    if not config.tracklets_per_id:
        return walk
    n_frames = sum((shot.camid, shot.tracklet) == (camid, tracklet) for shot in schedule(config, pid))
    rng = generator(config.seed, Stream.MOTION, *ids)
    return _met(rng, _long_walk(rng, walk, camera, make_person(config.seed, pid), n_frames), n_frames)


def _short_walk(rng: np.random.Generator, camera: Camera) -> Walk:
    """A few images of a person walking past, spaced in time; a passer-by walks alongside."""
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
        passer_by=_FIRST_PASSER_BY + int(rng.integers(_N_PASSERS_BY)) if rng.random() < 0.18 else None,
        passer_by_offset=(side * float(rng.uniform(0.35, 0.8)), float(rng.uniform(-0.9, 2.5))),
        passer_by_heading=heading + (math.pi if rng.random() < 0.4 else 0.0),
        box_shift=(float(rng.normal(0, 0.02)), float(rng.normal(0, 0.015))),
    )


def _long_walk(rng: np.random.Generator, walk: Walk, camera: Camera, person: Person, n_frames: int) -> Walk:
    """The walk as a video of `n_frames`: an even pace through the scene, some 15 frames a second, more in long ones."""
    speed = 0.004 if walk.posture == Posture.STANDING else float(rng.uniform(0.06, 0.11))
    speed = min(speed, _LONGEST_PATH / n_frames)
    direction = (-math.sin(walk.heading), math.cos(walk.heading))
    reach = 0.5 * (n_frames - 1) * speed
    depth = abs(direction[1]) * reach
    nearest, farthest = camera.near - 1.0 + depth, camera.far + 1.0 - depth
    middle = (
        float(rng.uniform(-0.5, 0.5)) * camera.half_width,
        float(np.clip(rng.uniform(camera.near, camera.far), nearest, farthest)),
    )
    # Feet must not slide: a walking cycle takes two strides of the legs' length.
    cycle = 2.0 * person.build.stature * math.sin(person.gait.stride)
    return replace(
        walk,
        start=(middle[0] - direction[0] * reach, middle[1] - direction[1] * reach),
        step=(direction[0] * speed, direction[1] * speed),
        phase_step=0.08 if walk.posture == Posture.STANDING else 2.0 * math.pi * speed / cycle,
        box_sway=(float(rng.uniform(0.0, 0.04)), float(rng.uniform(0.0, 0.03))),
        box_turn=float(rng.uniform(0.1, 0.7)),
    )


def _met(rng: np.random.Generator, walk: Walk, n_frames: int) -> Walk:
    """The walk with, in most cases, another person who crosses between the camera and the person at some frame."""
    if rng.random() < 0.4:
        return replace(walk, passer_by=None)
    frame = float(rng.uniform(0.2, 0.8)) * (n_frames - 1)
    x, y = walk.place(round(frame))
    to_camera = (-x / math.hypot(x, y), -y / math.hypot(x, y))
    gap, along = float(rng.uniform(0.5, 1.2)), float(rng.normal(0.0, 0.02))
    across = float(rng.choice((-1, 1))) * float(rng.uniform(0.04, 0.14))
    step = (across * to_camera[1] + along * to_camera[0], -across * to_camera[0] + along * to_camera[1])
    velocity = (walk.step[0] + step[0], walk.step[1] + step[1])
    return replace(
        walk,
        passer_by=_FIRST_PASSER_BY + int(rng.integers(_N_PASSERS_BY)),
        passer_by_offset=(gap * to_camera[0] - step[0] * frame, gap * to_camera[1] - step[1] * frame),
        passer_by_step=step,
        passer_by_heading=math.atan2(-velocity[0], velocity[1]),
    )
