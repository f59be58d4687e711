"""reid_ray: person re-identification with and without labels, from a folder of crops to a Ray cluster.

>>> import reid_ray
>>> config = reid_ray.load_config("demo", ["training.epochs=2"])
>>> run = reid_ray.train(config)                 # doctest: +SKIP
>>> run.embed(["a.jpg", "b.jpg"])                # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reid_ray.api import train
    from reid_ray.config import Config, load_config
    from reid_ray.data.feature_folder import read_features
    from reid_ray.encoder import Encoder, load_encoder
    from reid_ray.errors import UserError
    from reid_ray.run import Run, load_run
    from reid_ray.search import Index

__version__ = "0.1.0"  # the only place; pyproject.toml reads it here
__all__ = [
    "Config",
    "Encoder",
    "Index",
    "Run",
    "UserError",
    "load_config",
    "load_encoder",
    "load_run",
    "read_features",
    "train",
]

_HOMES = {
    "Config": "reid_ray.config",
    "Encoder": "reid_ray.encoder",
    "Index": "reid_ray.search",
    "Run": "reid_ray.run",
    "UserError": "reid_ray.errors",
    "load_config": "reid_ray.config",
    "load_encoder": "reid_ray.encoder",
    "load_run": "reid_ray.run",
    "read_features": "reid_ray.data.feature_folder",
    "train": "reid_ray.api",
}


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `reid-ray --help` does not wait for PyTorch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'reid_ray' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
