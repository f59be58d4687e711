"""The tables that a run reads, by section of its configuration, and their decoded images."""

from __future__ import annotations

from collections.abc import Mapping

from reid_ray.config import Config, DataConfig, EvaluationConfig
from reid_ray.data.images import Dataset
from reid_ray.data.loader import ImageCache
from reid_ray.data.meshes import TableMeshes
from reid_ray.data.readers import read_dataset
from reid_ray.data.table import ImageTable
from reid_ray.data.tracklets import tracklet_table
from reid_ray.evaluation.protocols import protocol_of, why_not
from reid_ray.inference.pooling import query_then_gallery
from reid_ray.methods import Stage, stages_of

MAIN = "data"
"""The section with the images of the run itself: its training split, and query and gallery for evaluation."""

EVALUATION = "evaluation"
"""Name of the images of query and gallery in `ImageCaches`."""


def read_datasets(config: Config, known: Mapping[str, Dataset] | None = None) -> dict[str, Dataset]:
    """The tables that the stages of a run read, `data` first; tables in `known` are not read again."""
    known = known or {}
    return {name: known.get(name) or read_dataset(getattr(config, name)) for name in sections_of_run(config)}


def sections_of_run(config: Config) -> list[str]:
    """Names of the sections of the configuration whose tables a run reads."""
    found = [section for stage in stages_of(config) for section in sections_of_stage(stage)]
    return list(dict.fromkeys([MAIN, *found]))


def sections_of_stage(stage: Stage) -> list[str]:
    """Names of the sections whose training tables a stage reads."""
    found = []
    for stream in stage.streams.values():
        found += [stream.data, *([stream.labels.compare_with] if stream.labels.compare_with else [])]
    return list(dict.fromkeys(found))


def evaluation_table(dataset: Dataset, config: Config) -> ImageTable | None:
    """The rows that the protocol judges, or None if there is nothing to evaluate or evaluation is switched off."""
    if config.evaluation.every is None or why_not(dataset.table, config.evaluation) is not None:
        return None
    return evaluated_rows(dataset.table, config.evaluation)


def evaluated_rows(table: ImageTable, settings: EvaluationConfig) -> ImageTable:
    """The rows that the protocol judges: query rows followed by gallery rows, or the training rows.

    Raises:
        DataError: as `query_and_gallery`.
    """
    if protocol_of(settings).split == "train":
        return table.split("train")
    return query_and_gallery(table, settings)


def query_and_gallery(table: ImageTable, settings: EvaluationConfig) -> ImageTable:
    """Query rows followed by gallery rows, the order of extraction.

    Raises:
        DataError: the protocol compares tracklets, and a tracklet has two identities or cameras.
    """
    found = query_then_gallery(table)
    if protocol_of(settings).unit == "tracklet":
        tracklet_table(found)
    return found


class ImageCaches:
    """Decoded images and projected meshes of a run's tables in this process, created on first use.

    All have the image size of `data`.
    """

    def __init__(self, datasets: Mapping[str, Dataset], config: Config) -> None:
        self._datasets = datasets
        self._config = config
        self._caches: dict[str, ImageCache] = {}
        self._meshes: dict[str, TableMeshes] = {}

    def table(self, name: str) -> ImageTable:
        """The training table of a section, or the table of `EVALUATION`."""
        if name != EVALUATION:
            return self._datasets[name].train
        table = evaluation_table(self._datasets[MAIN], self._config)
        assert table is not None, "this data cannot be evaluated"
        return table

    def __getitem__(self, name: str) -> ImageCache:
        if name not in self._caches:
            dataset = self._datasets[MAIN if name == EVALUATION else name]
            self._caches[name] = make_cache(self.table(name), dataset, self._config)
        return self._caches[name]

    def meshes(self, name: str) -> TableMeshes:
        """Projections of the meshes of a section's training table."""
        if name not in self._meshes:
            self._meshes[name] = make_meshes(self.table(name), getattr(self._config, name), self._config)
        return self._meshes[name]

    def keep_only(self, names: list[str]) -> None:
        """Free the images of all other tables."""
        self._caches = {name: cache for name, cache in self._caches.items() if name in names}
        self._meshes = {name: cache for name, cache in self._meshes.items() if name in names}


def make_cache(table: ImageTable, dataset: Dataset, config: Config) -> ImageCache:
    """The images of a table at the configured size."""
    data = config.data
    return ImageCache(table, dataset.images, height=data.height, width=data.width, cache_mb=data.cache_mb)


def make_meshes(table: ImageTable, section: DataConfig, config: Config) -> TableMeshes:
    """The projections of a table's meshes at the configured size.

    Args:
        section: the section of the configuration that the table is from.
    """
    data = config.data
    return TableMeshes(table, section, height=data.height, width=data.width, cache_mb=data.cache_mb)
