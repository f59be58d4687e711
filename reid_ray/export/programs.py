"""Programs: files with a network and its pre- and post-processing that run without this package."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reid_ray.data.views import normalize
from reid_ray.encoder.description import CONFIG, InputFormat, Takes
from reid_ray.errors import ExportError
from reid_ray.io.files import first_line
from reid_ray.logging_utils import silenced

OPSET = 20
"""ONNX opset; the resize of `FrameProgram` needs 18."""

N_EXAMPLES = 2
"""Batch size for tracing programs: with one image, exporters would fix the batch size."""


QUANTISED = ["Conv", "Gemm", "MatMul", "Add", "Relu", "MaxPool"]
"""Operators in int8: those of the trunk. Resize, pooling and normalisation stay in float32."""


class ImageProgram(nn.Module):
    """float32 [N, 3, H, W], normalised RGB → unit features [N, D]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.network.embed(images))  # type: ignore[operator]


class FrameProgram(nn.Module):
    """uint8 [N, h, w, 3], BGR of any size → unit features [N, D]: resize and normalisation are in the program."""

    def __init__(self, network: nn.Module, size: InputFormat) -> None:
        super().__init__()
        self.network = network
        self.height, self.width = size.height, size.width

    def forward(self, frames: Tensor) -> Tensor:
        pixels = frames.permute(0, 3, 1, 2).flip(1).to(torch.float32)
        # As in the resize of uint8: rows, then columns, each rounded to whole numbers in 0 … 255.
        pixels = _whole(F.interpolate(pixels, (pixels.shape[2], self.width), mode="bicubic", antialias=True))
        pixels = _whole(F.interpolate(pixels, (self.height, self.width), mode="bicubic", antialias=True))
        return cast(Tensor, self.network.embed(normalize(pixels)))  # type: ignore[operator]


def _whole(pixels: Tensor) -> Tensor:
    return pixels.clamp(0, 255).round()


def program_of(network: nn.Module, size: InputFormat, takes: Takes) -> tuple[nn.Module, Tensor]:
    """The program with an example of its input."""
    if takes == "frames":
        return FrameProgram(network, size).eval(), torch.zeros(N_EXAMPLES, 150, 70, 3, dtype=torch.uint8)
    return ImageProgram(network).eval(), torch.zeros(N_EXAMPLES, 3, size.height, size.width)


def write_torchscript(network: nn.Module, size: InputFormat, takes: Takes, file: Path, description: str) -> None:
    """Trace a network; `description` is stored in the file."""
    program, example = program_of(network, size, takes)
    with _tracing("TorchScript"):
        traced = torch.jit.trace(program, example, check_trace=False)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, str(file), _extra_files={CONFIG: description})


def write_torch_export(network: nn.Module, size: InputFormat, takes: Takes, file: Path, description: str) -> None:
    """Export a network by `torch.export`, for any number of images."""
    program, example = program_of(network, size, takes)
    with _tracing("torch.export"):
        exported = torch.export.export(program, (example,), dynamic_shapes=(_dynamic(takes),))
        torch.export.save(exported, str(file), extra_files={CONFIG: description})


def write_onnx(network: nn.Module, size: InputFormat, takes: Takes, file: Path, description: str) -> None:
    """Export a network to ONNX, for any number of images, with embedded weights.

    Raises:
        ExportError: a package of the extra `export` is not installed.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401  PyTorch's exporter needs it
    except ImportError as error:
        raise ExportError(
            "Exporting to ONNX needs onnx, onnxscript and onnxruntime; install them by pip install 'reid-ray[export]'."
        ) from error
    program, example = program_of(network, size, takes)
    with _tracing("ONNX"):
        torch.onnx.export(
            program,
            (example,),
            str(file),
            input_names=[takes],
            output_names=["features"],
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            dynamic_shapes=(_dynamic(takes),),
            verbose=False,
        )
    model = onnx.load(str(file))
    model.metadata_props.add(key="reid_ray", value=description)
    onnx.save(model, str(file))


def write_int8(source: Path, file: Path, batches: Sequence[Tensor]) -> None:
    """Quantise the convolutions and products of an ONNX program to 8 bits, for CPUs.

    Args:
        batches: inputs of the program that determine the ranges of activations (static quantisation).

    Raises:
        ExportError: onnxruntime is not installed.
    """
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise ExportError("--int8 needs onnxruntime; install it by pip install 'reid-ray[export]'.") from error

    class Batches(CalibrationDataReader):  # type: ignore[misc]
        """Returns one batch per call, then None."""

        def __init__(self, name: str) -> None:
            self._feeds = iter([{name: batch.numpy()} for batch in batches])

        def get_next(self) -> dict[str, Any] | None:
            return next(self._feeds, None)

    takes = "frames" if batches[0].dtype == torch.uint8 else "images"
    with TemporaryDirectory(dir=file.parent) as temporary, silenced("root"):
        prepared = Path(temporary) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(file),
            Batches(takes),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=QUANTISED,
        )


def _dynamic(takes: Takes) -> dict[int, torch.export.Dim]:
    """Axes of a program's input that may have any size."""
    batch = {0: torch.export.Dim("batch")}
    if takes == "images":
        return batch
    return {**batch, 1: torch.export.Dim("height", min=2), 2: torch.export.Dim("width", min=2)}


@contextmanager
def _tracing(target: str) -> Iterator[None]:
    """Disable gradients and the exporters' internal warnings; `ExportError` if a network cannot be exported."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    except OSError:
        raise
    except Exception as error:  # exporters raise arbitrary exceptions
        raise ExportError(
            f"PyTorch cannot export this network to {target} ({first_line(error)}); use --format folder, which "
            f"holds its weights."
        ) from error
