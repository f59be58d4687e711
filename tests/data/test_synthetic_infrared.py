"""The infrared worlds: cameras and splits as in SYSU-MM01 and RegDB, optics by formula, no colour in the picture."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from reid_ray.config.data import SyntheticConfig
from reid_ray.data.synthetic import make_dataset, world
from reid_ray.data.synthetic.body import BOX, Parts
from reid_ray.data.synthetic.cameras import Ground, make_camera
from reid_ray.data.synthetic.infrared import infrared_rows, surroundings
from reid_ray.data.synthetic.people import Material, Person, Slot, make_person
from reid_ray.data.synthetic.render import View, look_at, render
from reid_ray.data.synthetic.schedule import REGDB, SYSU_MM01, Shot, parse_key, schedule
from reid_ray.data.synthetic.sensor import expose
from reid_ray.data.synthetic.shading import Beam, shade_infrared
from reid_ray.data.synthetic.world import arrange, draw, frame_generator

SYSU = SyntheticConfig(
    n_train_ids=8, n_test_ids=12, spectrum="near_infrared", images_per_id=12, height=64, width=32, seed=2
)
PAIRS = SyntheticConfig(
    n_train_ids=6, n_test_ids=6, spectrum="thermal", n_cameras=2, images_per_id=20, height=64, width=32, seed=2
)
VISIBLE = SyntheticConfig(n_train_ids=20, n_test_ids=0, n_cameras=7, height=64, width=32, seed=2)
INFRARED_CAMERA = {"near_infrared": SYSU_MM01[5], "thermal": REGDB[1]}


def test_cameras_are_those_of_sysu_mm01() -> None:
    dataset = make_dataset(SYSU)
    table = dataset.table
    assert set((table.camids + 1).tolist()) == {1, 2, 3, 4, 5, 6}
    assert all(f"/c{camid + 1}/" in path for camid, path in zip(table.camids, table.paths, strict=True))
    assert np.array_equal(table.modalities == 1, np.isin(table.camids + 1, (3, 6)))
    assert set((dataset.query.camids + 1).tolist()) == {3, 6}
    assert set((dataset.gallery.camids + 1).tolist()) == {1, 2, 4, 5}
    assert len(dataset.query) + len(dataset.gallery) == 12 * 12
    assert len(dataset.train) == 8 * 12
    assert set(dataset.train.modalities.tolist()) == {0, 1}


@pytest.mark.parametrize("images_per_id", [2, 3, 8])
def test_every_infrared_query_has_an_answer_that_the_protocol_keeps(images_per_id: int) -> None:
    """Queries of camera 3 ignore camera 2, which is in the same room."""
    config = SYSU.model_copy(update={"images_per_id": images_per_id, "n_test_ids": 40})
    dataset = make_dataset(config)
    gallery = set(zip(dataset.gallery.pids.tolist(), (dataset.gallery.camids + 1).tolist(), strict=True))
    for pid, camid in zip(dataset.query.pids.tolist(), (dataset.query.camids + 1).tolist(), strict=True):
        assert any(p == pid and not (camid == 3 and c == 2) for p, c in gallery)
    assert set(dataset.query.pids.tolist()) == set(range(8, 48))


def test_regdb_has_pairs_of_one_moment() -> None:
    dataset = make_dataset(PAIRS)
    assert set(dataset.query.camids.tolist()) == {0}
    assert set(dataset.gallery.camids.tolist()) == {1}
    assert dataset.query.modalities.max() == 0
    assert dataset.gallery.modalities.min() == 1
    assert np.bincount(dataset.table.pids).tolist() == [20] * 12
    assert [path.replace("/c1/", "/c2/") for path in dataset.query.paths] == dataset.gallery.paths
    tracklets = dataset.table.tracklets
    for visible in dataset.query.paths[::7]:
        shot = parse_key(visible, PAIRS)
        twin = replace(shot, camid=2)
        one, two = (arrange(PAIRS, each, frame_generator(PAIRS, each)) for each in (shot, twin))
        assert np.array_equal(one.parts.frame, two.parts.frame)
        # The two boxes are a detector's own; either may be cut at the feet.
        assert np.allclose(one.view.box[:3], two.view.box[:3], atol=0.02)
        assert one.view.box != two.view.box
        rows = [dataset.table.paths.index(each.key) for each in (shot, twin)]
        assert tracklets[rows[0]] != tracklets[rows[1]]


def test_settings_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValidationError, match="spectrum=thermal has 2 cameras; set n_cameras=2"):
        SyntheticConfig(spectrum="thermal")
    with pytest.raises(ValidationError, match="spectrum=near_infrared has 6 cameras; set n_cameras=6"):
        SyntheticConfig(spectrum="near_infrared", n_cameras=3)
    with pytest.raises(ValidationError, match="even images_per_id"):
        SyntheticConfig(spectrum="thermal", n_cameras=2, images_per_id=7)


@pytest.mark.parametrize("config", [SYSU, PAIRS], ids=["near_infrared", "thermal"])
def test_infrared_is_grey_and_visible_images_keep_their_bytes(config: SyntheticConfig) -> None:
    table = make_dataset(config).table
    for path, modality in list(zip(table.paths, table.modalities, strict=True))[::5]:
        shot = parse_key(path, config)
        image = draw(config, shot)
        grey = np.array_equal(image[..., 0], image[..., 1]) and np.array_equal(image[..., 0], image[..., 2])
        assert grey == (modality == 1)
        assert image.std() > 10
        if modality == 0:
            assert np.array_equal(image, draw(VISIBLE, shot))


def test_infrared_tracklets() -> None:
    config = SYSU.model_copy(update={"tracklets_per_id": 3, "tracklet_frames": (2, 4)})
    dataset = make_dataset(config)
    assert not set(dataset.query.tracklets.tolist()) & set(dataset.gallery.tracklets.tolist())
    assert set(dataset.query.modalities.tolist()) == {1}
    assert set(dataset.query.pids.tolist()) == set(dataset.gallery.pids.tolist()) == set(range(8, 20))
    twins = PAIRS.model_copy(update={"tracklets_per_id": 2, "tracklet_frames": (2, 4)})
    shots = schedule(twins, 0)
    assert [replace(shot, camid=2) for shot in shots if shot.camid == 1] == [s for s in shots if s.camid == 2]


def _recoloured(person: Person) -> Person:
    """The same person in other colours; shapes of patterns and prints stay."""

    def other(material: Material) -> Material:
        red, green, blue = material.colour
        return replace(material, colour=(0.8 - 0.7 * blue, 0.5 * red, 0.9 - 0.8 * green), second=(0.1, 0.7, 0.1))

    return replace(person, materials=tuple(other(material) for material in person.materials))


@pytest.mark.parametrize("config", [SYSU, PAIRS], ids=["near_infrared", "thermal"])
def test_people_who_differ_in_colours_only_look_the_same_in_infrared(
    config: SyntheticConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_dataset(config).table
    shots = [parse_key(path, config) for path in table.paths[::11]]
    before = [draw(config, shot) for shot in shots]
    recolour: Callable[[int, int], Person] = lambda seed, pid: _recoloured(make_person(seed, pid))  # noqa: E731
    monkeypatch.setattr(world, "make_person", recolour)
    after = [draw(config, shot) for shot in shots]
    same = [np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    assert same == (table.modalities[::11] == 1).tolist()
    assert True in same
    assert False in same


@pytest.mark.parametrize("spectrum", ["near_infrared", "thermal"])
@pytest.mark.parametrize("slot", [Slot.UPPER, Slot.LOWER, Slot.SHOES, Slot.BAG])
def test_infrared_says_nothing_about_colours(spectrum: str, slot: Slot) -> None:
    people = [make_person(0, pid) for pid in range(1000)]
    colours = np.array([person.materials[slot].colour for person in people])
    rows = np.stack([infrared_rows(0, pid, person, spectrum)[slot] for pid, person in enumerate(people)])  # type: ignore[arg-type]
    for signal in (*colours.T, colours @ [0.2126, 0.7152, 0.0722], colours[:, 0] - colours[:, 2]):
        assert abs(np.corrcoef(signal, rows[:, 0])[0, 1]) < 0.1


def test_reflectances_and_heats_are_in_their_ranges() -> None:
    near, heat = (
        np.stack([infrared_rows(0, pid, make_person(0, pid), spectrum) for pid in range(1000)])
        for spectrum in ("near_infrared", "thermal")
    )
    for rows in (near, heat):
        for first in (0, 3, 11):
            assert np.array_equal(rows[..., first], rows[..., first + 1])
            assert np.array_equal(rows[..., first], rows[..., first + 2])
    upper = near[:, Slot.UPPER, 0]
    bright = upper >= 0.45
    assert bright.mean() == pytest.approx(0.75, abs=0.04)
    assert ((upper[bright] <= 0.9).all(), (upper[~bright] <= 0.3).all(), upper.min() >= 0.05) == (True, True, True)
    assert (near[:, Slot.UPPER, 3] == upper).mean() == pytest.approx(0.7, abs=0.04)
    assert (near[:, Slot.SKIN, 0].min(), near[:, Slot.SKIN, 0].max()) == pytest.approx((0.5, 0.65), abs=0.01)
    assert (near[:, Slot.HAIR, 0].min(), near[:, Slot.HAIR, 0].max()) == pytest.approx((0.08, 0.45), abs=0.01)
    assert (heat[:, :, 0] == heat[:, :, 3]).all()
    assert (heat[:, Slot.SKIN, 0] > heat[:, Slot.HAIR, 0]).all()
    assert (heat[:, Slot.HAIR, 0] > heat[:, Slot.BAG, 0]).all()
    assert (heat[:, Slot.UPPER, 0] > heat[:, Slot.BAG, 0]).all()
    # Shapes of patterns are the person's own.
    assert np.array_equal(
        near[..., 6:11], np.stack([make_person(0, pid).material_rows() for pid in range(1000)])[..., 6:11]
    )


def test_camera_3_is_in_the_room_of_camera_2() -> None:
    third, second = SYSU_MM01[2], SYSU_MM01[1]
    assert third.scene == second.camid
    shots = [next(s for pid in range(20) for s in schedule(SYSU, pid) if s.camid == camid) for camid in (2, 3)]
    two, three = (arrange(SYSU, shot, frame_generator(SYSU, shot)) for shot in shots)
    assert three.camera is two.camera is make_camera(SYSU.seed, 2)
    seen = surroundings(SYSU.seed, third)
    assert [ground.kind for ground in seen.grounds] == [two.camera.floor.kind, two.camera.wall.kind]
    assert seen.sensor.noise == 2.0 * make_camera(SYSU.seed, 3).sensor.noise


def _scene_with_a_box() -> tuple[View, Parts]:
    frame = np.concatenate([[0.3, 7.0, 0.0], np.eye(3).reshape(-1)])
    parts = Parts(frame[None], np.array([[0.4, 0.3, 1.2, 0.0, 0.0, 1.0, 1.0, BOX]]), np.zeros((1, 7)))
    return replace(look_at(np.array([0.0, 0.0, 2.5]), np.array([0.3, 7.0, 0.6])), box=(-0.3, 0.4, 0.3, -0.4)), parts


@pytest.mark.parametrize("reference", [0.0, 6.0])
def test_signal_is_the_formula_of_the_beam(reference: float) -> None:
    """Every pixel of a plain scene against a ray that is followed by hand."""
    view, parts = _scene_with_a_box()
    axis = np.array([0.1, 0.9, -0.4])
    axis /= np.linalg.norm(axis)
    beam = Beam(0.7, 0.1, 0.0, reference, 0.05, tuple(axis.tolist()))
    material = np.zeros((1, 16))
    material[0, 0] = 0.4
    plain = [Ground(0, (tone,) * 3, (tone,) * 3, 1.0) for tone in (0.2, 0.6)]
    height, width, wall = 20, 12, 11.0
    buffer = render(view, parts, height, width)
    image = shade_infrared(buffer, parts.cover, material, (plain[0], plain[1]), wall, beam, view)
    kinds = set()
    for y in range(height):
        for x in range(width):
            a = view.box[0] + (x + 0.5) / width * (view.box[2] - view.box[0])
            b = view.box[1] + (y + 0.5) / height * (view.box[3] - view.box[1])
            ray = view.forward + a * view.right + b * view.up
            if buffer.part[y, x] == 0:
                kind, tone, t, normal = "box", 0.4, float(buffer.depth[y, x]), buffer.normal[y, x]
            elif ray[2] < 0 and -2.5 / ray[2] < wall / ray[1]:
                kind, tone, t, normal = "floor", 0.2, -2.5 / ray[2], np.array([0.0, 0.0, 1.0])
            else:
                kind, tone, t, normal = "wall", 0.6, wall / ray[1], np.array([0.0, -1.0, 0.0])
            to_eye = -ray / np.linalg.norm(ray)
            expected = tone * (0.1 + 0.7 * max(0.0, float(normal @ to_eye)))
            if reference:
                distance = np.linalg.norm(t * ray)
                expected *= (reference / distance) ** 2 * math.exp((-(to_eye @ axis) - 1) / 0.05)
            assert np.allclose(image[y, x], expected, rtol=1e-4)
            kinds.add(kind)
    assert kinds == {"box", "floor", "wall"}


def test_a_monochrome_sensor_keeps_channels_equal() -> None:
    rng = np.random.default_rng(0)
    light = np.repeat(rng.uniform(0, 1, (64, 32, 1)), 3, axis=2).astype(np.float32)
    for spectrum, station in INFRARED_CAMERA.items():
        sensor = surroundings(0, station).sensor
        assert sensor.monochrome, spectrum
        image = expose(light, sensor, 1.0, 0.5, rng)
        assert (image == image[..., :1]).all()


def test_near_infrared_is_dark_behind_and_thermal_shows_warm_skin() -> None:
    def brightness(config: SyntheticConfig, shot: Shot) -> dict[str, float]:
        scene = arrange(config, shot, frame_generator(config, shot))
        buffer = render(scene.view, scene.parts, config.height, config.width)
        image = draw(config, shot)[..., 0].astype(float)
        materials = scene.parts.cover[buffer.part, 0]
        masks = {
            "background": buffer.part < 0,
            "skin": (buffer.part >= 0) & (buffer.part < scene.n_body) & (materials == Slot.SKIN),
            "person": (buffer.part >= 0) & (buffer.part < scene.n_body),
        }
        return {name: float(image[mask].mean()) for name, mask in masks.items() if mask.sum() > 40}

    for config, camid, least in ((SYSU, 6, 1.5), (PAIRS, 2, 2.0)):
        shots = [next((s for s in schedule(config, pid) if s.camid == camid), None) for pid in range(12)]
        levels = [brightness(config, shot) for shot in shots if shot is not None]
        assert np.mean([level["person"] / level["background"] for level in levels]) > least
        if config is PAIRS:
            assert np.mean([level["skin"] / level["person"] for level in levels if "skin" in level]) > 1.2


def _striped_histograms(images: torch.Tensor) -> np.ndarray:
    """Unit histograms [N, D] of the colours in six stripes; 4 levels a channel."""
    code = (images.numpy() // 64).astype(np.int64)
    code = code[:, 0] * 16 + code[:, 1] * 4 + code[:, 2]
    counts = [[np.bincount(s.ravel(), minlength=64) for s in np.array_split(image, 6)] for image in code]
    features = np.sqrt(np.array(counts, dtype=np.float64).reshape(len(code), -1))
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_colours_do_not_find_people_across_modalities() -> None:
    config = SYSU.model_copy(update={"n_train_ids": 30, "n_test_ids": 0})
    dataset = make_dataset(config)
    table = dataset.table
    features = _striped_histograms(torch.stack([dataset.images.read(path) for path in table.paths]))
    pids, camids, visible = table.pids, table.camids, table.modalities == 0

    def rank1(queries: np.ndarray) -> float:
        hits = []
        for row in np.flatnonzero(queries):
            valid = visible & ~((pids == pids[row]) & (camids == camids[row]))
            if (pids[valid] == pids[row]).any():
                hits.append(pids[valid][np.argmax(features[valid] @ features[row])] == pids[row])
        return float(np.mean(hits))

    assert rank1(~visible) < 0.06  # chance is 0.03
    assert rank1(visible) > 0.12
