"""Reading rows of features that need not fit in memory."""

from __future__ import annotations

import numpy as np
import pytest

from reid_ray.labels import features as module
from reid_ray.labels.features import read_rows


@pytest.mark.parametrize("rows", [[], [0], [6], [0, 1, 2], [2, 3, 5, 6], range(7)])
def test_rows_are_read_in_blocks(monkeypatch, rows):
    monkeypatch.setattr(module, "READ_ROWS", 3)
    features = np.arange(14, dtype=np.float32).reshape(7, 2)
    found = read_rows(features, np.array(rows, dtype=np.int64))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, features[list(rows)].reshape(-1, 2))


def test_blocks_without_a_row_are_not_read(monkeypatch):
    monkeypatch.setattr(module, "READ_ROWS", 3)
    features = np.arange(14, dtype=np.float32).reshape(7, 2)
    read = []
    monkeypatch.setattr(module, "read", lambda features, rows: read.append(rows) or features[rows])
    read_rows(features, np.array([1, 6]))
    assert read == [slice(0, 3), slice(6, 7)]
