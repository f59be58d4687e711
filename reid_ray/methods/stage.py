"""What a stage of training is: data, labels, optimizers and the retriever, as plain descriptions.

A method declares its stages; the loop, the label services and the extraction actors run any of them. Descriptions hold
names and settings only, so they are cheap to make, compare and send to other processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from reid_ray.config import Config, OptimizerConfig, StageConfig


@dataclass(frozen=True)
class LabelSpec:
    """Where the labels of a stream come from, and what comes with them.

    Attributes:
        origin: `clusters` of features, refreshed before each epoch; `ground_truth`, the table's identities; `none`.
        needs: what the method reads besides the labels: `centroids`, `proxies` (per camera), `features`. Ground truth
            that needs nothing takes no pass over the images.
        once: labels from ground truth are made at the stage's start only, not before each epoch.
        features_from: `memory` clusters what `Method.memory_features` gives, where it gives any, in place of features
            that the retriever extracts.
        compare_with: a table (a section of the configuration) whose features have a part in the distance (ABMT's
            source-similarity term); None without.
    """

    origin: Literal["clusters", "ground_truth", "none"] = "none"
    needs: frozenset[str] = frozenset()
    once: bool = False
    features_from: Literal["retriever", "memory"] = "retriever"
    compare_with: str | None = None

    @property
    def reads_features(self) -> bool:
        """Whether features have to be extracted, or kept by the method, for these labels."""
        return self.origin == "clusters" or bool(self.needs)


@dataclass(frozen=True)
class FeatureCache:
    """Features that a stage trains on in place of images, extracted once at its start.

    Attributes:
        module: what embeds, a name in `Method.modules`; it should be frozen in the stage.
        view: the view that is embedded.
        copies: how many differently augmented copies of each image.
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
        labels: where labels come from.
        modality: only images of this modality; None takes all.
        frames: images of an item: 1, or T frames of a tracklet, drawn at random.
        columns: columns of the table that come with the batch; `camid` always does.
        cache: what views of the source `feature` are made from.
    """

    views: Mapping[str, str]
    data: str = "data"
    labels: LabelSpec = LabelSpec()
    modality: str | None = None
    frames: int = 1
    columns: tuple[str, ...] = ()
    cache: FeatureCache | None = None


@dataclass(frozen=True)
class OptimizerSpec:
    """What an optimizer steps, and how.

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
        name: of the stage in logs and in the configuration (`stages.NAME`).
        config: epochs, batches, sampler.
        streams: by name; the first is the primary one, whose labels are logged and whose data section sets the views.
        optimizers: by name. Each trainable parameter that is not frozen belongs to exactly one.
        retriever: the module that extracts, is evaluated and exported, a name in `Method.modules` or a path below it.
        frozen: modules without gradient and in evaluation mode, so that their buffers stay as they are.
        init: module → module whose weights it takes when the stage begins.
        evaluated: whether the retriever is evaluated while the stage trains.
        resumes: optimizers that begin with the moments of the stage before, which has them under the same names.
        renders: whether `Method.render` gives image grids in this stage, drawn whenever an evaluation is due.
        rendered_views: views of the primary stream that the batch for `Method.render` has besides those of the stream.
        seed_offset: added to the run's seed for all that the stage draws.
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
        """Whether some labels come from clusters."""
        return any(stream.labels.origin == "clusters" for stream in self.streams.values())


def optimizers(config: StageConfig, **modules: tuple[str, ...]) -> dict[str, OptimizerSpec]:
    """Optimizers of a stage by name, `optimizers(config, main=("student",))`, with their settings of the stage."""
    return {name: OptimizerSpec(paths, config.optimizer_config(name)) for name, paths in modules.items()}


def from_clusters(config: Config, *needs: str, memory: bool = False) -> LabelSpec:
    """Labels from clusters, with the source-similarity term where the configuration has one."""
    compared = "source" if config.source is not None and config.labels.source_weight else None
    return LabelSpec(
        "clusters", frozenset(needs), features_from="memory" if memory else "retriever", compare_with=compared
    )
