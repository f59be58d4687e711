"""Services that the training loop uses: new labels, evaluations, and features to train on.

The loop depends only on the protocol `Services`. `InlineServices` computes in the training processes, the Ray runtime
in an actor pool. Both call the functions below on the same fixed batches, so the results are equal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from reid_ray.config import Config, EvaluationConfig, LabelsConfig
from reid_ray.data.images import Dataset
from reid_ray.data.table import ImageTable
from reid_ray.data.temporal_pooling import TemporalPooling
from reid_ray.data.tracklets import number_tracklets, tracklet_rows
from reid_ray.data.views import make_view
from reid_ray.errors import UserError
from reid_ray.evaluation.attribute_accuracy import accuracy_metrics, attribute_accuracies
from reid_ray.evaluation.protocols import protocol_of
from reid_ray.inference.extraction import Load, assemble, augmented, batch_rows, extract, model_columns
from reid_ray.inference.folding import for_extraction
from reid_ray.inference.pooling import pooled_items, tracklet_features
from reid_ray.inference.predictions import (
    EmbedAndPredict,
    attributes_by_name,
    predicted_attributes,
    split_predictions,
)
from reid_ray.inference.retriever import Retriever
from reid_ray.labels.constraints import Constraints
from reid_ray.labels.executor import Executor
from reid_ray.labels.quality import ground_truth_scores
from reid_ray.labels.refresh import ground_truth_labels, labels_from_ground_truth, refresh
from reid_ray.methods import FeatureCache, LabelSpec, Method, Stage
from reid_ray.training.corrections import run_constraints
from reid_ray.training.datasets import EVALUATION, MAIN, ImageCaches, evaluation_table
from reid_ray.training.distributed import DistributedContext
from reid_ray.types import FeatureRows, Features, FloatArray, IntArray, Labels

Pool = Callable[[FeatureRows, IntArray], FeatureRows]
"""(features of frames, tracklet number of each frame) → L2-normalised features of tracklets."""

MEMORY = "memory"
"""Key of the features that the method itself keeps, next to those of tables."""


@dataclass(frozen=True)
class LabelRequest:
    """The labels that a stage needs for an epoch.

    Attributes:
        streams: the streams that get labels.
        epoch: the epoch of the stage that the labels are for.
        previous: the previous labels by stream; empty at the first refresh.
        memory: features that the method keeps, float32 [N, D], for streams that cluster them; None: extract.
    """

    stage: Stage
    streams: tuple[str, ...]
    epoch: int
    previous: Mapping[str, Labels] = field(default_factory=dict)
    memory: FloatArray | None = None

    def spec(self, stream: str) -> LabelSpec:
        return self.stage.streams[stream].labels

    def features_of(self, stream: str) -> str:
        """The source of a stream's features: a section of the configuration, or `MEMORY`."""
        from_memory = self.spec(stream).features_from == "memory" and self.memory is not None
        return MEMORY if from_memory else self.stage.streams[stream].data

    @property
    def tables(self) -> list[str]:
        """Sections whose training tables must be extracted, in order."""
        found = [self.features_of(stream) for stream in self.streams]
        found += [name for stream in self.streams if (name := self.spec(stream).compare_with)]
        return [name for name in dict.fromkeys(found) if name != MEMORY]


def label_request(method: Method, stage: Stage, labels: Mapping[str, Labels], epoch: int) -> LabelRequest:
    """The request for the labels of an epoch of a stage; `labels` are the current ones."""
    specs = {name: stream.labels for name, stream in stage.streams.items()}
    streams = tuple(name for name, spec in specs.items() if spec.reads_features and not (spec.once and name in labels))
    from_memory = any(specs[name].features_from == "memory" for name in streams)
    memory = method.memory_features(stage.name) if from_memory else None
    return LabelRequest(stage, streams, epoch, labels, memory)


class Services(Protocol):
    """Called by every worker at the same point; the result is the same on all of them."""

    def begin_labels(self, request: LabelRequest, retriever: Retriever) -> None:
        """Start a refresh; `collect_labels` returns its labels."""
        ...

    def collect_labels(self) -> dict[str, Labels]:
        """Wait for the refresh that was started last and return its labels by stream.

        Their `statistics` contain quality and seconds.
        """
        ...

    def begin_evaluation(self, retriever: Retriever) -> None:
        """Start an evaluation; `collect_evaluation` returns its metrics."""
        ...

    def collect_evaluation(self) -> dict[str, Any] | None:
        """Metrics on query and gallery, with `evaluate_seconds`; None if the data cannot be evaluated."""
        ...

    def extract_copies(self, retriever: Retriever, cache: FeatureCache, section: str) -> FeatureRows:
        """Features of the training table of a section for a feature cache, float32 [copies·N, D].

        The copies of the table are concatenated. Only rank 0 may read them.
        """
        ...


def label_streams(
    request: LabelRequest,
    features: Mapping[str, FeatureRows],
    tables: Mapping[str, ImageTable],
    config: Config,
    device: torch.device,
    workers: Executor | None = None,
    pool: Pool = tracklet_features,
    constraints: Constraints | None = None,
) -> dict[str, Labels]:
    """The requested labels, by stream.

    Args:
        features: float32 [N, D] for each of `request.tables`, and for `MEMORY` if the method keeps features.
        tables: training tables by section.
        pool: computes tracklet features from frame features if tracklets are clustered.
        constraints: corrections of the clusters of the run's own images.
    """
    found: dict[str, Labels] = {}
    for stream in request.streams:
        started, spec, section = time.perf_counter(), request.spec(stream), request.stage.streams[stream].data
        values, table, previous = features[request.features_of(stream)], tables[section], request.previous.get(stream)
        known = Features(values, request.epoch)
        if spec.origin == "ground_truth":
            labels = labels_from_ground_truth(known, table.pids, table.camids, version=request.epoch, workers=workers)
        else:
            cluster = partial(
                refresh,
                version=request.epoch,
                device=device,
                workers=workers,
                source=features[spec.compare_with] if spec.compare_with else None,
                constraints=constraints if section == MAIN else None,
            )
            if config.labels.unit == "tracklet":
                labels = cluster_tracklets(cluster, known, config.labels, table, previous, pool)
            else:
                pids = table.pids if table.has_pids else None
                labels = cluster(
                    known, config.labels, table.camids, true_pids=pids, tracklets=table.tracklets, previous=previous
                )
        if "features" in spec.needs and request.features_of(stream) != MEMORY:
            labels = replace(labels, features=np.asarray(values[0 : len(table)]))
        found[stream] = with_statistics(labels, label_seconds=time.perf_counter() - started)
    return found


def cluster_tracklets(
    cluster: Callable[..., Labels],
    features: Features,
    config: LabelsConfig,
    table: ImageTable,
    previous: Labels | None,
    pool: Pool,
) -> Labels:
    """Labels of images from clusters of their tracklets: each image has the label of its tracklet.

    Centroids and proxies are means over tracklets, regardless of their number of frames; statistics count tracklets. If
    identities are known, `frame_ari` and the other `frame_` scores are computed on image labels.

    Args:
        cluster: `refresh` with the arguments that are the same for images and tracklets.
        features: of the images.
        previous: previous labels of the images.
    """
    numbers = number_tracklets(table)
    first = np.array([rows[0] for rows in tracklet_rows(numbers)], dtype=np.int64)
    before = replace(previous, labels=previous.labels[first]) if previous else None
    found = cluster(
        Features(pool(features.values, numbers), features.version),
        config,
        table.camids[first],
        true_pids=table.pids[first] if table.has_pids else None,
        previous=before,
    )
    labels = found.labels[numbers]
    scores = ground_truth_scores(labels, table.pids) if table.has_pids else {}
    return with_statistics(
        replace(found, labels=labels),
        n_frames=len(numbers),
        **{f"frame_{name}": value for name, value in scores.items()},
    )


def known_labels(stage: Stage, tables: Mapping[str, ImageTable]) -> dict[str, Labels]:
    """The labels of the streams that need no features: plain ground truth, or no labels."""
    found = {}
    for name, stream in stage.streams.items():
        if stream.labels.reads_features:
            continue
        table = tables[stream.data]
        known = table if stream.labels.origin == "ground_truth" else table.without_pids()
        found[name] = ground_truth_labels(known.pids)
    return found


def temporal_pooling(settings: EvaluationConfig) -> TemporalPooling | None:
    """The temporal pooling of the configured protocol; None if it compares images."""
    if protocol_of(settings).unit == "image":
        return None
    return TemporalPooling(
        n_parts=settings.temporal_parts,
        n_frames=settings.temporal_frames,
        sampling=settings.temporal_sampling,
        seed=settings.temporal_seed,
    )


def score(
    features: FeatureRows, table: ImageTable, settings: EvaluationConfig, attributes: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Metrics by the configured protocol, and the accuracy of predicted attributes.

    Args:
        features: [N, D] of the images of `table`, or [N, D + M] with predicted attributes.
        table: query rows, followed by gallery rows.
        attributes: names of the M predicted attributes.

    Returns:
        The metrics of the protocol. With attributes also `attribute_accuracy` and `attribute_baseline`, means over the
        attributes that are known for some image, and `attributes` with both numbers of each attribute. The baseline
        always predicts the most frequent value.
    """
    values, predictions = split_predictions(features, len(attributes)) if attributes else (features, None)
    query, gallery, items = compared_items(values, table, settings)
    found: dict[str, Any] = protocol_of(settings).evaluate(query, gallery, items, settings)
    if predictions is None:
        return found
    predicted = predictions[0 : len(table)].astype(np.int64)
    return found | accuracy_metrics(attribute_accuracies(predicted, attributes_by_name(table, attributes), attributes))


def compared_items(
    features: FeatureRows, table: ImageTable, settings: EvaluationConfig
) -> tuple[FloatArray, FloatArray, ImageTable]:
    """Query features, gallery features and table of the items that the protocol compares: images or tracklets.

    Args:
        features: [N, D] of the images of `table`.
        table: query rows, followed by gallery rows.
    """
    values, items = pooled_items(features, table, temporal_pooling(settings))
    n_query = len(items.split("query"))
    return values[:n_query], values[n_query:], items


def evaluated_attributes(retriever: nn.Module, table: ImageTable) -> tuple[str, ...]:
    """Names of the attributes that a network predicts; empty if the table has none of them."""
    names = predicted_attributes(retriever)
    return names if set(names) & set(table.attribute_names) else ()


class InlineServices:
    """Extraction shared by the training workers; rank 0 clusters and scores.

    Args:
        caches: decoded images, shared with the loader so that each is decoded once.
    """

    def __init__(
        self,
        config: Config,
        datasets: Mapping[str, Dataset],
        context: DistributedContext,
        device: torch.device,
        caches: ImageCaches,
    ) -> None:
        self._config = config
        self._context = context
        self._device = device
        self._caches = caches
        self._tables = {section: dataset.train for section, dataset in datasets.items()}
        self._evaluation = evaluation_table(datasets[MAIN], config)
        self._labels: tuple[LabelRequest, Retriever] | None = None
        self._evaluated: Retriever | None = None

    def begin_labels(self, request: LabelRequest, retriever: Retriever) -> None:
        # No other process could compute in the meantime, so the work is done when the labels are collected.
        self._labels = (request, retriever)

    def collect_labels(self) -> dict[str, Labels]:
        assert self._labels is not None, "collect_labels() without begin_labels()"
        (request, retriever), self._labels = self._labels, None
        started = time.perf_counter()
        features = {name: self._extract(retriever, name, self._caches[name].batch) for name in request.tables}
        extracted = time.perf_counter() - started
        if request.memory is not None:
            features[MEMORY] = request.memory

        def work() -> dict[str, Labels]:
            constraints = run_constraints(self._config, self._tables)
            return label_streams(request, features, self._tables, self._config, self._device, constraints=constraints)

        found: dict[str, Labels] = run_on_main_with_heartbeat(self._context, self._config, work)
        return {name: with_statistics(labels, extract_seconds=extracted) for name, labels in found.items()}

    def begin_evaluation(self, retriever: Retriever) -> None:
        self._evaluated = retriever

    def collect_evaluation(self) -> dict[str, Any] | None:
        assert self._evaluated is not None, "collect_evaluation() without begin_evaluation()"
        retriever, self._evaluated = self._evaluated, None
        table, settings, started = self._evaluation, self._config.evaluation, time.perf_counter()
        if table is None:
            return None
        names = evaluated_attributes(retriever.network, table)
        features = self._extract(retriever, EVALUATION, self._caches[EVALUATION].batch, attributes=bool(names))
        work = partial(score, features, table, settings, names)
        metrics = run_on_main_with_heartbeat(self._context, self._config, work)
        return {**metrics, "evaluate_seconds": time.perf_counter() - started}

    def extract_copies(self, retriever: Retriever, cache: FeatureCache, section: str) -> FeatureRows:
        view = make_view(cache.view, self._config.data)
        loads = [augmented(self._caches[section], view, self._config.seed, number) for number in range(cache.copies)]
        return np.concatenate([self._extract(retriever, section, load) for load in loads])

    def _extract(self, retriever: Retriever, name: str, load: Load, *, attributes: bool = False) -> FloatArray:
        """Features of all rows of a table, on every worker; predicted attributes are appended as columns."""
        rank, size = self._context.rank, self._context.size
        batches = batch_rows(len(self._caches[name]), self._config.evaluation.batch_size)
        found: list[FloatArray] | UserError
        try:
            model = for_extraction(retriever.network)
            model = EmbedAndPredict(model) if attributes else model
            columns = model_columns(model, self._caches.table(name))
            threads = self._config.data.loader_threads
            found = extract(model, load, batches[rank::size], device=self._device, columns=columns, n_threads=threads)
        except UserError as error:
            found = error
        parts: list[FloatArray] = [None] * len(batches)  # type: ignore[list-item]
        for other, answer in enumerate(self._context.all_gather_objects(found)):
            if isinstance(answer, UserError):
                raise answer
            parts[other::size] = answer
        return assemble(parts)


def run_on_main(context: DistributedContext, function: Callable[[], Any]) -> Any:
    """Call `function` on rank 0 and broadcast its result, or its `UserError`, to every worker.

    If only rank 0 raised the error, the other workers would wait for a broadcast that never comes.
    """
    answer: Any = None
    if context.is_main_process:
        try:
            answer = function()
        except UserError as error:
            answer = error
    answer = context.broadcast_object(answer)
    if isinstance(answer, UserError):
        raise answer
    return answer


def run_on_main_with_heartbeat(context: DistributedContext, config: Config, function: Callable[[], Any]) -> Any:
    """`run_on_main` for work that may take longer than the time-out of a collective.

    While it works, rank 0 sends periodic heartbeats to the other workers, so that they do not treat it as hung.
    """
    if context.size == 1:
        return function()
    with ThreadPoolExecutor(1, thread_name_prefix="reid-work") as thread:
        calls = [thread.submit(function)] if context.is_main_process else []
        while not run_on_main(context, lambda: bool(wait(calls, config.runtime.timeout_seconds / 4).done)):
            pass
        return run_on_main(context, lambda: calls[0].result())


def with_statistics(labels: Labels, **numbers: Any) -> Labels:
    """The labels with additional statistics."""
    return replace(labels, statistics={**labels.statistics, **numbers})
