"""Batches come in order, each image is decoded once, and nothing is swallowed: an unreadable image is named."""

import threading
import time

import numpy as np
import pytest
import torch

from reid_ray.config import DataConfig
from reid_ray.data.loader import ImageBank, ViewLoader, prefetch
from reid_ray.data.table import ImageTable
from reid_ray.data.views import normalize
from reid_ray.errors import DataError

SIZE = {"height": 32, "width": 16}


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


def bank(n=8, *, cache_mb=1, bad=None):
    reader = CountingReader(bad)
    table = ImageTable.from_columns(path=[str(i) for i in range(n)])
    return ImageBank(table, reader, **SIZE, cache_mb=cache_mb), reader


def loader(images, views=("strong_1", "strong_2", "weak"), threads=2, seed=0, **settings):
    config = DataConfig(**SIZE, loader_threads=threads, **settings)
    return ViewLoader(images, config, views, seed=seed)


def test_an_image_is_decoded_once_while_the_cache_lasts():
    images, reader = bank()
    for _ in range(3):
        images.normalized(range(8))
    assert sorted(reader.reads) == sorted(map(str, range(8)))
    images, reader = bank(cache_mb=0)
    images.normalized([1, 1])
    assert reader.reads == ["1", "1"]


def test_as_many_images_are_kept_as_fit():
    room = 2**20 // (3 * 32 * 16)
    images, reader = bank(room + 5)
    for _ in range(2):
        for row in range(room + 5):
            images.image(row)
    assert len(reader.reads) == room + 5 + 5


def test_weak_views_follow_the_plan():
    images, _ = bank()
    plan = np.array([[3, 1, 0, 7], [2, 2, 5, 6]])
    for step, batch in enumerate(loader(images).batches(plan, slice(0, 4), epoch=0)):
        assert torch.equal(batch["weak"][:, 0, 0, 0], normalize(images_of(plan[step]))[:, 0, 0, 0])


def images_of(rows):
    return torch.stack([torch.full((3, 32, 16), int(row), dtype=torch.uint8) for row in rows])


def test_the_same_image_twice_in_a_batch_gets_two_views():
    images, _ = bank()
    batch = next(loader(images).batches(np.array([[2, 2, 2, 2]]), slice(0, 4), epoch=0))
    assert len({view.numpy().tobytes() for view in batch["strong_1"]}) > 1
    assert not torch.equal(batch["strong_1"], batch["strong_2"])


def test_a_strong_view_is_another_in_another_step_epoch_or_run():
    images, _ = bank()
    plan = np.array([[2, 2, 2], [2, 2, 2]])

    def views(seed=0, epoch=0):
        return [batch["strong_1"] for batch in loader(images, seed=seed).batches(plan, slice(0, 3), epoch=epoch)]

    first, second = views()
    assert torch.equal(views()[0], first)
    for other in (second, views(epoch=1)[0], views(seed=1)[0]):
        assert not torch.equal(other, first)


def test_the_strong_view_is_the_configured_one():
    images, _ = bank()
    plain = loader(images, strong={"pad": 0, "flip": 0, "blur": 0, "erase": 0})
    batch = next(plain.batches(np.array([[0, 1, 2]]), slice(0, 3), epoch=0))
    assert torch.equal(batch["strong_1"], batch["weak"])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("n_workers", [2, 4])
def test_workers_together_see_the_global_batch(threads, n_workers):
    images, _ = bank()
    plan = np.random.default_rng(0).integers(0, 8, (5, 8))
    whole = list(loader(images).batches(plan, slice(0, 8), epoch=3))
    share = 8 // n_workers
    parts = [
        list(loader(images, threads=threads).batches(plan, slice(i * share, (i + 1) * share), epoch=3))
        for i in range(n_workers)
    ]
    for step, batch in enumerate(whole):
        for name, expected in batch.items():
            assert torch.equal(torch.cat([part[step][name] for part in parts]), expected)


def test_starting_inside_an_epoch_gives_the_rest_of_it():
    images, _ = bank()
    plan = np.random.default_rng(0).integers(0, 8, (6, 4))
    whole = list(loader(images).batches(plan, slice(0, 4), epoch=1))
    rest = list(loader(images).batches(plan, slice(0, 4), epoch=1, start=4))
    assert len(rest) == 2
    assert torch.equal(rest[0]["strong_1"], whole[4]["strong_1"])


def test_an_unreadable_image_is_named_at_its_batch():
    images, _ = bank(bad="5")
    batches = loader(images).batches(np.array([[0, 1], [2, 3], [4, 5], [6, 7]]), slice(0, 2), epoch=0)
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
