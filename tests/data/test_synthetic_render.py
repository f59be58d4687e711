"""The ray kernels against points marched along the ray, and the bodies and sensors that surround them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from seeds import SEEDS

from reid_ray.data.synthetic.body import BOX, ROUND_CONE, Parts, Posture, assemble, make_pose
from reid_ray.data.synthetic.cameras import Sensor, make_camera
from reid_ray.data.synthetic.people import BagKind, Slot, make_person
from reid_ray.data.synthetic.render import View, look_at, render
from reid_ray.data.synthetic.sensor import expose

H, W = 24, 16


def _random_part(rng: np.random.Generator, kind: float) -> Parts:
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    frame = np.concatenate([rng.normal(0, 0.15, 3), turn.reshape(-1)])
    if kind == BOX:
        shape = [*rng.uniform(0.1, 0.3, 2), rng.uniform(0.1, 0.6), 0.0, 0.0, 1.0, 1.0, kind]
    else:
        shape = [*rng.uniform(0.5, 1.2, 2), rng.uniform(0.01, 0.6), *rng.uniform(0.05, 0.3, 2),
                 *rng.uniform(0.1, 1.3, 2), kind]  # fmt: skip
    return Parts(frame[None], np.array([shape]), np.zeros((1, 7)))


def _view() -> View:
    return replace(look_at(np.array([0.3, -3.0, 1.2]), np.zeros(3)), box=(-0.25, 0.4, 0.25, -0.4))


def _inside(part: Parts, points: np.ndarray) -> np.ndarray:
    """Whether points [..., 3] are in the part, straight from the definition of its shape."""
    frame, shape = part.frame[0], part.shape[0]
    x, y, z = np.moveaxis((points - frame[:3]) @ frame[3:].reshape(3, 3).T, -1, 0)
    length = shape[2]
    if shape[7] == BOX:
        return (abs(x) <= shape[0]) & (abs(y) <= shape[1]) & (z >= 0) & (z <= length)
    square = (x / shape[0]) ** 2 + (y / shape[1]) ** 2
    radius = shape[3] + (shape[4] - shape[3]) * np.clip(z / length, 0, 1)
    over = np.where(z < 0, z / shape[5], np.where(z > length, (z - length) / shape[6], 0.0))
    return square + over**2 <= radius**2


@pytest.mark.parametrize("kind", [ROUND_CONE, BOX])
@settings(max_examples=8)
@given(seed=SEEDS)
def test_depth_is_where_a_march_along_the_ray_enters(kind: float, seed: int) -> None:
    part, view = _random_part(np.random.default_rng(seed), kind), _view()
    buffer = render(view, part, H, W)
    left, top, right, bottom = view.box
    b, a = np.meshgrid(
        top + (np.arange(H) + 0.5) / H * (bottom - top),
        left + (np.arange(W) + 0.5) / W * (right - left),
        indexing="ij",
    )
    rays = view.forward + a[..., None] * view.right + b[..., None] * view.up
    step = 0.004
    depths = np.arange(1.5, 5.0, step)
    inside = _inside(part, view.eye + depths[:, None, None, None] * rays)
    hit = inside.any(axis=0)
    entered = depths[inside.argmax(axis=0)]
    seen = buffer.part == 0
    # A ray that only grazes may slip between two steps of the march.
    assert (seen & ~hit).sum() <= 0.03 * H * W
    assert not (hit & ~seen).any()
    both = hit & seen
    assert both.sum() > 5
    assert np.all(entered[both] - buffer.depth[both] >= -1e-4)
    assert np.median(entered[both] - buffer.depth[both]) <= step
    assert np.allclose(np.linalg.norm(buffer.normal[seen], axis=1), 1.0, atol=1e-5)
    towards_eye = -np.einsum("nc,nc->n", buffer.normal[seen], rays[seen])
    assert (towards_eye > -1e-4).all()


def test_the_nearest_part_wins_whatever_the_order() -> None:
    rng = np.random.default_rng(5)
    parts = [_random_part(rng, kind) for kind in (ROUND_CONE, BOX, ROUND_CONE)]
    separate = np.stack([render(_view(), part, H, W).depth for part in parts])
    for order in ([0, 1, 2], [2, 1, 0]):
        joint = Parts(
            *(np.concatenate([getattr(parts[i], name) for i in order]) for name in ("frame", "shape", "cover"))
        )
        buffer = render(_view(), joint, H, W)
        assert np.array_equal(buffer.depth, separate.min(axis=0))
        seen = buffer.part >= 0
        assert np.array_equal(np.array(order)[buffer.part[seen]], separate.argmin(axis=0)[seen])


@pytest.mark.parametrize("pid", range(12))
@pytest.mark.parametrize("posture", list(Posture))
def test_bodies_stand_on_the_floor_at_their_stature(pid: int, posture: Posture) -> None:
    person = make_person(3, pid)
    for phase in (0.0, 1.1, 2.9, 4.4):
        parts = assemble(person, make_pose(person, phase, posture))
        axes = parts.frame[:, 3:].reshape(-1, 3, 3)
        assert np.allclose(axes @ axes.transpose(0, 2, 1), np.eye(3), atol=1e-9)
        boxed = parts.cover[:, 6] > 0
        low = (parts.frame[:, 2] - parts.shape[:, 3])[boxed].min()
        high = (parts.frame[:, 2] + parts.shape[:, 4] * parts.shape[:, 6])[boxed].max()
        assert abs(low) < 0.05
        assert abs(high - person.build.stature) < 0.12 * person.build.stature
        assert set(parts.cover[:, [0, 1, 3]].reshape(-1)) <= set(range(len(Slot)))


def test_placing_turns_the_front_and_keeps_the_height() -> None:
    person = make_person(3, 1)
    body = assemble(person, make_pose(person, 0.3, Posture.WALKING))
    placed = body.placed((1.0, 2.0), math.pi / 2, 8)
    assert np.allclose(placed.frame[:, 0], 1.0 - body.frame[:, 1])
    assert np.allclose(placed.frame[:, 1], 2.0 + body.frame[:, 0])
    assert np.allclose(placed.frame[:, 2], body.frame[:, 2])
    assert np.array_equal(placed.cover[:, [0, 1, 3]], body.cover[:, [0, 1, 3]] + 8)
    assert np.array_equal(body.cover[:, 2], placed.cover[:, 2])


def test_walking_is_periodic_and_legs_take_turns() -> None:
    person = make_person(0, 0)
    now, later = (make_pose(person, phase, Posture.WALKING) for phase in (0.7, 0.7 + 2 * math.pi))
    half = make_pose(person, 0.7 + math.pi, Posture.WALKING)
    assert np.allclose(now.hips + now.knees, later.hips + later.knees)
    assert np.allclose(now.hips, half.hips[::-1])
    assert np.allclose(now.knees, half.knees[::-1])


def _pixels_of_bag(pid: int, heading: float) -> int:
    person = make_person(0, pid)
    body = assemble(person, make_pose(person, 0.0, Posture.STANDING)).placed((0.0, 6.0), heading, 0)
    view = replace(look_at(np.array([0.0, 0.0, 1.5]), np.array([0.0, 6.0, 0.9])), box=(-0.1, 0.2, 0.1, -0.2))
    buffer = render(view, body, 64, 32)
    return int((body.cover[buffer.part[buffer.part >= 0], 0] == Slot.BAG).sum())


def test_a_backpack_is_seen_from_behind() -> None:
    pid = next(pid for pid in range(100) if make_person(0, pid).bag == BagKind.BACKPACK)
    assert _pixels_of_bag(pid, 0.0) > 2 * _pixels_of_bag(pid, math.pi)


def test_people_share_colours_but_are_not_the_same() -> None:
    people = [make_person(0, pid) for pid in range(200)]
    assert len(set(people)) == 200
    rows = np.stack([person.material_rows() for person in people])
    assert ((rows[..., :6] >= 0) & (rows[..., :6] <= 1)).all()
    lower = rows[:, Slot.LOWER, :3] ** (1 / 2.2)
    distance = np.linalg.norm(lower[:, None] - lower[None], axis=2) + 9 * np.eye(200)
    assert np.median((distance < 0.1).sum(axis=1)) > 10
    assert make_person(0, 7) == people[7]
    assert make_person(1, 7) != people[7]


def _plain_sensor(**changes: float) -> Sensor:
    sensor = Sensor(np.eye(3), 1.0, 2.2, 0.0, 1.0, 0.0, 0.0, 100.0)
    return replace(sensor, **changes)


def test_a_plain_sensor_keeps_a_flat_picture_and_response_is_monotone() -> None:
    rng = np.random.default_rng(0)
    levels = [0.05, 0.2, 0.5, 0.9]
    shown = []
    for level in levels:
        image = expose(np.full((H, W, 3), level, dtype=np.float32), _plain_sensor(), 1.0, 0.0, rng)
        assert image.dtype == np.uint8
        assert image.shape == (H, W, 3)
        assert np.ptp(image.astype(int)) <= 2
        shown.append(float(image.mean()))
    assert shown == sorted(shown)
    assert shown[-1] > 200


def _ramp() -> np.ndarray:
    return np.repeat(np.linspace(0.0, 1.0, 64, dtype=np.float32), 32 * 3).reshape(64, 32, 3)


def test_blur_noise_and_resolution_do_what_they_say() -> None:
    rng = np.random.default_rng(0)
    board = np.zeros((64, 32, 3), dtype=np.float32)
    board[:, ::4] = board[:, 1::4] = 0.8
    sharp = expose(board, _plain_sensor(), 1.0, 0.0, rng).std()
    for changes in ({"defocus": 2.0}, {"sharpness": 0.3}):
        assert expose(board, _plain_sensor(**changes), 1.0, 0.0, rng).std() < 0.98 * sharp
    assert expose(board, _plain_sensor(), 1.0, 3.0, rng).std() < 0.7 * sharp
    assert len(np.unique(expose(_ramp(), _plain_sensor(quality=5.0), 1.0, 0.0, rng))) < 60
    flat = np.full((64, 32, 3), 0.3, dtype=np.float32)
    noisy = expose(flat, _plain_sensor(noise=0.05), 1.0, 0.0, rng)
    assert noisy.std() > 3


def test_cameras_differ_and_stay() -> None:
    first, second = make_camera(0, 0), make_camera(0, 1)
    assert first.eye_height != second.eye_height
    assert not np.array_equal(first.sensor.matrix, second.sensor.matrix)
    make_camera.cache_clear()
    assert np.array_equal(make_camera(0, 0).sensor.matrix, first.sensor.matrix)
