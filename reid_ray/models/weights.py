"""Weights in and out: initial weights of a backbone, and state dicts as NumPy arrays for Ray and for disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torchvision
from torch import Tensor, nn

from reid_ray.errors import WeightsError
from reid_ray.locations import Location, location, readable
from reid_ray.models.resnet import Backbone

N_NAMED = 3
"""Keys that a message names before it says how many more there are."""


def load_backbone_weights(module: nn.Module, path: str | Location) -> None:
    """Load a weights file into a backbone, all of it or nothing.

    The file is a state dict saved by `torch.save`, bare or under the key `state_dict`, with or without the
    prefix `module.` of `DataParallel`. A classifier (`fc.*`) is ignored, batch counters may be missing, and
    any floating point type is cast to the module's. An entry `stride_in` (`conv1` or `conv2`), beside the
    tensors or beside `state_dict`, says where the bottlenecks' stride sits and must agree with the
    module's.

    Raises WeightsError where the file is missing, is not such a file or does not fit.
    """
    content = _read(path)
    state, stride_in = _parse(content, path)
    expected_stride = getattr(module, "stride_in", None)
    if stride_in is not None and expected_stride is not None and stride_in != expected_stride:
        raise WeightsError(
            f"The weights file {path} has its strides in {stride_in}, but model.stride_in is "
            f"{expected_stride}; set model.stride_in={stride_in}."
        )
    _load(module, state, str(path))


def load_torchvision_weights(backbone: Backbone, name: str) -> None:
    """Load torchvision's ImageNet weights (V1, as in the papers), downloaded once to torch's cache.

    Raises WeightsError where there are none for this network or they cannot be downloaded.
    """
    otherwise = "give a weights file by model.weights=PATH, or start from random weights by model.weights=null"
    if name.startswith("ibn_"):
        raise WeightsError(f"torchvision has no weights for {name}; {otherwise}.")
    if backbone.stride_in == "conv1":
        raise WeightsError(
            "torchvision's weights have their strides in conv2, but model.stride_in is conv1; "
            "set model.stride_in=conv2."
        )
    # torchvision's names: resnet50 → ResNet50_Weights.IMAGENET1K_V1
    full_name = f"{name.replace('resnet', 'ResNet')}_Weights.IMAGENET1K_V1"
    try:
        state = torchvision.models.get_weight(full_name).get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"Cannot download torchvision's weights for {name} ({_first_line(error)}); {otherwise}."
        ) from error
    _load(backbone, _without_classifier(state), f"torchvision:{full_name}")


def is_model_file(path: str | Location) -> bool:
    """Whether a weights file is the exported model of a run of ours."""
    content = _read(path)
    return isinstance(content, Mapping) and {"model", "config"} <= content.keys()


def load_model_file(network: nn.Module, path: str | Location) -> None:
    """Load a run's exported model into a network of the same form; `WeightsError` where it does not fit."""
    content = _read(path)
    assert isinstance(content, Mapping), path
    _load(network, content["model"], str(path), fits="the network", advice="take the recipe that it was made with")


def to_numpy(state_dict: Mapping[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
    """Copy a state dict to NumPy arrays, which training goes on without changing."""
    return {key: np.array(tensor.detach().cpu().numpy()) for key, tensor in state_dict.items()}


def from_numpy(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Tensor]:
    """Copy NumPy arrays to a state dict. Those in Ray's object store are read-only, hence the copy."""
    return {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}


def _read(path: str | Location) -> object:
    file = location(path)
    if not file.is_file():
        raise WeightsError(f"There is no weights file {path}; set model.weights to a file, torchvision or null.")
    content = readable(file)
    try:
        return torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the unpickler meets in a file that is something else
        raise WeightsError(
            f"Cannot read {path} as a weights file ({_first_line(error)}); it must hold a state dict of "
            "tensors saved by torch.save, without other Python objects."
        ) from error


def _parse(content: object, path: str | Location) -> tuple[dict[str, Tensor], object]:
    """The state dict in a file, without prefix and classifier, and its `stride_in` entry or None."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"The weights file {path} holds a {type(content).__name__}; it must hold a state dict.")
    stride_in = content.get("stride_in")
    state = content.get("state_dict", content)
    if not isinstance(state, Mapping):
        raise WeightsError(f"The entry 'state_dict' of {path} is a {type(state).__name__}; it must be a state dict.")
    tensors = {str(key).removeprefix("module."): value for key, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"The weights file {path} has no tensors; it must hold a state dict.")
    return _without_classifier(tensors), stride_in or state.get("stride_in")


def _without_classifier(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in state.items() if not key.startswith("fc.")}


def _load(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    *,
    fits: str = "model.backbone",
    advice: str = "choose the backbone that the file was made for",
) -> None:
    own = module.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    misfits = [
        f"{key} {list(tensor.shape)} instead of {list(own[key].shape)}"
        for key, tensor in state.items()
        if key in own and tensor.shape != own[key].shape
    ]
    problems = [
        f"{len(keys)} {what} ({_some(keys)})"
        for what, keys in (("missing", missing), ("unexpected", unexpected), ("of another shape", misfits))
        if keys
    ]
    if problems:
        raise WeightsError(
            f"The weights in {source} do not fit {fits}: of its tensors, {', '.join(problems)}; {advice}."
        )
    module.load_state_dict({**own, **state})


def _some(names: list[str]) -> str:
    named = ", ".join(names[:N_NAMED])
    return f"{named}, …" if len(names) > N_NAMED else named


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
