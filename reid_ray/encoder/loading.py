"""`load_encoder`: load an `Encoder` from a folder written by `reid-ray export`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import torch

from reid_ray.encoder.backends import (
    Backend,
    NetworkBackend,
    onnx_backend,
    torch_export_backend,
    torchscript_backend,
)
from reid_ray.encoder.description import Description, Kind, check_file, read_description
from reid_ray.encoder.encoder import Encoder
from reid_ray.encoder.rebuilding import in_float32, load_network
from reid_ray.errors import ExportError

Precision = Literal["run", "float32"]
LOADED: tuple[Kind, ...] = ("weights", "onnx", "torchscript", "torch-export", "torchreid")
"""Kinds of files that compute features, in order of preference within a folder."""


def load_encoder(
    path: str | Path, *, device: str | torch.device | None = None, precision: Precision = "run", batch_size: int = 64
) -> Encoder:
    """Load an exported model.

    Args:
        path: the folder, or one of its files: `model.onnx` runs on onnxruntime, `model.safetensors` on PyTorch. In a
            folder with several files, the weights take precedence.
        device: device for computing features; None: CUDA if available.
        precision: `run`: that of the run, which gives the same features as `Run.embed`; or `float32`. Programs (ONNX,
            TorchScript) compute in the precision with which they were written.
        batch_size: images per forward pass.

    Raises:
        ExportError: the folder has another format version; a file is missing, has changed, or does not fit.
    """
    if precision not in get_args(Precision):
        raise ExportError(f"precision={precision!r}: use {' or '.join(map(repr, get_args(Precision)))}.")
    if batch_size < 1:
        raise ExportError(f"batch_size={batch_size}: use 1 or more.")
    if "://" in str(path):
        raise ExportError(f"{path} is not a local folder; copy the exported folder to this machine first.")
    place = Path(path).expanduser()
    if not place.exists():
        raise ExportError(f"{place} does not exist; give a folder that 'reid-ray export' has written.")
    folder = place if place.is_dir() else place.parent
    description = read_description(folder)
    file = _first_loaded(description, folder) if place.is_dir() else place
    if file.name not in description.files or description.files[file.name].kind not in LOADED:
        raise ExportError(f"{file} is not a file that computes features; {folder} has {_names(description)}.")
    check_file(description, file)
    if description.files[file.name].kind == "torchreid":
        from reid_ray.encoder.torchreid import FEATURE_SIZE

        description = replace(description, feature_size=FEATURE_SIZE)
    return Encoder(description, _backend(description, file, _device(device), precision), folder, batch_size=batch_size)


def _backend(description: Description, file: Path, device: torch.device, precision: Precision) -> Backend:
    entry = description.files[file.name]
    if entry.kind == "weights":
        network = load_network(description, file)
        return NetworkBackend(in_float32(network) if precision == "float32" else network, device)
    if entry.kind == "torchreid":
        from reid_ray.encoder.torchreid import torchreid_backend

        return torchreid_backend(file, description.backbone, device)
    make = {"onnx": onnx_backend, "torchscript": torchscript_backend, "torch-export": torch_export_backend}[entry.kind]
    return make(file, entry.takes, device)


def _first_loaded(description: Description, folder: Path) -> Path:
    for kind in LOADED:
        for name, entry in description.files.items():
            if entry.kind == kind:
                return folder / name
    raise ExportError(f"{folder} has no file that computes features, but {_names(description)}.")


def _names(description: Description) -> str:
    return ", ".join(description.files) or "no files"


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ExportError(f"device={device!r} is not a device of PyTorch; use 'cpu' or 'cuda'.") from error
    if chosen.type not in ("cpu", "cuda"):
        raise ExportError(f"device={str(device)!r} is not supported; use 'cpu' or 'cuda'.")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ExportError("device='cuda', but PyTorch finds no CUDA device here; use device='cpu'.")
    return chosen
