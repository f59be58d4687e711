"""The exported retriever of a run, written at the end of each epoch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from reid_ray.config import Config
from reid_ray.devices import choose_device, parameter_dtype
from reid_ray.errors import WeightsError
from reid_ray.inference.retriever import Retriever
from reid_ray.io.files import first_line
from reid_ray.io.paths import Location, as_readable
from reid_ray.io.tensors import save_atomically
from reid_ray.methods import empty_network


def save_exported(retriever: Retriever, stage: str, config: Config, file: Location) -> None:
    """Write a retriever's weights with the configuration that rebuilds it."""
    content = {
        "model": retriever.network.state_dict(),
        "module": retriever.module,
        "stage": stage,
        "epoch": retriever.version[1],
        "config": config.model.model_dump(mode="json"),
    }
    save_atomically(content, file)


def load_exported(config: Config, file: Location) -> nn.Module:
    """Load the exported retriever of a run, in evaluation mode on this process's device.

    Raises:
        WeightsError: the file cannot be read, or is not a model of such a run.
    """
    with _weights_errors(file):
        content = read_exported(file)
        model = empty_network(config, content["module"])
        model.load_state_dict(content["model"])
    return model.to(device=choose_device(config.runtime), dtype=parameter_dtype(config.training)).eval()


def read_exported(file: Location) -> dict[str, Any]:
    """What `save_exported` has written; `WeightsError` where it cannot be read."""
    with _weights_errors(file):
        content: dict[str, Any] = torch.load(as_readable(file), map_location="cpu", weights_only=True)
        return content


@contextmanager
def _weights_errors(file: Location) -> Iterator[None]:
    """Turn failures to read a model in the block into a `WeightsError`."""
    try:
        yield
    except (OSError, RuntimeError, LookupError, UnpicklingError) as error:
        # PyTorch's own message advises to run what is in the file.
        reason = "it holds other things than tensors" if isinstance(error, UnpicklingError) else first_line(error)
        raise WeightsError(
            f"Cannot read the model {file} ({reason}); it must be an exported model of this run, on storage "
            f"that every node sees at the same path."
        ) from error
