"""What a kind of input is: a strategy that draws, and a check against an oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hypothesis import strategies as st

Outcome = Literal["read", "refused"]


class WrongValueError(AssertionError):
    """A result that differs from the oracle's."""


@dataclass(frozen=True)
class Kind:
    """A kind of input.

    Attributes:
        strategy: draws inputs.
        check: reads one in a scratch folder.
    """

    strategy: st.SearchStrategy[Any]
    check: Callable[[Any, Path], Outcome]


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise WrongValueError(what)
