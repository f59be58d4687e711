"""t-SNE of representations: whose images are shown, and what a model names."""

import numpy as np
import torch
from matplotlib.image import imread
from sklearn.manifold import TSNE
from small_runs import METHOD_RUNS

from reid_ray.api import train
from reid_ray.data.table import ImageTable
from reid_ray.reports import embedding
from reid_ray.reports.embedding import draw_embeddings, draw_features, shown_images
from reid_ray.reports.run_report import FEATURES_NAME, report_run


def test_people_with_the_most_images_are_shown():
    counts = {pid: 30 if pid == 5 else 2 + pid for pid in range(25)}  # 0: distractors, of whom there are most
    pids = [pid for pid, count in {**counts, 0: 90}.items() for _ in range(count)]
    split = ["gallery" if i % 2 else "query" for i in range(len(pids))]
    train_rows = ["train"] * 40
    table = ImageTable.from_columns(
        path=[str(i) for i in range(len(pids) + 40)], pid=pids + [99] * 40, split=split + train_rows
    )
    shown = shown_images(table)
    found = dict(zip(*np.unique(shown.pids, return_counts=True), strict=True))
    assert set(found) == {5, *range(6, 25)}
    assert found == {pid: min(24, counts[pid]) for pid in found}


def test_a_panel_for_each_that_varies_and_each_grouping(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(12, 5)).astype(np.float32)
    seen, figures = [], []
    monkeypatch.setattr(embedding, "in_two_dimensions", lambda each: seen.append(each) or each[:, :2])
    save = embedding.save
    monkeypatch.setattr(embedding, "save", lambda figure, out: figures.append(figure) or save(figure, out))
    cameras = np.arange(12) % 3 - 1
    draw_embeddings(
        {"x": values, "std": np.ones((12, 5), np.float32)},
        {"identity": np.arange(12) // 4, "camera": cameras},
        tmp_path / "x.png",
    )
    assert len(seen) == 1, "both panels have the same points"
    assert imread(tmp_path / "x.png").std() > 0
    by_identity, by_camera = figures[0].axes
    assert [axes.get_title(loc="left") for axes in figures[0].axes] == ["x (5-d), by identity", "x (5-d), by camera"]
    drawn = {each.get_label(): np.asarray(each.get_offsets()) for each in by_camera.collections}
    assert list(drawn) == ["camera 0", "camera 1", "unknown"]
    for label, number in (("camera 0", 0), ("camera 1", 1), ("unknown", -1)):
        np.testing.assert_allclose(drawn[label], values[cameras == number, :2])
    assert len(by_identity.collections) == 3


def test_twenty_groups_differ_in_colour_or_shape(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(embedding, "in_two_dimensions", lambda each: each[:, :2])
    monkeypatch.setattr(embedding, "save", lambda figure, out: figures.append(figure))
    values = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32)
    draw_embeddings({"x": values}, {"identity": np.arange(20)}, tmp_path / "x.png")
    (axes,) = figures[0].axes
    looks = {(tuple(each.get_facecolor()[0]), each.get_paths()[0].vertices.tobytes()) for each in axes.collections}
    assert len(looks) == 20
    assert axes.get_legend() is None


def test_two_dimensions_are_those_of_scikit_learn():
    values = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    expected = TSNE(perplexity=19 / 3, init="pca", random_state=0).fit_transform(values)
    assert np.allclose(embedding.in_two_dimensions(values), expected)


def test_havana_names_features_means_and_deviations(tiny, monkeypatch):
    monkeypatch.setattr(embedding, "in_two_dimensions", lambda values: values[:, :2])
    options = (*METHOD_RUNS["havana"], "method.covariance_constraint=false", "method.baseline=false")
    run = train(tiny(*options, "stages={}", "training.epochs=1", "training.iterations=1"))
    table = run.dataset.query
    found = run.representations(table)
    assert list(found) == ["features x", "means z_μ", "deviations z_σ"]
    mean = torch.tensor(found["means z_μ"])
    assert np.allclose(torch.nn.functional.normalize(mean), run.embed_table(table), atol=1e-5)
    assert (found["deviations z_σ"] > 0).all()
    draw_features(run, run.path / FEATURES_NAME)
    assert "<h2>Features</h2>" in report_run(run).read_text(encoding="utf-8")
