"""Rebuild the network of an exported model from its description."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from reid_ray.config import Config, ModelConfig, TrainingConfig
from reid_ray.devices import parameter_dtype
from reid_ray.encoder.description import Description
from reid_ray.errors import ExportError, UserError
from reid_ray.io.files import first_line


def settings_of(config: Config) -> dict[str, object]:
    """The settings that define a network: no paths, no data, no schedule."""
    tree = config.model_dump(mode="json")
    kept = {
        "data": ("height", "width"),
        "training": ("precision", "n_pids", "n_instances"),  # the batch must consist of whole BN groups
    }
    return {
        "imports": tree["imports"],
        "model": {**tree["model"], "weights": None},
        "method": tree["method"],
        **{section: {name: tree[section][name] for name in names} for section, names in kept.items()},
    }


def empty_network_of(description: Description) -> nn.Module:
    """The network with initial weights: a module with `embed(images) -> [N, D]` and `dim`.

    Raises:
        ExportError: this version cannot build a network from the settings.
    """
    settings = description.settings
    try:
        if description.builder == "network":
            # Methods are not imported unless needed, because that takes as long as everything else.
            from reid_ray.models.network import build_network

            return build_network(ModelConfig.model_validate(settings["model"]), bf16=description.precision == "bf16")
        from reid_ray.config.loading import validate
        from reid_ray.methods import empty_network

        single = {**settings, "runtime": {"n_workers": 1, "backend": "inline"}}
        return empty_network(validate(single, source=f"the settings of {description.name}"), description.module)
    except (UserError, ValueError, LookupError) as error:
        raise ExportError(
            f"This version of reid_ray cannot build the network of {description.name} ({first_line(error)}); export "
            f"the run again."
        ) from error


def load_network(description: Description, file: Path) -> nn.Module:
    """The network with the weights of a safetensors file, in evaluation mode, on the CPU, in the run's precision.

    Raises:
        ExportError: the file is damaged, or contains the weights of another network.
    """
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ExportError(f"Cannot read {file} ({first_line(error)}); export the run again.") from error
    network = empty_network_of(description)
    check_fits(network, state, file)
    network.load_state_dict(state)
    training = TrainingConfig.model_validate(description.settings["training"])
    return network.to(parameter_dtype(training)).eval()


def check_fits(network: nn.Module, state: Mapping[str, Tensor], file: Path) -> None:
    """Raise `ExportError` naming the first tensor that is missing, unexpected, or has another shape."""
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in expected.keys() | found.keys():
        if expected.get(name) != found.get(name):
            raise ExportError(
                f"{file} does not fit its config.json: {name} is {_shape(found.get(name))} in the file and "
                f"{_shape(expected.get(name))} in the network; they are of two exports."
            )


def in_float32(network: nn.Module) -> nn.Module:
    """Convert a network to float32 on the CPU, in place, and return it."""
    for module in network.modules():
        if hasattr(module, "bf16"):
            setattr(module, "bf16", False)  # noqa: B010  nn.Module declares no such attribute
    return network.to("cpu", torch.float32).eval()


def _shape(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))
