"""Memory requirements of a run, estimated from its configuration before anything is decoded or allocated.

The estimate covers everything that one training process holds at the same time: decoded images, prefetched batches,
networks with gradients and optimizer moments, and saved activations. It is a lower bound, because kernel workspaces and
allocator overhead are not counted: a run that exceeds memory by this estimate does not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from reid_ray.config import Config, ModelConfig
from reid_ray.data.images import Dataset
from reid_ray.errors import ConfigError
from reid_ray.methods import Stage, stages_of
from reid_ray.models import build_network
from reid_ray.models.memory_usage import NetworkMemory, measure_network
from reid_ray.models.precision import precision_on
from reid_ray.training.datasets import MAIN, evaluation_table

CHANNELS = 3
PREFETCHED = 2
"""Batches that a loader prepares ahead, in addition to one for each of its threads (`data.loader.prefetch`)."""
ADAM_MOMENTS = 2
MEASURED_IMAGES = 2


@dataclass(frozen=True)
class Requirements:
    """Memory of one training process, in bytes.

    Attributes:
        on_host: host memory, name in messages → bytes.
        on_device: GPU memory, or host memory without a GPU.
    """

    on_host: Mapping[str, int]
    on_device: Mapping[str, int]

    def total(self) -> int:
        return sum(self.on_host.values()) + sum(self.on_device.values())


def estimate(
    config: Config,
    n_train: int,
    n_test: int = 0,
    *,
    n_views: int = 1,
    n_networks: int = 2,
    n_workers: int | None = None,
    batch_size: int | None = None,
    precision: str | None = None,
) -> Requirements:
    """Estimate the memory of one training process.

    Args:
        config: sizes, batch, network, precision.
        n_train: images of the training split.
        n_test: images of query and gallery, if this process evaluates.
        n_views: views of a batch whose activations are held for one backward pass.
        n_networks: networks in memory, such as a student and its teacher.
        n_workers: processes that share the global batch; default `config.runtime.n_workers`.
        batch_size: images of the global batch; default that of the main stage.
        precision: in which the device computes; default `config.training.precision`.
    """
    data, training = config.data, config.training
    pixels = CHANNELS * data.height * data.width
    images = training.batch_size if batch_size is None else batch_size
    batch = -(-images // (n_workers or config.runtime.n_workers))
    scale = 2 if training.precision == "float64" else 1
    network = _measured(config.model.model_copy(update={"weights": None}).model_dump_json())
    if (precision or training.precision) == "bf16":
        network = network.in_bf16()
    activations = network.activations(batch, data.height, data.width)
    cached = sum(min(n * pixels, data.cache_mb * 2**20) for n in (n_train, n_test))
    waiting = (data.loader_threads + PREFETCHED) * n_views * batch * pixels
    return Requirements(
        on_host={
            "decoded images (data.cache_mb)": cached,
            "batches ahead (data.loader_threads)": waiting,
        },
        on_device={
            "networks": n_networks * network.weights * scale,
            "gradients and moments": (1 + ADAM_MOMENTS) * network.trainable * scale,
            "activations": n_views * activations * scale,
        },
    )


@lru_cache(maxsize=16)
def _measured(model: str) -> NetworkMemory:
    config = ModelConfig.model_validate_json(model)
    # One group of exactly the measured images: other groups would wait for workers that do not measure, or take longer.
    grouped = config.model_copy(update={"bn_group": MEASURED_IMAGES})
    return measure_network(lambda: build_network(grouped), batch_size=MEASURED_IMAGES)


def check_memory(
    config: Config, datasets: Mapping[str, Dataset], *, host_bytes: int, device_bytes: int | None = None
) -> None:
    """Raise `ConfigError` if a training process cannot fit in memory with any method.

    Counts one network, and one view of the largest batch of images that any stage trains on.

    Args:
        datasets: the data that the run reads, by section of the configuration.
        host_bytes, device_bytes: as in `check_fits`.
    """
    test = evaluation_table(datasets[MAIN], config)
    device = torch.device("cpu" if device_bytes is None else "cuda")
    needed = estimate(
        config,
        max(len(dataset.train) for dataset in datasets.values()),
        0 if test is None else len(test),
        n_networks=1,
        batch_size=max(map(_trained_images, stages_of(config))),
        precision=precision_on(device, config.training),
    )
    check_fits(needed, config, host_bytes=host_bytes, device_bytes=device_bytes)


def _trained_images(stage: Stage) -> int:
    """Images per batch that a stage passes through the network with gradient; 0 if it trains on cached features."""
    if stage.streams[stage.primary].cache is not None or stage.retriever in stage.frozen:
        return 0
    return stage.config.batch_size


def check_fits(needed: Requirements, config: Config, *, host_bytes: int, device_bytes: int | None = None) -> None:
    """Raise `ConfigError`, with required and available memory, if a run cannot fit.

    Args:
        needed: the result of `estimate`.
        host_bytes: memory that this process may use on its machine, its share of `memory_limit`.
        device_bytes: the same for its GPU; None if it trains on the CPU.
    """
    if device_bytes is None:
        _check({**needed.on_host, **needed.on_device}, host_bytes, "memory", config)
    else:
        _check(needed.on_host, host_bytes, "memory", config)
        _check(needed.on_device, device_bytes, "GPU memory", config)


def _check(parts: Mapping[str, int], available: int, what: str, config: Config) -> None:
    total = sum(parts.values())
    if total <= available:
        return
    largest = sorted(parts.items(), key=lambda part: part[1], reverse=True)[:3]
    named = ", ".join(f"{_gigabytes(size)} for {name}" for name, size in largest if size)
    batch = config.training.batch_size
    raise ConfigError(
        f"This run needs at least {_gigabytes(total)} of {what} in each process ({named}), but {_gigabytes(available)} "
        f"is available; use smaller images (data.height={config.data.height}, data.width={config.data.width}), a "
        f"smaller batch (training.n_pids × n_instances = {batch}), or more workers."
    )


def _gigabytes(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
