"""Attributes from training to report: what evaluation logs is what the model predicts, image by image."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

from reid_ray.api import train
from reid_ray.cli import app
from reid_ray.data.views import normalize, resize
from reid_ray.errors import ConfigError
from reid_ray.inference.extraction import assemble
from reid_ray.inference.predictions import FeatureColumns, attributes_by_name, split_predictions
from reid_ray.reports.run_report import report_run

ATTR = (
    "method={name: am0bh, weight_attributes: 0.25, piece_dim: 2}",
    "training.sampler=random_instances",
    "training.epochs=1",
    "training.iterations=2",
    "training.precision=float32",  # bf16 rounds features enough to change predictions
)


@pytest.fixture
def run(tiny):
    return train(tiny(*ATTR))


def predicted(run, table):
    """int64 [N, M], from one image after the other."""
    config, images = run.config.data, run.dataset.images
    with torch.no_grad():
        pixels = torch.stack([resize(images.read(path), config.height, config.width) for path in table.paths])
        return run.model.predict_attributes(normalize(pixels)).numpy()


def test_evaluation_reports_each_attribute_next_to_its_most_frequent_value(run, tmp_path):
    table, names = run.dataset.table, run.model.attribute_names
    table = table.where(np.array(table.arrow["split"].to_pylist()) != "train")
    assert names == table.attribute_names
    logged, values, truth = run.metrics("evaluate")[-1], predicted(run, table), table.attributes
    accuracies, baselines = [], []
    for m, name in enumerate(names):
        known = truth[:, m] != -1
        accuracies.append(np.mean(values[known, m] == truth[known, m]))
        baselines.append(max(np.mean(truth[known, m] == value) for value in set(truth[known, m].tolist())))
        assert logged["attributes"][name]["accuracy"] == pytest.approx(accuracies[-1], abs=0.03), name
        assert logged["attributes"][name]["baseline"] == pytest.approx(baselines[-1]), name
        assert logged["attributes"][name]["n_known"] == known.sum()
    assert logged["attribute_accuracy"] == pytest.approx(np.mean(accuracies), abs=0.01)
    assert logged["attribute_baseline"] == pytest.approx(np.mean(baselines))
    answer = CliRunner().invoke(app, ["evaluate", str(run.path), "--json"], catch_exceptions=False)
    found = json.loads(answer.stdout)
    assert found["mAP"] == pytest.approx(logged["mAP"], abs=1e-5)
    assert found["attributes"].keys() == logged["attributes"].keys()
    assert all(found["attributes"][name] == pytest.approx(logged["attributes"][name], abs=1e-5) for name in names)
    shown = CliRunner().invoke(app, ["evaluate", str(run.path)], catch_exceptions=False).stdout
    assert all(word in shown for word in (names[0], "most frequent value", f"{baselines[0]:.1%}"))
    assert f"<td>{names[0]}</td><td>" in report_run(run).read_text()


def test_extract_writes_predicted_attributes(run, tmp_path):
    out = tmp_path / "f.npy"
    arguments = ["extract", str(run.path), "--out", str(out), "--split", "query", "--attributes"]
    CliRunner().invoke(app, arguments, catch_exceptions=False)
    features, table = np.load(out), pq.read_table(tmp_path / "f-attributes.parquet")
    assert features.shape == (len(run.dataset.query), run.model.dim)
    assert np.allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    assert np.allclose(features, run.embed_table(run.dataset.query), atol=1e-6)
    assert table["path"].to_pylist() == run.dataset.query.paths
    values = np.stack([table[f"attr_{name}"].to_numpy() for name in run.model.attribute_names], axis=1)
    assert np.mean(values == predicted(run, run.dataset.query)) > 0.97
    refused = CliRunner().invoke(app, [*arguments[:3], str(tmp_path / "folder"), "--attributes"])
    assert "--attributes needs a file" in str(refused.exception)


def test_a_model_without_attributes_says_so(tiny, tmp_path):
    run = train(tiny("training.epochs=1", "training.iterations=1"))
    assert "attributes" not in run.metrics("evaluate")[-1]
    refused = CliRunner().invoke(app, ["extract", str(run.path), "--out", str(tmp_path / "f.npy"), "--attributes"])
    assert isinstance(refused.exception, ConfigError)
    assert "predicts no attributes" in str(refused.exception)


def test_predictions_are_columns_of_features(run):
    features = np.arange(24, dtype=np.float32).reshape(4, 6)
    first, rest = split_predictions(features, 2)
    assert first.shape == (4, 4)
    assert rest.shape == (4, 2)
    assert np.array_equal(first[1:3], features[1:3, :4])
    assert np.array_equal(assemble([rest[0:2], rest[2:4]]), features[:, 4:])
    assert FeatureColumns(features, slice(1, None, 2)).shape == (4, 3)
    table = run.dataset.query
    name = table.attribute_names[1]
    found = attributes_by_name(table, (name, "wings"))
    assert np.array_equal(found[:, 0], table.attributes[:, 1])
    assert (found[:, 1] == -1).all()
