"""The loop's `Services`, answered by the pool of actors."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

import ray
import torch
from torch import nn

from reid_ray.config import Config
from reid_ray.data.images import Dataset
from reid_ray.data.table import ImageTable
from reid_ray.models import to_numpy
from reid_ray.runtime.labelling import ActorWorkers, StoredFeatures
from reid_ray.runtime.pools import Pool
from reid_ray.training.services import (
    Extracted,
    first_works,
    label,
    score,
    search_table,
    source_images,
    with_seconds,
)
from reid_ray.training.world import World
from reid_ray.types import Features, FloatArray, PseudoLabels, Weights


class PoolServices:
    """`Services` answered by the pool: rank 0 asks, all workers get the answer. Features never come to rank 0."""

    def __init__(self, config: Config, dataset: Dataset, world: World, pool: Pool) -> None:
        self._config = config
        self._world = world
        self._pool = pool
        self._labellers = ActorWorkers(pool.labellers)
        self._train = dataset.train
        source = source_images(config)
        self._source = source.train if source else None
        self._search = search_table(dataset, config)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="reid-services")  # a refresh and an evaluation
        self._begun: Future[tuple[PseudoLabels, float]] | None = None
        self._evaluating: Future[dict[str, Any]] | None = None

    def refresh(self, teacher: nn.Module, version: int, previous: PseudoLabels | None = None) -> PseudoLabels:
        self.begin(teacher, version, previous, taken=version)
        return self.collect()

    def label(self, features: FloatArray, version: int, previous: PseudoLabels | None = None) -> PseudoLabels:
        if self._world.is_first:
            stored = StoredFeatures([ray.put(features)], [len(features)])
            self._begun = self._threads.submit(self._label, stored, version, previous, None, 0.0)
        return self.collect()

    def begin(self, teacher: nn.Module, version: int, previous: PseudoLabels | None = None, *, taken: int) -> None:
        if self._world.is_first:
            weights = Weights(taken, to_numpy(teacher.state_dict()))
            self._begun = self._threads.submit(self._make_labels, weights, version, previous)

    def collect(self) -> PseudoLabels:
        def wait() -> PseudoLabels:
            asked = time.time()
            assert self._begun is not None, "collect() without begin()"
            labels, ended = self._begun.result()
            idle = {"pool_idle_seconds": max(0.0, asked - ended)}
            return replace(labels, statistics={**labels.statistics, **idle})

        return cast(PseudoLabels, first_works(self._world, self._config, wait))

    def _make_labels(self, weights: Weights, version: int, previous: PseudoLabels | None) -> tuple[PseudoLabels, float]:
        """Labels, and when they were there."""
        started = time.perf_counter()
        features, rates = self._features("train", self._train, weights)
        source = None
        if self._source is not None:
            source = Extracted(self._features("source", self._source, weights)[0], self._source)
        labels, ended = self._label(features, version, previous, source, time.perf_counter() - started)
        return replace(labels, statistics={**labels.statistics, "extract_images_per_second": rates}), ended

    def _label(
        self,
        features: StoredFeatures,
        version: int,
        previous: PseudoLabels | None,
        source: Extracted | None,
        extract_seconds: float,
    ) -> tuple[PseudoLabels, float]:
        started = time.perf_counter()
        # The labellers have reserved CPUs only; a GPU that they happen to see is somebody else's.
        labels = label(
            Features(features, version),
            self._train,
            self._config,
            torch.device("cpu"),
            previous=previous,
            workers=self._labellers,
            source=source,
        )
        return with_seconds(labels, extract=extract_seconds, label=time.perf_counter() - started), time.time()

    def begin_evaluation(self, teacher: nn.Module, version: int) -> None:
        if self._world.is_first and self._search is not None:
            weights = Weights(version, to_numpy(teacher.state_dict()))
            self._evaluating = self._threads.submit(self._make_metrics, weights, self._search)

    def collect_evaluation(self) -> dict[str, Any] | None:
        if self._search is None:
            return None

        def wait() -> dict[str, Any]:
            assert self._evaluating is not None, "collect_evaluation() without begin_evaluation()"
            return self._evaluating.result()

        return cast(dict[str, Any], first_works(self._world, self._config, wait))

    def _make_metrics(self, weights: Weights, table: ImageTable) -> dict[str, Any]:
        started = time.perf_counter()
        features, _ = self._features("search", table, weights)
        call = self._labellers.run(_score, features, table, self._config)
        return {**self._labellers.get([call])[0], "evaluate_seconds": time.perf_counter() - started}

    def _features(self, bank: str, table: ImageTable, weights: Weights) -> tuple[StoredFeatures, list[float]]:
        """Features of a table, all extracted, and the images per second of each extractor."""
        extraction = self._pool.features(bank, len(table), self._config.evaluation.batch_size, weights)
        features = extraction.wait()
        return features, extraction.images_per_second()


def _score(features: StoredFeatures, table: ImageTable, config: Config) -> dict[str, Any]:
    return score(features[: len(table)], table, config)
