"""`Run.embed` gives the same features for an image in any representation."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from reid_ray.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 128, 64, 3), dtype=np.uint8)


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def run(finished_run):
    return finished_run


@pytest.fixture
def features(run):
    return run.embed(PIXELS)


def test_every_representation_gives_the_same_features(run, features, tmp_path):
    (tmp_path / "a.png").write_bytes(png(PIXELS[0]))
    tensor = torch.from_numpy(PIXELS[0]).permute(2, 0, 1)
    path = tmp_path / "a.png"
    for image in (PIXELS[0], tensor, Image.fromarray(PIXELS[0]), png(PIXELS[0]), path, str(path)):
        np.testing.assert_allclose(run.embed(image), features[:1], atol=1e-5)
    assert run.embed([]).shape[0] == 0


def test_features_of_a_batch_equal_those_one_by_one(run, features):
    """The order and the other images of a batch must not matter."""
    np.testing.assert_allclose(np.concatenate([run.embed(image) for image in PIXELS]), features, atol=1e-5)
    order = [3, 0, 4, 1, 2]
    np.testing.assert_allclose(run.embed(PIXELS[order]), features[order], atol=1e-5)
    np.testing.assert_allclose(run.embed(iter(PIXELS)), features, atol=1e-5)


def test_bgr_must_be_declared(run, features):
    """Undeclared BGR arrays of OpenCV silently give other features."""
    bgr = PIXELS[..., ::-1]
    np.testing.assert_allclose(run.embed(bgr, channels="bgr"), features, atol=1e-5)
    assert np.abs(run.embed(bgr) - features).max() > 1e-3
    with pytest.raises(DataError, match="channels='gbr'"):
        run.embed(bgr, channels="gbr")


def test_images_of_any_shape(run):
    """Square, wide and tall images, greyscale and with transparency, in one batch."""
    images = [np.zeros(shape, np.uint8) for shape in ((64, 64, 3), (20, 90), (1, 1, 4), (300, 7, 1))]
    found = run.embed(images)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(found, np.repeat(found[:1], 4, axis=0), atol=1e-5)


def test_bad_image_is_named_by_its_index(run):
    with pytest.raises(DataError, match=r"Cannot read image 2: uint8 \[0, 4, 3\] has no pixels"):
        run.embed([PIXELS[0], PIXELS[1], np.empty((0, 4, 3), np.uint8)])
    with pytest.raises(DataError, match=r"Cannot read the image gone\.jpg"):
        run.embed("gone.jpg")
