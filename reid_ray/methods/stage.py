"""Declarative description of a training stage: data, labels, optimizers and retriever.

A method declares its stages; the loop, the label services and the extraction actors execute them. Descriptions contain
only names and settings, so they are cheap to create, compare and send to other processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from reid_ray.config import Config, OptimizerConfig, StageConfig


@dataclass(frozen=True)
class LabelSpec:
    """Source of a stream's labels, and the data that accompanies them.

    Attributes:
        origin: `clusters` of features, refreshed before each epoch; `ground_truth`, the table's identities; `none`.
        needs: what the method reads in addition to the labels: `centroids`, `proxies` (per camera), `features`. Ground
            truth without needs takes no pass over the images.
        once: labels from ground truth are computed only at the start of the stage, not before each epoch.
        features_from: with `memory`, the result of `Method.memory_features`, unless None, is clustered in place of
            features that the retriever extracts.
        compare_with: a table (a section of the configuration) whose features are used in the distance (ABMT's
            source-similarity term); None for no such term.
    """

    origin: Literal["clusters", "ground_truth", "none"] = "none"
    needs: frozenset[str] = frozenset()
    once: bool = False
    features_from: Literal["retriever", "memory"] = "retriever"
    compare_with: str | None = None

    @property
    def reads_features(self) -> bool:
        """Whether these labels need features, extracted or kept by the method."""
        return self.origin == "clusters" or bool(self.needs)


@dataclass(frozen=True)
class FeatureCache:
    """Features that a stage trains on in place of images, extracted once at its start.

    Attributes:
        module: the extractor, a name in `Method.modules`; it should be frozen in the stage.
        view: the view that is embedded.
        copies: number of differently augmented copies of each image.
    """

    module: str
    view: str = "resize"
    copies: int = 1


@dataclass(frozen=True)
class StreamSpec:
    """One stream of a batch: items of a table under some views, with labels.

    Attributes:
        views: name in the batch → name of a registered view.
        data: the table, a section of the configuration: `data`, `source` or `target`.
        labels: source of the labels.
        modality: only images of this modality; None for all.
        frames: images per item: 1, or T frames of a tracklet.
        sampling: frames of a tracklet: `random`, new ones in each epoch, or `even`, evenly spaced.
        columns: columns of the table that come with the batch; `camid` always does.
        cache: the features for views of the source `feature`.
    """

    views: Mapping[str, str]
    data: str = "data"
    labels: LabelSpec = LabelSpec()
    modality: str | None = None
    frames: int = 1
    sampling: Literal["even", "random"] = "random"
    columns: tuple[str, ...] = ()
    cache: FeatureCache | None = None


@dataclass(frozen=True)
class OptimizerSpec:
    """Modules and settings of an optimizer.

    Attributes:
        modules: names in `Method.modules`, or dotted paths below them.
        config: kind, rate and schedule.
    """

    modules: tuple[str, ...]
    config: OptimizerConfig


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: used in logs and in the configuration (`stages.NAME`).
        config: epochs, batches, sampler.
        streams: by name; the first is the primary one, whose labels are logged and whose data section sets the views.
        optimizers: by name. Each trainable parameter that is not frozen belongs to exactly one.
        retriever: the module for extraction, evaluation and export, a name in `Method.modules` or a path below it.
        frozen: modules without gradient and in evaluation mode, so that their buffers do not change.
        init: module → module whose weights are copied to it when the stage begins.
        evaluated: whether the retriever is evaluated while the stage trains.
        resumes: optimizers that keep the moments of the optimizers with the same names in the previous stage.
        renders: whether `Method.render` returns image grids in this stage, written whenever an evaluation is due.
        rendered_views: additional views of the primary stream in the batch for `Method.render`.
        seed_offset: added to the run's seed for all randomness of the stage.
    """

    name: str
    config: StageConfig
    streams: Mapping[str, StreamSpec]
    optimizers: Mapping[str, OptimizerSpec]
    retriever: str
    frozen: tuple[str, ...] = ()
    init: Mapping[str, str] = field(default_factory=dict)
    evaluated: bool = True
    resumes: tuple[str, ...] = ()
    renders: bool = False
    rendered_views: Mapping[str, str] = field(default_factory=dict)
    seed_offset: int = 0

    @property
    def primary(self) -> str:
        """Name of the first stream."""
        return next(iter(self.streams))

    @property
    def clusters(self) -> bool:
        """Whether any labels come from clusters."""
        return any(stream.labels.origin == "clusters" for stream in self.streams.values())


def optimizers(config: StageConfig, **modules: tuple[str, ...]) -> dict[str, OptimizerSpec]:
    """Optimizers of a stage by name, `optimizers(config, main=("student",))`, with the settings of the stage."""
    return {name: OptimizerSpec(paths, config.optimizer_config(name)) for name, paths in modules.items()}


def from_clusters(config: Config, *needs: str, memory: bool = False) -> LabelSpec:
    """Labels from clusters, with the source-similarity term if the configuration has one."""
    compared = "source" if config.source is not None and config.labels.source_weight else None
    return LabelSpec(
        "clusters", frozenset(needs), features_from="memory" if memory else "retriever", compare_with=compared
    )
