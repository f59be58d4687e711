"""`nearest_to` against a full sort, with ties, duplicates, filters and lists that cannot be filled."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid_ray.errors import ConfigError, DataError
from reid_ray.labels.neighbours import nearest_to, queries


def by_sorting(query, features, k, allowed=None):
    """The definition: float64 products rounded to float32, best first, ties by row number."""
    products = (features.astype(np.float64) @ query.astype(np.float64).T).T.astype(np.float32)
    rows, values = [], []
    for own in products:
        order = [row for row in np.argsort(-own, kind="stable") if allowed is None or allowed[row]][:k]
        missing = min(k, len(features)) - len(order)
        rows.append(order + [-1] * missing)
        values.append([own[row] for row in order] + [-np.inf] * missing)
    shape = len(query), min(k, len(features))
    return np.array(rows).reshape(shape), np.array(values, dtype=np.float32).reshape(shape)


def unit(values):
    norms = np.linalg.norm(values, axis=1, keepdims=True)
    return np.divide(values, norms, out=np.zeros_like(values), where=norms > 0).astype(np.float32)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    n_rows=st.integers(0, 40),
    n_queries=st.integers(0, 4),
    k=st.integers(1, 12),
    n_distinct=st.integers(1, 40),
    share=st.sampled_from([None, 0.0, 0.3, 1.0]),
)
def test_equals_a_full_sort(seed, n_rows, n_queries, k, n_distinct, share):
    """Few distinct rows make ties and duplicates; blocks of 7 rows and 2 queries make every border occur."""
    rng = np.random.default_rng(seed)
    pool = unit(rng.integers(-2, 3, (n_distinct, 3)).astype(np.float64))
    features, own = pool[rng.integers(0, n_distinct, n_rows)], pool[rng.integers(0, n_distinct, n_queries)]
    allowed = None if share is None else rng.random(n_rows) < share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queries, "READ_ROWS", 7)
        patch.setattr(queries, "QUERIES_AT_A_TIME", 2)
        found = nearest_to(own, features, k, allowed=allowed)
    expected = by_sorting(own, features, k, allowed)
    np.testing.assert_array_equal(found.indices, expected[0])
    np.testing.assert_array_equal(found.similarities, expected[1])


def test_rows_that_float32_products_confuse_are_in_order():
    """Similarities closer together than float32 products are exact: their order is decided in float64."""
    rng = np.random.default_rng(0)
    query = unit(rng.standard_normal((3, 512)))
    features = unit(query[0] + 1e-6 * rng.standard_normal((3000, 512)))
    found = nearest_to(query, features, 50)
    expected = by_sorting(query, features, 50)
    np.testing.assert_array_equal(found.indices, expected[0])
    np.testing.assert_array_equal(found.similarities, expected[1])


def test_wrong_arguments():
    features = unit(np.random.default_rng(0).standard_normal((5, 4)))
    with pytest.raises(ConfigError, match="k=0"):
        nearest_to(features, features, 0)
    with pytest.raises(DataError, match="do not fit features of size 4"):
        nearest_to(features[:, :3], features, 1)
    with pytest.raises(DataError, match="not finite"):
        nearest_to(features * np.float32(np.nan), features, 1)
