"""Views of items come in order, each image is decoded once, and nothing is swallowed: an unreadable image is named."""

import threading
import time
from functools import partial

import numpy as np
import pytest
import torch

from reid_ray.config import DataConfig
from reid_ray.data.loader import ImageCache, ViewLoader, prefetch
from reid_ray.data.table import ImageTable
from reid_ray.data.views import make_view, normalize
from reid_ray.errors import DataError

SIZE = {"height": 32, "width": 16}
VIEWS = {"strong_1": "strong", "strong_2": "strong", "weak": "resize"}


class CountingReader:
    """Images whose pixels are the row number; one of them may be bad."""

    def __init__(self, bad=None):
        self.reads = []
        self.bad = bad

    def read(self, path):
        self.reads.append(path)
        if path == self.bad:
            raise DataError(f"Cannot decode the image {path}.")
        return torch.full((3, 32, 16), int(path) % 256, dtype=torch.uint8)


def cache(n=8, *, cache_mb=1, bad=None):
    reader = CountingReader(bad)
    table = ImageTable.from_columns(path=[str(i) for i in range(n)])
    return ImageCache(table, reader, **SIZE, cache_mb=cache_mb), reader


def loader(images, views=VIEWS, seed=0, **settings):
    config = DataConfig(**SIZE, **settings)
    made = {name: make_view(view, config) for name, view in views.items()}
    return ViewLoader(made, {"image": images.image}, seed)


def load(made, rows, first_slot=0, epoch=0):
    """The views of single images, as the network sees them."""
    pixels = made.load(np.asarray(rows)[:, None], first_slot, epoch)
    return {name: batch.to(torch.device("cpu"), torch.float32) for name, batch in pixels.items()}


def images_of(rows):
    return torch.stack([torch.full((3, 32, 16), int(row), dtype=torch.uint8) for row in rows])


def test_an_image_is_decoded_once_while_the_cache_lasts():
    images, reader = cache()
    for _ in range(3):
        images.batch(range(8))
    assert sorted(reader.reads) == sorted(map(str, range(8)))
    images, reader = cache(cache_mb=0)
    images.batch([1, 1])
    assert reader.reads == ["1", "1"]


def test_a_batch_of_images_is_uint8_and_as_they_are():
    images, _ = cache()
    batch = images.batch([3, 1, 3])
    assert torch.equal(batch.values, images_of([3, 1, 3]))
    assert batch.erased is None
    assert len(images) == 8


def test_images_are_resized_to_the_size_of_the_cache():
    images = ImageCache(ImageTable.from_columns(path=["1", "2"]), CountingReader(), height=64, width=8, cache_mb=1)
    assert images.batch(range(2)).values.shape == (2, 3, 64, 8)


def test_as_many_images_are_kept_as_fit():
    n_kept = 2**20 // (3 * 32 * 16)
    images, reader = cache(n_kept + 5)
    for _ in range(2):
        for row in range(n_kept + 5):
            images.image(row)
    assert len(reader.reads) == n_kept + 5 + 5


def test_weak_views_follow_the_rows():
    images, _ = cache()
    for rows in ([3, 1, 0, 7], [2, 2, 5, 6]):
        batch = load(loader(images), rows)
        assert list(batch) == list(VIEWS)
        assert torch.equal(batch["weak"], normalize(images_of(rows)))


def test_the_same_image_twice_in_a_batch_gets_two_views():
    images, _ = cache()
    batch = load(loader(images), [2, 2, 2, 2])
    assert len({view.numpy().tobytes() for view in batch["strong_1"]}) > 1
    assert not torch.equal(batch["strong_1"], batch["strong_2"])


def test_a_strong_view_is_another_in_another_step_epoch_or_run():
    images, _ = cache()

    def view(seed=0, first_slot=0, epoch=0):
        return load(loader(images, seed=seed), [2, 2, 2], first_slot, epoch)["strong_1"]

    assert torch.equal(view(), view())
    for other in (view(first_slot=3), view(epoch=1), view(seed=1)):
        assert not torch.equal(other, view())


def test_the_strong_view_is_the_configured_one():
    images, _ = cache()
    plain = loader(images, strong={"pad": 0, "flip": 0, "blur": 0, "erase": 0})
    batch = load(plain, [0, 1, 2])
    assert torch.equal(batch["strong_1"], batch["weak"])


@pytest.mark.parametrize("n_workers", [2, 4])
@pytest.mark.parametrize("n_frames", [1, 3])
def test_workers_together_see_the_global_batch(n_workers, n_frames):
    """A worker's first slot is the place of its first frame in the epoch."""
    images, _ = cache()
    made = loader(images)
    rows = np.random.default_rng(0).integers(0, 8, (8, n_frames))
    whole = made.load(rows, 5 * rows.size, 3)
    share = 8 // n_workers
    parts = [
        made.load(rows[start : start + share], 5 * rows.size + start * n_frames, 3) for start in range(0, 8, share)
    ]
    for name, expected in whole.items():
        assert expected.values.shape == ((8, 3, 32, 16) if n_frames == 1 else (8, 3, 3, 32, 16))
        assert torch.equal(torch.cat([part[name].values for part in parts]), expected.values)
        if expected.erased is not None:
            erased = [
                torch.zeros(share, *expected.erased.shape[1:], dtype=torch.int64)
                if part[name].erased is None
                else part[name].erased
                for part in parts
            ]
            assert torch.equal(torch.cat(erased), expected.erased)


def test_views_are_made_from_their_source_in_the_order_of_their_keys():
    """A view's key is its place among the views, so that one more view at the end changes no other."""
    images, _ = cache()
    features = torch.arange(24.0).reshape(8, 3, 1)
    config = DataConfig(**SIZE)
    views = {name: make_view(view, config) for name, view in (("a", "feature"), ("b", "feature"), ("image", "strong"))}
    sources = {"image": images.image, "feature": lambda row: features[row]}
    rows = np.arange(8)[:, None]
    both = ViewLoader(views, sources, 0).load(rows, 0, 0)
    assert both["a"].values.shape == (8, 1)
    assert all(value in features[row] for row, value in enumerate(both["a"].values))
    assert not torch.equal(both["a"].values, both["b"].values)
    fewer = ViewLoader({"a": views["a"], "b": views["b"]}, sources, 0).load(rows, 0, 0)
    assert torch.equal(fewer["b"].values, both["b"].values)


def test_an_unreadable_image_is_named_at_its_batch():
    images, _ = cache(bad="5")
    plan = np.array([[0, 1], [2, 3], [4, 5], [6, 7]])
    batches = prefetch(partial(load, loader(images)), plan, n_threads=2)
    next(batches), next(batches)
    with pytest.raises(DataError, match="image 5"):
        next(batches)


def test_prefetch_keeps_order_when_early_items_are_slow():
    def slow_first(i):
        time.sleep(0.05 if i == 0 else 0)
        return i * i

    assert list(prefetch(slow_first, range(20), n_threads=4)) == [i * i for i in range(20)]


def test_prefetch_does_not_run_far_ahead_and_stops_when_closed():
    started = []
    results = prefetch(lambda i: started.append(i) or i, range(1000), n_threads=2, ahead=2)
    next(results)
    time.sleep(0.1)
    assert len(started) <= 5
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("reid-loader")]


def test_closing_cancels_what_has_not_begun():
    started = []

    def slow(i):
        started.append(i)
        time.sleep(0.1 if i else 0)

    results = prefetch(slow, range(10), n_threads=1, ahead=3)
    next(results)
    results.close()
    assert 4 not in started


def test_a_loader_thread_uses_one_kernel_thread():
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert list(prefetch(lambda i: torch.get_num_threads(), range(3), n_threads=2)) == [1, 1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
