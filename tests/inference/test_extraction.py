"""Features are in row order and do not depend on which process extracts which batch."""

import numpy as np
import pytest
import torch
from torch import nn

from reid_ray.config import DataConfig
from reid_ray.data.loader import ImageCache
from reid_ray.data.table import ImageTable
from reid_ray.data.views import PixelBatch, make_view
from reid_ray.errors import DataError
from reid_ray.inference.extraction import assemble, augmented, batch_rows, embed_batch, extract, model_columns


def filled(rows):
    """Image i is filled with i + 1."""
    return PixelBatch(torch.stack([torch.full((3, 4, 2), float(row + 1)) for row in rows]), None)


class Model(nn.Module):
    """Features [mean, batch size]: shows if batches are split differently."""

    def __init__(self, dtype):
        super().__init__()
        self.factor = nn.Parameter(torch.ones((), dtype=dtype))

    def embed(self, images):
        assert not torch.is_grad_enabled()
        assert images.dtype == self.factor.dtype
        means = images.mean((1, 2, 3)) * self.factor
        return torch.stack([means, torch.full_like(means, len(images))], 1)


def test_batches_cover_all_rows_once():
    assert batch_rows(10, 4) == [range(4), range(4, 8), range(8, 10)]
    assert batch_rows(8, 4) == [range(4), range(4, 8)]
    assert batch_rows(0, 4) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_threads", [1, 3])
def test_features_are_in_batch_order(dtype, n_threads):
    seen = []
    batches = [range(4, 8), range(0, 4), range(8, 10)]
    device = torch.device("cpu")
    parts = extract(Model(dtype), filled, batches, device=device, n_threads=n_threads, on_batch=seen.append)
    assert seen == [4, 4, 2]
    features = assemble(parts)
    assert features.dtype == np.float32
    np.testing.assert_allclose(features[:, 0], [5, 6, 7, 8, 1, 2, 3, 4, 9, 10])
    np.testing.assert_array_equal(features[:, 1], [4] * 8 + [2] * 2)


def test_no_batches():
    assert assemble([]).shape == (0, 0)


class ByCamera(Model):
    """Reads a column in addition to the images."""

    columns = ("camid",)

    def embed(self, images, camid):
        assert camid.dtype == torch.int64
        return torch.stack([super().embed(images)[:, 0], camid.to(images.dtype)], 1)


def test_model_gets_the_columns_that_it_names():
    table = ImageTable.from_columns(path=[str(i) for i in range(5)], camid=[4, 3, 2, 1, 0])
    device, model = torch.device("cpu"), ByCamera(torch.float32)
    assert model_columns(Model(torch.float32), table) == {}
    columns = model_columns(model, table)
    assert {name: values.tolist() for name, values in columns.items()} == {"camid": [4, 3, 2, 1, 0]}
    features = assemble(extract(model, filled, [range(3, 5), range(3)], device=device, columns=columns))
    np.testing.assert_array_equal(features, [[4, 1], [5, 0], [1, 4], [2, 3], [3, 2]])
    model.columns = ("tracklet",)
    with pytest.raises(DataError, match="no column 'tracklet'"):
        model_columns(model, table)


def test_images_are_normalised():
    pixels = torch.randint(0, 256, (2, 3, 4, 2), dtype=torch.uint8)
    found = embed_batch(Model(torch.float32), PixelBatch(pixels, None), device=torch.device("cpu"))
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    std = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    np.testing.assert_allclose(found[:, 0], ((pixels / 255 - mean) / std).mean((1, 2, 3)), rtol=1e-5, atol=1e-6)


def test_augmented_copies_are_deterministic():
    class Noise:
        def read(self, path):
            return torch.from_numpy(np.random.default_rng(int(path)).integers(0, 256, (3, 32, 16), dtype=np.uint8))

    table = ImageTable.from_columns(path=["0", "1", "2", "3"])
    cache = ImageCache(table, Noise(), height=32, width=16, cache_mb=1)
    view = make_view("strong", DataConfig(height=32, width=16))

    def pixels(rows, seed=0, copy=0):
        return augmented(cache, view, seed, copy)(rows).to(torch.device("cpu"), torch.float32)

    whole = pixels(range(4))
    assert torch.equal(pixels(range(2, 4)), whole[2:]), "whoever extracts which batch"
    for other in (pixels(range(4), seed=1), pixels(range(4), copy=1)):
        assert all(not torch.equal(one, two) for one, two in zip(other, whole, strict=True))
