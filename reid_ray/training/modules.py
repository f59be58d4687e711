"""Prepare a method's modules for a stage: look them up by path, initialise, freeze, and set batch-norm groups."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeAlias

from torch import nn

from reid_ray.errors import MethodError
from reid_ray.methods import Stage
from reid_ray.models import prepare_bn_groups

Modules: TypeAlias = Mapping[str, nn.Module]


def find_module(modules: Modules, path: str) -> nn.Module:
    """The module `NAME` or `NAME.PATH.BELOW`; `MethodError`, with the closest name, if there is none."""
    name, _, below = path.partition(".")
    try:
        return modules[name].get_submodule(below)
    except (KeyError, AttributeError):
        near = difflib.get_close_matches(path, list(_paths(modules)), n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"modules are {', '.join(modules)}."
        raise MethodError(f"There is no module '{path}'; {hint}") from None


def trainable_parameters(modules: Modules, paths: Iterable[str]) -> list[nn.Parameter]:
    """Parameters of the modules at these paths that require a gradient, without duplicates."""
    found = (parameter for path in paths for parameter in find_module(modules, path).parameters())
    return list(dict.fromkeys(parameter for parameter in found if parameter.requires_grad))


def initialise(modules: Modules, stage: Stage) -> None:
    """Copy weights between modules at the start of a stage, as declared by `Stage.init`."""
    for path, origin in stage.init.items():
        find_module(modules, path).load_state_dict(find_module(modules, origin).state_dict())


def set_modes(modules: Modules, stage: Stage) -> list[nn.Parameter]:
    """Put modules in training mode; put frozen ones in evaluation mode and switch off their gradients.

    Returns:
        The parameters whose gradient was switched off and must be switched on again after the stage.
    """
    for module in modules.values():
        module.train()
    frozen = trainable_parameters(modules, stage.frozen)
    for parameter in frozen:
        parameter.requires_grad_(False)
    for path in stage.frozen:
        find_module(modules, path).eval()
    return frozen


@contextmanager
def evaluation_mode(modules: Modules) -> Iterator[None]:
    """All modules in evaluation mode for the block; afterwards each layer returns to its previous mode."""
    training = [layer for module in modules.values() for layer in module.modules() if layer.training]
    for module in modules.values():
        module.eval()
    try:
        yield
    finally:
        for layer in training:
            layer.training = True


def prepare_batch_norms(modules: Modules, group: int | None, local_batch: int) -> None:
    """Set the BN groups of all modules for batches of this size; every worker calls it."""
    for module in modules.values():
        prepare_bn_groups(module, group, local_batch)


def _paths(modules: Modules) -> Iterator[str]:
    for name, module in modules.items():
        yield from (f"{name}.{path}".rstrip(".") for path, _ in module.named_modules())
