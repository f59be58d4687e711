"""`Services` of the training loop, implemented on the actor pool."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, cast

import ray
import torch

from reid_ray.config import Config
from reid_ray.data.images import Dataset
from reid_ray.data.table import ImageTable
from reid_ray.inference.pooling import tracklet_features
from reid_ray.inference.retriever import Retriever
from reid_ray.methods import FeatureCache
from reid_ray.models import to_numpy
from reid_ray.runtime.actor_executor import ActorExecutor, StoredFeatures
from reid_ray.runtime.actor_pool import Copy, Extraction, Pool
from reid_ray.training.corrections import run_constraints
from reid_ray.training.datasets import EVALUATION, MAIN, evaluation_table
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.services import (
    MEMORY,
    LabelRequest,
    evaluated_attributes,
    label_streams,
    run_on_main_with_heartbeat,
    score,
    with_statistics,
)
from reid_ray.types import FeatureRows, IntArray, Labels, Weights


class PoolServices:
    """`Services` on the actor pool: rank 0 sends requests, all workers get the results. Features never reach rank 0."""

    def __init__(
        self, config: Config, datasets: Mapping[str, Dataset], context: DistributedContext, pool: Pool
    ) -> None:
        self._config = config
        self._context = context
        self._pool = pool
        self._labellers = ActorExecutor(pool.labellers)
        self._tables = {section: dataset.train for section, dataset in datasets.items()}
        self._evaluation = evaluation_table(datasets[MAIN], config)
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="reid-services")  # a refresh and an evaluation
        self._labels: Future[tuple[dict[str, Labels], float]] | None = None
        self._evaluating: Future[dict[str, Any]] | None = None

    def begin_labels(self, request: LabelRequest, retriever: Retriever) -> None:
        if self._context.is_main_process:
            self._labels = self._threads.submit(self._make_labels, request, stored_weights(retriever))

    def collect_labels(self) -> dict[str, Labels]:
        def wait() -> dict[str, Labels]:
            requested = time.time()
            assert self._labels is not None, "collect_labels() without begin_labels()"
            found, ended = self._labels.result()
            idle = max(0.0, requested - ended)
            return {name: with_statistics(labels, pool_idle_seconds=idle) for name, labels in found.items()}

        return cast(dict[str, Labels], run_on_main_with_heartbeat(self._context, self._config, wait))

    def _make_labels(self, request: LabelRequest, weights: Weights) -> tuple[dict[str, Labels], float]:
        """Labels, and the time at which they were ready."""
        started = time.perf_counter()
        features: dict[str, FeatureRows] = {}
        rates: dict[str, list[float]] = {}
        for name in request.tables:
            extraction = self._extraction(name, self._tables[name], weights)
            features[name], rates[name] = extraction.wait(), extraction.images_per_second()
        extracted = time.perf_counter() - started
        if request.memory is not None:
            features[MEMORY] = StoredFeatures([ray.put(request.memory)], [len(request.memory)])
        # Labellers reserve CPUs only; a GPU that they see belongs to another process.
        cpu = torch.device("cpu")
        constraints = run_constraints(self._config, self._tables)
        found = label_streams(
            request, features, self._tables, self._config, cpu, self._labellers, self._pooled, constraints
        )
        for name, labels in found.items():
            rate = rates.get(request.features_of(name))
            found[name] = with_statistics(
                labels, extract_seconds=extracted, **({"extract_images_per_second": rate} if rate else {})
            )
        return found, time.time()

    def _pooled(self, features: FeatureRows, numbers: IntArray) -> StoredFeatures:
        """Features of tracklets, pooled by a labeller."""
        pooled = self._labellers.run(tracklet_features, features, numbers)
        return StoredFeatures([pooled], [int(numbers.max(initial=-1)) + 1])

    def begin_evaluation(self, retriever: Retriever) -> None:
        if self._context.is_main_process and self._evaluation is not None:
            weights, names = stored_weights(retriever), evaluated_attributes(retriever.network, self._evaluation)
            self._evaluating = self._threads.submit(self._make_metrics, weights, self._evaluation, names)

    def collect_evaluation(self) -> dict[str, Any] | None:
        if self._evaluation is None:
            return None

        def wait() -> dict[str, Any]:
            assert self._evaluating is not None, "collect_evaluation() without begin_evaluation()"
            return self._evaluating.result()

        return cast(dict[str, Any], run_on_main_with_heartbeat(self._context, self._config, wait))

    def _make_metrics(self, weights: Weights, table: ImageTable, attributes: tuple[str, ...]) -> dict[str, Any]:
        started = time.perf_counter()
        features = self._extraction(EVALUATION, table, weights, attributes=bool(attributes)).wait()
        call = self._labellers.run(score, features, table, self._config.evaluation, attributes)
        return {**self._labellers.get([call])[0], "evaluate_seconds": time.perf_counter() - started}

    def extract_copies(self, retriever: Retriever, cache: FeatureCache, section: str) -> FeatureRows:
        def work() -> list[StoredFeatures]:
            weights, table = stored_weights(retriever), self._tables[section]
            copies = [Copy(cache.view, number) for number in range(cache.copies)]
            extractions = [self._extraction(section, table, weights, copy) for copy in copies]
            return [extraction.wait() for extraction in extractions]

        if not self._context.is_main_process:
            run_on_main_with_heartbeat(self._context, self._config, lambda: None)
            return StoredFeatures([], [])
        stored: list[StoredFeatures] = []
        run_on_main_with_heartbeat(self._context, self._config, lambda: stored.extend(work()))
        return StoredFeatures.joined(stored)

    def _extraction(
        self, name: str, table: ImageTable, weights: Weights, copy: Copy | None = None, *, attributes: bool = False
    ) -> Extraction:
        """Start to extract the features of a table."""
        batch_size = self._config.evaluation.batch_size
        return self._pool.features(name, len(table), batch_size, weights, copy, attributes=attributes)


def stored_weights(retriever: Retriever) -> Weights:
    """A retriever's weights in the form that is sent to other processes."""
    return Weights(retriever.module, retriever.version, to_numpy(retriever.network.state_dict()))
