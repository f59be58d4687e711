"""What becomes of images between two labellings, against a loop."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reid_ray.reports.label_flow import FATES, draw_flow, fates


def fate(before: list[int], after: list[int], row: int) -> str:
    old, new = before[row], after[row]
    if old == -1 or new == -1:
        return {(True, True): "outlier", (True, False): "joined", (False, True): "left"}[old == -1, new == -1]
    pairs = Counter((a, b) for a, b in zip(before, after, strict=True) if a != -1 and b != -1)
    successor = min((b for a, b in pairs if a == old), key=lambda b: (-pairs[old, b], b))
    source = min((a for a, b in pairs if b == new), key=lambda a: (-pairs[a, new], a))
    return "split off" if successor != new else "stays" if source == old else "merged"


LABELS = st.integers(-1, 4)


@given(st.lists(st.tuples(LABELS, LABELS), max_size=40))
def test_fates_equal_a_loop(labels: list[tuple[int, int]]) -> None:
    before, after = [old for old, _ in labels], [new for _, new in labels]
    expected = Counter(fate(before, after, row) for row in range(len(before)))
    assert fates(np.array(before, dtype=np.int64), np.array(after, dtype=np.int64)) == {
        name: expected[name] for name in FATES
    }


def test_drawing(tmp_path: Path) -> None:
    labels = [np.array([0, 0, 1, 1, -1]), np.array([0, 0, 0, 0, -1]), np.array([0, 1, 1, -1, 0])]
    assert draw_flow(labels[:1], tmp_path / "none.png") is None
    assert draw_flow(labels, tmp_path / "flow.png").stat().st_size > 1000
