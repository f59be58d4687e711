"""Film strips: frames in order at even steps, and rankings of tracklets drawn with them."""

import numpy as np
import pytest
import torch

from reid_ray.data.images import Dataset
from reid_ray.data.table import ImageTable
from reid_ray.reports import ranked
from reid_ray.reports.film import GAP, N_FRAMES, film_strips
from reid_ray.reports.run_report import draw_compared

SIZES = (6, 1, 4, 9)


class Numbered:
    """Images of one grey: 10 × the number in their name."""

    def read(self, path):
        return torch.full((3, 16, 8), 10 * int(path), dtype=torch.uint8)


@pytest.fixture
def dataset():
    tracklets = np.repeat(np.arange(4), SIZES)
    table = ImageTable.from_columns(
        path=[str(i) for i in range(20)],
        pid=tracklets % 2,
        camid=tracklets // 2,
        split=["query" if number < 2 else "gallery" for number in tracklets],
        extra={"tracklet": tracklets},
    )
    return Dataset(table, Numbered())


def frames_of(strip, height=14, width=6):
    """The grey of each frame in a strip."""
    border = (strip.shape[1] - height) // 2
    found = []
    for number in range(N_FRAMES):
        left = GAP + number * (width + GAP)
        frame = strip[:, border : border + height, left : left + width]
        assert frame.unique().numel() == 1
        found.append(int(frame[0, 0, 0]) // 10)
    return found


def test_a_strip_has_frames_at_even_steps(dataset):
    shown, strips = film_strips(dataset, height=14, width=6)
    assert len(shown.table) == 4
    assert len(shown.query) == len(shown.gallery) == 2
    assert shown.table.pids.tolist() == [0, 1, 0, 1]
    read = [shown.images.read(path) for path in shown.table.paths]
    assert all(tuple(strip.shape[1:]) == strips.size for strip in read)
    # ⌊(i + ½)·n/4⌋ of 6, 1, 4 and 9 frames, which begin at rows 0, 6, 7 and 11
    assert [frames_of(strip) for strip in read] == [[0, 2, 3, 5], [6, 6, 6, 6], [7, 8, 9, 10], [12, 14, 16, 18]]


@pytest.mark.parametrize("protocol", ["mars", "single_query"])
def test_what_is_ranked_is_what_the_protocol_compares(tiny, dataset, tmp_path, monkeypatch, protocol):
    drawn = {}

    def keep(query_images, gallery_images, correct, out, **options):
        drawn.update(query=query_images, gallery=gallery_images, correct=correct, **options)

    monkeypatch.setattr(ranked, "draw_ranked_grid", keep)
    # The two people are apart, and tracklet 3 shows the first one's clothes in its first frames.
    features = np.eye(4, dtype=np.float32)[dataset.table.pids]
    config = tiny(f"evaluation.protocol={protocol}")
    draw_compared(dataset, features, tmp_path / "x.png", config, n=9, k=2, height=14)
    if protocol == "mars":
        assert len(drawn["query"]) == 2
        assert sorted(frames_of(strip, 14, 7)[0] for strip in drawn["query"]) == [0, 6]
        assert drawn["correct"].tolist() == [[True, False], [True, False]]
        assert drawn["cell"] > 1
    else:
        assert len(drawn["query"]) == 7
        assert drawn["cell"] == 1
        assert all(tuple(image.shape) == (3, 14, 7) for image in drawn["query"])


def test_a_sheet_of_strips_is_wide(tiny, dataset, tmp_path):
    features = np.eye(4, dtype=np.float32)[dataset.table.pids]
    draw_compared(dataset, features, tmp_path / "x.png", tiny("evaluation.protocol=mars"), n=2, k=2, height=28)
    assert (tmp_path / "x.png").stat().st_size > 1000
