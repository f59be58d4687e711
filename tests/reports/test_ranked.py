"""Ranked galleries: which images, marks and texts are drawn."""

from datetime import datetime

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from reid_ray.data.images import Dataset
from reid_ray.data.table import ImageTable
from reid_ray.errors import DataError
from reid_ray.evaluation import score_queries, top_matches
from reid_ray.reports import draw_ranked_grid, draw_ranking, ranked
from reid_ray.reports.figures import DPI

GREEN, VERMILION = np.array([0, 158, 115]), np.array([213, 94, 0])


@pytest.fixture
def sheets(monkeypatch):
    """Captures the arguments of `draw_ranked_grid` instead of drawing."""
    calls = []

    def keep(query_images, gallery_images, correct, out, **more):
        calls.append({"queries": query_images, "gallery": gallery_images, "correct": correct, **more})

    monkeypatch.setattr(ranked, "draw_ranked_grid", keep)
    return calls


def n_pixels(picture: np.ndarray, colour: np.ndarray) -> int:
    return int((np.abs(picture[..., :3] * 255 - colour).max(axis=-1) < 3).sum())


def person_of(image: torch.Tensor) -> int:
    """Inverse of the colours in `ColouredCrops`."""
    return round(float(image[0].float().mean()) / 40)


def aps(dataset, q, g):
    query, gallery = dataset.query, dataset.gallery
    return score_queries(q, g, query.pids, gallery.pids, query.camids, gallery.camids).ap


def test_writes_a_png(crops, tmp_path):
    out = tmp_path / "new" / "ranked.png"
    draw_ranking(*crops, out, n=3, k=4)
    height, width, _ = imread(out).shape
    assert width > 800
    assert height > 600
    assert [path.name for path in out.parent.iterdir()] == ["ranked.png"]


def test_queries_are_sorted_from_worst_to_best(crops, sheets, tmp_path):
    dataset, q, g = crops
    draw_ranking(dataset, q, g, tmp_path / "x.png", n=4, k=5)
    sheet = sheets[0]
    ordered = np.sort(aps(dataset, q, g))
    drawn = [float(caption.split("AP ")[1]) / 100 for caption in sheet["captions"]]
    assert drawn[0] == pytest.approx(ordered[0], abs=1e-3)
    assert drawn[-1] == pytest.approx(ordered[-1], abs=1e-3)
    assert drawn == sorted(drawn)
    assert len(sheet["queries"]) == 4


def test_marks_match_the_persons_shown(crops, sheets, tmp_path):
    dataset, q, g = crops
    draw_ranking(dataset, q, g, tmp_path / "x.png", n=9, k=6)
    sheet = sheets[0]
    assert sheet["correct"].any()
    assert not sheet["correct"].all()
    for query, row, correct in zip(sheet["queries"], sheet["gallery"], sheet["correct"], strict=True):
        assert [person_of(image) == person_of(query) for image in row] == correct.tolist()


def test_similarities_belong_to_the_images(crops, sheets, tmp_path):
    dataset, q, g = crops
    draw_ranking(dataset, torch.from_numpy(q), torch.from_numpy(g), tmp_path / "x.png", queries=[7, 2], k=5)
    similarities = sheets[0]["similarities"]
    assert similarities.shape == (2, 5)
    assert (np.diff(similarities, axis=1) <= 0).all()
    assert set(similarities.ravel().round(5)) <= set((q[[7, 2]] @ g.T).ravel().round(5))


def test_captions_name_camera_and_time(crops, sheets, tmp_path):
    dataset, q, g = crops
    table = dataset.table
    columns = {"path": table.paths, "pid": table.pids, "camid": table.camids, "split": table.arrow["split"].to_pylist()}
    time = datetime(2024, 5, 1, 12, 3, 7)
    timed = ImageTable.from_columns(**columns, extra={"time": [time if i % 2 else None for i in range(len(table))]})
    draw_ranking(Dataset(timed, dataset.images), q, g, tmp_path / "x.png", queries=[1], k=4)
    assert sheets[0]["captions"][0].splitlines()[1:4] == ["camera 0", "2024-05-01", "12:03:07"]
    matches = top_matches(q[1:2], g, timed.pids[1:2], timed.pids[9:], timed.camids[1:2], timed.camids[9:], k=4)[0]
    for row, caption in zip(matches, sheets[0]["match_captions"][0], strict=True):
        expected = [f"camera {timed.camids[9 + row]}"] + ["2024-05-01", "12:03:07"] * ((9 + row) % 2)
        assert caption.splitlines() == expected


def test_captions_make_rows_higher(tmp_path):
    grey = torch.full((3, 32, 16), 128, dtype=torch.uint8)
    heights = []
    for captions in (None, [["camera 1\n2024-05-01\n12:03:07", "camera 1"]]):
        scores = np.ones((1, 2))
        draw_ranked_grid([grey], [[grey, grey]], None, tmp_path / "x.png", similarities=scores, match_captions=captions)
        heights.append(len(imread(tmp_path / "x.png")))
    assert heights[1] - heights[0] == pytest.approx(3 * ranked.LINE_HEIGHT * ranked.CELL_INCHES * DPI, abs=2)


def test_requested_queries_are_drawn_in_order(crops, sheets, tmp_path):
    dataset, q, g = crops
    draw_ranking(dataset, q, g, tmp_path / "x.png", queries=[4, 0, 1], height=30, width=10)
    assert [person_of(image) for image in sheets[0]["queries"]] == [4, 0, 1]
    assert {tuple(image.shape) for image in sheets[0]["queries"]} == {(3, 30, 10)}


def test_without_identities_the_whole_gallery_is_ranked_and_nothing_is_marked(crops, sheets, tmp_path):
    dataset, q, g = crops
    unlabelled = Dataset(dataset.table.without_pids(), dataset.images)
    draw_ranking(unlabelled, q, g, tmp_path / "x.png", n=3, k=40)
    sheet = sheets[0]
    assert sheet["correct"] is None
    assert [len(row) for row in sheet["gallery"]] == [30, 30, 30]
    assert sheet["captions"] == ["camera 0"] * 3


def test_query_of_unknown_identity_is_not_marked(crops, sheets, tmp_path):
    dataset, q, g = crops
    table = dataset.table.arrow.to_pylist()
    pids = [row["pid"] if i else -1 for i, row in enumerate(table)]
    partly = type(dataset.table).from_columns(
        path=dataset.table.paths, pid=pids, split=[row["split"] for row in table], name="partly"
    )
    draw_ranking(Dataset(partly, dataset.images), q, g, tmp_path / "x.png", queries=[0, 1])
    assert sheets[0]["correct"] is None
    assert sheets[0]["captions"][0] == "row 0"


def test_queries_without_a_match_are_drawn(crops, sheets, tmp_path):
    dataset, q, g = crops
    table = dataset.table
    strangers = np.where(np.arange(len(table)) < 9, table.pids + 100, table.pids)
    splits = table.arrow["split"].to_pylist()
    other = type(table).from_columns(path=table.paths, pid=strangers, split=splits, name="strangers")
    draw_ranking(Dataset(other, dataset.images), q, g, tmp_path / "x.png", n=3)
    assert not sheets[0]["correct"].any()
    assert not any("AP" in caption for caption in sheets[0]["captions"])


def test_missing_gallery_is_refused(crops, tmp_path):
    dataset, q, g = crops
    only_query = Dataset(dataset.query, dataset.images)
    with pytest.raises(DataError, match="gallery split"):
        draw_ranking(only_query, q, g[:0], tmp_path / "x.png")


@pytest.mark.parametrize(
    ("correct", "green", "vermilion"),
    [([[True, True]], True, False), ([[False, False]], False, True), (None, False, False)],
)
def test_frames_distinguish_correct_and_wrong(correct, green, vermilion, tmp_path):
    grey = torch.full((3, 32, 16), 128, dtype=torch.uint8)
    marks = None if correct is None else np.array(correct)
    draw_ranked_grid([grey], [[grey, grey]], marks, tmp_path / "sheet.png", title="a $ in a name")
    picture = imread(tmp_path / "sheet.png")
    # The legend alone shows both colours, in a badge of a few hundred pixels each.
    assert (n_pixels(picture, GREEN) > 1500) == green
    assert (n_pixels(picture, VERMILION) > 1500) == vermilion


def test_rows_may_be_short_or_empty(tmp_path):
    grey = torch.full((3, 32, 16), 128, dtype=torch.uint8)
    draw_ranked_grid([grey, grey], [[grey], []], np.zeros((2, 3), bool), tmp_path / "sheet.png", k=3)
    assert (tmp_path / "sheet.png").stat().st_size > 0


def test_number_of_rows_must_equal_number_of_queries(tmp_path):
    grey = torch.full((3, 32, 16), 128, dtype=torch.uint8)
    for queries, rows in (([], []), ([grey], [])):
        with pytest.raises(ValueError, match="rows of matches"):
            draw_ranked_grid(queries, rows, None, tmp_path / "sheet.png")
