"""OSNet in a file with torchreid's names, for torchreid, BoxMOT and `reid`, and the network that they build from it.

torchreid's OSNet has a head after average pooling, `fc`: linear layer to 512 numbers, batch norm, ReLU. It can hold the
BN neck, but the ReLU sets negative numbers to 0, so its features are not those of the run:

* A feature x of up to 256 numbers becomes [max(x, 0), max(−x, 0)]: nothing is lost, but numbers of opposite sign no
  longer lower a cosine.
* A wider one becomes max(x, 0): half of the numbers are lost.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.encoder.backends import NetworkBackend
from reid_ray.encoder.description import InputFormat, Takes
from reid_ray.encoder.rebuilding import check_fits
from reid_ray.errors import ExportError
from reid_ray.io.files import first_line
from reid_ray.models import Backbone, GroupBatchNorm, build_backbone
from reid_ray.models.pooling import AveragePooling

FEATURE_SIZE = 512
"""Outputs of torchreid's head (`feature_dim`), for every width."""


class TorchreidNetwork(nn.Module):
    """A trunk with torchreid's head, whose names have no prefix in the state dict of a file."""

    def __init__(self, trunk: Backbone) -> None:
        super().__init__()
        self.trunk = trunk
        self.fc = nn.Sequential(nn.Linear(trunk.out_channels, FEATURE_SIZE), nn.BatchNorm1d(FEATURE_SIZE), nn.ReLU())

    def embed(self, images: Tensor) -> Tensor:
        """The head's output, L2-normalised as trackers do, [N, 512]."""
        return F.normalize(self.fc(self.trunk(images).mean(dim=(2, 3))))


def rectified(features: Tensor) -> Tensor:
    """What the head makes of features [N, C]: unit rows [N, 512]."""
    both = features if 2 * features.shape[1] > FEATURE_SIZE else torch.cat([features, -features], dim=1)
    return F.normalize(F.pad(both.relu(), (0, FEATURE_SIZE - both.shape[1])))


def write_torchreid(network: nn.Module, size: InputFormat, takes: Takes, file: Path, description: str) -> None:
    """Write a network with torchreid's names; `description` is stored in the file.

    Raises:
        ExportError: it is no OSNet with average pooling and a BN neck.
    """
    trunk, neck = getattr(network, "backbone", None), getattr(network, "neck", None)
    name = json.loads(description)["backbone"]
    is_osnet = isinstance(trunk, Backbone) and name.startswith("osnet_") and isinstance(neck, GroupBatchNorm)
    if not is_osnet or not isinstance(network.pooling, AveragePooling):
        raise ExportError(
            f"--format torchreid is for an OSNet with average pooling and one BN neck, and this model is {name} with "
            f"other parts or of another kind; use --format onnx."
        )
    content = {
        "state_dict": {**cast(Backbone, trunk).state_dict(), **_head(cast(GroupBatchNorm, neck))},
        "model_name": name,  # this and the size are for BoxMOT
        "model_kwargs": {"img_size": [size.height, size.width]},
        "model_kwargs_schema_version": 1,
        "reid_ray": description,
    }
    torch.save(content, file)


def torchreid_backend(file: Path, backbone: str, device: torch.device) -> NetworkBackend:
    """torchreid's network with the weights of a file; `ExportError` if it does not fit or cannot be read."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    except Exception as error:  # unpickling damaged files raises arbitrary exceptions
        raise ExportError(f"PyTorch cannot read {file} ({first_line(error)}); export the run again.") from error
    norm = partial(GroupBatchNorm, group=None)
    network = TorchreidNetwork(build_backbone(backbone, stride_in="conv2", last_stride=1, norm=norm))
    state = {name if name.startswith("fc.") else f"trunk.{name}": value for name, value in state.items()}
    check_fits(network, state, file)
    network.load_state_dict(state)
    return NetworkBackend(network.eval(), device)


def _head(neck: GroupBatchNorm) -> dict[str, Tensor]:
    """The BN neck as torchreid's `fc`."""
    width = neck.num_features
    n_copies = 2 if 2 * width <= FEATURE_SIZE else 1
    linear = torch.zeros(FEATURE_SIZE, width)
    norm = nn.BatchNorm1d(FEATURE_SIZE).state_dict()
    for copy, sign in zip(range(n_copies), (1, -1), strict=False):
        rows = slice(copy * width, (copy + 1) * width)
        linear[rows] = sign * torch.eye(width)
        for name, values in neck.state_dict().items():
            if values.dim():
                norm[name][rows] = sign * values if name in ("bias", "running_mean") else values
    head = {"fc.0.weight": linear, "fc.0.bias": torch.zeros(FEATURE_SIZE)}
    return head | {f"fc.1.{name}": values for name, values in norm.items()}
