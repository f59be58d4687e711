"""The label engine's `Executor` on Ray actors, and features that stay in the object store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import numpy as np
import ray

from reid_ray.errors import UserError
from reid_ray.runtime.faults import ACTOR_DEATHS, MAX_RESTARTS, actor_death_error
from reid_ray.types import FloatArray


class StoredFeatures:
    """Features in parts in Ray's object store, fetched when their rows are read; no process needs to hold all of them.

    Args:
        parts: references to float32 [n, D], in the order of rows.
        lengths: n of each.
    """

    def __init__(self, parts: Sequence[Any], lengths: Sequence[int]) -> None:
        self._parts = list(parts)
        self._starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self._dim: int | None = None

    @classmethod
    def joined(cls, several: Sequence[StoredFeatures]) -> StoredFeatures:
        """Concatenate the rows of several."""
        lengths = [np.diff(each._starts).tolist() for each in several]
        return cls([part for each in several for part in each._parts], [n for each in lengths for n in each])

    @property
    def shape(self) -> tuple[int, ...]:
        if self._dim is None:
            self._dim = fetch([self._parts[0]])[0].shape[1] if self._parts else 0
        return int(self._starts[-1]), self._dim

    def __getitem__(self, rows: slice, /) -> FloatArray:
        start, stop, _ = rows.indices(int(self._starts[-1]))
        if start >= stop:
            return np.empty((0, self.shape[1]), dtype=np.float32)
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        last = int(np.searchsorted(self._starts, stop, side="left"))
        origin = int(self._starts[first])
        inside = slice(start - origin, stop - origin)
        parts = fetch(self._parts[first:last])
        return np.asarray(parts[0][inside] if len(parts) == 1 else np.concatenate(parts)[inside], dtype=np.float32)


class ActorExecutor:
    """`labels.executor.Executor` on actors with a method `run(function, *arguments)`. Distributes calls round-robin."""

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = list(actors)
        self._turns = count()

    @property
    def n_workers(self) -> int:
        return len(self._actors)

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        actor = self._actors[next(self._turns) % len(self._actors)]
        return actor.run.remote(function, *arguments)

    def get(self, handles: Sequence[Any]) -> list[Any]:
        found: list[Any] = fetch(list(handles))
        return found

    def wait(self, handles: Sequence[Any]) -> None:
        ray.wait(list(handles), num_returns=len(handles), fetch_local=False)


def fetch(references: Any) -> Any:
    """`ray.get` that re-raises a `UserError` of an actor as itself, without the remote traceback."""
    try:
        return ray.get(references)
    except ray.exceptions.RayTaskError as error:
        cause: Any = error
        while isinstance(cause, ray.exceptions.RayTaskError):  # one per actor in the call chain
            cause = cause.cause
        if isinstance(cause, UserError):
            raise cause from None
        raise
    except ACTOR_DEATHS as error:
        raise actor_death_error(error, "An extractor or labeller", f"{MAX_RESTARTS} times") from error
