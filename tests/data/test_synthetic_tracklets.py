"""Tracklets of the synthetic world: their table, their splits, and what moves in them."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest
from pydantic import ValidationError

from reid_ray.config.data import SyntheticConfig
from reid_ray.data.synthetic import make_dataset, visibility, world
from reid_ray.data.synthetic.cameras import Sensor, make_camera
from reid_ray.data.synthetic.people import make_person
from reid_ray.data.synthetic.schedule import parse_key, schedule
from reid_ray.data.synthetic.walks import make_walk
from reid_ray.data.synthetic.world import arrange, draw, frame_generator
from reid_ray.data.table import ImageTable

VIDEO = SyntheticConfig(n_train_ids=8, n_test_ids=8, n_cameras=4, tracklets_per_id=5, height=64, width=32)


def _frames(table: ImageTable) -> dict[int, list[int]]:
    """Rows of each tracklet, in the order of the table."""
    rows = defaultdict(list)
    for row, tracklet in enumerate(table.tracklets.tolist()):
        rows[tracklet].append(row)
    return rows


def test_a_tracklet_is_one_person_at_one_camera_from_its_first_frame_on() -> None:
    table = make_dataset(VIDEO).table
    tracklets = _frames(table)
    assert sorted(tracklets) == list(range(16 * 5))
    splits = table.arrow["split"].to_pylist()
    for rows in tracklets.values():
        assert 15 <= len(rows) <= 40
        shots = [parse_key(table.paths[row], VIDEO) for row in rows]
        assert len({(shot.pid, shot.camid, shot.tracklet) for shot in shots}) == 1
        assert [shot.frame for shot in shots] == list(range(len(rows)))
        assert {table.pids[row] for row in rows} == {shots[0].pid}
        assert {table.camids[row] for row in rows} == {shots[0].camid}
        assert len({splits[row] for row in rows}) == 1
    assert len({len(rows) for rows in tracklets.values()}) > 10


@pytest.mark.parametrize(("n_cameras", "tracklets_per_id"), [(4, 5), (2, 2), (2, 3), (1, 4), (6, 1), (3, 9)])
def test_every_query_tracklet_has_a_match_at_another_camera(n_cameras: int, tracklets_per_id: int) -> None:
    config = SyntheticConfig(
        n_train_ids=1, n_test_ids=12, n_cameras=n_cameras, tracklets_per_id=tracklets_per_id, tracklet_frames=(2, 4)
    )
    dataset = make_dataset(config)
    units = {}
    for name in ("query", "gallery"):
        table = dataset.table.split(name)
        units[name] = {(t, p, c) for t, p, c in zip(table.tracklets, table.pids, table.camids, strict=True)}
    for _, pid, camid in units["query"]:
        assert any(p == pid and c != camid for _, p, c in units["gallery"])
    asked = [(pid, camid) for _, pid, camid in units["query"]]
    assert len(set(asked)) == len(asked)
    assert len(units["query"]) + len(units["gallery"]) == 12 * tracklets_per_id
    if n_cameras > 1 and tracklets_per_id > 1:
        assert {pid for pid, _ in asked} == set(range(1, 13))
    else:
        assert not asked


def test_frames_per_tracklet_is_a_setting() -> None:
    config = VIDEO.model_copy(update={"tracklet_frames": (3, 3)})
    assert {len(rows) for rows in _frames(make_dataset(config).table).values()} == {3}
    for frames in ((0, 3), (4, 3)):
        with pytest.raises(ValidationError, match="tracklet_frames must be two ascending numbers"):
            SyntheticConfig(tracklet_frames=frames)


@pytest.mark.parametrize("frames", [(15, 40), (150, 200)])
def test_people_walk_on_through_the_scene_without_sliding(frames: tuple[int, int]) -> None:
    n_moving = 0
    config = VIDEO.model_copy(update={"n_train_ids": 100, "tracklet_frames": frames})
    for pid in range(100):
        for first in {(shot.camid, shot.tracklet): shot for shot in reversed(schedule(config, pid))}.values():
            walk = make_walk(config, pid, first.camid, first.tracklet)
            n_frames = sum((s.camid, s.tracklet) == (first.camid, first.tracklet) for s in schedule(config, pid))
            places = np.array([walk.place(frame) for frame in range(n_frames)])
            camera = make_camera(config.seed, first.camid)
            assert places[:, 1].min() > camera.near - 1.01
            assert places[:, 1].max() < camera.far + 1.01
            steps = np.diff(places, axis=0)
            assert np.allclose(steps, steps[0])
            speed = float(np.hypot(*steps[0]))
            if speed > 0.02:
                # Two strides of both legs from the hips, in one turn of the phase.
                person = make_person(config.seed, pid)
                cycle = 2 * math.pi / walk.phase_step * speed
                assert cycle == pytest.approx(4 * 0.5 * person.build.stature * math.sin(person.gait.stride))
                facing = np.array([-math.sin(walk.heading), math.cos(walk.heading)])
                assert np.allclose(steps[0] / speed, facing)
                n_moving += 1
    assert n_moving > 300


def test_neighbouring_frames_are_alike_and_distant_ones_less() -> None:
    dataset = make_dataset(VIDEO)
    near, far = [], []
    for rows in list(_frames(dataset.table).values())[:12]:
        images = [dataset.images.read(dataset.table.paths[row]).float() for row in (rows[0], rows[1], rows[-1])]
        near.append(float((images[0] - images[1]).abs().mean()))
        far.append(float((images[0] - images[2]).abs().mean()))
    assert np.mean(near) < 0.8 * np.mean(far)
    assert min(near) > 0.5


def test_the_box_sways_and_jitters_about_the_person() -> None:
    """The box's middle against the error that the walk says, without their means in each tracklet."""
    middles, errors = [], []
    for pid in range(8):
        shots = [shot for shot in schedule(VIDEO, pid) if shot.tracklet == 0]
        walk = make_walk(VIDEO, pid, shots[0].camid, 0)
        scenes = [arrange(VIDEO, shot, frame_generator(VIDEO, shot)) for shot in shots]
        # The view's axis goes through the person.
        middle = [0.5 * (left + right) / (top - bottom) for left, top, right, bottom in (s.view.box for s in scenes)]
        error = [walk.box_error(frame)[0] for frame in range(len(shots))]
        middles.append(np.array(middle) - np.mean(middle))
        errors.append(np.array(error) - np.mean(error))
    correlation = np.corrcoef(np.concatenate(middles), np.concatenate(errors))[0, 1]
    assert 0.5 < correlation < 0.95


def test_resolution_follows_the_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    shots = [shot for shot in schedule(VIDEO, 1) if shot.tracklet == 0]
    walk, station_camera = make_walk(VIDEO, 1, shots[0].camid, 0), make_camera(VIDEO.seed, shots[0].camid)
    sharpness = []

    def record(light: np.ndarray, sensor: Sensor, *_: object) -> np.ndarray:
        sharpness.append(sensor.sharpness)
        return light

    monkeypatch.setattr(world, "expose", record)
    for shot in shots:
        draw(VIDEO, shot)
    middle = 0.5 * (station_camera.near + station_camera.far)
    distances = np.array([math.hypot(*walk.place(shot.frame)) for shot in shots])
    assert np.allclose(sharpness, np.minimum(1.0, station_camera.sensor.sharpness * middle / distances))
    assert np.ptp(sharpness) > 0.02


def test_occlusion_comes_and_goes() -> None:
    paths = make_dataset(VIDEO).table.paths
    tracklets = [[paths[row] for row in rows] for rows in _frames(make_dataset(VIDEO).table).values()]
    shares = [[visibility(VIDEO, path) for path in track[::2]] for track in tracklets]
    assert all(0.0 <= share <= 1.0 for track in shares for share in track)
    comes_and_goes = [
        t for t in shares if min(t) < 0.6 and max(t[: t.index(min(t))], default=0) > 0.9 < max(t[t.index(min(t)) :])
    ]
    assert len(comes_and_goes) > 0.15 * len(shares)
    assert sum(min(t) > 0.9 for t in shares) > 0.1 * len(shares)
    assert np.mean([share for track in shares for share in track]) > 0.75


def test_images_are_not_changed_by_the_settings_of_tracklets() -> None:
    images = SyntheticConfig(n_train_ids=2, n_test_ids=0, images_per_id=4, height=32, width=16)
    other = images.model_copy(update={"tracklet_frames": (7, 9)})
    first, second = make_dataset(images), make_dataset(other)
    assert first.table.paths == second.table.paths
    for path in first.table.paths:
        assert np.array_equal(first.images.read(path), second.images.read(path))
