"""An executor whose workers get everything pickled, as processes do."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any


class Handle:
    """The result of a call, as pickled bytes in a store."""

    def __init__(self, answer: Any) -> None:
        self.stored = pickle.dumps(answer)


class Elsewhere:
    """Stand-in for workers in other processes: arguments and results are pickled."""

    def __init__(self, n_workers: int) -> None:
        self.n_workers = n_workers
        self.calls: list[str] = []

    def run(self, function: Callable[..., Any], *arguments: Any) -> Handle:
        self.calls.append(function.__name__)
        function = pickle.loads(pickle.dumps(function))
        passed = [
            pickle.loads(argument.stored if isinstance(argument, Handle) else pickle.dumps(argument))
            for argument in arguments
        ]
        return Handle(function(*passed))

    def get(self, handles: Sequence[Handle]) -> list[Any]:
        return [pickle.loads(handle.stored) for handle in handles]

    def wait(self, handles: Sequence[Handle]) -> None:
        assert all(isinstance(handle, Handle) for handle in handles)
