"""Rows of crops on a page: marks, alternative texts, captions, and the same queries in several runs."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from gallery_images import NASTY, Grey

from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError
from reid_ray.reports.ranked_rows import RankedRun, hardest_queries, same_queries
from reid_ray.reports.rankings import Rankings

TIMES = [datetime(2024, 5, 1, 12, 3, 7), None, None, datetime(2024, 5, 2)]


@pytest.fixture
def run() -> RankedRun:
    """Three queries of people 1, 2 and 3; the second has no match, and the third is the hardest of the others."""
    query = ImageTable.from_columns(path=["0", "1", "2"], pid=[1, 2, 3], camid=[0, -1, 2], split="query")
    gallery = ImageTable.from_columns(
        path=["3", "4", "5", "6"], pid=[1, 3, 1, 7], camid=[1, 1, 2, -1], split="gallery", extra={"time": TIMES}
    )
    matches = np.array([[0, 1, -1], [3, 1, 0], [0, 3, 1]])
    similarities = np.array([[0.9, 0.8, 0], [0.7, 0.6, 0.5], [0.4, 0.35, 0.25]], dtype=np.float32)
    return RankedRun(
        "one", Rankings(query.paths, np.array([0.9, np.nan, 0.25]), matches, similarities), query, gallery, Grey()
    )


def alts(page: str) -> list[str]:
    return re.findall(r'<img alt="([^"]*)"', page)


def test_the_hardest_queries_and_what_they_were_taken_for(run: RankedRun) -> None:
    page = hardest_queries(run)
    assert re.findall("<h3>(.*?)</h3>", page) == ["person 3, camera 2", "person 1, camera 0"]
    assert alts(page) == [
        "query, person 3, camera 2",
        "match 1, another identity, person 1, camera 1, 2024-05-01, 12:03:07",
        "match 2, another identity, person 7, 2024-05-02, 00:00:00",
        "match 3, same identity, person 3, camera 1",
        "query, person 1, camera 0",
        "match 1, same identity, person 1, camera 1, 2024-05-01, 12:03:07",
        "match 2, another identity, person 3, camera 1",
    ]
    assert re.findall('<figure class="crop (right|wrong)"', page) == ["wrong", "wrong", "right", "right", "wrong"]
    assert re.findall('aria-hidden="true">(.)</span>', page) == ["✕", "✕", "✓", "✓", "✕"]
    assert re.findall("<small>(.*?)</small>", page) == [
        "taken for person 1 (1×), person 7 (1×)",
        "the first match is right",
    ]
    assert "2 of 3 queries" in page
    assert page.count('<ol class="crops" tabindex="0"') == 2


def test_without_identities_nothing_is_marked(run: RankedRun) -> None:
    blind = replace(
        run,
        rankings=replace(run.rankings, ap=np.full(3, np.nan)),
        query=run.query.without_pids(),
        gallery=run.gallery.without_pids(),
    )
    assert hardest_queries(blind) == ""
    page = same_queries([blind, blind])
    assert not re.findall('<figure class="crop (right|wrong)"', page)
    assert alts(page)[:2] == ["query, camera 0", "match 1, camera 1, 2024-05-01, 12:03:07"]
    assert "query 1" in page, "no camera either"


def test_the_same_queries_in_two_runs(run: RankedRun) -> None:
    """The second run has the queries in another order, without the first one, and another ranking."""
    order = np.array([2, 1])
    rankings = Rankings(["2", "1"], np.array([1.0, np.nan]), np.array([[1, 0], [0, 1]]), np.ones((2, 2), np.float32))
    other = replace(run, name=NASTY[0], rankings=rankings, query=run.query.take(order))
    page = same_queries([run, other], ["third"])
    assert re.findall("<h3>(.*?)</h3>", page) == ["person 3, camera 2"]
    names = re.findall("<bdi>(.*?)</bdi>", page)
    assert names == ["one", "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;"]
    assert "<script" not in page
    assert [alt.partition(",")[0] for alt in alts(page)] == ["query", *(f"match {i}" for i in (1, 2, 3, 1, 2))]
    assert re.findall("AP ([0-9.]+)", page) == ["25.0", "100.0"]
    assert "1 of 2 common queries" in page
    assert "Not ranked yet: third" in page


def test_runs_of_other_images_share_nothing(run: RankedRun) -> None:
    page = same_queries([run, replace(run, source="another world")])
    assert "no queries in common" in page
    assert "<h3>" not in page


def test_an_unreadable_image_has_a_text(run: RankedRun) -> None:
    with pytest.raises(DataError):
        Grey(unreadable=("3",)).read("3")
    page = hardest_queries(replace(run, images=Grey(unreadable=("3",))))
    assert page.count("not readable</div>") == 2
    assert 'aria-label="match 1, another identity, person 1, camera 1, 2024-05-01, 12:03:07, not readable"' in page
