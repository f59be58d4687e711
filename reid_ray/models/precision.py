"""Mixed precision: autocast to bfloat16, where the device has instructions for it and oneDNN computes correctly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from reid_ray.config import TrainingConfig
from reid_ray.devices import cpu_supports_bf16


def computes_in_bf16(device: torch.device) -> bool:
    """Whether a network with `precision=bf16` computes in bfloat16 on `device`.

    CPUs without instructions for it compute in float32, which is 20 times faster there and more precise.
    """
    return device.type != "cpu" or cpu_supports_bf16()


def precision_on(device: torch.device, training: TrainingConfig) -> str:
    """The precision in which networks compute on `device`: as configured, or float32 instead of bfloat16."""
    return training.precision if training.precision != "bf16" or computes_in_bf16(device) else "float32"


@contextmanager
def bf16_autocast(inputs: Tensor, enabled: bool) -> Iterator[None]:
    """Autocast to bfloat16 on the device of `inputs`; no-op unless `enabled` and the device `computes_in_bf16`."""
    if not (enabled and computes_in_bf16(inputs.device)):
        yield
        return
    with torch.autocast(inputs.device.type, torch.bfloat16):
        if inputs.device.type == "cpu":
            with _NarrowConvolutionsInFloat32():
                yield
        else:
            yield


class _NarrowConvolutionsInFloat32(TorchFunctionMode):
    """Compute strided convolutions whose output is one pixel wide in float32.

    oneDNN's bfloat16 kernels for them (PyTorch 2.14) read beyond the feature map. With AMX tiles, the output is NaN or
    differs between calls; so is the weight gradient, even without AMX. `tests/models/test_precision.py` has the shapes.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        narrow = _NARROW.get(func)
        if narrow is None or not narrow(*args, **kwargs):
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return func(*(_as_float32(arg) for arg in args), **{name: _as_float32(arg) for name, arg in kwargs.items()})


def _convolves_to_one_column(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | str | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> bool:
    kernel, step = weight.shape[-1], _last(stride)
    if kernel == 1 or step == 1:
        return False
    margin = 0 if isinstance(padding, str) else 2 * _last(padding)  # a strided convolution allows "valid" only
    return input.shape[-1] + margin - _last(dilation) * (kernel - 1) <= step


def _expands_one_column(
    input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int | tuple[int, ...] = 1, *_: Any, **__: Any
) -> bool:
    """The gradient of such a transposed convolution is a convolution to one column."""
    return input.shape[-1] == 1 and weight.shape[-1] > 1 and _last(stride) > 1


_NARROW: dict[Callable[..., Any], Callable[..., bool]] = {
    F.conv2d: _convolves_to_one_column,
    F.conv_transpose2d: _expands_one_column,
}


def _last(value: int | tuple[int, ...]) -> int:
    return value if isinstance(value, int) else value[-1]


def _as_float32(arg: Any) -> Any:
    return arg.float() if isinstance(arg, Tensor) and arg.dtype == torch.bfloat16 else arg
