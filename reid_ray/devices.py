"""Device, precision and threads of a process."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from reid_ray.config import RuntimeConfig, TrainingConfig
from reid_ray.errors import ConfigError, OutOfMemoryError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's `mallopt`, as its header numbers them."""


def local_rank() -> int:
    """Local rank of this training worker, set by `torchrun` and Ray Train; 0 without them."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def choose_device(runtime: RuntimeConfig, number: int = 0) -> torch.device:
    """The device of process `number` on this machine; `ConfigError` if CUDA is required and not available."""
    available = torch.cuda.is_available()
    if runtime.device == "cuda" and not available:
        raise ConfigError("runtime.device=cuda, but PyTorch finds no CUDA device here; use runtime.device=auto or cpu.")
    if runtime.device == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", number % torch.cuda.device_count())


def parameter_dtype(training: TrainingConfig) -> torch.dtype:
    """dtype of weights and images; bf16 keeps float32 weights and lowers only the arithmetic."""
    return torch.float64 if training.precision == "float64" else torch.float32


@cache
def cpu_supports_bf16() -> bool:
    """Whether this CPU has bfloat16 instructions; without them, bfloat16 is 20 times slower than float32."""
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))  # "bf16" on ARM


def n_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def n_threads(runtime: RuntimeConfig) -> int:
    """Threads of this process: as configured, else its share of the cores among the launcher's local processes."""
    return runtime.threads or max(1, n_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def prepare_process(runtime: RuntimeConfig) -> None:
    """Set PyTorch's number of threads, and keep freed memory for the next step.

    The number of threads affects the order of float32 sums on a CPU, and thus reproducibility.
    """
    torch.set_num_threads(n_threads(runtime))
    _keep_freed_memory()


@contextmanager
def memory_errors(who: str, advice: str) -> Iterator[None]:
    """Turn out-of-memory errors in the block into an `OutOfMemoryError` that names the process, device and remedy."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        on_gpu = isinstance(error, torch.OutOfMemoryError)
        if not (on_gpu or isinstance(error, MemoryError) or "allocate memory" in str(error)):
            raise
        reason = str(error).strip().splitlines() or ["no details"]
        raise OutOfMemoryError(
            f"Out of {'GPU ' if on_gpu else ''}memory in {who} ({reason[0]}); {advice}, or make data.cache_mb smaller."
        ) from error


def _keep_freed_memory() -> None:
    """Configure glibc to keep large freed blocks instead of returning them to the kernel.

    Activations are large blocks. Mapping them again for each layer costs a quarter of a CPU training step in page
    faults. Does nothing with another C library.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_THRESHOLD, 2**30)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 2**12)
