"""One file per system of the papers. `build_method` makes the one that a configuration names."""

from __future__ import annotations

from reid_ray.config import Config
from reid_ray.methods.base import Batch, Exchange, Method, Update
from reid_ray.methods.ice import ICE

METHODS: dict[str, type[Method]] = {"ice": ICE}


def build_method(config: Config, exchange: Exchange) -> Method:
    """The method that `config.method.name` names, with initial weights, on the CPU."""
    return METHODS[config.method.name](config, exchange)


__all__ = ["METHODS", "Batch", "Exchange", "Method", "Update", "build_method"]
