"""Backends that compute features: a PyTorch network, or a program of ONNX, TorchScript or `torch.export`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from reid_ray.data.views import PixelBatch, normalize
from reid_ray.devices import n_cores
from reid_ray.encoder.description import Takes
from reid_ray.errors import ExportError
from reid_ray.inference.extraction import embed_batch
from reid_ray.inference.folding import for_extraction
from reid_ray.io.files import first_line
from reid_ray.types import FloatArray


class Backend(Protocol):
    """Computes features; thread-safe."""

    def __call__(self, pixels: Tensor) -> FloatArray:
        """uint8 RGB [n, 3, H, W] → float32 [n, D], unit rows."""
        ...


class NetworkBackend:
    """A network on a device, with its batch norms folded, exactly as in a run's extraction."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        self.network = for_extraction(network.to(device))
        self.device = device

    def __call__(self, pixels: Tensor) -> FloatArray:
        return embed_batch(self.network, PixelBatch(pixels, None), device=self.device)


class ProgramBackend:
    """A program from a tensor to features.

    Args:
        program: tensor → features.
        takes: kind of the tensor (`ExportedFile.takes`).
    """

    def __init__(self, program: Callable[[Tensor], Any], takes: Takes, device: torch.device) -> None:
        self.program, self.takes, self.device = program, takes, device

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> FloatArray:
        features = self.program(program_input(pixels, self.takes).to(self.device))
        return np.asarray(features.cpu().numpy() if isinstance(features, Tensor) else features, dtype=np.float32)


def program_input(pixels: Tensor, takes: Takes) -> Tensor:
    """Convert uint8 RGB [n, 3, H, W] to the input of a program."""
    return pixels.flip(1).permute(0, 2, 3, 1).contiguous() if takes == "frames" else normalize(pixels)


def onnx_backend(file: Path, takes: Takes, device: torch.device, n_threads: int | None = None) -> ProgramBackend:
    """A program on onnxruntime: on CUDA if requested and supported by the installed onnxruntime, otherwise on the CPU.

    Raises:
        ExportError: onnxruntime is not installed, or cannot read the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(f"{file} needs onnxruntime; install it by pip install 'reid-ray[export]'.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads or min(n_cores(), torch.get_num_threads())
    wanted = ["CUDAExecutionProvider", "CPUExecutionProvider"] if device.type == "cuda" else ["CPUExecutionProvider"]
    providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise ExportError(f"onnxruntime cannot read {file} ({first_line(error)}); export the run again.") from error
    (name,) = (each.name for each in session.get_inputs())
    return ProgramBackend(lambda tensor: session.run(None, {name: tensor.numpy()})[0], takes, torch.device("cpu"))


def torchscript_backend(file: Path, takes: Takes, device: torch.device) -> ProgramBackend:
    """A TorchScript program; `ExportError` if PyTorch cannot read the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch deprecates TorchScript, which other programs still read
            program = torch.jit.load(str(file), map_location=device).eval()  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError, ValueError) as error:
        raise ExportError(f"PyTorch cannot read {file} ({first_line(error)}); export the run again.") from error
    return ProgramBackend(program, takes, device)


def torch_export_backend(file: Path, takes: Takes, device: torch.device) -> ProgramBackend:
    """A program of `torch.export`; `ExportError` if PyTorch cannot read the file."""
    try:
        program = torch.export.load(str(file)).module()
    except Exception as error:  # PyTorch parses the parts of the archive and raises arbitrary exceptions
        raise ExportError(f"PyTorch cannot read {file} ({first_line(error)}); export the run again.") from error
    return ProgramBackend(program.to(device), takes, device)
