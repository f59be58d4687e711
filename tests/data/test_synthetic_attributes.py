"""The attributes of the synthetic world against what its renderer shows."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from reid_ray.config.data import SyntheticConfig
from reid_ray.data.synthetic import make_dataset
from reid_ray.data.synthetic.attributes import ATTRIBUTES, LOWER_COLOURS, UPPER_COLOURS, attributes_of, main_colour
from reid_ray.data.synthetic.body import Posture, assemble, make_pose
from reid_ray.data.synthetic.people import LowerKind, Material, Pattern, Slot, make_person
from reid_ray.data.synthetic.render import look_at, render
from reid_ray.data.synthetic.shading import _second_weight
from reid_ray.types import UNKNOWN

PIDS = range(150)
HEADINGS = (0.0, 1.5, 3.1, 4.7)


@cache
def _seen(pid: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Materials [n], surface places [n, 3] and heights above the floor [n] (m) of a person's pixels in four views."""
    person = make_person(0, pid)
    slots, surfaces, heights = [], [], []
    for heading in HEADINGS:
        body = assemble(person, make_pose(person, heading, Posture.WALKING)).placed((0.0, 6.0), heading, 0)
        view = replace(look_at(np.array([0.0, 0.0, 1.0]), np.array([0.0, 6.0, 1.0])), box=(-0.16, 0.2, 0.16, -0.2))
        buffer = render(view, body, 96, 64)
        hit = buffer.part >= 0
        cover, surface = body.cover[buffer.part[hit]], buffer.surface[hit]
        is_open = (cover[:, 4] > 0) & (abs(surface[:, 0]) < cover[:, 4])
        closed = np.where(surface[:, 2] < cover[:, 2], cover[:, 0], cover[:, 1])
        slots.append(np.where(is_open, cover[:, 3], closed))
        surfaces.append(surface)
        b = view.box[1] + (np.nonzero(hit)[0] + 0.5) / 96 * (view.box[3] - view.box[1])
        heights.append(1.0 + b * buffer.depth[hit])
    return np.concatenate(slots), np.concatenate(surfaces), np.concatenate(heights)


def _n_pixels(pid: int, slot: Slot) -> int:
    return int((_seen(pid)[0] == slot).sum())


def test_each_colour_group_has_one_yes_or_is_unknown() -> None:
    n_unknown = 0
    for pid in range(600):
        values = attributes_of(make_person(0, pid))
        assert tuple(values) == ATTRIBUTES
        assert sum(values[f"up{word}"] for word in UPPER_COLOURS) == 1
        lower = [values[f"down{word}"] for word in LOWER_COLOURS]
        assert sum(lower) == 1 or set(lower) == {UNKNOWN}
        assert (values["clothes"] == UNKNOWN) == (set(lower) == {UNKNOWN})
        n_unknown += lower[0] == UNKNOWN
        assert sum(values[name] for name in ("backpack", "bag", "handbag", "suitcase")) <= 1
        assert set(values.values()) <= {UNKNOWN, 0, 1}
    assert 0 < n_unknown < 30


def test_most_attributes_have_both_values_among_the_training_people() -> None:
    values = np.array([list(attributes_of(make_person(0, pid)).values()) for pid in range(60)])
    both = [name for name, column in zip(ATTRIBUTES, values.T, strict=True) if {0, 1} <= set(column.tolist())]
    assert len(both) >= len(ATTRIBUTES) - 4


def test_things_are_seen_where_the_attributes_say_so() -> None:
    for pid in PIDS:
        values = attributes_of(make_person(0, pid))
        has_bag = any(values[name] for name in ("backpack", "bag", "handbag", "suitcase"))
        assert (_n_pixels(pid, Slot.BAG) > 0) == has_bag
        assert (_n_pixels(pid, Slot.HAT) > 0) == bool(values["hat"])
        share = _n_pixels(pid, Slot.LOWER) / len(_seen(pid)[0])
        if values["clothes"] != UNKNOWN:
            assert share > 0.0
        elif make_person(0, pid).outfit.lower_kind != LowerKind.SKIRT:  # a wide skirt shows through its coat
            assert share < 0.05


def test_bare_knees_are_short_clothes() -> None:
    n_short = 0
    for pid in PIDS:
        person = make_person(0, pid)
        short = attributes_of(person)["down"]
        outfit, (slots, _, heights) = person.outfit, _seen(pid)
        end = max(outfit.coat, outfit.lower_length + (0.1 if outfit.lower_kind != LowerKind.SKIRT else 0.0))
        if 0.55 < end < 0.65:
            continue  # the hem is at the knee
        clothed = np.isin(slots, (Slot.SKIN, Slot.UPPER, Slot.LOWER))
        knee = clothed & (abs(heights - 0.27 * person.build.stature) < 0.03)
        bare = (slots[knee] == Slot.SKIN).mean()
        assert (bare > 0.5) == bool(short), pid
        n_short += short
    assert n_short > 5


def test_long_hair_falls_below_the_chin() -> None:
    lowest: dict[int, list[float]] = {0: [], 1: []}
    for pid in PIDS:
        person = replace(make_person(0, pid), beard=False)
        parts = assemble(person, make_pose(person, 0.0, Posture.STANDING))
        hair = parts.cover[:, 0] == Slot.HAIR
        ends = parts.frame[:, 2] + parts.frame[:, 11] * parts.shape[:, 2]
        if hair.any():
            lowest[attributes_of(person)["hair"]].append(ends[hair].min() / person.build.stature)
    assert max(lowest[1]) < min(lowest[0])


def test_short_sleeves_show_the_forearm() -> None:
    for pid in PIDS:
        person = make_person(0, pid)
        parts = assemble(person, make_pose(person, 0.0, Posture.STANDING))
        sleeve_ends_above_elbow = (parts.cover[:, 0] == Slot.UPPER) & (parts.cover[:, 1] == Slot.SKIN)
        upper_arms = sleeve_ends_above_elbow & (parts.cover[:, 2] < 0.168 * person.build.stature)
        n_bare = 2 if attributes_of(person)["up"] else 0
        assert (upper_arms & (parts.cover[:, 6] == 0)).sum() == n_bare


def test_the_main_colour_covers_most_of_the_garment() -> None:
    n_second = 0
    for pid in PIDS:
        person = make_person(0, pid)
        slots, surfaces, _ = _seen(pid)
        for slot in (Slot.UPPER, Slot.LOWER):
            cloth, row = person.materials[slot], person.material_rows()[slot]
            if cloth.pattern == Pattern.PLAIN or (slots == slot).sum() < 150:
                continue
            share = np.mean([_second_weight(row, float(s), float(v)) for _, s, v in surfaces[slots == slot]])
            if abs(share - 0.5) > 0.15:
                expected = replace(cloth, pattern=Pattern.PLAIN, name=cloth.second_name if share > 0.5 else cloth.name)
                assert main_colour(cloth) == main_colour(expected)
                n_second += share > 0.5
    assert n_second > 3


@pytest.mark.parametrize(
    ("rgb", "word"),
    [((20, 20, 22), "black"), ((225, 225, 225), "white"), ((45, 60, 120), "blue"), ((170, 40, 40), "red"),
     ((198, 178, 146), "beige"),
     ((100, 70, 50), "brown"), ((60, 110, 70), "green"), ((215, 185, 75), "yellow"), ((216, 146, 160), "pink")],
)  # fmt: skip
def test_words_are_those_of_the_colours_that_are_drawn(rgb: tuple[int, int, int], word: str) -> None:
    """The most typical garments of a word look like it: their mean display colour is nearest to the word's own."""
    cloths = [make_person(0, pid).materials[Slot.UPPER] for pid in range(800)]
    plain = [c for c in cloths if main_colour(c) == word and c.pattern == Pattern.PLAIN]
    assert len(plain) > 3
    mean = np.mean([[255 * v ** (1 / 2.2) for v in c.colour] for c in plain], axis=0)
    assert np.abs(mean - rgb).max() < 45


def test_material_names_do_not_reach_the_shaders() -> None:
    assert len(Material((0.1, 0.2, 0.3), name="red").row()) == 16


def test_the_table_has_the_attributes_of_each_person() -> None:
    config = SyntheticConfig(n_train_ids=5, n_test_ids=3, images_per_id=6)
    table = make_dataset(config).table
    assert table.attribute_names == ATTRIBUTES
    for pid, values in zip(table.pids, table.attributes, strict=True):
        assert values.tolist() == list(attributes_of(make_person(config.seed, int(pid))).values())
