"""The actor pool that refreshes labels: extractors turn images into features, labellers turn features into labels.

Actors are built from small arguments (a path and a reader), so that Ray can restart one anywhere; every task is
deterministic, so a task that runs twice gives the same answer twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, cast

import ray
import torch
from torch import nn

from reid_ray.config import Config
from reid_ray.data.images import Dataset, ImageReader
from reid_ray.data.loader import ImageBank
from reid_ray.data.table import ImageTable
from reid_ray.models import build_embedder, for_extraction, from_numpy, to_numpy
from reid_ray.runtime.labelling import ActorWorkers, StoredFeatures, fetch
from reid_ray.training.devices import choose_device, parameter_dtype, prepare_process
from reid_ray.training.extraction import assemble, batch_rows, extract
from reid_ray.training.rundir import RunDirectory
from reid_ray.training.services import first_answers, label, make_bank, score, search_table, with_seconds
from reid_ray.training.world import World
from reid_ray.types import Features, FloatArray, IntArray, PseudoLabels, Weights

BATCHES_PER_TASK = 8
"""Small enough to share a table evenly and to lose little with an actor, large enough to hide a task's cost."""

MAX_TASK_RETRIES = 3
"""Times a task is run again when its actor dies."""


class Extractor:
    """Features of the rows it is asked for. Keeps decoded images between epochs."""

    def __init__(self, config: Config, images: ImageReader) -> None:
        prepare_process(config.runtime)
        self._config = config
        self._device = choose_device(config.runtime)
        dataset = Dataset(ImageTable.read(RunDirectory.of(config).images_file), images)
        self._banks: dict[str, ImageBank] = {"train": make_bank(dataset.train, dataset, config)}
        search = search_table(dataset)
        if search is not None:
            self._banks["search"] = make_bank(search, dataset, config)
        training = config.training
        model = build_embedder(config.model.model_copy(update={"weights": None}), bf16=training.precision == "bf16")
        self._model: nn.Module = model.to(device=self._device, dtype=parameter_dtype(training))
        self._ready: nn.Module = self._model
        self._version: int | None = None

    def ready(self) -> bool:
        """True, once the constructor has run."""
        return True

    def extract(self, bank: str, weights: Weights, batches: list[range]) -> FloatArray:
        """float32 [n, D] features of the batches' rows, in order."""
        if weights.version != self._version:
            self._model.load_state_dict(from_numpy(weights.state))
            self._ready, self._version = for_extraction(self._model), weights.version
        threads = self._config.data.loader_threads
        return assemble(extract(self._ready, self._banks[bank], batches, device=self._device, n_threads=threads))


class Labeller:
    """Runs the steps of the label engine, which are plain functions, on its share of the rows."""

    def __init__(self, config: Config) -> None:
        prepare_process(config.runtime)

    def ready(self) -> bool:
        """True, once the constructor has run."""
        return True

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(*arguments)`."""
        return function(*arguments)


@dataclass(frozen=True)
class Pool:
    """Handles of the pool's actors. They live as long as the driver that made them."""

    extractors: tuple[Any, ...]
    labellers: tuple[Any, ...]

    @classmethod
    def start(cls, config: Config, images: ImageReader, *, cpus: float, gpus: float) -> Pool:
        """Create the actors; returns before they are ready."""
        options = {"num_cpus": cpus, "max_restarts": -1, "max_task_retries": MAX_TASK_RETRIES}
        extractor = ray.remote(Extractor).options(num_gpus=gpus, **options)
        labeller = ray.remote(Labeller).options(**options)
        return cls(
            tuple(extractor.remote(config, images) for _ in range(config.runtime.n_extractors)),
            tuple(labeller.remote(config) for _ in range(config.runtime.n_labellers)),
        )

    def wait(self) -> None:
        """Block until every actor is built; raises what a constructor raised."""
        fetch([actor.ready.remote() for actor in (*self.extractors, *self.labellers)])

    def stop(self) -> None:
        for actor in (*self.extractors, *self.labellers):
            ray.kill(actor)

    def features(self, bank: str, n_rows: int, batch_size: int, weights: Weights) -> StoredFeatures:
        """Features of all rows of a bank, as they are being extracted."""
        batches = batch_rows(n_rows, batch_size)
        tasks = [batches[i : i + BATCHES_PER_TASK] for i in range(0, len(batches), BATCHES_PER_TASK)]
        shared = ray.put(weights)
        parts = [
            self.extractors[i % len(self.extractors)].extract.remote(bank, shared, task) for i, task in enumerate(tasks)
        ]
        return StoredFeatures(parts, [task[-1].stop - task[0].start for task in tasks])


class PoolServices:
    """`Services` answered by the pool: rank 0 asks, all workers get the answer. Features never come to rank 0."""

    def __init__(self, config: Config, dataset: Dataset, world: World, pool: Pool) -> None:
        self._config = config
        self._world = world
        self._pool = pool
        self._labellers = ActorWorkers(pool.labellers)
        self._train = dataset.train
        self._search = search_table(dataset)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="refresh")
        self._begun: Future[tuple[PseudoLabels, float]] | None = None

    def refresh(self, teacher: nn.Module, version: int, previous: IntArray | None = None) -> PseudoLabels:
        self.begin(teacher, version, previous, taken=version)
        return self.collect()

    def begin(self, teacher: nn.Module, version: int, previous: IntArray | None = None, *, taken: int) -> None:
        if self._world.is_first:
            weights = Weights(taken, to_numpy(teacher.state_dict()))
            self._begun = self._thread.submit(self._make_labels, weights, version, previous)

    def collect(self) -> PseudoLabels:
        def wait() -> PseudoLabels:
            asked = time.time()
            assert self._begun is not None, "collect() without begin()"
            labels, ended = self._begun.result()
            idle = {"pool_idle_seconds": max(0.0, asked - ended)}
            return replace(labels, statistics={**labels.statistics, **idle})

        return cast(PseudoLabels, first_answers(self._world, wait))

    def _make_labels(self, weights: Weights, version: int, previous: IntArray | None) -> tuple[PseudoLabels, float]:
        """Labels, and when they were there."""
        started = time.perf_counter()
        features = self._features("train", self._train, weights)
        extracted = time.perf_counter()
        # The labellers have reserved CPUs only; a GPU that they happen to see is somebody else's.
        labels = label(
            Features(features, version),
            self._train,
            self._config,
            torch.device("cpu"),
            previous=previous,
            workers=self._labellers,
        )
        labels = with_seconds(labels, extract=extracted - started, label=time.perf_counter() - extracted)
        return labels, time.time()

    def evaluate(self, teacher: nn.Module, version: int) -> dict[str, Any] | None:
        table = self._search
        if table is None:
            return None

        def ask() -> dict[str, Any]:
            started = time.perf_counter()
            features = self._features("search", table, Weights(version, to_numpy(teacher.state_dict())))
            call = self._labellers.run(_score, features, table, self._config)
            return {**self._labellers.get([call])[0], "evaluate_seconds": time.perf_counter() - started}

        return cast(dict[str, Any], first_answers(self._world, ask))

    def _features(self, bank: str, table: ImageTable, weights: Weights) -> StoredFeatures:
        """Features of a table, all extracted."""
        features = self._pool.features(bank, len(table), self._config.evaluation.batch_size, weights)
        features.wait()
        return features


def _score(features: StoredFeatures, table: ImageTable, config: Config) -> dict[str, Any]:
    return score(features[: len(table)], table, config)
