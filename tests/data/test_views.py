"""Views are functions of the image and a key: the same anywhere, different wherever the key differs."""

from itertools import product

import numpy as np
import pytest
import torch

from reid_ray.config import StrongViewConfig
from reid_ray.data.views import IMAGENET_MEAN, IMAGENET_STD, StrongView, blur, normalize, resize, view_rng

PLAIN = {"pad": 0, "flip": 0.0, "blur": 0.0, "erase": 0.0}


def image(height=32, width=16, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8))


def view(key=(0, 0, 0, 0, 0), **settings):
    return StrongView(StrongViewConfig(**{**PLAIN, **settings}))(image(), view_rng(*key))


def test_without_augmentation_the_strong_view_is_the_weak_one():
    assert torch.equal(view(), normalize(image()))


def test_normalize_is_imagenets():
    expected = (image().double() / 255 - torch.tensor(IMAGENET_MEAN).double()[:, None, None]) / torch.tensor(
        IMAGENET_STD
    ).double()[:, None, None]
    torch.testing.assert_close(normalize(image()).double(), expected, rtol=1e-5, atol=1e-6)


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


def test_resize_is_bicubic_and_antialiased():
    large = image(96, 48)
    smooth = torch.nn.functional.interpolate(large[None].float(), (32, 16), mode="bicubic", antialias=True)[0]
    assert (resize(large, 32, 16).float() - smooth.clamp(0, 255)).abs().max() <= 1


def test_resize_keeps_an_image_that_fits():
    same = image()
    assert resize(same, 32, 16) is same
    assert resize(same, 64, 32).shape == (3, 64, 32)
    assert resize(same, 64, 32).dtype == torch.uint8
