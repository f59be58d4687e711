"""`ranked_by_distance` equals ranking by features whose dot products order as the distances."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from seeds import SEEDS

from reid_ray.errors import DataError
from reid_ray.evaluation import ranked_by_distance, score_queries, top_matches


@settings(max_examples=6)
@given(seed=SEEDS)
def test_equals_ranking_by_features(seed):
    """Quantised features have exact products, so ties are ties for both; some queries have no match, some are junk."""
    rng = np.random.default_rng(seed)
    query, gallery = (rng.integers(-2, 3, (n, 3)).astype(np.float32) for n in (9, 31))
    ids = (rng.integers(-1, 6, 9), rng.integers(-1, 5, 31), rng.integers(-1, 3, 9), rng.integers(-1, 3, 31))
    scores, matches = ranked_by_distance(5 - query @ gallery.T, *ids, k=40)
    expected = score_queries(query, gallery, *ids)
    np.testing.assert_array_equal(scores.ap, expected.ap)
    np.testing.assert_array_equal(scores.first_hit, expected.first_hit)
    np.testing.assert_array_equal(matches, top_matches(query, gallery, *ids, k=40))


def test_distances_must_be_finite():
    distances = torch.tensor([[0.0, float("nan")]])
    with pytest.raises(DataError, match="NaN or infinity"):
        ranked_by_distance(distances, [1], [1, 2], [0], [1, 1])
