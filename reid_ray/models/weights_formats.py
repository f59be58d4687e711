"""Detect the origin of weights by their keys: torchvision, timm, torchreid, fast-reid, SpCL, ICE or transformers.

All of them have the same ResNet with different names; other networks have the names of a single library (`find_named`).
Only the trunk is recognised; heads and classifiers are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor

WRAPPERS = ("state_dict", "model", "model_state_dict", "model_state", "net", "network", "weights", "params", "teacher")
"""Entries under which toolkits save a state dict next to optimizers and counters, in the order of the search."""

HEADS = frozenset(
    {"fc", "classifier", "classifiers", "head", "heads", "head_fc", "last_linear", "logits", "embedding", "embed"}
    | {"bottleneck", "neck", "bnneck", "bn_neck", "feat", "feat_bn", "bn", "num_features", "fea_bn", "reduction"}
    | {"gap", "pool", "pooling", "global_pool", "pool_layer", "avgpool", "pixel_mean", "pixel_std", "norm", "memory"}
)
"""First components of names after the trunk, or before it (fast-reid saves the pixels' mean)."""

PLAIN = "torchvision or timm"
"""The origin of files with the same names as `Backbone`."""

_FIRST_BLOCK = "layer1.0.conv1.weight"
_SEQUENTIAL = re.compile(r"(?P<prefix>(?:.*\.)?)(?P<index>[34])\.0\.conv1\.weight")
_TRANSFORMERS = re.compile(
    r"(?:.*\.)?(?:embedder\.embedder|encoder\.stages\.(?P<stage>\d)\.layers\.(?P<block>\d+)\."
    r"(?:layer\.(?P<layer>\d)|(?P<shortcut>shortcut)))\.(?P<kind>convolution|normalization)\.(?P<rest>\w+)"
)
_WRAPPED = re.compile(r"^((?:module|_orig_mod)\.)+")
"""Prefixes of DataParallel and of torch.compile."""


class Trunk(NamedTuple):
    """The ResNet in a state dict.

    Attributes:
        tensors: torchvision's names → tensors; includes unknown names, which then do not fit.
        origin: the library whose names the file uses, for messages.
        left_out: names of the tensors that do not belong to the trunk.
        has_stem_relu: False if the file's network has no ReLU after its first normalisation; None if unknown.
    """

    tensors: dict[str, Tensor]
    origin: str
    left_out: tuple[str, ...]
    has_stem_relu: bool | None = None

    def describe(self) -> str:
        """How the file was read, and which tensors were skipped, in one line."""
        parts = [f"read as {self.origin}"]
        if self.left_out:
            n = len(self.left_out)
            parts.append(f"{n} head tensor{'s' if n > 1 else ''} left out")
        if self.has_stem_relu is False:
            parts.append("its stem has no ReLU: set model.stem_relu=false")
        return ", ".join(parts)


def find_trunks(content: Mapping[Any, Any]) -> list[Trunk]:
    """The ResNets in the content of a file: those of the first state dict with any, bare or in a known entry."""
    for state in _state_dicts(content):
        trunks = _trunks(state)
        if trunks:
            return trunks
    return []


def find_named(content: Mapping[Any, Any], names: Collection[str], origin: str) -> list[Trunk]:
    """The network with these tensor names in the content of a file, possibly with a prefix.

    If a state dict has some of the names, everything with the same first components belongs to the network, so that a
    network of another depth is rejected instead of fitting partially.
    """
    first_parts = {name.partition(".")[0] for name in names}
    for state in _state_dicts(content):
        first = next(iter(names))
        prefixes = {"", *(key.removesuffix(first) for key in state if key.endswith(f".{first}"))}
        prefix = max(sorted(prefixes, key=len), key=lambda p: sum(f"{p}{name}" in state for name in names))
        if not any(f"{prefix}{name}" in state for name in names):
            continue
        tensors, left_out = {}, []
        for key, tensor in state.items():
            name = key.removeprefix(prefix)
            if key.startswith(prefix) and name.partition(".")[0] in first_parts:
                tensors[name] = tensor
            else:
                left_out.append(key)
        return [Trunk(tensors, f"{origin}'s names behind '{prefix}'" if prefix else origin, tuple(left_out))]
    return []


def has_tensors(content: Mapping[Any, Any]) -> bool:
    """Whether a mapping, or a mapping nested in it, contains a tensor."""
    return any(True for _ in _state_dicts(content))


def _state_dicts(content: Mapping[Any, Any], depth: int = 2) -> Iterator[dict[str, Tensor]]:
    """The tensors of a mapping, then those of its entries, known ones first; without prefixes of wrappers."""
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    if tensors:
        yield {_WRAPPED.sub("", key): value for key, value in tensors.items()}
    if depth:
        known = [name for name in WRAPPERS if name in content]
        for key in (*known, *(key for key in content if key not in known)):
            if isinstance(content[key], Mapping):
                yield from _state_dicts(content[key], depth - 1)


def _trunks(state: Mapping[str, Tensor]) -> list[Trunk]:
    if any(key.endswith("embedder.embedder.convolution.weight") for key in state):
        return [_from_transformers(state)]
    first_stages = sorted(
        filter(None, map(_SEQUENTIAL.fullmatch, state)), key=lambda match: match["index"], reverse=True
    )
    sequential = {match["prefix"]: int(match["index"]) for match in first_stages}  # the lower of 3 and 4 wins
    found = [
        _from_sequential(state, prefix, first)
        for prefix, first in sequential.items()
        if f"{prefix}0.weight" in state and f"{prefix}1.running_mean" in state
    ]
    prefixes = [key.removesuffix(_FIRST_BLOCK) for key in state if f".{key}".endswith(f".{_FIRST_BLOCK}")]
    return found + [_from_names(state, prefix) for prefix in prefixes]


def _from_names(state: Mapping[str, Tensor], prefix: str) -> Trunk:
    """torchvision's names with a prefix."""
    tensors, left_out = {}, []
    for key, tensor in state.items():
        name = key.removeprefix(prefix)
        if not key.startswith(prefix) or name.partition(".")[0] in HEADS:
            left_out.append(key)
        else:
            tensors[name] = tensor
    return Trunk(tensors, _origin(prefix, left_out), tuple(left_out))


def _from_sequential(state: Mapping[str, Tensor], prefix: str, first: int) -> Trunk:
    """`nn.Sequential(conv1, bn1, relu, maxpool, layer1 …)`, or the same without the ReLU."""
    names = {0: "conv1", 1: "bn1", **{first + i: f"layer{i + 1}" for i in range(4)}}
    tensors, left_out = {}, []
    for key, tensor in state.items():
        index, _, rest = key.removeprefix(prefix).partition(".")
        if key.startswith(prefix) and index.isdecimal():
            tensors[f"{names.get(int(index), f'{prefix}{index}')}.{rest}"] = tensor
        else:
            left_out.append(key)
    return Trunk(tensors, "SpCL, cluster-contrast or ICE", tuple(left_out), has_stem_relu=first == 4)


def _from_transformers(state: Mapping[str, Tensor]) -> Trunk:
    """The names of Hugging Face's `ResNetModel`."""
    tensors, left_out = {}, []
    for key, tensor in state.items():
        match = _TRANSFORMERS.fullmatch(key)
        if match is None:
            left_out.append(key)
            continue
        is_convolution = match["kind"] == "convolution"
        if match["stage"] is None:
            name = "conv1" if is_convolution else "bn1"
        else:
            within = f"downsample.{0 if is_convolution else 1}"
            if match["shortcut"] is None:
                within = f"{'conv' if is_convolution else 'bn'}{int(match['layer']) + 1}"
            name = f"layer{int(match['stage']) + 1}.{match['block']}.{within}"
        tensors[f"{name}.{match['rest']}"] = tensor
    return Trunk(tensors, "transformers", tuple(left_out))


def _origin(prefix: str, left_out: list[str]) -> str:
    first_parts = {key.partition(".")[0] for key in left_out}
    if prefix == "backbone." and "heads" in first_parts:
        return "fast-reid"
    if prefix == "base.":
        return "reid-strong-baseline"
    if not prefix:
        return "torchreid" if "classifier" in first_parts else PLAIN
    return f"torchvision's names behind '{prefix}'"
