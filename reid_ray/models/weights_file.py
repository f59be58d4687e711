"""Read a weights file of any origin as plain data: PyTorch's format without code, or safetensors.

Weights files may be untrusted, so pickled code is never executed. Apart from tensors and plain containers, only NumPy
scalars and `argparse.Namespace` are rebuilt: training scripts save them next to the weights, and they contain no code.
"""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from reid_ray.errors import WeightsError
from reid_ray.io.paths import Location, as_path, as_readable

HEAD_BYTES = 1024
"""Number of bytes read to detect the type of a file."""

MAX_SAFETENSORS_HEADER = 100 * 2**20
"""Maximum header size of a safetensors file, as in the safetensors library."""

_SCALAR = np._core.multiarray.scalar  # type: ignore[attr-defined]
_HARMLESS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    _SCALAR,
    (_SCALAR, "numpy.core.multiarray.scalar"),  # its name in NumPy 1
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.float16, np.int64, np.int32, np.uint8, np.bool_)),
    argparse.Namespace,
]


def read_weights_file(path: str | Location) -> object:
    """The content of a weights file: a state dict, or the mapping or list that contains it.

    The metadata of a safetensors file is merged in if it has `stride_in`.

    Raises:
        WeightsError: the file does not exist or is not a weights file; the message names its type if known.
    """
    file = as_path(path)
    if not file.is_file():
        raise WeightsError(f"The weights file {path} does not exist; set model.weights to a file, torchvision or null.")
    content = as_readable(file)
    start = _start(content)
    if _is_safetensors(start):
        return _read_safetensors(content, path)
    known = _what_else(start)
    if known is not None:
        raise WeightsError(f"Cannot read {path} as a weights file: it is {known}.")
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(content, map_location="cpu", weights_only=True)
    except Exception as error:  # any exception: the file may be anything
        raise WeightsError(f"Cannot read {path} as a weights file: {_reason(error, content)}.") from error


def _read_safetensors(content: Path | BytesIO, path: str | Location) -> object:
    data = content.read_bytes() if isinstance(content, Path) else content.getvalue()
    try:
        tensors: dict[str, Any] = dict(load_safetensors(data))
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise WeightsError(
            f"Cannot read {path} as a safetensors file: it is damaged, or not all of it was copied ({error})."
        ) from error
    header = data[8 : 8 + int.from_bytes(data[:8], "little")]
    stride_in = re.search(rb'"stride_in"\s*:\s*"(conv[12])"', header)
    return {**tensors, "stride_in": stride_in[1].decode()} if stride_in else tensors


def _start(content: Path | BytesIO) -> bytes:
    if isinstance(content, BytesIO):
        return content.getvalue()[:HEAD_BYTES]
    with content.open("rb") as stream:
        return stream.read(HEAD_BYTES)


def _is_safetensors(start: bytes) -> bool:
    return len(start) > 8 and 2 <= int.from_bytes(start[:8], "little") <= MAX_SAFETENSORS_HEADER and start[8:9] == b"{"


def _what_else(start: bytes) -> str | None:
    """The type of a file that is known not to be a weights file."""
    if not start:
        return "empty"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS and not the file itself; fetch it with 'git lfs pull'"
    if re.match(rb"\s*<(!doctype|html|\?xml)", start, re.IGNORECASE):
        return "a web page; the download needs another address, or a login"
    if start.startswith(b"\x89HDF"):
        return "an HDF5 file, as Keras writes it; convert it to a PyTorch state dict"
    printable = sum(byte in b"\t\n\r" or 32 <= byte < 127 for byte in start)
    return "text" if printable == len(start) else None


def _reason(error: Exception, content: Path | BytesIO) -> str:
    """Why PyTorch could not read a file. PyTorch's own message suggests executing code from the file."""
    told = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    unsupported = re.search(r"Unsupported (?:global|class|operand)[^A-Za-z]*(?:GLOBAL )?([\w.]+)", told)
    if unsupported:
        name = unsupported[1]
        kind = "a whole pickled module or other Python objects" if "." in name else "Python objects"
        return (
            f"it holds {kind} ({name}), which could run code; save the state dict alone, as in "
            f"torch.save(model.state_dict(), FILE)"
        )
    if _is_torchscript(content):
        return "it is a TorchScript archive; save the state dict of the module instead, by torch.save"
    return "it is damaged, not all of it was copied, or it was not written by torch.save"


def _is_torchscript(content: Path | BytesIO) -> bool:
    try:
        with zipfile.ZipFile(content) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return False


def first_keys(content: Mapping[Any, Any], n: int = 3) -> str:
    """The first keys of a mapping, for a message."""
    names = [str(key) for key in content]
    return ", ".join(names[:n]) + (", …" if len(names) > n else "") if names else "none"
