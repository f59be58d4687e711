"""Compilation of the per-pixel kernels: cached on disk, with exact arithmetic, releasing the GIL."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from numba import njit

P = ParamSpec("P")
R = TypeVar("R")


def compiled(function: Callable[P, R]) -> Callable[P, R]:
    """`function` as machine code. Without fast-math, so that the same key gives the same bytes in every
    process.

    A kernel and the compiled functions it calls must be in one file, because the disk cache tracks only that file.
    """
    return cast("Callable[P, R]", njit(cache=True, nogil=True, error_model="numpy")(function))
