"""Features of tables that do not fit in memory: images flow through Ray Data into a folder of Parquet shards.

    shards to be made ─► decode (tasks) ─► embed (actor pool) ─► write (tasks) ─► counts, to the driver

A shard of the table, some fixed batches of contiguous rows, goes from stage to stage as one row of a Ray Data dataset.
So a feature depends on no number of actors, contiguous rows are read where packed images lie contiguous, and what is
under way is bounded: Ray Data starts a task only where the object store has room for what it makes. A process that
dies is replaced, and what it did is done again; the answers are the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from math import ceil

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray.data import ActorPoolStrategy, DataContext, Dataset, ExecutionOptions, ExecutionResources, TaskPoolStrategy
from torch import nn

from reid_ray.config import Config, RuntimeConfig
from reid_ray.data.feature_folder import LEASE, SHARD_MB, FeatureFolder, Manifest
from reid_ray.data.images import ImageReader
from reid_ray.data.table import ImageTable
from reid_ray.data.views import PixelBatch, resize
from reid_ray.devices import memory_errors, prepare_process
from reid_ray.errors import ConfigError, DataError
from reid_ray.inference.exported import load_exported
from reid_ray.inference.extraction import assemble, embed_batch
from reid_ray.inference.folding import for_extraction
from reid_ray.io.lease import hold
from reid_ray.io.paths import Location
from reid_ray.runtime.cluster import joined
from reid_ray.runtime.dataflow import Batch, carrying, quiet, quiet_context, rows_of
from reid_ray.runtime.shared import check_shared
from reid_ray.types import FloatArray

SHARDS_PER_EXTRACTOR = 2
"""One that is embedded and one that waits, so that no extractor waits for a transfer."""

WRITER_CPUS = 0.25
"""Of a task that writes a shard: it waits for the disk most of the time."""


@dataclass(frozen=True)
class Streamed:
    """What a call has done.

    Attributes:
        n_images: images extracted by this call.
        n_before: images whose features were there before it.
        seconds: from the first task to the last shard, without the start of Ray.
        rates: images per second of each extractor while it embedded.
    """

    n_images: int
    n_before: int
    seconds: float
    rates: tuple[float, ...]


def stream_features(
    config: Config,
    model_file: Location,
    table: ImageTable,
    images: ImageReader,
    out: Location,
    *,
    n_extractors: int = 1,
    address: str | None = None,
    on_images: Callable[[int], None] | None = None,
) -> Streamed:
    """Write the L2-normalised features of a table to the folder `out`, or go on where a call before was stopped.

    Shards that are there are not made again; a folder with all of them returns at once. Features are those of
    `Run.embed_table`, to the last bit on the same kind of device with the same threads.

    Args:
        config: of the run that made the model; sizes, batches and CPUs per extractor are taken from it.
        model_file: exported teacher of the run. Like `out`, on a cluster on storage that every node sees.
        images: reads what the table's `path` names.
        n_extractors: actors that embed; each has a GPU, or a share of one, where the cluster has GPUs.
        address: Ray cluster to join; None starts a local one, or joins that of `RAY_ADDRESS`.
        on_images: called with a number of images: first those that were there, then those of each new shard.

    Raises:
        DataError: an image cannot be read, or the folder holds something else.
        RunError: the model or the cluster is not there, or the storage gives out.
        ConfigError: the cluster is too small.
    """
    out = out.absolute()
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} exists and is not a folder of features; choose another --out, or remove it.")
    with hold(out / LEASE, f"extracting into {out}"):
        return _stream(
            config, model_file, table, images, out, n_extractors=n_extractors, address=address, on_images=on_images
        )


def _stream(
    config: Config,
    model_file: Location,
    table: ImageTable,
    images: ImageReader,
    out: Location,
    *,
    n_extractors: int,
    address: str | None,
    on_images: Callable[[int], None] | None,
) -> Streamed:
    """`stream_features` in a folder that no other process fills."""
    folder = FeatureFolder.begin(out, Manifest.of(config, model_file, table), table)
    todo = folder.missing()
    shards = folder.manifest.shards
    n_todo = sum(len(shards[i]) for i in todo)
    n_before = len(table) - n_todo
    report = on_images or (lambda n: None)
    report(n_before)
    if not todo:
        return Streamed(0, n_before, 0.0, ())
    runtime = config.runtime
    n_extractors = min(n_extractors, len(todo))
    embedded: dict[str, tuple[int, float]] = {}
    with quiet(), joined(address, num_cpus=ceil(n_extractors * runtime.cpus_per_worker) + 1, leftovers=out):
        check_shared(out)
        gpus = _check_fits(n_extractors, runtime)
        started = time.perf_counter()
        dataset = _pipeline(config, model_file, images, folder, todo, n_extractors=n_extractors, gpus=gpus)
        for row in rows_of(dataset):
            n, seconds = embedded.get(row["extractor"], (0, 0.0))
            embedded[row["extractor"]] = n + row["n"], seconds + row["seconds"]
            report(row["n"])
        seconds = time.perf_counter() - started
    return Streamed(n_todo, n_before, seconds, tuple(n / seconds for n, seconds in embedded.values()))


def gpu_share(n_extractors: int, n_gpus: float) -> float:
    """GPUs of each extractor: one, or such a part that as many as needed fit on each GPU."""
    return 1 / ceil(n_extractors / n_gpus) if n_gpus else 0.0


def _pipeline(
    config: Config,
    model_file: Location,
    images: ImageReader,
    folder: FeatureFolder,
    todo: list[int],
    *,
    n_extractors: int,
    gpus: float,
) -> Dataset:
    """The lazy dataset whose rows come out as shards are written."""
    cpus = int(ray.cluster_resources()["CPU"])
    context = quiet_context()
    # A shard's images wait before an extractor, or are being made; its features are small beside them.
    n_shards = SHARDS_PER_EXTRACTOR * n_extractors + cpus
    shard_bytes = max(SHARD_MB * 2**20, folder.manifest.image_bytes * folder.manifest.shard_rows)
    context.execution_options = ExecutionOptions(
        resource_limits=ExecutionResources.for_limits(object_store_memory=n_shards * shard_bytes)
    )
    size = folder.manifest.size
    batches = {"batch_size": 1, "batch_format": "numpy", "zero_copy_batch": True}
    with DataContext.current(context):
        numbers = ray.data.from_items([{"shard": i} for i in todo], override_num_blocks=len(todo))
        decoded = numbers.map_batches(
            partial(decode_shard, folder=folder, images=images, size=size),
            # As many as there are; but said, for else Ray Data would decode inside the extractors, to save transfers.
            compute=TaskPoolStrategy(size=len(todo)),
            num_cpus=1,
            **batches,
        )
        embedded = decoded.map_batches(
            ShardEmbedder,
            fn_constructor_args=(config, model_file),
            compute=ActorPoolStrategy(size=n_extractors, max_tasks_in_flight_per_actor=SHARDS_PER_EXTRACTOR),
            num_cpus=config.runtime.cpus_per_worker,
            num_gpus=gpus,
            **batches,
        )
        return embedded.map_batches(
            partial(write_shard, folder=folder),
            compute=TaskPoolStrategy(size=n_extractors),  # each process costs memory
            num_cpus=WRITER_CPUS,
            **batches,
        )


def decode_shard(batch: Batch, *, folder: FeatureFolder, images: ImageReader, size: tuple[int, int]) -> Batch:
    """A shard's number → its images, uint8 [1, n, 3, H, W]."""
    shard = int(batch["shard"][0])
    decoded = np.empty((1, len(folder.manifest.shards[shard]), 3, *size), dtype=np.uint8)
    with carrying():
        for i, path in enumerate(folder.rows(shard)["path"].to_pylist()):
            decoded[0, i] = resize(images.read(path), *size).numpy()
    return {"shard": batch["shard"], "images": decoded}


class ShardEmbedder:
    """A shard's images → its features, float32 [1, n, D], in the run's fixed batches."""

    def __init__(self, config: Config, model_file: Location) -> None:
        runtime = config.runtime
        threads = runtime.threads or max(1, int(runtime.cpus_per_worker))
        prepare_process(runtime.model_copy(update={"threads": threads}))
        self._config = config
        self._model_file = model_file

    def __call__(self, batch: Batch) -> Batch:
        images, size = batch["images"][0], self._config.evaluation.batch_size
        with carrying():
            model = self._model
        started = time.perf_counter()
        with carrying(), memory_errors("an extractor", "lower --extractors"):
            features = assemble([self._embed(model, images[i : i + size]) for i in range(0, len(images), size)])
        seconds = time.perf_counter() - started
        return {
            "shard": batch["shard"],
            "features": features[None],
            "extractor": np.array([ray.get_runtime_context().get_actor_id()]),
            "seconds": np.array([seconds]),
        }

    @cached_property
    def _model(self) -> nn.Module:
        # At the first shard, for Ray Data gives what a constructor raises on as text only.
        return for_extraction(load_exported(self._config, self._model_file))

    def _embed(self, model: nn.Module, images: npt.NDArray[np.uint8]) -> FloatArray:
        # The object store's memory is read-only, which PyTorch does not know of: so a copy.
        pixels = PixelBatch(torch.from_numpy(images.copy()), None)
        return embed_batch(model, pixels, device=next(model.parameters()).device)


def write_shard(batch: Batch, *, folder: FeatureFolder) -> Batch:
    """A shard's features → a file, and what the driver counts."""
    features = batch["features"][0]
    with carrying():
        folder.write(int(batch["shard"][0]), features)
    return {"n": np.array([len(features)]), "extractor": batch["extractor"], "seconds": batch["seconds"]}


def _check_fits(n_extractors: int, runtime: RuntimeConfig) -> float:
    """The GPUs of each extractor; `ConfigError` where the cluster is too small."""
    cluster = ray.cluster_resources()
    n_gpus = 0 if runtime.device == "cpu" else cluster.get("GPU", 0)
    if runtime.device == "cuda" and not n_gpus:
        raise ConfigError(
            "The run has runtime.device=cuda, and the Ray cluster has no GPU; give the --address of another."
        )
    cpus_each = runtime.cpus_per_worker
    needed, there = n_extractors * cpus_each + 1, cluster.get("CPU", 0)
    if needed > there:
        raise ConfigError(
            f"{n_extractors} extractors with {cpus_each:g} CPUs each, and one CPU to decode images, are {needed:g} "
            f"CPUs, and the cluster has {there:g}; lower --extractors, or add nodes."
        )
    return gpu_share(n_extractors, n_gpus)
