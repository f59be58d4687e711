"""Restore a method from the newest checkpoint of a run with all its modules, not only the retriever."""

from __future__ import annotations

from dataclasses import dataclass

from reid_ray.config import Config
from reid_ray.devices import choose_device, parameter_dtype
from reid_ray.errors import RunError
from reid_ray.methods import Method, Stage, build_method, stages_of, without_weights
from reid_ray.training.checkpoint import Checkpoint, latest_checkpoint, version_errors
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.rundir import RunDirectory


@dataclass(frozen=True)
class RestoredMethod:
    """A method with the weights of a checkpoint, on this process's device, in evaluation mode.

    Attributes:
        stage: the stage in which its modules were last trained.
        epoch: completed epochs of that stage.
        step: completed steps of the next epoch.
    """

    method: Method
    stage: Stage
    epoch: int
    step: int


def restore_method(config: Config, directory: RunDirectory) -> RestoredMethod:
    """The method of a run with all its modules, from the newest checkpoint.

    Raises:
        RunError: there is no checkpoint that this version of reid_ray can read.
    """
    path = latest_checkpoint(directory.checkpoints)
    if path is None:
        raise RunError(f"{directory.path} has no checkpoint yet; the first one is written when training begins.")
    with version_errors(path):
        checkpoint = Checkpoint.load(path)
        method = build_method(without_weights(config), DistributedContext())
        method.to(choose_device(config.runtime), parameter_dtype(config.training))  # first, else float64 is rounded
        for name, module in method.modules.items():
            module.load_state_dict(checkpoint.modules[name])
    for module in method.modules.values():
        module.eval()
    state, stages = checkpoint.state, stages_of(config)
    if state.stage and not state.stage_begun:  # the end of a stage is the start of the next
        stage = stages[state.stage - 1]
        return RestoredMethod(method, stage, stage.config.epochs, 0)
    return RestoredMethod(method, stages[state.stage], state.epoch, state.step)
