"""Loading initial weights into a backbone, and state dicts as NumPy arrays for Ray and for disk."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from reid_ray.errors import WeightsError
from reid_ray.io.paths import Location
from reid_ray.models.backbone import Backbone
from reid_ray.models.resnet import NARROW
from reid_ray.models.weights_file import first_keys, read_weights_file
from reid_ray.models.weights_formats import PLAIN, Trunk, find_named, find_trunks, has_tensors

N_NAMED = 3
"""Number of keys to name in a message."""


def load_backbone_weights(module: nn.Module, path: str | Location) -> Trunk:
    """Load a weights file into a backbone, completely or not at all, and return how it was read.

    The file is a state dict saved by `torch.save` or safetensors, bare or as an entry of a checkpoint, with the names
    of torchvision, timm, torchreid, fast-reid, reid-strong-baseline, SpCL, cluster-contrast, ICE or transformers
    (`weights_formats`). Files for an OSNet use torchreid's names, files for timm's networks timm's. Heads are skipped,
    batch counters may be missing, and any floating-point type is cast to the module's. An entry `stride_in` (`conv1` or
    `conv2`), next to the tensors or next to `state_dict`, or in the metadata of safetensors, is the location of the
    bottlenecks' stride and must agree with the module's.

    A `UserWarning` reports renamed and skipped tensors.

    Returns:
        What was loaded.

    Raises:
        WeightsError: the file is missing, is not a weights file, contains no such network or several, or does not
            fit.
    """
    content = read_weights_file(path)
    target = module.weights_module if isinstance(module, Backbone) else module
    library = module.library if isinstance(module, Backbone) else None
    trunk = _the_trunk(content, path) if library is None else _the_named(content, path, target, library)
    stride_in, expected_stride = _stride_in(content), getattr(module, "stride_in", None)
    if stride_in is not None and expected_stride is not None and stride_in != expected_stride:
        raise WeightsError(
            f"The weights file {path} has its strides in {stride_in}, but model.stride_in is "
            f"{expected_stride}; set model.stride_in={stride_in}."
        )
    _load(target, trunk.tensors, f"{path} ({trunk.describe()})")
    if trunk.left_out or trunk.origin not in (PLAIN, library):
        warnings.warn(f"{path}: {trunk.describe()}.", stacklevel=2)
    return trunk


def load_torchvision_weights(backbone: Backbone, name: str) -> None:
    """Load torchvision's ImageNet weights (V1, as in the papers), downloaded once to torch's cache.

    Raises WeightsError if there are none for this network or the download fails.
    """
    otherwise = "give a weights file by model.weights=PATH, or start from random weights by model.weights=null"
    if not name.startswith("resnet") or name == NARROW:
        raise WeightsError(f"torchvision has no weights for {name}; {otherwise}.")
    if backbone.stride_in == "conv1":
        raise WeightsError(
            "torchvision's weights have their strides in conv2, but model.stride_in is conv1; "
            "set model.stride_in=conv2."
        )
    from torchvision.models import get_weight  # slow to import, and needed here only

    # torchvision's names: resnet50 → ResNet50_Weights.IMAGENET1K_V1
    full_name = f"{name.replace('resnet', 'ResNet')}_Weights.IMAGENET1K_V1"
    try:
        state = get_weight(full_name).get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise WeightsError(
            f"Cannot download torchvision's weights for {name} ({_first_line(error)}); {otherwise}."
        ) from error
    (trunk,) = find_trunks(state)
    _load(backbone, trunk.tensors, f"torchvision:{full_name}")


def is_model_file(path: str | Location) -> bool:
    """Whether a weights file is an exported model of this package."""
    content = read_weights_file(path)
    return isinstance(content, Mapping) and {"model", "config"} <= content.keys()


def load_model_file(network: nn.Module, path: str | Location) -> None:
    """Load a run's exported model into a network of the same architecture; `WeightsError` if it does not fit."""
    content = read_weights_file(path)
    assert isinstance(content, Mapping), path
    _load(network, content["model"], str(path), fits="the network", advice="use the recipe that it was made with")


def to_numpy(state_dict: Mapping[str, Tensor]) -> dict[str, npt.NDArray[Any]]:
    """Copy a state dict to NumPy arrays that training does not modify."""
    return {key: np.array(tensor.detach().cpu().numpy()) for key, tensor in state_dict.items()}


def from_numpy(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Tensor]:
    """Copy NumPy arrays to a state dict. Those in Ray's object store are read-only, hence the copy."""
    return {key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}


def _the_trunk(content: object, path: str | Location) -> Trunk:
    """The only ResNet in the content of a file."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"The weights file {path} holds a {type(content).__name__}; it must hold a state dict.")
    trunks = find_trunks(content)
    if len(trunks) == 1:
        return trunks[0]
    if trunks:
        origins = ", ".join(trunk.origin for trunk in trunks)
        raise WeightsError(f"The weights file {path} holds {len(trunks)} networks ({origins}); save one of them alone.")
    what = "no known ResNet" if has_tensors(content) else "no tensors"
    raise WeightsError(
        f"The weights file {path} holds {what} (its first keys: {first_keys(_deepest(content))}); it must hold a state "
        f"dict with the names of torchvision, timm, torchreid, fast-reid, SpCL, ICE or transformers."
    )


def _the_named(content: object, path: str | Location, target: nn.Module, library: str) -> Trunk:
    """The network with the names of `target` in the content of a file."""
    if not isinstance(content, Mapping):
        raise WeightsError(f"The weights file {path} holds a {type(content).__name__}; it must hold a state dict.")
    for trunk in find_named(content, target.state_dict().keys(), library):
        return trunk
    raise WeightsError(
        f"The weights file {path} holds no network with {library}'s names as model.backbone has them (its first keys: "
        f"{first_keys(_deepest(content))}); choose the backbone that the file was made for."
    )


def _deepest(content: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """The most likely state dict in a checkpoint: its longest mapping, the first in case of ties."""
    inner = [value for value in content.values() if isinstance(value, Mapping)]
    return max([content, *inner], key=len)


def _stride_in(content: object) -> object:
    """The entry `stride_in` of a checkpoint or of its state dict; None without one."""
    assert isinstance(content, Mapping)
    inner = (value for value in content.values() if isinstance(value, Mapping))
    return next((each["stride_in"] for each in (content, *inner) if "stride_in" in each), None)


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
    unusable = [
        key
        for key, tensor in state.items()
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_complex() or tensor.is_quantized
    ]
    if unusable:
        raise WeightsError(
            f"The weights in {source} are not plain numbers: {len(unusable)} tensors are sparse, complex, quantised or "
            f"without data ({_some(unusable)}); save them as dense floats."
        )
    module.load_state_dict({**own, **state})


def _some(names: list[str]) -> str:
    named = ", ".join(names[:N_NAMED])
    return f"{named}, …" if len(names) > N_NAMED else named


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
