"""Where the steps of a label refresh run: in this process, or on workers that each process part of the rows.

The label engine is written against `Executor`. A step is a plain function of this package, called on a range of rows.
Its result may stay on the worker; the caller holds a handle that can be passed to other steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol


class Executor(Protocol):
    """Workers that run functions and keep the results.

    Attributes:
        n_workers: number of ranges to split the rows into.
    """

    @property
    def n_workers(self) -> int: ...

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Start `function(*arguments)` on any worker; return a handle, which may be an argument of another call."""
        ...

    def get(self, handles: Sequence[Any]) -> list[Any]:
        """Wait for calls and fetch their results."""
        ...

    def wait(self, handles: Sequence[Any]) -> None:
        """Wait for calls; re-raise the first exception."""
        ...


class SerialExecutor:
    """Runs every call at once in the calling process; a result is its own handle."""

    n_workers = 1

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    def get(self, handles: Sequence[Any]) -> list[Any]:
        return list(handles)

    def wait(self, handles: Sequence[Any]) -> None:
        pass


def split_rows(n_rows: int, n_workers: int) -> list[range]:
    """Split rows 0 … n_rows−1 into consecutive ranges of equal length, one per worker; at least one, possibly empty."""
    n_ranges = max(1, min(n_workers, n_rows))
    bounds = [n_rows * i // n_ranges for i in range(n_ranges + 1)]
    return [range(start, stop) for start, stop in pairwise(bounds)]
