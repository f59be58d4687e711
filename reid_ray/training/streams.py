"""The batches of a stage: sampling plans of its streams, prefetched views, and the inputs of the method."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from reid_ray.config import Config
from reid_ray.data.loader import ItemSource, ViewLoader, prefetch
from reid_ray.data.samplers import Pool, sample_epoch, worker_columns
from reid_ray.data.table import MODALITIES, ImageTable
from reid_ray.data.tracklets import number_tracklets, sample_frames, tracklet_rows
from reid_ray.data.views import PixelBatch, make_view
from reid_ray.errors import DataError, LoaderError, StorageError
from reid_ray.methods import Batch, Inputs, Stage, StreamSpec
from reid_ray.training.datasets import ImageCaches
from reid_ray.training.distributed import DistributedContext
from reid_ray.types import OUTLIER, FloatArray, IntArray, Labels

T = TypeVar("T")

STREAM_SEEDS = 2**32
"""Offset between the seeds of a stage's streams, so that they sample independently."""

FRAME_KEY = 0xF4A3E
"""Last part of the random key that samples the frames of a tracklet."""

Plan = Mapping[str, IntArray]
"""Stream → rows of an epoch, int64 [steps, items, frames]."""

Loaded = dict[str, dict[str, PixelBatch]]
"""Stream → views of one step."""


class StageData:
    """One worker's data for a stage.

    Args:
        caches: decoded images.
        features: features of each stream with a cache, float32 [copies, N, D].
        device, dtype: of the tensors that the method receives.
    """

    def __init__(
        self,
        stage: Stage,
        config: Config,
        caches: ImageCaches,
        features: Mapping[str, FloatArray],
        context: DistributedContext,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._stage = stage
        self._seed = config.seed + stage.seed_offset
        self._columns = worker_columns(stage.config.batch_size, context.rank, context.size)
        self._one_worker = context.size == 1
        self._threads = config.data.loader_threads
        self._device = device
        self._dtype = dtype
        view_settings = getattr(config, stage.streams[stage.primary].data)
        self._streams = {}
        for number, (name, spec) in enumerate(stage.streams.items()):
            sources: dict[str, ItemSource] = {}
            views = {key: make_view(view, view_settings) for key, view in spec.views.items()}
            if any(view.source == "image" for view in views.values()):
                sources["image"] = caches[spec.data].image
            if name in features:
                sources["feature"] = _FeatureSource(features[name])
            eligible = np.full(len(caches.table(spec.data)), fill_value=True)
            if any(view.source == "mesh" for view in views.values()):
                meshes = caches.meshes(spec.data)
                sources["mesh"], eligible = meshes, meshes.available
            loader = ViewLoader(views, sources, self._seed + number * STREAM_SEEDS)
            self._streams[name] = _Stream(spec, caches.table(spec.data), loader, eligible)

    def plan(self, labels: Mapping[str, Labels], epoch: int) -> Plan:
        """The rows of an epoch; the same on every worker.

        Raises:
            DataError: there is nothing to sample.
        """
        pools = {name: stream.pool(labels[name].labels) for name, stream in self._streams.items()}
        rngs = [np.random.default_rng([stream.loader.seed, epoch]) for stream in self._streams.values()]
        try:
            drawn = sample_epoch(pools, self._stage.config, rngs)
        except ValueError as error:
            raise DataError(f"Stage {self._stage.name} has nothing to train on: {error}.") from error
        return {name: self._streams[name].rows(items, epoch) for name, items in drawn.items()}

    def batches(self, plan: Plan, labels: Mapping[str, Labels], epoch: int, start: int) -> Generator[Batch, None, None]:
        """The batches of an epoch from step `start` on."""

        def load(step: int) -> Loaded:
            return {name: stream.load(plan[name], step, self._columns, epoch) for name, stream in self._streams.items()}

        n_steps = len(plan[self._stage.primary])
        loaded = prefetch(load, range(start, n_steps), n_threads=self._threads)
        with closing(loaded):
            for step, views in enumerate(self._naming_worker(loaded), start):
                yield Batch(
                    {name: self._inputs(name, plan[name][step], labels[name], views[name]) for name in self._streams},
                    (self._seed, epoch, step),
                )

    def _inputs(self, name: str, rows: IntArray, labels: Labels, views: Mapping[str, PixelBatch]) -> Inputs:
        first = rows[:, 0]

        def on_device(values: IntArray) -> Tensor:
            return torch.tensor(values[first], device=self._device)

        return Inputs(
            views={key: self._pinned(pixels).to(self._device, self._dtype) for key, pixels in views.items()},
            labels=on_device(labels.labels),
            rows=torch.tensor(first, device=self._device),
            columns={column: on_device(values) for column, values in self._streams[name].columns.items()},
        )

    def _pinned(self, pixels: PixelBatch) -> PixelBatch:
        return pixels.pin_memory() if self._device.type == "cuda" else pixels

    def _naming_worker(self, batches: Iterator[T]) -> Iterator[T]:
        """The batches; an unreadable image is reported as an error of this worker, which runtimes handle separately."""
        try:
            yield from batches
        except (DataError, StorageError) as error:
            if self._one_worker:
                raise
            raise LoaderError(str(error)) from error


class _Stream:
    """One stream: the items that can be sampled, and how their views are loaded.

    Args:
        eligible: bool [N], True for rows that have the data that the views need.
    """

    def __init__(
        self, spec: StreamSpec, table: ImageTable, loader: ViewLoader, eligible: npt.NDArray[np.bool_]
    ) -> None:
        self.loader = loader
        self.columns = {name: table.column(name) for name in dict.fromkeys(("camid", *spec.columns))}
        self._spec = spec
        self._eligible = eligible
        if spec.modality is not None:
            self._eligible = eligible & (table.column("modality") == MODALITIES.index(spec.modality))
        self._items = tracklet_rows(number_tracklets(table)) if spec.frames > 1 else None

    def pool(self, labels: IntArray) -> Pool:
        """The items that the sampler draws from: rows, or tracklets, each represented by its first row."""
        identities = self._spec.labels.origin != "none"
        known = labels if identities else np.zeros_like(labels)
        known = np.where(self._eligible, known, OUTLIER)
        camids = self.columns["camid"]
        if self._items is not None:
            first = np.array([rows[0] for rows in self._items])
            known, camids = known[first], camids[first]
        return Pool(known, camids, identities, self._spec.data)

    def rows(self, items: IntArray, epoch: int) -> IntArray:
        """int64 [steps, items, frames]: the rows of sampled items."""
        if self._items is None:
            return items[:, :, np.newaxis]
        rng = np.random.default_rng([self.loader.seed, epoch, FRAME_KEY])
        return sample_frames(self._items, items, self._spec.frames, rng, sampling=self._spec.sampling)

    def load(self, plan: IntArray, step: int, columns: slice, epoch: int) -> dict[str, PixelBatch]:
        """This worker's views of one step."""
        _, n_items, n_frames = plan.shape
        return self.loader.load(plan[step, columns], (step * n_items + columns.start) * n_frames, epoch)


@dataclass(frozen=True)
class _FeatureSource:
    """Cached features of a row, float32 [copies, D]."""

    features: FloatArray

    def __call__(self, row: int) -> Tensor:
        return torch.from_numpy(np.array(self.features[:, row]))
