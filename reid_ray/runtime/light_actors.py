"""Actors without PyTorch, in a module of their own, because an actor's process imports its class's module."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable


class Attempts:
    """Counts how often a task was begun and not ended, which extractors that die cannot remember."""

    def __init__(self) -> None:
        self._begun: Counter[Hashable] = Counter()

    def begin(self, key: Hashable) -> int:
        """Times that the task was begun before without an end."""
        self._begun[key] += 1
        return self._begun[key] - 1

    def end(self, key: Hashable) -> int:
        """Forget the task."""
        return self._begun.pop(key, 0)


class GpuPlaceholder:
    """Reserves part of a GPU while other actors are placed."""

    def ready(self) -> bool:
        return True
