"""The images of a world: its cameras, and how often each person passes each camera.

An image is a `Shot` (person, camera, tracklet, frame). A tracklet is one walk of a person past a camera.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from reid_ray.config.data import Spectrum, SyntheticConfig
from reid_ray.data.synthetic.streams import Stream, generator
from reid_ray.errors import DataError


@dataclass(frozen=True, order=True)
class Shot:
    """The coordinates of one image in the world. Its key is the image's `path` in the table."""

    pid: int
    camid: int
    tracklet: int
    frame: int

    @property
    def key(self) -> str:
        return f"synthetic/p{self.pid:04d}/c{self.camid}/t{self.tracklet}/{self.frame:04d}"


@dataclass(frozen=True)
class Station:
    """A camera of the world, and what it shares with other cameras.

    Attributes:
        camid: its number in keys.
        scene: the camera whose location, floor, wall and furniture it uses; most use their own.
        moments: the camera whose walks it records; another camera if the two take pictures at the same moments.
        spectrum: visible, near infrared or thermal.
    """

    camid: int
    scene: int
    moments: int
    spectrum: Spectrum


SYSU_MM01 = tuple(
    Station(camid, 2 if camid == 3 else camid, camid, "near_infrared" if camid in (3, 6) else "visible")
    for camid in range(1, 7)
)
"""The cameras of SYSU-MM01, numbered as there: 3 and 6 are infrared, 3 is in the room of 2."""

REGDB = (Station(1, 1, 1, "visible"), Station(2, 1, 1, "thermal"))
"""The two cameras of RegDB, side by side."""


@lru_cache(maxsize=64)
def stations(config: SyntheticConfig) -> dict[int, Station]:
    """All cameras of the world, by camera id."""
    if config.spectrum == "near_infrared":
        every: tuple[Station, ...] = SYSU_MM01
    elif config.spectrum == "thermal":
        every = REGDB
    else:
        every = tuple(Station(camid, camid, camid, "visible") for camid in range(config.n_cameras))
    return {station.camid: station for station in every}


_KEY = re.compile(r"synthetic/p(\d{4,9})/c(\d{1,9})/t(\d{1,9})/(\d{4,9})")


def parse_key(key: str, config: SyntheticConfig) -> Shot:
    """The shot that `key` names; `DataError` if it is not in the world of `config`."""
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
    """A person's shots, sorted.

    Images come in walks of up to five frames, `images_per_id` in all; tracklets are `tracklets_per_id` walks of
    `tracklet_frames`. Successive walks are mostly at different cameras. Where two cameras share their moments, both
    have each frame, and `images_per_id` counts the images of both.
    """
    rng = generator(config.seed, Stream.SCHEDULE, pid)
    cameras = _route(config, rng)
    seen_by = {camera: [s.camid for s in stations(config).values() if s.moments == camera] for camera in cameras}
    shots: list[Shot] = []
    n_left = config.images_per_id // len(seen_by[cameras[0]])
    longest = min(5, max(1, n_left // 2))
    fewest, most = config.tracklet_frames if config.tracklets_per_id else (min(3, longest), longest)
    tracklet = 0
    while (tracklet < config.tracklets_per_id) if config.tracklets_per_id else n_left:
        length = int(rng.integers(fewest, most + 1))
        if not config.tracklets_per_id:
            length = min(length, n_left)
        # The first two walks are at different cameras; later ones return to a seen camera now and then.
        seen = min(tracklet, len(cameras))
        revisits = tracklet >= len(cameras) or (tracklet >= 2 and rng.random() < 0.15)
        camera = cameras[int(rng.integers(seen))] if revisits else cameras[tracklet]
        shots.extend(Shot(pid, camid, tracklet, frame) for camid in seen_by[camera] for frame in range(length))
        n_left -= length
        tracklet += 1
    return tuple(sorted(shots))


def _route(config: SyntheticConfig, rng: np.random.Generator) -> list[int]:
    """The cameras that record a person's walks, in the order of first visits.

    In the world like SYSU-MM01 the first two are one visible and one infrared camera, so that anyone seen twice is seen
    in both modalities; the visible one is not camera 2, which is excluded from the gallery for queries of camera 3.
    """
    if config.spectrum == "visible":
        return [int(camera) for camera in rng.permutation(config.n_cameras)]
    if config.spectrum == "thermal":
        return [1]
    first = [int(rng.choice((1, 4, 5))), int(rng.choice((3, 6)))]
    others = [camera for camera in range(1, 7) if camera not in first]
    return [int(camera) for part in (first, others) for camera in rng.permutation(part)]
