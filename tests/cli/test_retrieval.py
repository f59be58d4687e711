"""`evaluate`, `extract`, `rank`, `report` and `train --show-config` on a small finished run."""

import json

import numpy as np
import pytest
from small_runs import WIDTH
from typer.testing import CliRunner

from reid_ray.cli import app
from reid_ray.data.table import ImageTable
from reid_ray.evaluation import evaluate_distances
from reid_ray.labels.rerank import reranked_distances
from reid_ray.reports import run_report


@pytest.fixture
def run(finished_run):
    return finished_run


def command(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def test_evaluate_reproduces_the_metrics_of_the_run(run):
    printed = json.loads(command("evaluate", run.path, "--json").stdout)
    logged = run.metrics("evaluate")[-1]
    for key in ("mAP", "R1", "mINP", "n_queries"):
        assert printed[key] == pytest.approx(logged[key], abs=1e-5)
    assert "mAP" in command("evaluate", run.path, "--model", "best").stdout


def test_evaluate_with_reranking_prints_both(run):
    options = ("--rerank", "--k1", 6, "--k2", 3, "--lambda", 0)
    plain = json.loads(command("evaluate", run.path, "--json").stdout)
    printed = json.loads(command("evaluate", run.path, "--json", *options).stdout)
    reranked = printed.pop("reranked")
    assert printed == plain
    features = [run.embed_table(table) for table in (run.dataset.query, run.dataset.gallery)]
    blocks = reranked_distances(*features, k1=6, k2=3, lambda_value=0)
    expected = evaluate_distances(blocks, run.dataset.table).as_dict()
    assert reranked == {"k1": 6, "k2": 3, "lambda": 0.0, **expected}
    assert reranked["mAP"] != plain["mAP"]
    shown = command("evaluate", run.path, *options).stdout
    for text in ("cosine", f"{plain['mAP']:.1%}", "re-ranked", f"{reranked['mAP']:.1%}", "k1=6, k2=3, λ=0"):
        assert text in shown
    assert "re-ranked" not in command("evaluate", run.path).stdout


def test_evaluate_on_several_datasets_in_one_table(run):
    """Each row equals the evaluation of the dataset alone."""
    worlds = [f"data.synthetic.seed={seed} data.synthetic.n_test_ids=3" for seed in (5, 6)]
    alone = [json.loads(command("evaluate", run.path, *world.split(), "--json").stdout) for world in worlds]
    printed = json.loads(command("evaluate", run.path, "--on", worlds[0], "--on", worlds[1], "--json").stdout)
    assert list(printed.values()) == alone
    shown = command("evaluate", run.path, "data.synthetic.seed=7", "--on", worlds[0], "--rerank", "--k1", 4).stdout
    assert shown.count("cosine") == shown.count("re-ranked:") + 1 == 2
    assert f"{alone[0]['mAP']:.1%}" in shown


def test_evaluate_without_cameras_prints_a_note(run):
    assert "same-camera matches are not removed" in " ".join(
        command("evaluate", run.path, "data.use_cameras=false").stdout.split()
    )


def test_extract_writes_features_and_the_table_of_rows(run, tmp_path):
    out = tmp_path / "features.npy"
    command("extract", run.path, "--out", out, "--split", "query")
    features = np.load(out)
    table = ImageTable.read(out.with_suffix(".parquet"))
    assert table.paths == run.dataset.query.paths
    assert features.shape == (len(table), WIDTH)
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)


def test_rank_and_report_write_their_files(run, tmp_path):
    command("rank", run.path, "--out", tmp_path / "ranked.png", "--queries", 2, "--top", 3)
    assert (tmp_path / "ranked.png").read_bytes().startswith(b"\x89PNG")
    command("report", run.path)
    assert "<html" in (run.path / "report.html").read_text()


def test_rank_in_the_order_of_re_ranking(run, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(run_report, "draw_ranking", lambda *arguments, **options: drawn.update(options))
    options = ("--rerank", "--k1", 6, "--k2", 3, "--lambda", 0)
    command("rank", run.path, "--out", tmp_path / "ranked.png", *options)
    features = [run.embed_table(table) for table in (run.dataset.query, run.dataset.gallery)]
    expected = reranked_distances(*features, k1=6, k2=3, lambda_value=0)
    for (rows, found), (expected_rows, distances) in zip(drawn["distances"], expected, strict=True):
        assert rows == expected_rows
        np.testing.assert_allclose(found, distances, atol=1e-6)  # features of other batches differ in the last bit
    monkeypatch.undo()
    for extra in ((), options):
        command("rank", run.path, "--out", tmp_path / f"{len(extra)}.png", "--queries", 2, "--top", 4, *extra)
    assert (tmp_path / "7.png").read_bytes() != (tmp_path / "0.png").read_bytes()
    refused = CliRunner().invoke(app, ["rank", str(run.path), "--k1", "5"])
    assert "add --rerank" in str(refused.exception)


def test_show_config_prints_a_recipe_without_training(tmp_path):
    printed = command("train", "demo", f"output={tmp_path / 'runs'}", "--show-config").stdout
    assert "# config hash: " in printed
    assert "iterations: 50" in printed
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("arguments", [(), ("train",), ("demo",), ("evaluate",), ("extract",), ("rank",), ("data",)])
def test_help(arguments):
    text = CliRunner().invoke(app, [*arguments, "--help"]).output
    assert "Usage" in text
    assert len(text) > 400
