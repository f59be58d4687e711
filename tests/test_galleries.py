"""Galleries of a run and of labelled features: from images on disk to the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from scipy.sparse import csr_array
from small_runs import tiny_config

import reid_ray
from reid_ray.cli import main
from reid_ray.config import LabelsConfig
from reid_ray.errors import RunError
from reid_ray.galleries import gallery_of_run, neighbours_of
from reid_ray.labelling import label_features
from reid_ray.labels.asking import Question


def data_of(page: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(re.findall(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"))[0])
    return found


def test_gallery_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = reid_ray.train(tiny_config(tmp_path, "training.epochs=1", "labels.outliers=singleton"))
    bare = data_of(gallery_of_run(run, out=tmp_path / "bare"))
    assert not bare["pairs"]
    with pytest.raises(SystemExit):
        main(["report", str(run.path), "--gallery"])
    page = run.path / "gallery" / "index.html"
    assert str(page) in "".join(capsys.readouterr().out.split())
    assert '<a href="gallery/index.html">' in (run.path / "report.html").read_text(encoding="utf-8")
    data = data_of(page)
    assert sorted(data["paths"]) == sorted(run.dataset.train.paths)
    assert len(data["clusters"]) == len(bare["clusters"])
    assert data["pairs"]
    for pair in data["pairs"]:
        assert [side[0] for side in pair["sides"]] == [pair["row"], pair["other"]]
        assert all(len(side) <= 6 for side in pair["sides"])
    first = gallery_of_run(run, epoch=1)
    assert first == run.path / "gallery-epoch-001" / "index.html"
    with pytest.raises(RunError, match="labels of 1 epochs"):
        gallery_of_run(run, epoch=2)
    assert len(list((page.parent / "sprites").iterdir())) == len(data["sprites"]["names"])


def test_gallery_of_features(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pids = np.arange(40) % 4
    values = rng.normal(size=(4, 16))[pids] + 0.2 * rng.normal(size=(40, 16))
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    np.save(tmp_path / "x.npy", values.astype(np.float32))
    paths = [str(tmp_path / f"{i}.png") for i in range(40)]
    for path, pid in zip(paths, pids.tolist(), strict=True):
        Image.new("RGB", (8, 16), (60 * pid, 0, 0)).save(path)
    pq.write_table(pa.table({"path": paths, "pid": pids}), tmp_path / "x.parquet")
    config = LabelsConfig(k1=8, k2=3, min_samples=3)
    report = label_features(tmp_path / "x.npy", tmp_path / "l.parquet", config, gallery=tmp_path / "g")
    assert not report.questions
    data = data_of(tmp_path / "g" / "index.html")
    assert [len(cluster["rows"]) for cluster in data["clusters"]] == [10] * 4
    assert {cluster["purity"] for cluster in data["clusters"]} == {1.0}
    bare = label_features(tmp_path / "x.npy", tmp_path / "bare.parquet", config)
    assert bare.quality == report.quality, "a wider graph changes no score"


def test_questions_show_their_neighbours() -> None:
    """Rows 0 to 3 and 4 to 6 are the halves of a cluster; 7 is an outlier."""
    distances = np.full((8, 8), 0.8, dtype=np.float32)
    distances[:4, :4] = distances[4:7, 4:7] = 0.2
    distances[0, 2] = distances[2, 0] = 0.1
    np.fill_diagonal(distances, 0)
    labels = np.array([0, 0, 0, 0, 0, 0, 0, -1])
    graph = csr_array(distances + 1e-30)
    assert neighbours_of(graph, labels, Question(0, 4, "split", 1, 0.5)) == ([0, 2, 1, 3], [4, 5, 6])
    assert neighbours_of(graph, labels, Question(4, 7, "merge", 1, 0.5)) == ([4, 5, 6, 0, 1, 2], [7])
