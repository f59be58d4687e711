"""Regular expressions that match the names of a user's crops, for the message that explains how to read them."""

from __future__ import annotations

import re
from collections.abc import Sequence

CANDIDATES = {
    "pid": (r"^(\d+)", r"^([^/]+)/", r"^([^_\-.\s]+)"),
    "camera": (r"[cC]am(?:era)?[_-]?(\d+)", r"(?:^|[_\-./])[cC](\d+)"),
}
"""`pid` or `camera` → expressions for common namings, the narrowest first."""


def suggested_expressions(names: Sequence[str]) -> dict[str, str]:
    """For `pid` and `camera` the first candidate that matches all names, preferably one by which several names agree.

    Args:
        names: paths below the folder of a split, with `/`.
    """
    found = {}
    for what, expressions in CANDIDATES.items():
        fitting = [(text, groups) for text in expressions if (groups := _groups(text, names)) is not None]
        repeated = [text for text, groups in fitting if len(set(groups)) < len(names)]
        chosen = repeated or [text for text, _ in fitting]
        if chosen:
            found[what] = chosen[0]
    return found


def _groups(expression: str, names: Sequence[str]) -> list[str] | None:
    matches = [re.search(expression, name) for name in names]
    return [match[1] for match in matches if match] if all(matches) else None
