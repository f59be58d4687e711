"""Rankings of all queries: against a loop, stored and read, and the choice of queries that pages show."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from small_runs import tiny_config

from reid_ray.api import train
from reid_ray.data.images import Dataset
from reid_ray.errors import DataError
from reid_ray.reports.rankings import (
    RANKINGS_NAME,
    check_rankable,
    hardest,
    is_current,
    most_different,
    rank_queries,
    rank_run_queries,
    shared_rows,
    stored_rankings,
    table_to_rank,
    write_rankings,
)
from reid_ray.reports.run_report import report_run
from reid_ray.run import Run, load_run

Crops = tuple[Dataset, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose rankings are stored."""
    folder = tmp_path_factory.mktemp("runs")
    run = train(tiny_config(folder, "training.epochs=1", "training.iterations=1", "data.synthetic.n_cameras=3"))
    write_rankings(run, rank_run_queries(run, run.embed_table(table_to_rank(run))))
    return run


def test_matches_equal_a_loop(crops: Crops) -> None:
    dataset, q, g = crops
    query, gallery = dataset.query, dataset.gallery
    found = rank_queries(query, gallery, q, g, k=25)
    for i in range(len(query)):
        removed = (gallery.pids == query.pids[i]) & (gallery.camids == query.camids[i])
        left = np.flatnonzero(~removed)
        order = left[np.argsort(-(g[left] @ q[i]), kind="stable")][:25]
        padded = np.full(25, -1)
        padded[: len(order)] = order
        assert found.matches[i].tolist() == padded.tolist()
        np.testing.assert_allclose(found.similarities[i, : len(order)], g[order] @ q[i], atol=1e-6)
    assert found.paths == query.paths


def test_without_identities_the_whole_gallery_is_ranked(crops: Crops) -> None:
    table, q, g = crops[0].table.without_pids(), *crops[1:]
    found = rank_queries(table.split("query"), table.split("gallery"), q, g, k=30)
    assert (np.sort(found.matches, axis=1) == np.arange(30)).all()
    assert np.isnan(found.ap).all()
    assert len(hardest(found.ap, 3)) == 0


def test_a_run_keeps_its_rankings(ranked: Run) -> None:
    stored = stored_rankings(ranked)
    assert stored is not None
    expected = rank_run_queries(ranked, ranked.embed_table(table_to_rank(ranked)))
    for name in ("ap", "matches", "similarities"):
        np.testing.assert_array_equal(getattr(stored, name), getattr(expected, name))
    assert stored.paths == ranked.dataset.query.paths
    assert is_current(ranked, stored)
    assert np.nanmean(stored.ap) == pytest.approx(ranked.metrics("evaluate")[-1]["mAP"], abs=1e-5)


@pytest.mark.parametrize("content", [b"", b"PAR1", "other images"])
def test_rankings_of_no_use_are_not_shown(ranked: Run, content: bytes | str) -> None:
    file = ranked.path / RANKINGS_NAME
    kept = file.read_bytes()
    try:
        if isinstance(content, bytes):
            file.write_bytes(content)
        reopened = load_run(ranked.path)
        if content == "other images":
            reopened.dataset = Dataset(ranked.dataset.query, ranked.dataset.images)  # type: ignore[misc]
        assert stored_rankings(reopened) is None
        assert "Hardest queries" not in report_run(reopened, redraw=False).read_text(encoding="utf-8")
    finally:
        file.write_bytes(kept)


def test_the_report_shows_the_hardest_first(ranked: Run, tmp_path: Path) -> None:
    page = report_run(ranked, redraw=False, out=tmp_path).read_text(encoding="utf-8")
    stored = stored_rankings(ranked)
    assert stored is not None
    lowest = np.sort(stored.ap[~np.isnan(stored.ap)])[:8]
    shown = [float(value) for value in re.findall(r"AP ([0-9.]+) ", page)]
    assert shown == pytest.approx(100 * lowest, abs=0.06)
    assert "Ranked by an earlier model" not in page


def test_an_earlier_model_is_named(ranked: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = ranked.metrics()
    later = [*events, {**ranked.metrics("epoch")[-1], "global_step": 99}]
    monkeypatch.setattr(
        Run, "metrics", lambda _, event=None: [each for each in later if event in (None, each["event"])]
    )
    page = report_run(ranked, redraw=False, out=tmp_path).read_text(encoding="utf-8")
    assert "Ranked by an earlier model: demo (after 1 steps)" in page


def test_a_report_without_the_images(ranked: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(_: Run) -> Dataset:
        raise DataError("<no images>")

    monkeypatch.setattr(Run, "dataset", property(lost))
    page = report_run(ranked, redraw=False, out=tmp_path).read_text(encoding="utf-8")
    assert "They cannot be shown: &lt;no images&gt;" in page


def test_nothing_to_rank(crops: Crops) -> None:
    with pytest.raises(DataError, match="no gallery split"):
        check_rankable(Dataset(crops[0].query, crops[0].images))


def test_the_choice_of_queries() -> None:
    nan = np.nan
    assert hardest(np.array([0.5, nan, 0.1, 0.5, 0.9]), 3).tolist() == [2, 0, 3]
    ap = np.array([[0.5, 0.6], [nan, 0.1], [0.1, 0.9], [0.2, 0.1], [0.9, 0.9]])
    assert most_different(ap, 4).tolist() == [2, 3, 0, 4]
    assert most_different(np.full((9, 2), nan), 3).tolist() == [0, 4, 8]


def test_shared_rows() -> None:
    rows = shared_rows([[("a",), ("b",), ("c",)], [("c",), ("x",), ("a",)]])
    assert rows.tolist() == [[0, 2], [2, 0]]
    assert shared_rows([[("a",)], [("b",)]]).shape == (0, 2)
