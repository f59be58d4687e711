"""Trainers of the one-layer method, on the images of the tiny run."""

import pytest
import torch
from one_layer import OneLayer, Scripted
from small_runs import tiny_config

from reid_ray.data.readers import read_dataset
from reid_ray.methods import METHODS
from reid_ray.training.datasets import ImageCaches
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.loop import Trainer
from reid_ray.training.rundir import RunDirectory


@pytest.fixture(scope="module")
def tiny_dataset(tmp_path_factory):
    return read_dataset(tiny_config(tmp_path_factory.getbasetemp()).data)


@pytest.fixture
def method(monkeypatch):
    """`method(cls)`: what the tiny run's method is from now on."""
    return lambda cls: monkeypatch.setitem(METHODS, "ice", cls)


@pytest.fixture
def trainer(tiny, tiny_dataset, method):
    """`trainer("key=value", …)`: a trainer of one layer in float64, ready to run, with its `services`."""
    method(OneLayer)

    def make(*overrides, context=None, listener=None, services=None, **script):
        config = tiny("training.precision=float64", *overrides)
        datasets, directory = {"data": tiny_dataset}, RunDirectory.of(config)
        directory.create(config, datasets)
        services = services or Scripted(len(tiny_dataset.train), **script)
        made = Trainer(
            config,
            datasets,
            context or DistributedContext(),
            torch.device("cpu"),
            services,
            ImageCaches(datasets, config),
            listener=listener,
        )
        made.services, made.directory = services, directory
        return made

    return make
