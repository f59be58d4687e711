"""The cluster gallery: sheets of thumbnails, the data of the page, and text that cannot break out of it."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gallery_images import NASTY, Grey
from PIL import Image

from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError
from reid_ray.galleries import without_singles
from reid_ray.reports.gallery import Pair, Scores, write_gallery
from reid_ray.reports.sprites import write_sprites
from reid_ray.reports.templating import script_json


def data_of(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)[0])
    return found


@pytest.fixture
def table() -> ImageTable:
    return ImageTable.from_columns(
        path=[str(i) for i in range(10)], camid=np.arange(10) % 3, pid=[0, 0, 1, 0, 2, 2, 2, 3, 3, -1]
    )


LABELS = np.array([0, 0, 0, 0, 1, 1, 1, -1, -1, -1])


def test_the_page_says_what_the_labels_are(tmp_path: Path, table: ImageTable) -> None:
    scores = Scores(np.array([2, 4]), {0: 0.75}, [Pair(2, 4, "merge", 0.5), Pair(4, 7, "merge", 0.25)])
    counted: list[int] = []
    page = write_gallery(
        tmp_path / "out", table, LABELS, Grey(), title="x & y", scores=scores, on_images=counted.append
    )
    data = data_of(page)
    assert data["paths"] == ["2", "0", "1", "3", "4", "5", "6", "7", "8", "9"], "the typical image first, outliers last"
    first, second = data["clusters"]
    assert (first["rows"], second["rows"], data["outliers"]) == ([0, 1, 2, 3], [4, 5, 6], [7, 8, 9])
    assert (first["mixed"], first["purity"], first["identity"], first["cameras"]) == (0.75, 0.75, 0, 3)
    assert (second["mixed"], second["purity"], second["identity"]) == (0, 1, 2)
    assert [(pair["row"], pair["other"]) for pair in data["pairs"]] == [(0, 4), (4, 7)]
    assert data["cameras"] == [2, 0, 1, 0, 1, 2, 0, 1, 2, 0]
    assert counted == [10]
    assert "<title>x &amp; y" in page.read_text()


def test_the_page_has_times_where_known(tmp_path: Path, table: ImageTable) -> None:
    assert data_of(write_gallery(tmp_path / "without", table, LABELS, Grey(), title="x"))["times"] is None
    times = [None, datetime(2024, 5, 1, 12, 3, 7, 250000), *[None] * 8]
    timed = ImageTable.from_columns(path=table.paths, camid=table.camids, extra={"time": times})
    data = data_of(write_gallery(tmp_path / "with", timed, LABELS, Grey(), title="x", scores=Scores(np.array([2, 4]))))
    assert data["paths"][:3] == ["2", "0", "1"]
    assert data["times"] == [None, None, "2024-05-01 12:03:07", *[None] * 7]


def test_a_page_without_cameras_identities_and_scores(tmp_path: Path, table: ImageTable) -> None:
    data = data_of(write_gallery(tmp_path, table.without_pids().without_cameras(), LABELS, Grey(), title="x"))
    assert data["cameras"] is data["identities"] is None
    assert {cluster["purity"] for cluster in data["clusters"]} == {None}
    assert {cluster["mixed"] for cluster in data["clusters"]} == {None}


@pytest.mark.parametrize("labels", [np.full(10, -1), np.zeros(10, dtype=np.int64)])
def test_only_outliers_and_no_outliers(tmp_path: Path, table: ImageTable, labels: np.ndarray) -> None:
    data = data_of(write_gallery(tmp_path, table, labels, Grey(), title="x"))
    assert len(data["outliers"]) + sum(len(cluster["rows"]) for cluster in data["clusters"]) == 10


def test_names_are_text(tmp_path: Path) -> None:
    table = ImageTable.from_columns(path=NASTY)
    page = write_gallery(tmp_path, table, np.zeros(len(NASTY), dtype=np.int64), Grey(), title=NASTY[0])
    text = page.read_text()
    assert sorted(data_of(page)["paths"]) == sorted(NASTY)
    assert "alert(1)</script>" not in text
    assert "&lt;/script&gt;" in text
    assert "\u202e" not in text


def test_json_cannot_end_its_element() -> None:
    text = script_json(NASTY)
    assert not set("<>&") & set(text)
    assert text.isascii()
    assert json.loads(text) == NASTY


def test_thumbnails_are_where_the_page_looks(tmp_path: Path) -> None:
    n = 16 * 8 + 18
    paths = [str(i % 20) for i in range(n)]
    sprites = write_sprites(Grey(unreadable=("7",)), paths, tmp_path, height=12, width=6)
    sheets = [np.asarray(Image.open(tmp_path / name)).astype(int) for name in sprites.names]
    assert [sheet.shape for sheet in sheets] == [(96, 96, 3), (24, 96, 3)]
    for i in range(n):
        at = i % 128
        top, left = at // 16 * 12, at % 16 * 6
        crop = sheets[i // 128][top + 3 : top + 9, left + 2 : left + 4]
        assert abs(crop - (128 if i % 20 == 7 else 10 * (i % 20))).max() < 12, i


def test_no_image_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Cannot read the image"):
        write_sprites(Grey(unreadable=("1", "2")), ["1", "2"], tmp_path, height=12, width=6)


def test_singletons_are_outliers() -> None:
    assert without_singles(np.array([0, 1, 2, 0, -1, 2])).tolist() == [0, -1, 1, 0, -1, 1]
    assert without_singles(np.array([-1, -1])).tolist() == [-1, -1]
