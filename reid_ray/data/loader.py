"""From row numbers to tensors: an image bank that decodes each image once, and batches prepared ahead by threads.

Threads, not processes: decoding and torchvision's kernels release the interpreter lock, nothing is copied between
processes or through /dev/shm, nothing is forked under a running Ray worker, and an unreadable image raises in the
training loop, with its name, at the batch that needs it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from reid_ray.config import DataConfig
from reid_ray.data.images import ImageReader
from reid_ray.data.table import ImageTable
from reid_ray.data.views import StrongView, normalize, resize, view_rng
from reid_ray.types import IntArray

Item = TypeVar("Item")
Result = TypeVar("Result")


class ImageBank:
    """Decoded and resized images of a table, kept in memory while they fit.

    Args:
        table: the rows.
        reader: reads what the table's `path` names.
        height, width: size that images are resized to, pixels.
        cache_mb: memory to keep images in; those beyond it are decoded at each use.
    """

    def __init__(self, table: ImageTable, reader: ImageReader, *, height: int, width: int, cache_mb: int) -> None:
        self._paths = table.paths
        self._reader = reader
        self._size = (height, width)
        self._room = cache_mb * 2**20 // (3 * height * width)
        self._kept: dict[int, Tensor] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._paths)

    def image(self, row: int) -> Tensor:
        """uint8 [3, height, width] of one row. `DataError` with its name where it cannot be read."""
        kept = self._kept.get(row)
        if kept is not None:
            return kept
        image = resize(self._reader.read(self._paths[row]), *self._size)
        with self._lock:
            if len(self._kept) < self._room:
                self._kept[row] = image
        return image

    def normalized(self, rows: Sequence[int]) -> Tensor:
        """float32 [n, 3, height, width]: the weak view of the rows."""
        return normalize(torch.stack([self.image(row) for row in rows]))


@dataclass(frozen=True)
class ViewLoader:
    """Makes one worker's share of an epoch's batches.

    Attributes:
        bank: the training images.
        config: sizes, strong view, threads.
        views: the names of the views, in the order of their random keys: `strong…` is augmented, `weak` is not.
        seed: the run's seed.
    """

    bank: ImageBank
    config: DataConfig
    views: tuple[str, ...]
    seed: int

    def batches(
        self, plan: IntArray, columns: slice, *, epoch: int, start: int = 0
    ) -> Generator[dict[str, Tensor], None, None]:
        """Yield {view: float32 [n, 3, H, W]} for each step of `plan[start:, columns]`, in order."""
        strong = StrongView(self.config.strong)
        n_slots = plan.shape[1]

        def batch(step: int) -> dict[str, Tensor]:
            rows = plan[step, columns].tolist()
            slots = range(step * n_slots + columns.start, step * n_slots + columns.stop)
            return {
                name: self._view(name, number, rows, slots, strong, epoch) for number, name in enumerate(self.views)
            }

        return prefetch(batch, range(start, len(plan)), n_threads=self.config.loader_threads)

    def _view(self, name: str, number: int, rows: list[int], slots: range, strong: StrongView, epoch: int) -> Tensor:
        if name == "weak":
            return self.bank.normalized(rows)
        return torch.stack(
            [
                strong(self.bank.image(row), view_rng(self.seed, epoch, slot, row, number))
                for row, slot in zip(rows, slots, strict=True)
            ]
        )


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], *, n_threads: int, ahead: int = 2
) -> Generator[Result, None, None]:
    """`map`, computed by threads a few items ahead of the consumer; results come in order, errors where they belong.

    Closing the iterator early cancels what has not begun.
    """
    source = iter(items)
    # One kernel thread each: teams of threads inside these would spin beside the network's and take its cores.
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
