"""Keyed randomness: each object of the world has its own generator, so that results do not depend on drawing order."""

from __future__ import annotations

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """Kinds of random streams. The numbers are part of the world: changing one changes every image of that kind."""

    PERSON = 1
    CAMERA = 2
    SCHEDULE = 3
    TRACKLET = 4
    FRAME = 5
    MOTION = 6
    NEAR_INFRARED = 7
    THERMAL = 8
    NEAR_INFRARED_SCENE = 9
    THERMAL_SCENE = 10
    MESH = 11


def generator(seed: int, stream: Stream, *ids: int) -> np.random.Generator:
    """The generator of one object in the world of `seed`, named by non-negative `ids`."""
    return np.random.default_rng([seed, int(stream), *ids])
