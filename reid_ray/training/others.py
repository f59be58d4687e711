"""Images of a method's second table, which come with the batches of the first.

With true identities they are drawn by the sampler of the first, else in random order.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing

import numpy as np
from torch import Tensor

from reid_ray.config import Config, DataConfig
from reid_ray.data.loader import ViewLoader
from reid_ray.data.readers import read_dataset
from reid_ray.data.samplers import plan_as_configured, plan_images
from reid_ray.labels.refresh import true_labels
from reid_ray.training.services import make_bank
from reid_ray.types import OUTLIER, IntArray

SEED = 2**32
"""Added to the run's seed: the two tables draw apart."""


OtherBatch = tuple[IntArray, IntArray, IntArray, dict[str, Tensor]]
"""Rows of the global batch; labels and cameras of the whole table; this worker's views."""


class OtherImages:
    """The training images of a second data set, in the sizes and views of the first. Only they are read of it.

    Args:
        data: where they are.
        config: the run.
        views: names of the views.
        columns: this worker's share of a batch.
        labelled: whether the method learns from its identities.
    """

    def __init__(
        self, data: DataConfig, config: Config, views: tuple[str, ...], columns: slice, *, labelled: bool
    ) -> None:
        dataset = read_dataset(data)
        self._camids = dataset.train.camids
        outliers = np.full(len(self._camids), OUTLIER, dtype=np.int64)
        self._labels = true_labels(dataset.train.pids) if labelled else outliers
        self._labelled = labelled
        self._training, self._seed, self._columns = config.training, config.seed + SEED, columns
        self._loader = ViewLoader(make_bank(dataset.train, dataset, config), config.data, views, self._seed)

    def batches(self, epoch: int, start: int) -> Generator[OtherBatch, None, None]:
        """The batches of an epoch from step `start` on."""
        training, rng = self._training, np.random.default_rng([self._seed, epoch])
        if self._labelled:
            plan = plan_as_configured(self._labels, self._camids, training, rng)
        else:
            plan = plan_images(len(self._camids), training.batch_size, training.iterations, rng)
        with closing(self._loader.batches(plan, self._columns, epoch=epoch, start=start)) as batches:
            for step, views in enumerate(batches, start):
                yield plan[step], self._labels, self._camids, views
