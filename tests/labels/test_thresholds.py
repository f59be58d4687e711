"""eps from the closest pairs, against the rule on the dense matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from reid_ray.errors import ConfigError
from reid_ray.labels.thresholds import eps_for_share

pytestmark = pytest.mark.filterwarnings("error")


def dense_rule(distance_mat: npt.NDArray[np.float32], share: float) -> float:
    """The nonzero upper triangle, sorted whole, and the mean of its first part."""
    pairs = np.triu(distance_mat, 1)
    pairs = np.sort(pairs[np.nonzero(pairs)])
    return float(pairs[: max(1, np.round(share * pairs.size).astype(int))].mean(dtype=np.float64))


def random_distances(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """With ties, duplicates, and many pairs at the largest distance, 1."""
    n_rows = int(rng.integers(2, 60))
    steps = np.triu(rng.integers(0, int(rng.choice([3, 30, 3000])), (n_rows, n_rows)), 1)
    distance_mat = np.minimum((steps + steps.T) / rng.choice([2, 20, 2000]), 1).astype(np.float32)
    np.fill_diagonal(distance_mat, 0)
    return distance_mat


def to_graph(distance_mat: npt.NDArray[np.float32], max_distance: float) -> csr_array:
    rows, columns = np.nonzero(distance_mat <= max_distance)
    return csr_array((distance_mat[rows, columns], (rows, columns)), distance_mat.shape)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1))
def test_equals_the_rule_on_the_dense_matrix_or_is_none(seed: int) -> None:
    rng = np.random.default_rng(seed)
    distance_mat = random_distances(rng)
    n_pairs = int((np.triu(distance_mat, 1) > 0).sum())
    assume(n_pairs)
    for share in (1e-4, 0.01, 0.3, 1.0):
        expected = dense_rule(distance_mat, share)
        for max_distance in (0.05, 0.5, 0.99, 1.0):
            found = eps_for_share(to_graph(distance_mat, max_distance), share)
            stored = (np.triu(distance_mat, 1) > 0) & (distance_mat <= max_distance)
            if stored.sum() < max(1, round(share * n_pairs)):
                assert found is None
            else:
                assert found == pytest.approx(expected, rel=1e-6)
                assert found <= max_distance + 1e-6


def test_a_pair_at_distance_zero_is_neither_averaged_nor_counted() -> None:
    """Four rows, two of them duplicates: 40 % of 5 pairs are 2; of 6 they would be 2 too, but with the zero."""
    distance_mat = np.full((4, 4), 0.8, dtype=np.float32)
    np.fill_diagonal(distance_mat, 0)
    distance_mat[0, 1] = distance_mat[1, 0] = 0
    distance_mat[2, 3] = distance_mat[3, 2] = 0.2
    assert eps_for_share(to_graph(distance_mat, 1), 0.4) == pytest.approx(0.5)
    assert eps_for_share(to_graph(distance_mat, 1), 0.25) == pytest.approx(0.2)  # round(1.25); of 6 it would be 2


@pytest.mark.parametrize("n_rows", [0, 1, 5])
def test_nothing_to_average(n_rows: int) -> None:
    """No pairs, or only duplicates: a larger graph would not help."""
    assert eps_for_share(to_graph(np.zeros((n_rows, n_rows), dtype=np.float32), 0.5), 0.1) == 0


def test_none_if_the_graph_stores_no_pairs() -> None:
    distance_mat = (1 - np.eye(5)).astype(np.float32)
    assert eps_for_share(to_graph(distance_mat, 0.5), 0.1) is None
    assert eps_for_share(to_graph(distance_mat, 0.5), 0.1, complete=True) == 0


def test_complete_graph_averages_the_stored_pairs() -> None:
    distance_mat = np.ones((6, 6), dtype=np.float32)
    np.fill_diagonal(distance_mat, 0)
    distance_mat[0, 1] = distance_mat[1, 0] = 0.2
    distance_mat[2, 3] = distance_mat[3, 2] = 0.4
    graph = to_graph(distance_mat, 0.9)
    assert eps_for_share(graph, 1 / 15, complete=True) == pytest.approx(0.2)
    assert eps_for_share(graph, 0.5, complete=True) == pytest.approx(0.3)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_invalid_share_is_refused(share: float) -> None:
    with pytest.raises(ConfigError, match="above 0 and at most 1"):
        eps_for_share(to_graph(np.zeros((2, 2), dtype=np.float32), 0.5), share)


def test_value_of_gcl_reference_code() -> None:
    """Distances 0, 0.1, 0.2, 0.3, 0.4: the zero is dropped, and of the other four the closest half is averaged."""
    distance_mat = np.zeros((4, 4), dtype=np.float32)
    distance_mat[np.triu_indices(4, 1)] = [0.0, 0.1, 0.2, 0.3, 0.4, 0.0]
    assert eps_for_share(to_graph(distance_mat + distance_mat.T, 1.0), 0.5) == pytest.approx(0.15)
