"""The data of a stage without a loop around it."""

import torch

from reid_ray.methods import Stage
from reid_ray.training.datasets import ImageCaches, read_datasets
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.services import known_labels
from reid_ray.training.streams import StageData

CPU = torch.device("cpu")


def stage_with(config, **streams):
    return Stage("main", config.training, streams, {}, "student")


class Data:
    """A stage's data on one worker, with labels that need no features."""

    def __init__(self, config, stage, datasets=None, *, context=None, features=None, labels=None, dtype=torch.float32):
        datasets = datasets or read_datasets(config)
        self.tables = {section: dataset.train for section, dataset in datasets.items()}
        self.labels = labels or known_labels(stage, self.tables)
        caches = ImageCaches(datasets, config)
        self.data = StageData(stage, config, caches, features or {}, context or DistributedContext(), CPU, dtype)

    def plan(self, epoch=0):
        return self.data.plan(self.labels, epoch)

    def batches(self, epoch=0, start=0):
        return list(self.data.batches(self.plan(epoch), self.labels, epoch, start))
