"""One file per system of the papers. `build_method` makes the one that a configuration names."""

from __future__ import annotations

from torch import nn

from reid_ray.config import Config, MMTConfig
from reid_ray.methods.abmt import ABMT
from reid_ray.methods.base import Batch, Exchange, Method, Update
from reid_ray.methods.cap import CAP
from reid_ray.methods.cluster_contrast import ClusterContrast
from reid_ray.methods.ice import ICE
from reid_ray.methods.mmt import MMT
from reid_ray.methods.source import Source
from reid_ray.methods.spcl import SpCL

METHODS: dict[str, type[Method]] = {
    "ice": ICE,
    "abmt": ABMT,
    "mmt": MMT,
    "spcl": SpCL,
    "cap": CAP,
    "cluster_contrast": ClusterContrast,
    "source": Source,
}


def build_method(config: Config, exchange: Exchange) -> Method:
    """The method that `config.method.name` names, with initial weights, on the CPU."""
    return METHODS[config.method.name](config, exchange)


def empty_network(config: Config) -> nn.Module:
    """The retrieval network of a run, for weights that come from elsewhere: a module with `embed` and `dim`."""
    return METHODS[config.method.name].network(without_weights(config))


def without_weights(config: Config) -> Config:
    """The same configuration with random initial weights, for networks whose weights come from elsewhere."""
    second = {"weights_2": None} if isinstance(config.method, MMTConfig) else {}
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"weights": None}),
            "method": config.method.model_copy(update=second),
        }
    )


__all__ = ["METHODS", "Batch", "Exchange", "Method", "Update", "build_method", "empty_network", "without_weights"]
