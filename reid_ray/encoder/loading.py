"""`load_encoder`: from a folder that `reid-ray export` has written to an `Encoder`."""

from __future__ import annotations

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
LOADED: tuple[Kind, ...] = ("weights", "onnx", "torchscript", "torch-export")
"""Kinds of files that compute features, in the order in which a folder is searched for one."""


def load_encoder(
    path: str | Path, *, device: str | torch.device | None = None, precision: Precision = "run", batch_size: int = 64
) -> Encoder:
    """Load an exported model.

    Args:
        path: the folder, or one of the files in it: `model.onnx` computes with onnxruntime, `model.safetensors` with
            PyTorch. Of a folder with several files, the weights are loaded.
        device: where features are computed; None: on CUDA, if there is one.
        precision: `run`: as the run did, so that the features are equal to those of `Run.embed`; `float32`.
            Programs (ONNX, TorchScript) compute in the precision they were written in.
        batch_size: images that are computed at once.

    Raises:
        ExportError: the folder is of another version, a file is missing, has changed, or does not fit.
    """
    if precision not in get_args(Precision):
        raise ExportError(f"precision={precision!r}: use {' or '.join(map(repr, get_args(Precision)))}.")
    place = Path(path).expanduser()
    if not place.exists():
        raise ExportError(f"{place} does not exist; give a folder that 'reid-ray export' has written.")
    folder = place if place.is_dir() else place.parent
    description = read_description(folder)
    file = _first_loaded(description, folder) if place.is_dir() else place
    if file.name not in description.files or description.files[file.name].kind not in LOADED:
        raise ExportError(f"{file} is no file that computes features; {folder} has {_names(description)}.")
    check_file(description, file)
    return Encoder(description, _backend(description, file, _device(device), precision), folder, batch_size=batch_size)


def _backend(description: Description, file: Path, device: torch.device, precision: Precision) -> Backend:
    entry = description.files[file.name]
    if entry.kind == "weights":
        network = load_network(description, file)
        return NetworkBackend(in_float32(network) if precision == "float32" else network, device)
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
        raise ExportError(f"device={device!r} is no device of PyTorch; use 'cpu' or 'cuda'.") from error
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ExportError("device='cuda', but PyTorch finds no CUDA device here; use device='cpu'.")
    return chosen
