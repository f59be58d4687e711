"""Features of tables that do not fit in memory: images flow through Ray Data into a folder of Parquet shards.

    missing shards ─► decode (tasks) ─► embed (actor pool) ─► write (tasks) ─► counts, to the driver

A shard is a few fixed batches of contiguous rows of the table; it passes from stage to stage as one row of a Ray Data
dataset. So features do not depend on the number of actors, contiguous rows of packed images are read together, and
memory is bounded: Ray Data starts a task only if the object store has room for its output. If a process dies, Ray
restarts it and repeats its tasks, with the same results.
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
from reid_ray.runtime.dataflow import Batch, carry_user_errors, quiet_context, rows_of, silence_ray_data
from reid_ray.runtime.shared import check_shared
from reid_ray.types import FloatArray

SHARDS_PER_EXTRACTOR = 2
"""One being embedded and one waiting, so that no extractor waits for a transfer."""

WRITER_CPUS = 0.25
"""CPUs of a task that writes a shard: it mostly waits for the disk."""


@dataclass(frozen=True)
class StreamResult:
    """What a call has computed.

    Attributes:
        n_images: images extracted by this call.
        n_before: images whose features existed before the call.
        seconds: from the first task to the last shard, without the start of Ray.
        rates: images per second of each extractor while it was embedding.
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
) -> StreamResult:
    """Write the L2-normalised features of a table to the folder `out`; resume an interrupted call.

    Existing shards are kept; if none is missing, the call returns at once. Features equal those of `Run.embed_table`,
    bit for bit on the same kind of device with the same number of threads.

    Args:
        config: of the run that trained the model; sets image size, batch size and CPUs per extractor.
        model_file: exported teacher of the run. On a cluster it must be, like `out`, on storage that every node sees.
        images: reader of the paths in the table.
        n_extractors: embedding actors; each has a GPU, or a fraction of one, if the cluster has GPUs.
        address: Ray cluster to join; None joins that of `RAY_ADDRESS` or starts a local one.
        on_images: called with a number of images: first the existing ones, then those of each new shard.

    Raises:
        DataError: an image cannot be read, or the folder holds something else.
        RunError: the model or the cluster is missing, or the storage fails.
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
) -> StreamResult:
    """`stream_features` in a folder that no other process fills."""
    folder = FeatureFolder.begin(out, Manifest.of(config, model_file, table), table)
    pending = folder.missing()
    shards = folder.manifest.shards
    n_pending = sum(len(shards[i]) for i in pending)
    n_before = len(table) - n_pending
    report = on_images or (lambda n: None)
    report(n_before)
    if not pending:
        return StreamResult(0, n_before, 0.0, ())
    runtime = config.runtime
    n_extractors = min(n_extractors, len(pending))
    embedded: dict[str, tuple[int, float]] = {}
    with (
        silence_ray_data(),
        joined(address, num_cpus=ceil(n_extractors * runtime.cpus_per_worker) + 1, partial_writes=out),
    ):
        check_shared(out)
        gpus = _check_fits(n_extractors, runtime)
        started = time.perf_counter()
        dataset = _pipeline(config, model_file, images, folder, pending, n_extractors=n_extractors, gpus=gpus)
        for row in rows_of(dataset):
            n, seconds = embedded.get(row["extractor"], (0, 0.0))
            embedded[row["extractor"]] = n + row["n"], seconds + row["seconds"]
            report(row["n"])
        seconds = time.perf_counter() - started
    return StreamResult(n_pending, n_before, seconds, tuple(n / seconds for n, seconds in embedded.values()))


def gpu_share(n_extractors: int, n_gpus: float) -> float:
    """GPUs per extractor: 1, or the fraction that fits all extractors."""
    return 1 / ceil(n_extractors / n_gpus) if n_gpus else 0.0


def _pipeline(
    config: Config,
    model_file: Location,
    images: ImageReader,
    folder: FeatureFolder,
    pending: list[int],
    *,
    n_extractors: int,
    gpus: float,
) -> Dataset:
    """The lazy dataset with one row per written shard."""
    cpus = int(ray.cluster_resources()["CPU"])
    context = quiet_context()
    # Images of a shard are being decoded or wait for an extractor; features are small in comparison.
    n_shards = SHARDS_PER_EXTRACTOR * n_extractors + cpus
    shard_bytes = max(SHARD_MB * 2**20, folder.manifest.image_bytes * folder.manifest.shard_rows)
    context.execution_options = ExecutionOptions(
        resource_limits=ExecutionResources.for_limits(object_store_memory=n_shards * shard_bytes)
    )
    size = folder.manifest.size
    batches = {"batch_size": 1, "batch_format": "numpy", "zero_copy_batch": True}
    with DataContext.current(context):
        numbers = ray.data.from_items([{"shard": i} for i in pending], override_num_blocks=len(pending))
        decoded = numbers.map_batches(
            partial(decode_shard, folder=folder, images=images, size=size),
            # Set explicitly: otherwise Ray Data fuses decoding into the extractors to save transfers.
            compute=TaskPoolStrategy(size=len(pending)),
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
    """Decode a shard: images uint8 [1, n, 3, H, W]."""
    shard = int(batch["shard"][0])
    decoded = np.empty((1, len(folder.manifest.shards[shard]), 3, *size), dtype=np.uint8)
    with carry_user_errors():
        for i, path in enumerate(folder.rows(shard)["path"].to_pylist()):
            decoded[0, i] = resize(images.read(path), *size).numpy()
    return {"shard": batch["shard"], "images": decoded}


class ShardEmbedder:
    """Actor that embeds the images of a shard: features float32 [1, n, D], in the run's fixed batches."""

    def __init__(self, config: Config, model_file: Location) -> None:
        runtime = config.runtime
        threads = runtime.threads or max(1, int(runtime.cpus_per_worker))
        prepare_process(runtime.model_copy(update={"threads": threads}))
        self._config = config
        self._model_file = model_file

    def __call__(self, batch: Batch) -> Batch:
        images, size = batch["images"][0], self._config.evaluation.batch_size
        with carry_user_errors():
            model = self._model
        started = time.perf_counter()
        with carry_user_errors(), memory_errors("an extractor", "lower --extractors"):
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
        # Loaded at the first shard: Ray Data reports exceptions of a constructor as text only.
        return for_extraction(load_exported(self._config, self._model_file))

    def _embed(self, model: nn.Module, images: npt.NDArray[np.uint8]) -> FloatArray:
        # Copied: the object store is read-only, which PyTorch tensors do not support.
        pixels = PixelBatch(torch.from_numpy(images.copy()), None)
        return embed_batch(model, pixels, device=next(model.parameters()).device)


def write_shard(batch: Batch, *, folder: FeatureFolder) -> Batch:
    """Write the features of a shard to its file; return the counts for the driver."""
    features = batch["features"][0]
    with carry_user_errors():
        folder.write(int(batch["shard"][0]), features)
    return {"n": np.array([len(features)]), "extractor": batch["extractor"], "seconds": batch["seconds"]}


def _check_fits(n_extractors: int, runtime: RuntimeConfig) -> float:
    """GPUs per extractor; `ConfigError` if the cluster is too small."""
    cluster = ray.cluster_resources()
    n_gpus = 0 if runtime.device == "cpu" else cluster.get("GPU", 0)
    if runtime.device == "cuda" and not n_gpus:
        raise ConfigError(
            "The run has runtime.device=cuda, but the Ray cluster has no GPU; pass the --address of another."
        )
    cpus_each = runtime.cpus_per_worker
    needed, there = n_extractors * cpus_each + 1, cluster.get("CPU", 0)
    if needed > there:
        raise ConfigError(
            f"{n_extractors} extractors with {cpus_each:g} CPUs each, plus one CPU to decode images, need {needed:g} "
            f"CPUs, but the cluster has {there:g}; lower --extractors, or add nodes."
        )
    return gpu_share(n_extractors, n_gpus)
