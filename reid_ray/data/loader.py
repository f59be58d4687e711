"""Load tensors by row number: a cache that decodes each image once, and batches prefetched by threads.

Threads, not processes: decoding and torchvision's kernels release the interpreter lock, nothing is copied between
processes or through /dev/shm, nothing is forked under a running Ray worker, and an unreadable image raises in the
training loop, with its name, at the batch that needs it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from reid_ray.data.images import ImageReader
from reid_ray.data.table import ImageTable
from reid_ray.data.views import PixelBatch, View, collate, resize, view_rng
from reid_ray.types import IntArray

Item = TypeVar("Item")
Result = TypeVar("Result")


class ImageCache:
    """Decoded and resized images of a table, cached in memory as far as they fit.

    Args:
        table: the rows.
        reader: reads the images by the table's `path`.
        height, width: size after resizing, pixels.
        cache_mb: memory of the cache; images that do not fit are decoded at each use.
    """

    def __init__(self, table: ImageTable, reader: ImageReader, *, height: int, width: int, cache_mb: int) -> None:
        self._paths = table.paths
        self._reader = reader
        self._size = (height, width)
        self._capacity = cache_mb * 2**20 // (3 * height * width)
        self._cache: dict[int, Tensor] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._paths)

    def image(self, row: int) -> Tensor:
        """uint8 [3, height, width] of one row. `DataError` with its name where it cannot be read."""
        cached = self._cache.get(row)
        if cached is not None:
            return cached
        image = resize(self._reader.read(self._paths[row]), *self._size)
        with self._lock:
            if len(self._cache) < self._capacity:
                self._cache[row] = image
        return image

    def batch(self, rows: Sequence[int]) -> PixelBatch:
        """uint8 [n, 3, height, width]: the images of the rows as they are."""
        return PixelBatch(torch.stack([self.image(row) for row in rows]), None)


class ItemSource(Protocol):
    """Source of views: `ImageCache.image`, cached features, or the `TableMeshes` of a table."""

    def __call__(self, row: int, /) -> Any: ...


@dataclass(frozen=True)
class ViewLoader:
    """Makes one worker's share of one stream's batches.

    Attributes:
        views: name in the batch → view, in the order of their random keys.
        sources: name of a view's source → function that returns the item of a row.
        seed: of the stream's views.
    """

    views: Mapping[str, View]
    sources: Mapping[str, ItemSource]
    seed: int

    def load(self, rows: IntArray, first_slot: int, epoch: int) -> dict[str, PixelBatch]:
        """Views of some items.

        Args:
            rows: int64 [n, T], the rows of each item's frames.
            first_slot: place of the first frame in the epoch's sequence, which is part of the random key.
        """
        frames = list(enumerate(rows.ravel().tolist(), first_slot))
        loaded = {}
        for number, (name, view) in enumerate(self.views.items()):
            item = self.sources[view.source]
            pixels = [view(item(row), view_rng(self.seed, epoch, slot, row, number)) for slot, row in frames]
            loaded[name] = collate(pixels, rows.shape[1])
        return loaded


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], *, n_threads: int, ahead: int = 2
) -> Generator[Result, None, None]:
    """`map` in threads that work a few items ahead of the consumer; results and errors come in the order of items.

    Closing the iterator early cancels the items that have not started.
    """
    source = iter(items)
    # One kernel thread each: nested thread pools would spin and take cores from the network.
    pool = ThreadPoolExecutor(
        n_threads, thread_name_prefix="reid-loader", initializer=torch.set_num_threads, initargs=(1,)
    )
    waiting: list[Future[Result]] = [pool.submit(function, item) for item in islice(source, n_threads + ahead)]
    try:
        while waiting:
            result = waiting.pop(0).result()
            for item in islice(source, 1):
                waiting.append(pool.submit(function, item))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
