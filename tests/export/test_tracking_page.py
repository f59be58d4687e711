"""docs/tracking.md runs with the real tracker, and its scores are those of a slow count."""

import re
from contextlib import chdir
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest

from reid_ray.export import export_run

pytest.importorskip("norfair", reason="norfair is not installed: pip install --no-deps norfair filterpy")
tracking = pytest.importorskip("tracking")

PAGE = Path(__file__).parents[2] / "docs" / "tracking.md"


def test_the_page_runs(finished_run, tmp_path, monkeypatch):
    """On a short video: the tracks of a model that has hardly been trained still cover most detections."""
    (code,) = re.findall(r"^```python norfair\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for name, value in {"N_PEOPLE": 3, "N_FRAMES": 120, "WALK": 50, "PAUSE": 10}.items():
        monkeypatch.setattr(tracking, name, value)
    export_run(finished_run, tmp_path / "exported")
    namespace = {"__name__": "__main__"}
    with chdir(tmp_path):
        exec(compile(code, str(PAGE), "exec"), namespace)
    assert len(namespace["found"]) > namespace["n_detections"] / 2
    assert 0 < namespace["idf1"] <= 1


def slow_scores(pairs, n_detections):
    people, tracks = ({pair[side] for pair in pairs} for side in (0, 1))
    free = [*tracks, *(f"none {person}" for person in people)]
    matched = max(
        sum((person, track) in set(zip(people, order, strict=False)) for person, track in pairs)
        for order in permutations(free, len(people))
    )
    switches = 0
    for person in people:
        own = [track for other, track in pairs if other == person]
        switches += sum(a != b for a, b in pairwise(own))
    return 2 * matched / (len(pairs) + n_detections), switches


def test_scores_are_those_of_a_slow_count():
    rng = np.random.default_rng(0)
    for _ in range(20):
        pairs = list(zip(rng.integers(0, 3, 12).tolist(), rng.integers(0, 4, 12).tolist(), strict=True))
        assert tracking.scores(pairs, 15) == pytest.approx(slow_scores(pairs, 15))
