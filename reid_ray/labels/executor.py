"""Who does the work of a refresh: this process, or actors that each take a share of the rows.

The engine is written once, against `Executor`. A step is a plain function of this package, called on some rows; what it
returns may stay where it was made and be handed on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol


class Executor(Protocol):
    """A group of workers that run functions and keep their answers.

    Attributes:
        n_workers: how many shares the rows are worth cutting into.
    """

    @property
    def n_workers(self) -> int: ...

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Start `function(*arguments)` on any worker; returns a handle, which may be an argument of another call."""
        ...

    def get(self, handles: Sequence[Any]) -> list[Any]:
        """Wait for calls and fetch their answers."""
        ...

    def wait(self, handles: Sequence[Any]) -> None:
        """Wait for calls; what one raised is raised here."""
        ...


class SerialExecutor:
    """One worker, which is the caller: an answer is its own handle."""

    n_workers = 1

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    def get(self, handles: Sequence[Any]) -> list[Any]:
        return list(handles)

    def wait(self, handles: Sequence[Any]) -> None:
        pass


def split_rows(n_rows: int, n_workers: int) -> list[range]:
    """Rows 0 … n_rows−1 cut into consecutive ranges of equal length, one per worker; at least one, perhaps empty."""
    n_shares = max(1, min(n_workers, n_rows))
    bounds = [n_rows * i // n_shares for i in range(n_shares + 1)]
    return [range(start, stop) for start, stop in pairwise(bounds)]
