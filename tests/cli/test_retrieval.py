"""`evaluate`, `extract`, `rank`, `report` and `train --show-config` on a small finished run."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from reid_ray.api import train
from reid_ray.cli import app
from reid_ray.data.table import ImageTable


@pytest.fixture
def run(tiny):
    return train(tiny("training.epochs=1", "evaluation.every=1"))


def command(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_evaluate_repeats_the_run_s_own_number(run):
    printed = json.loads(command("evaluate", run.path, "--json").stdout)
    logged = run.metrics("evaluate")[-1]
    for key in ("mAP", "R1", "mINP", "n_queries"):
        assert printed[key] == pytest.approx(logged[key], abs=1e-5)
    assert "mAP" in command("evaluate", run.path, "--model", "best").stdout


def test_evaluate_without_cameras_says_what_that_means(run):
    assert "same-camera matches are not removed" in " ".join(
        command("evaluate", run.path, "data.use_cameras=false").stdout.split()
    )


def test_extract_writes_features_and_their_rows(run, tmp_path):
    out = tmp_path / "features.npy"
    command("extract", run.path, "--out", out, "--split", "query")
    features = np.load(out)
    table = ImageTable.read(out.with_suffix(".parquet"))
    assert table.paths == run.dataset.query.paths
    assert features.shape == (len(table), 512)
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)


def test_rank_and_report_draw(run, tmp_path):
    command("rank", run.path, "--out", tmp_path / "ranked.png", "--queries", 2, "--top", 3)
    assert (tmp_path / "ranked.png").read_bytes().startswith(b"\x89PNG")
    command("report", run.path)
    assert "<html" in (run.path / "report.html").read_text()


def test_show_config_prints_a_recipe_and_trains_nothing(tmp_path):
    printed = command("train", "demo", f"output={tmp_path / 'runs'}", "--show-config").stdout
    assert "# config hash: " in printed
    assert "iterations: 50" in printed
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("arguments", [(), ("train",), ("demo",), ("evaluate",), ("extract",), ("rank",), ("data",)])
def test_help_teaches(arguments):
    text = CliRunner().invoke(app, [*arguments, "--help"]).output
    assert "Usage" in text
    assert len(text) > 400
