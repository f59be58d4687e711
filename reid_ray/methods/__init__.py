"""One module per published system. `build_method` creates the method that a configuration names."""

from __future__ import annotations

from torch import nn

from reid_ray.config import Config
from reid_ray.methods import (  # noqa: F401  they register themselves
    abmt,
    am0bh,
    cap,
    cluster_contrast,
    dg_vae,
    gcl,
    havana,
    ice,
    is_gan,
    mmt,
    scr,
    source,
    spcl,
)
from reid_ray.methods.base import (
    METHODS,
    Batch,
    Collectives,
    Inputs,
    Method,
    Update,
    register_method,
)
from reid_ray.methods.stage import FeatureCache, LabelSpec, OptimizerSpec, Stage, StreamSpec


def stages_of(config: Config) -> tuple[Stage, ...]:
    """The stages of a run."""
    return METHODS[config.method.name].stages(config)


def build_method(config: Config, collectives: Collectives) -> Method:
    """The method that `config.method.name` names, with initial weights, on the CPU."""
    return METHODS[config.method.name](config, collectives)


def empty_network(config: Config, module: str | None = None) -> nn.Module:
    """The retrieval network of a run without its weights, to load others: a module with `embed` and `dim`.

    Args:
        module: name in the method's modules; None: the retriever of the last stage.
    """
    return METHODS[config.method.name].network(without_weights(config), module or stages_of(config)[-1].retriever)


def without_weights(config: Config) -> Config:
    """The configuration with random initial weights, for networks whose weights are loaded later."""
    return config.model_copy(update={"model": config.model.model_copy(update={"weights": None})})


__all__ = [
    "METHODS",
    "Batch",
    "Collectives",
    "FeatureCache",
    "Inputs",
    "LabelSpec",
    "Method",
    "OptimizerSpec",
    "Stage",
    "StreamSpec",
    "Update",
    "build_method",
    "empty_network",
    "register_method",
    "stages_of",
    "without_weights",
]
