"""Views are functions of the item and a key: the same anywhere, different wherever the key differs."""

import math
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from reid_ray.config import DataConfig, StrongViewConfig
from reid_ray.data.views import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    NO_RECTANGLE,
    VIEWS,
    PixelBatch,
    Pixels,
    blur,
    collate,
    erase,
    make_view,
    normalize,
    register_view,
    resize,
    view_rng,
)
from reid_ray.errors import MethodError

PLAIN = {"pad": 0, "flip": 0.0, "blur": 0.0, "erase": 0.0}
CPU = torch.device("cpu")


def image(height=32, width=16, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8))


def data(**settings):
    return DataConfig(strong=StrongViewConfig(**{**PLAIN, **settings}))


def on_device(pixels):
    """What the network sees of one view."""
    return collate([pixels]).to(CPU, torch.float32)[0]


def view(key=(0, 0, 0, 0, 0), **settings):
    """The strong view of an image, as the network sees it."""
    return on_device(make_view("strong", data(**settings))(image(), view_rng(*key)))


def test_without_augmentation_the_strong_view_is_the_weak_one():
    assert torch.equal(view(), normalize(image()))


def test_normalize_is_imagenets():
    expected = (image().double() / 255 - torch.tensor(IMAGENET_MEAN).double()[:, None, None]) / torch.tensor(
        IMAGENET_STD
    ).double()[:, None, None]
    torch.testing.assert_close(normalize(image()).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(200, 90), (30, 20), (77, 131)])
def test_resize_and_normalize_are_torchvisions_bit_for_bit(shape):
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8))
    expected = transforms.resize(pixels, [64, 32], interpolation=InterpolationMode.BICUBIC, antialias=True)
    assert torch.equal(resize(pixels, 64, 32), expected)
    scaled = transforms.to_dtype(expected, torch.float32, scale=True)
    assert torch.equal(normalize(expected), transforms.normalize(scaled, IMAGENET_MEAN, IMAGENET_STD))


def test_flip():
    assert torch.equal(view(flip=1.0), normalize(image().flip(-1)))


def test_crop_takes_a_window_of_the_zero_padded_image():
    padded = torch.nn.functional.pad(image(), (2, 2, 2, 2))
    windows = [normalize(padded[:, y : y + 32, x : x + 16]) for y, x in product(range(5), range(5))]
    seen = set()
    for slot in range(200):
        crop = view((0, 0, slot, 0, 0), pad=2)
        seen.update(i for i, window in enumerate(windows) if torch.equal(crop, window))
        assert any(torch.equal(crop, window) for window in windows)
    assert len(seen) == 25


def test_blur_follows_the_gaussian():
    sigma = 1.3
    impulse = torch.zeros(3, 33, 33, dtype=torch.uint8)
    impulse[:, 16, 16] = 255
    distance = torch.arange(33) - 16.0
    weights = torch.exp(-(distance**2) / (2 * sigma**2))
    weights /= weights.sum()
    expected = 255 * weights[:, None] * weights[None, :]
    assert (blur(impulse, sigma)[0].float() - expected).abs().max() <= 1.0


def test_erasing_fills_a_rectangle_after_normalisation_within_its_ranges():
    shares = []
    fill = torch.tensor(IMAGENET_MEAN)[:, None]
    for slot in range(300):
        erased = view((0, 0, slot, 0, 0), erase=1.0)
        changed = (erased != normalize(image())).any(0)
        rows, columns = torch.nonzero(changed, as_tuple=True)
        box = erased[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        assert torch.equal(box.reshape(3, -1), fill.expand(3, box[0].numel()))
        shares.append(box[0].numel() / (32 * 16))
    assert 0.01 < min(shares) < 0.06
    assert 0.3 < max(shares) < 0.45


def test_erased_rectangles_have_the_aspect_and_lie_anywhere():
    tops, lefts = set(), set()
    for slot in range(300):
        erased = view((0, 0, slot, 0, 0), erase=1.0, erase_area=(0.25, 0.25), erase_aspect=(2.0, 2.0))
        rows, columns = torch.nonzero((erased == torch.tensor(IMAGENET_MEAN)[:, None, None]).all(0), as_tuple=True)
        assert (int(rows.max() - rows.min()) + 1, int(columns.max() - columns.min()) + 1) == (16, 8)  # height / width
        tops.add(int(rows.min()))
        lefts.add(int(columns.min()))
    assert tops == set(range(17))
    assert lefts == set(range(9))


@pytest.mark.parametrize("what", ["flip", "blur", "erase"])
def test_probabilities_are_met(what):
    weak = normalize(image())
    changed = sum(not torch.equal(view((0, 0, slot, 0, 0), **{what: 0.6}), weak) for slot in range(500)) / 500
    assert abs(changed - 0.6) < 0.08


def test_blur_is_drawn_from_all_its_range():
    def roughness(pixels):
        return float(pixels.diff(dim=-1).abs().mean())

    plain = roughness(normalize(image()))
    shares = [roughness(view((0, 0, slot, 0, 0), blur=1.0, blur_sigma=(0.1, 2.0))) / plain for slot in range(50)]
    assert max(shares) > 0.9
    assert min(shares) < 0.2


@pytest.mark.parametrize("place", range(5))
def test_every_part_of_the_key_matters_and_nothing_else(place):
    settings = {"pad": 4, "flip": 0.5, "blur": 0.5, "erase": 1.0}
    key = [5, 4, 3, 2, 1]
    first = view(tuple(key), **settings)
    torch.manual_seed(123)
    assert torch.equal(view(tuple(key), **settings), first)
    key[place] += 1
    assert not torch.equal(view(tuple(key), **settings), first)


def strong_view_of_one_image(item, config, rng):
    """The strong view as the released code makes it, image by image: normalised, then erased, in float32."""
    height, width = item.shape[-2:]
    top, left = rng.integers(0, 2 * config.pad + 1, size=2).tolist()
    item = transforms.crop(transforms.pad(item, [config.pad]), top, left, height, width)
    if rng.random() < config.flip:
        item = item.flip(-1)
    if rng.random() < config.blur:
        item = blur(item, float(rng.uniform(*config.blur_sigma)))
    pixels = normalize(item)
    if rng.random() < config.erase:
        for _ in range(100):
            area = rng.uniform(*config.erase_area) * height * width
            aspect = rng.uniform(*config.erase_aspect)
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if h < height and w < width:
                top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
                fill = torch.tensor(IMAGENET_MEAN)[:, None, None]
                return transforms.erase(pixels, top, left, h, w, fill)
    return pixels


@pytest.mark.parametrize("area", [(0.02, 0.4), (0.9, 1.0)])
def test_a_batch_is_that_of_views_made_image_by_image(area):
    """Areas near the whole image rarely fit: some attempts are repeated, and some images stay as they are."""
    settings = {"pad": 4, "flip": 0.5, "blur": 0.5, "erase": 0.6, "erase_area": area}
    config = data(**settings)
    strong = make_view("strong", config)
    items, keys = [image(seed=i) for i in range(40)], [(7, 1, slot, slot % 5, 0) for slot in range(40)]
    made = [strong(item, view_rng(*key)) for item, key in zip(items, keys, strict=True)]
    assert all(pixels.values.dtype == torch.uint8 for pixels in made)
    assert 5 < sum(pixels.erased != NO_RECTANGLE for pixels in made) < 35
    expected = [
        strong_view_of_one_image(item, config.strong, view_rng(*key)) for item, key in zip(items, keys, strict=True)
    ]
    assert torch.equal(collate(made).to(CPU, torch.float32), torch.stack(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_erasing_fills_each_image_s_own_rectangle(dtype):
    rng = np.random.default_rng(1)
    images = torch.randn(2, 6, 3, 9, 5, dtype=dtype)
    rectangles = torch.zeros(2, 6, 4, dtype=torch.int64)
    expected = images.clone()
    for i, j in product(range(2), range(6)):
        if (i, j) == (0, 3):
            continue  # height 0: this one stays
        height, width = int(rng.integers(1, 10)), int(rng.integers(1, 6))
        top, left = int(rng.integers(0, 10 - height)), int(rng.integers(0, 6 - width))
        rectangles[i, j] = torch.tensor([top, left, height, width])
        for channel, y, x in product(range(3), range(top, top + height), range(left, left + width)):
            expected[i, j, channel, y, x] = torch.tensor(IMAGENET_MEAN[channel], dtype=dtype)
    before = images.clone()
    assert torch.equal(erase(images, rectangles), expected)
    assert torch.equal(erase(images.flatten(0, 1), rectangles.flatten(0, 1)), expected.flatten(0, 1))
    assert torch.equal(images, before), "the input is left as it is"


def test_a_batch_without_rectangles_has_none():
    batch = collate([Pixels(image(seed=i)) for i in range(3)])
    assert batch.erased is None
    assert torch.equal(batch.values, torch.stack([image(seed=i) for i in range(3)]))
    mixed = collate([Pixels(image()), Pixels(image(), (1, 2, 3, 4))])
    assert mixed.erased.tolist() == [[0, 0, 0, 0], [1, 2, 3, 4]]


def test_frames_of_a_tracklet_stay_together():
    pixels = [Pixels(image(seed=i), (i, 0, 1, 1)) for i in range(6)]
    flat, batch = collate(pixels), collate(pixels, n_frames=3)
    assert batch.values.shape == (2, 3, 3, 32, 16)
    assert batch.erased.shape == (2, 3, 4)
    assert torch.equal(batch.values.flatten(0, 1), flat.values)
    assert torch.equal(batch.to(CPU, torch.float32).flatten(0, 1), flat.to(CPU, torch.float32))
    assert collate([Pixels(image())] * 4, n_frames=2).erased is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_images_arrive_normalised_in_the_dtype_of_the_network(dtype):
    batch = collate([Pixels(image(seed=i)) for i in range(2)])
    seen = batch.to(CPU, dtype)
    assert seen.dtype == dtype
    assert seen.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(seen, normalize(batch.values).to(dtype)), "normalised in float32, then converted"
    assert collate([Pixels(image())] * 2, n_frames=2).to(CPU, dtype).is_contiguous()


def test_float_values_are_taken_as_they_are():
    values = torch.randn(4, 7)
    for batch in (PixelBatch(values, None), collate([Pixels(row) for row in values])):
        assert torch.equal(batch.to(CPU, torch.float64), values.double())


def test_a_view_is_found_by_name(monkeypatch):
    monkeypatch.setattr("reid_ray.data.views.VIEWS", dict(VIEWS))
    assert {"resize", "flip", "feature", "strong"} <= VIEWS.keys()
    with pytest.raises(MethodError, match=r"There is no view 'stron'; did you mean 'strong'\?"):
        make_view("stron", data())
    with pytest.raises(MethodError, match=r"There is no view 'xyz'; views are resize, flip, feature, strong"):
        make_view("xyz", data())

    @register_view("negative")
    @dataclass(frozen=True)
    class Negative:
        config: DataConfig
        source: ClassVar[str] = "image"

        def __call__(self, item, rng):
            return Pixels(255 - item)

    settings = data(flip=0.25)
    made = make_view("negative", settings)
    assert (type(made), made.config) == (Negative, settings)
    assert torch.equal(made(image(), view_rng(0, 0, 0, 0, 0)).values, 255 - image())
    assert "negative" not in VIEWS


def test_the_resized_view_is_the_image_itself():
    item = image()
    pixels = make_view("resize", data(flip=1.0, erase=1.0))(item, view_rng(0, 0, 0, 0, 0))
    assert pixels.values is item
    assert pixels.erased == NO_RECTANGLE


def test_the_flipped_view_is_mirrored_with_the_configured_probability():
    def flipped(slot, flip):
        pixels = make_view("flip", data(flip=flip, erase=1.0, blur=1.0))(image(), view_rng(0, 0, slot, 0, 0))
        assert pixels.erased == NO_RECTANGLE
        assert torch.equal(pixels.values, image()) or torch.equal(pixels.values, image().flip(-1))
        return torch.equal(pixels.values, image().flip(-1))

    assert all(flipped(slot, 1.0) for slot in range(20))
    assert not any(flipped(slot, 0.0) for slot in range(20))
    assert abs(sum(flipped(slot, 0.3) for slot in range(500)) / 500 - 0.3) < 0.08


def test_the_feature_view_draws_one_of_the_copies():
    copies = torch.randn(3, 5)
    feature = make_view("feature", data())
    drawn = [feature(copies, view_rng(0, 0, slot, 0, 0)).values for slot in range(60)]
    places = [next(i for i, copy in enumerate(copies) if torch.equal(copy, one)) for one in drawn]
    assert set(places) == {0, 1, 2}
    assert min(places.count(place) for place in range(3)) > 8
    sources = {name: make_view(name, data()).source for name in ("resize", "flip", "strong", "feature")}
    assert sources == {"resize": "image", "flip": "image", "strong": "image", "feature": "feature"}


def test_resize_is_bicubic_and_antialiased():
    large = image(96, 48)
    smooth = torch.nn.functional.interpolate(large[None].float(), (32, 16), mode="bicubic", antialias=True)[0]
    assert (resize(large, 32, 16).float() - smooth.clamp(0, 255)).abs().max() <= 1


def test_resize_keeps_an_image_that_fits():
    same = image()
    assert resize(same, 32, 16) is same
    assert resize(same, 64, 32).shape == (3, 64, 32)
    assert resize(same, 64, 32).dtype == torch.uint8
