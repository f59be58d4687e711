"""Approximate search: exact similarities and order, filters, the stored file, additions."""

import numpy as np
import pytest

pytest.importorskip("faiss")

from reid_ray.errors import ConfigError, DataError
from reid_ray.labels.neighbours import nearest_to
from reid_ray.search.approximate import FILE, nearest_among_cells, open_inverted_file


def people(n_rows, seed=0):
    """Near unit vectors of 40 people."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((40, 24))
    values = centres[rng.integers(0, 40, n_rows)] + 0.3 * rng.standard_normal((n_rows, 24))
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def features():
    return people(1500)


@pytest.fixture(scope="module")
def inverted(features, tmp_path_factory):
    return open_inverted_file(tmp_path_factory.mktemp("index"), features)


QUERIES = people(30, seed=1)


def test_with_all_cells_it_is_the_exact_search(features, inverted):
    found = nearest_among_cells(QUERIES, features, 12, inverted, n_cells=inverted.nlist)
    exact = nearest_to(QUERIES, features, 12)
    np.testing.assert_array_equal(found.indices, exact.indices)
    np.testing.assert_array_equal(found.similarities, exact.similarities)


def test_with_few_cells_similarities_are_still_exact_and_most_matches_found(features, inverted):
    assert inverted.nlist > 30
    found = nearest_among_cells(QUERIES, features, 12, inverted, n_cells=4)
    exact = nearest_to(QUERIES, features, 12)
    hits = [np.isin(rows, best).mean() for rows, best in zip(found.indices, exact.indices, strict=True)]
    assert 0.5 < np.mean(hits) < 1
    for query, rows, values in zip(QUERIES, found.indices, found.similarities, strict=True):
        np.testing.assert_array_equal(values, (features[rows].astype(float) @ query.astype(float)).astype(np.float32))
        assert (np.diff(values) <= 0).all()


@pytest.mark.parametrize("n_allowed", [0, 3, 200])
def test_filters(features, inverted, n_allowed):
    """Also where the visited cells hold fewer allowed rows than asked for, and where there are fewer at all."""
    allowed = np.zeros(len(features), dtype=bool)
    allowed[np.random.default_rng(2).choice(len(features), n_allowed, replace=False)] = True
    found = nearest_among_cells(QUERIES, features, 12, inverted, allowed=allowed, n_cells=inverted.nlist)
    exact = nearest_to(QUERIES, features, 12, allowed=allowed)
    np.testing.assert_array_equal(found.indices, exact.indices)
    np.testing.assert_array_equal(found.similarities, exact.similarities)
    narrow = nearest_among_cells(QUERIES, features, 12, inverted, allowed=allowed, n_cells=1)
    assert ((narrow.indices >= 0).sum(axis=1) == min(12, n_allowed)).all()


def test_the_file_is_read_again_completed_and_replaced_if_damaged(tmp_path, features):
    first = open_inverted_file(tmp_path, features[:1000])
    written = (tmp_path / FILE).stat().st_mtime_ns
    open_inverted_file(tmp_path, features[:1000])
    assert (tmp_path / FILE).stat().st_mtime_ns == written
    grown = open_inverted_file(tmp_path, features)
    assert (grown.ntotal, grown.nlist) == (1500, first.nlist)  # the cells are those of the first rows
    assert open_inverted_file(tmp_path, features).ntotal == 1500
    for content in (b"", b"no index", (tmp_path / FILE).read_bytes()[:999]):
        (tmp_path / FILE).write_bytes(content)
        assert open_inverted_file(tmp_path, features).ntotal == 1500
    assert open_inverted_file(tmp_path, features[:, :8].copy()).d == 8  # another model's


def test_few_rows_are_one_cell_without_a_warning(tmp_path, features, capfd):
    assert open_inverted_file(tmp_path, features[:30]).nlist == 1
    assert capfd.readouterr() == ("", "")


def test_bad_queries_are_refused_as_by_the_exact_search(features, inverted):
    with pytest.raises(ConfigError, match="at least 1"):
        nearest_among_cells(QUERIES, features, 0, inverted)
    with pytest.raises(DataError, match="do not fit features of size 24"):
        nearest_among_cells(QUERIES[:, :8], features, 5, inverted)
    with pytest.raises(DataError, match="not finite"):
        nearest_among_cells(np.full((1, 24), np.nan, dtype=np.float32), features, 5, inverted)
