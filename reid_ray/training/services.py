"""The two services that training asks for at an epoch's border: new labels, and an evaluation.

The loop knows only `Services`. `InlineServices` answers inside the training processes; the Ray runtime answers from
an actor pool. Both call the same functions below on the same fixed batches, so the answers are equal.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from reid_ray.config import Config
from reid_ray.data.images import Dataset
from reid_ray.data.loader import ImageBank
from reid_ray.data.readers import read_dataset
from reid_ray.data.table import ImageTable
from reid_ray.errors import UserError
from reid_ray.evaluation.protocols import evaluable, evaluate_table
from reid_ray.labels.refresh import labels_from_truth, refresh
from reid_ray.labels.workers import Workers
from reid_ray.methods import METHODS
from reid_ray.models import for_extraction
from reid_ray.training.extraction import assemble, batch_rows, extract
from reid_ray.training.world import World
from reid_ray.types import FeatureRows, Features, FloatArray, PseudoLabels


class Services(Protocol):
    """Called by every worker at the same point; the answer is the same on all."""

    def refresh(self, teacher: nn.Module, version: int, previous: PseudoLabels | None = None) -> PseudoLabels:
        """Labels of the training table from the teacher's features; `statistics` holds quality and seconds.

        Args:
            previous: the labels before; None at the first refresh.
        """
        ...

    def label(self, features: FloatArray, version: int, previous: PseudoLabels | None = None) -> PseudoLabels:
        """The same from features float32 [N, D] that the method keeps itself."""
        ...

    def begin(self, teacher: nn.Module, version: int, previous: PseudoLabels | None = None, *, taken: int) -> None:
        """Start a refresh whose labels `collect` will give. The teacher is not changed meanwhile.

        Args:
            taken: epochs that were completed when the teacher was as it is.
        """
        ...

    def collect(self) -> PseudoLabels:
        """The labels of the refresh that was begun last, once they are there."""
        ...

    def begin_evaluation(self, teacher: nn.Module, version: int) -> None:
        """Start an evaluation whose metrics `collect_evaluation` will give. The teacher is not changed meanwhile.

        Args:
            version: epochs that were completed when the teacher was as it is.
        """
        ...

    def collect_evaluation(self) -> dict[str, Any] | None:
        """Metrics on query and gallery, with `evaluate_seconds`; None where the data cannot be evaluated."""
        ...


def make_bank(table: ImageTable, dataset: Dataset, config: Config) -> ImageBank:
    """The images of a table at the configured size."""
    data = config.data
    return ImageBank(table, dataset.images, height=data.height, width=data.width, cache_mb=data.cache_mb)


def search_table(dataset: Dataset, config: Config) -> ImageTable | None:
    """Query rows followed by gallery rows, or None where there is nothing to evaluate, or it is not asked for."""
    if config.evaluation.every is None or evaluable(dataset.table) is not None:
        return None
    splits = dataset.table.arrow["split"].to_pylist()
    rows = [i for name in ("query", "gallery") for i, split in enumerate(splits) if split == name]
    return dataset.table.take(torch.tensor(rows).numpy())


def source_images(config: Config) -> Dataset | None:
    """The source, where its features are asked for too, by the labels or by the method."""
    if config.source is None:
        return None
    wanted = config.labels.source_weight or METHODS[config.method.name].learns_source(config)
    return read_dataset(config.source) if wanted else None


class Extracted(NamedTuple):
    """A table and its features."""

    features: FeatureRows
    table: ImageTable


def label(
    features: Features,
    table: ImageTable,
    config: Config,
    device: torch.device,
    *,
    previous: PseudoLabels | None = None,
    workers: Workers | None = None,
    source: Extracted | None = None,
) -> PseudoLabels:
    """Labels for epoch `features.version`, from clusters or from true identities, as the method asks.

    Args:
        features: of `table`, the data.
        previous: the labels before.
        source: `source_images`, extracted too.
    """
    method = METHODS[config.method.name]
    if method.labels_source(config) == "truth":
        return labels_from_truth(features, table.pids, table.camids, version=features.version, workers=workers)
    labels = refresh(
        features,
        config.labels,
        table.camids,
        version=features.version,
        true_pids=table.pids if table.has_pids else None,
        previous=previous,
        device=device,
        workers=workers,
        source=source.features if source and config.labels.source_weight else None,
    )
    if previous is not None:
        return replace(labels, source_centroids=previous.source_centroids)
    if method.wants_features:
        labels = replace(labels, features=np.asarray(features.values[0 : len(table)]))
    if source is not None and method.learns_source(config):
        known = Features(source.features, features.version)
        truth = labels_from_truth(known, source.table.pids, source.table.camids, version=0, workers=workers)
        labels = replace(labels, source_centroids=truth.centroids)
    return labels


def score(features: FloatArray, table: ImageTable, config: Config) -> dict[str, Any]:
    """Metrics of a table's query and gallery rows, in that order in `features`."""
    n_query = len(table.split("query"))
    metrics = evaluate_table(features[:n_query], features[n_query:], table, ap=config.evaluation.ap)
    return metrics.as_dict()


class InlineServices:
    """Extraction shared by the training workers; rank 0 clusters and scores.

    Args:
        train_bank: the training images, shared with the loader so that each is decoded once.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        world: World,
        device: torch.device,
        *,
        train_bank: ImageBank,
    ) -> None:
        self._config = config
        self._world = world
        self._device = device
        self._train = dataset.train
        self._train_bank = train_bank
        self._begun: tuple[nn.Module, int, PseudoLabels | None] | None = None
        self._evaluated: nn.Module | None = None
        source = source_images(config)
        self._source = source.train if source else None
        self._source_bank = make_bank(source.train, source, config) if source else None
        self._search = search_table(dataset, config)
        self._search_bank = make_bank(self._search, dataset, config) if self._search is not None else None

    def refresh(self, teacher: nn.Module, version: int, previous: PseudoLabels | None = None) -> PseudoLabels:
        started = time.perf_counter()
        features = self._extract(teacher, self._train_bank)
        source = None
        if self._source is not None and self._source_bank is not None:
            source = Extracted(self._extract(teacher, self._source_bank), self._source)
        extracted = time.perf_counter() - started
        labels = self._label(features, version, previous, source)
        return replace(labels, statistics={**labels.statistics, "extract_seconds": extracted})

    def label(self, features: FloatArray, version: int, previous: PseudoLabels | None = None) -> PseudoLabels:
        return self._label(features, version, previous, None)

    def _label(
        self, features: FloatArray, version: int, previous: PseudoLabels | None, source: Extracted | None
    ) -> PseudoLabels:
        def work() -> PseudoLabels:
            extracted = Features(features, version)
            return label(extracted, self._train, self._config, self._device, previous=previous, source=source)

        started = time.perf_counter()
        labels: PseudoLabels = first_works(self._world, self._config, work)
        return with_seconds(labels, extract=0.0, label=time.perf_counter() - started)

    def begin(self, teacher: nn.Module, version: int, previous: PseudoLabels | None = None, *, taken: int) -> None:
        # There is nobody to do it meanwhile, so it is done when it is asked for.
        self._begun = (teacher, version, previous)

    def collect(self) -> PseudoLabels:
        assert self._begun is not None, "collect() without begin()"
        begun, self._begun = self._begun, None
        return self.refresh(*begun)

    def begin_evaluation(self, teacher: nn.Module, version: int) -> None:
        self._evaluated = teacher

    def collect_evaluation(self) -> dict[str, Any] | None:
        assert self._evaluated is not None, "collect_evaluation() without begin_evaluation()"
        teacher, self._evaluated = self._evaluated, None
        if self._search is None or self._search_bank is None:
            return None
        table, started = self._search, time.perf_counter()
        features = self._extract(teacher, self._search_bank)
        metrics = first_works(self._world, self._config, lambda: score(features, table, self._config))
        return {**metrics, "evaluate_seconds": time.perf_counter() - started}

    def _extract(self, teacher: nn.Module, bank: ImageBank) -> FloatArray:
        """Features of all rows, on every worker."""
        batches = batch_rows(len(bank), self._config.evaluation.batch_size)
        mine = batches[self._world.rank :: self._world.size]
        threads = self._config.data.loader_threads
        found: list[FloatArray] | UserError
        try:
            found = extract(for_extraction(teacher), bank, mine, device=self._device, n_threads=threads)
        except UserError as error:
            found = error
        parts: list[FloatArray] = [None] * len(batches)  # type: ignore[list-item]
        for rank, answer in enumerate(self._world.gather_objects(found)):
            if isinstance(answer, UserError):
                raise answer
            parts[rank :: self._world.size] = answer
        return assemble(parts)


def first_answers(world: World, function: Callable[[], Any]) -> Any:
    """Call `function` on rank 0 and give its answer, or its `UserError`, to every worker.

    An error that only rank 0 raised would leave the others waiting for a broadcast that never comes.
    """
    answer: Any = None
    if world.is_first:
        try:
            answer = function()
        except UserError as error:
            answer = error
    answer = world.broadcast(answer)
    if isinstance(answer, UserError):
        raise answer
    return answer


def first_works(world: World, config: Config, function: Callable[[], Any]) -> Any:
    """`first_answers` for work that may take longer than workers wait for each other.

    Rank 0 tells the others again and again that it is still at it, so that nobody is taken for hung.
    """
    if world.size == 1:
        return function()
    with ThreadPoolExecutor(1, thread_name_prefix="reid-work") as thread:
        calls = [thread.submit(function)] if world.is_first else []
        while not first_answers(world, lambda: bool(wait(calls, config.runtime.timeout_seconds / 4).done)):
            pass
        return first_answers(world, lambda: calls[0].result())


def with_seconds(labels: PseudoLabels, *, extract: float, label: float) -> PseudoLabels:
    """The labels, with the seconds of their making among the statistics."""
    return replace(labels, statistics={**labels.statistics, "extract_seconds": extract, "label_seconds": label})
