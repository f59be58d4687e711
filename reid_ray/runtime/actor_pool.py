"""The actor pool that refreshes labels: extractors turn images into features, labellers turn features into labels.

Actors are built from small arguments (a path and a reader), so Ray can restart one on any node. Every task is
deterministic, so a retried task gives the same result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import nn

from reid_ray.config import Config
from reid_ray.data.images import ImageReader, printable
from reid_ray.data.probing import find_fatal_image
from reid_ray.data.views import make_view
from reid_ray.devices import choose_device, memory_errors, parameter_dtype, prepare_process
from reid_ray.errors import DataError, RunError
from reid_ray.inference.extraction import Load, assemble, augmented, batch_rows, extract, model_columns
from reid_ray.inference.folding import for_extraction
from reid_ray.inference.predictions import EmbedAndPredict
from reid_ray.methods import empty_network
from reid_ray.models import from_numpy
from reid_ray.runtime.actor_executor import StoredFeatures, fetch
from reid_ray.runtime.faults import MAX_RESTARTS
from reid_ray.runtime.light_actors import Attempts, GpuPlaceholder
from reid_ray.runtime.resources import Plan, ProcessResources
from reid_ray.training.datasets import EVALUATION, MAIN, ImageCaches
from reid_ray.training.rundir import RunDirectory
from reid_ray.types import FloatArray, Version, Weights

BATCHES_PER_TASK = 8
"""Small enough for an even load and little lost work if an actor dies, large enough to hide the overhead of a task."""

FATAL_ATTEMPTS = 2
"""Times that a task ends its extractor before its images are tried one by one."""

MAX_STALLS = 3
"""Consecutive restarts of extractors that make no progress before the run fails."""


@dataclass(frozen=True)
class Copy:
    """An augmented copy of a table's images: a view, and the number of the copy in its random keys."""

    view: str
    number: int


class Extractor:
    """Actor that computes the features of requested rows. Caches decoded images between epochs."""

    def __init__(self, config: Config, readers: Mapping[str, ImageReader], attempts: Any = None) -> None:
        prepare_process(config.runtime)
        self._config = config
        self._readers = readers
        self._attempts = attempts
        self._device = choose_device(config.runtime)
        self._caches = ImageCaches(RunDirectory.of(config).datasets(readers), config)
        self._networks: dict[str, nn.Module] = {}
        self._ready: tuple[str, Version, nn.Module] | None = None

    def node(self) -> str:
        """The id of the node that the actor runs on."""
        return str(ray.get_runtime_context().get_node_id())

    def extract(
        self, table: str, weights: Weights, batches: list[range], copy: Copy | None = None, attributes: bool = False
    ) -> tuple[FloatArray, float]:
        """Features float32 [n, D] of the rows in `batches`, in order, and the seconds spent.

        With `attributes`, the predicted attributes are appended as columns.
        """
        started = time.perf_counter()
        key = (table, weights.module, weights.version, batches[0].start, copy)
        if self._asked("begin", key) >= FATAL_ATTEMPTS:
            self._name_fatal_image(table, range(batches[0].start, batches[-1].stop))
        model = self._model(weights)
        model = EmbedAndPredict(model) if attributes else model
        cache, threads = self._caches[table], self._config.data.loader_threads
        load: Load = cache.batch
        if copy is not None:
            load = augmented(cache, make_view(copy.view, self._config.data), self._config.seed, copy.number)
        columns = model_columns(model, self._caches.table(table))
        with memory_errors("an extractor", "lower evaluation.batch_size"):
            features = assemble(extract(model, load, batches, device=self._device, columns=columns, n_threads=threads))
        self._asked("end", key)
        return features, time.perf_counter() - started

    def _asked(self, what: str, key: Hashable) -> int:
        """What `Attempts` answers; 0 where it is gone with its node, since it is only about errors."""
        if self._attempts is None:
            return 0
        try:
            answer: int = ray.get(getattr(self._attempts, what).remote(key))
        except ray.exceptions.RayError:
            return 0
        return answer

    def _name_fatal_image(self, table: str, rows: range) -> None:
        """Raise `DataError` with the image that ends every extractor which decodes it, if it is one of these rows."""
        paths = [self._caches.table(table).paths[row] for row in rows]
        reader = self._readers[MAIN if table == EVALUATION else table]
        found = find_fatal_image(reader, paths, self._config.runtime.timeout_seconds)
        if found is not None:
            path, fate = found
            raise DataError(
                f"The image {printable(path)} ends the process that decodes it ({fate}); remove it, or write it again "
                f"with another program."
            )

    def _model(self, weights: Weights) -> nn.Module:
        """The network with these weights, prepared for extraction; cached until other weights arrive."""
        key = (weights.module, weights.version)
        if self._ready is None or self._ready[:2] != key:
            network = self._networks.get(weights.module)
            if network is None:
                network = empty_network(self._config, weights.module)
                network.to(device=self._device, dtype=parameter_dtype(self._config.training))
                self._networks = {weights.module: network}
            network.load_state_dict(from_numpy(weights.state))
            self._ready = (*key, for_extraction(network))
        return self._ready[2]


class Labeller:
    """Actor that runs steps of the label engine, which are plain functions, on some of the rows."""

    def __init__(self, config: Config) -> None:
        prepare_process(config.runtime)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(*arguments)`."""
        with memory_errors("a labeller", "lower labels.memory_mb, or raise runtime.n_labellers"):
            return function(*arguments)


@dataclass(frozen=True)
class Pool:
    """Handles of the pool's actors. Actors live as long as the driver.

    Attributes:
        timeout: seconds without a finished task after which the busy extractors are considered hung.
        attempts: actor that counts the attempts of tasks.
    """

    extractors: tuple[Any, ...]
    labellers: tuple[Any, ...]
    timeout: float = 600
    attempts: Any = None

    @classmethod
    def start(cls, config: Config, readers: Mapping[str, ImageReader], resources: Plan) -> Pool:
        """Create the actors; returns before they are initialised, unless they share GPUs.

        Trainers start at the same time, which saves a sixth of the startup time. An error in the constructor of an
        actor is raised by its first task.
        """
        fault_tolerant = {"max_restarts": MAX_RESTARTS, "max_task_retries": -1, "scheduling_strategy": "SPREAD"}

        def remote(kind: type, share: ProcessResources) -> Any:
            return ray.remote(kind).options(num_cpus=share.cpus, num_gpus=share.gpus, **fault_tolerant)

        own = with_threads(config, resources.extractors)
        attempts = ray.remote(Attempts).options(num_cpus=0, max_restarts=-1).remote()
        extractors, placeholders = [], []
        for _ in range(resources.extractors.number):
            extractors.append(remote(Extractor, resources.extractors).remote(own, readers, attempts))
            if resources.placement == "colocated" and resources.extractors.gpus:
                placeholders.append(_reserve_rest_of_gpu(extractors[-1], 1 - resources.extractors.gpus))
        for placeholder in placeholders:
            ray.kill(placeholder)
        labeller = remote(Labeller, resources.labellers)
        labellers = [
            labeller.remote(with_threads(config, resources.labellers)) for _ in range(config.runtime.n_labellers)
        ]
        return cls(tuple(extractors), tuple(labellers), config.runtime.timeout_seconds, attempts)

    def stop(self) -> None:
        for actor in (*self.extractors, *self.labellers, *([self.attempts] if self.attempts else [])):
            ray.kill(actor)

    def features(
        self,
        table: str,
        n_rows: int,
        batch_size: int,
        weights: Weights,
        copy: Copy | None = None,
        *,
        attributes: bool = False,
    ) -> Extraction:
        """Start to extract the features of all rows of a table.

        An extractor gets the same rows each time, so its cache of decoded images stays useful.
        """
        batches = batch_rows(n_rows, batch_size)
        tasks = [batches[i : i + BATCHES_PER_TASK] for i in range(0, len(batches), BATCHES_PER_TASK)]
        shared = ray.put(weights)
        n_extractors = len(self.extractors)
        calls = [
            self.extractors[i % n_extractors]
            .extract.options(num_returns=2)
            .remote(table, shared, task, copy, attributes)
            for i, task in enumerate(tasks)
        ]
        lengths = [task[-1].stop - task[0].start for task in tasks]
        return Extraction(self, [part for part, _ in calls], [seconds for _, seconds in calls], lengths)


@dataclass(frozen=True)
class Extraction:
    """A running extraction; task i is on extractor i mod n."""

    pool: Pool
    parts: list[Any]
    seconds: list[Any]
    lengths: list[int]

    def wait(self) -> StoredFeatures:
        """Wait for all features. An error in a task is raised when its features are read.

        Raises:
            RunError: no progress, although extractors were restarted.
        """
        pending, restarts = self.parts, 0
        while pending:
            ready, pending = ray.wait(pending, num_returns=len(pending), timeout=self.pool.timeout, fetch_local=False)
            restarts = 0 if ready else restarts + 1
            if restarts > MAX_STALLS:
                raise RunError(
                    f"The extractors made no progress for {restarts * self.pool.timeout:g} s, although they were "
                    f"restarted: their nodes may be lost or overloaded, or a task of {max(self.lengths)} images takes "
                    f"longer than runtime.timeout_seconds={self.pool.timeout:g}."
                )
            if not ready:
                unfinished = set(pending)
                n_extractors = len(self.pool.extractors)
                for number in {i % n_extractors for i, part in enumerate(self.parts) if part in unfinished}:
                    ray.kill(self.pool.extractors[number], no_restart=False)
        return StoredFeatures(self.parts, self.lengths)

    def images_per_second(self) -> list[float]:
        """Images per second of each extractor that had tasks, while it ran them."""
        seconds, n_extractors = fetch(self.seconds), len(self.pool.extractors)
        return [
            sum(self.lengths[i::n_extractors]) / sum(seconds[i::n_extractors])
            for i in range(min(n_extractors, len(self.parts)))
        ]


def with_threads(config: Config, share: ProcessResources) -> Config:
    """The configuration with the number of threads of such a process."""
    runtime = config.runtime.model_copy(update={"threads": share.threads})
    return config.model_copy(update={"runtime": runtime})


def _reserve_rest_of_gpu(extractor: Any, rest: float) -> Any:
    """An actor that reserves the rest of an extractor's GPU, so that the next extractor is placed on another GPU.

    Ray packs fractional GPUs: without it all extractors would share one GPU, and a trainer would find none with enough
    room.
    """
    node = fetch(extractor.node.remote())
    near = NodeAffinitySchedulingStrategy(node, soft=True)
    placeholder = ray.remote(GpuPlaceholder).options(num_cpus=0, num_gpus=rest, scheduling_strategy=near).remote()
    fetch(placeholder.ready.remote())
    return placeholder
