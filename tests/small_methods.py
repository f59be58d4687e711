"""Methods without a training loop: hand-made batches, trained parameters of a stage, modules in its modes."""

import torch

from reid_ray.methods import Batch, Inputs, stages_of
from reid_ray.training.modules import set_modes, trainable_parameters


def inputs(views, labels, *, camids=None, rows=None, **columns):
    """One stream; cameras are all 0 and rows count from 0 unless given."""
    camids = torch.zeros_like(labels) if camids is None else camids
    rows = torch.arange(len(labels)) if rows is None else rows
    return Inputs(views, labels, rows, {"camid": camids, **columns})


def make_batch(train, *, key=(0, 0, 0), **others):
    """A batch with the stream `train`, and other streams by name."""
    return Batch({"train": train, **others}, key)


def stage_of(method, name="main"):
    (stage,) = (stage for stage in stages_of(method.config) if stage.name == name)
    return stage


def parameters_of(method, stage="main", optimizer="main"):
    """The parameters that an optimizer of a stage trains."""
    return trainable_parameters(method.modules, stage_of(method, stage).optimizers[optimizer].modules)


def in_training(method, stage="main"):
    """The same method with its modules in the modes of a stage."""
    set_modes(method.modules, stage_of(method, stage))
    return method
