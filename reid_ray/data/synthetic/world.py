"""Compose one image: people at their positions in front of a camera, rendered through its sensor."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from reid_ray.config.data import SyntheticConfig
from reid_ray.data.synthetic.body import Array, Parts, Posture, assemble, join, make_pose
from reid_ray.data.synthetic.cameras import Camera, Light, Sensor, make_camera
from reid_ray.data.synthetic.infrared import infrared_rows, surroundings
from reid_ray.data.synthetic.people import Slot, make_person
from reid_ray.data.synthetic.render import FloatImage, GBuffer, View, bounds, look_at, render
from reid_ray.data.synthetic.schedule import Shot, Station, stations
from reid_ray.data.synthetic.sensor import expose
from reid_ray.data.synthetic.shading import shade_infrared, shade_visible
from reid_ray.data.synthetic.streams import Stream, generator
from reid_ray.data.synthetic.walks import Walk, make_walk


@dataclass(frozen=True)
class Scene:
    """The scene in front of a camera at one moment.

    Attributes:
        camera: the camera whose location, light and furniture the scene has.
        view: from the eye through the box of a detector.
        parts: the person's `n_body` parts, then those of a passer-by, then the furniture. Materials are numbered
            likewise: a block of `Slot` for each of `people`, then the furniture's.
        people: pids, the shot's own first.
        walkers: float64 [A, 3], position (x, y) and stature of each of `people`.
    """

    station: Station
    camera: Camera
    walk: Walk
    view: View
    parts: Parts
    n_body: int
    people: tuple[int, ...]
    walkers: Array


def frame_generator(config: SyntheticConfig, shot: Shot) -> np.random.Generator:
    """The generator of all random numbers of one image; `arrange` uses the first ones, `draw` the rest."""
    return generator(config.seed, Stream.FRAME, shot.pid, shot.camid, shot.tracklet, shot.frame)


def arrange(config: SyntheticConfig, shot: Shot, rng: np.random.Generator) -> Scene:
    """The scene of a shot, with the detector's box."""
    station = stations(config)[shot.camid]
    camera = make_camera(config.seed, station.scene)
    walk = make_walk(config, shot.pid, shot.camid, shot.tracklet)
    person = make_person(config.seed, shot.pid)
    place, phase = walk.place(shot.frame), walk.phase_at(shot.frame)
    body = assemble(person, make_pose(person, phase, walk.posture)).placed(place, walk.heading, 0)
    groups, people = [body], [shot.pid]
    walkers = [(*place, person.build.stature)]
    if walk.passer_by is not None:
        other = make_person(config.seed, walk.passer_by)
        beside = walk.passer_by_place(shot.frame)
        pose = make_pose(other, phase + 2.0, Posture.WALKING)
        groups.append(assemble(other, pose).placed(beside, walk.passer_by_heading, len(Slot)))
        people.append(walk.passer_by)
        walkers.append((*beside, other.build.stature))
    groups.append(camera.furniture.placed((0.0, 0.0), 0.0, len(Slot) * len(people)))
    eye = np.array([0.0, 0.0, camera.eye_height])
    view = look_at(eye, np.array([*place, 0.5 * person.build.stature]))
    view = replace(view, box=_detected_box(view, body, walk.box_error(shot.frame), rng))
    return Scene(station, camera, walk, view, join(groups), len(body.frame), tuple(people), np.array(walkers))


def draw(config: SyntheticConfig, shot: Shot) -> npt.NDArray[np.uint8]:
    """uint8 RGB [H, W, 3] of one shot; an infrared one has three equal channels."""
    rng = frame_generator(config, shot)
    scene = arrange(config, shot, rng)
    buffer = render(scene.view, scene.parts, config.height, config.width)
    signal, sensor = (_visible if scene.station.spectrum == "visible" else _infrared)(config.seed, scene, buffer)
    if config.tracklets_per_id:
        sensor = replace(sensor, sharpness=min(1.0, sensor.sharpness * _nearness(scene)))
    standing = scene.walk.posture == Posture.STANDING
    motion = 0.0 if standing else abs(float(rng.normal(0.0, 0.6))) * config.width / 64
    exposure = scene.walk.exposure * float(np.exp(rng.normal(0.0, 0.03)))
    return expose(signal, sensor, exposure, motion, rng)


def visible_share(config: SyntheticConfig, shot: Shot) -> float:
    """Visible share of the person's pixels in the box, 0 … 1; bags and clothes belong to the person."""
    scene = arrange(config, shot, frame_generator(config, shot))
    alone = person_mask(scene, config.height, config.width, alone=True)
    return float(person_mask(scene, config.height, config.width).sum() / max(1, alone.sum()))


def person_mask(scene: Scene, height: int, width: int, alone: bool = False) -> npt.NDArray[np.bool_]:
    """bool [H, W]: where the person is visible, or would be without occlusion (`alone`)."""
    parts = scene.parts
    if alone:
        parts = Parts(parts.frame[: scene.n_body], parts.shape[: scene.n_body], parts.cover[: scene.n_body])
    part = render(scene.view, parts, height, width).part
    return (part >= 0) & (part < scene.n_body)


def _visible(seed: int, scene: Scene, buffer: GBuffer) -> tuple[FloatImage, Sensor]:
    materials = [make_person(seed, pid).material_rows() for pid in scene.people]
    table = np.concatenate([*materials, scene.camera.furniture_materials])
    light = _light_now(scene.camera.light, scene.walk.clouds)
    image = shade_visible(buffer, scene.parts.cover, table, scene.walkers, scene.camera, light, scene.view)
    return image, scene.camera.sensor


def _infrared(seed: int, scene: Scene, buffer: GBuffer) -> tuple[FloatImage, Sensor]:
    around = surroundings(seed, scene.station)
    spectrum = scene.station.spectrum
    materials = [infrared_rows(seed, pid, make_person(seed, pid), spectrum) for pid in scene.people]
    table = np.concatenate([*materials, around.furniture_materials])
    image = shade_infrared(
        buffer, scene.parts.cover, table, around.grounds, scene.camera.wall_distance, around.beam, scene.view
    )
    return image, around.sensor


def _nearness(scene: Scene) -> float:
    """Apparent size of the person relative to the middle of the scene."""
    x, y = scene.walkers[0, :2]
    middle = 0.5 * (scene.camera.near + scene.camera.far)
    return float(middle / np.hypot(x, y))


def _light_now(light: Light, clouds: float) -> Light:
    """The camera's light with the sun dimmed or brightened by `clouds`."""
    sun = tuple(clouds * value for value in light.sun)
    return replace(light, sun=(sun[0], sun[1], sun[2]))


def _detected_box(
    view: View, body: Parts, error: tuple[float, float], rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """The crop that a person detector would give: head to feet, shifted, scaled and sometimes cut."""
    rectangles = bounds(view, body)[body.cover[:, 6] > 0.0]
    left, bottom = rectangles[:, 0].min(), rectangles[:, 3].min()
    right, top = rectangles[:, 2].max(), rectangles[:, 1].max()
    height = top - bottom
    width = float(np.clip(1.1 * (right - left), 0.38 * height, 0.56 * height))
    middle = 0.5 * (left + right) + height * (error[0] + rng.normal(0.0, 0.01))
    bottom += height * (error[1] + rng.normal(0.0, 0.01))
    top += height * (error[1] + rng.normal(0.0, 0.008))
    if rng.random() < 0.06:
        bottom += height * rng.uniform(0.05, 0.25)
    margin = 0.025 * height
    half = 0.5 * width * float(np.exp(rng.normal(0.0, 0.03)))
    return middle - half, top + margin, middle + half, bottom - margin
