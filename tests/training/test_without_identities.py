"""Evaluation without identities: logged, selects the best model, printed by commands, refused without cameras."""

import pytest
from typer.testing import CliRunner

from reid_ray import load_encoder
from reid_ray.api import train
from reid_ray.cli import app
from reid_ray.config import load_config
from reid_ray.errors import ConfigError
from reid_ray.export.writing import export_run
from reid_ray.labels.camera_cycles import cycle_consistency
from reid_ray.reports.run_report import report_run
from reid_ray.tuning.request import make_request

CYCLES = "evaluation.protocol=camera_cycles"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    from small_runs import tiny_config

    settings = ("evaluation.every=1", "evaluation.at_start=true", "training.lr=3.0e-2", "data.synthetic.n_test_ids=0")
    return train(tiny_config(tmp_path_factory.mktemp("cycles"), CYCLES, *settings))


def command(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def test_the_model_with_the_highest_score_is_the_best(run):
    scores = {event["epoch"]: event["cycle_consistency"] for event in run.metrics("evaluate")}
    assert scores.keys() == {0, 1, 2}
    assert len(set(scores.values())) > 1
    table = run.dataset.train
    for which, expected in (("last", scores[2]), ("best", max(scores.values()))):
        run.use_model(which)
        assert cycle_consistency(run.embed_table(table), table.camids) == pytest.approx(expected, abs=1e-6)
    run.use_model("last")


def test_commands_show_it(run, tmp_path):
    last = run.metrics("evaluate")[-1]["cycle_consistency"]
    assert f"{last:.1%}" in command("evaluate", run.path)
    assert f"cycle consistency {last:.1%}" in command("status", run.path)
    report_run(run)
    assert "camera cycles" in (run.path / "report.html").read_text()
    export_run(run, tmp_path / "exported", model="best")
    best = load_encoder(tmp_path / "exported").description.metrics
    assert best["cycle_consistency"] == max(event["cycle_consistency"] for event in run.metrics("evaluate"))


def test_without_cameras_it_says_so(tiny):
    run = train(tiny(CYCLES, "data.use_cameras=false", "training.epochs=1", "evaluation.every=1"))
    assert not run.metrics("evaluate")
    result = CliRunner().invoke(app, ["evaluate", str(run.path)])
    assert result.exit_code != 0
    assert "fewer than two cameras" in str(result.exception)


def test_a_search_by_map_needs_identities(tiny):
    with pytest.raises(ConfigError, match="needs a protocol with identities, not camera_cycles"):
        make_request(tiny(CYCLES), name="s", objectives=["map"])
    assert load_config("demo", [CYCLES]).evaluation.protocol == "camera_cycles"
