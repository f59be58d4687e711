"""Methods that know nothing of modalities, between visible light and infrared by settings alone."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from reid_ray.api import train
from reid_ray.cli import app
from reid_ray.evaluation import evaluate_regdb, evaluate_sysu_mm01
from reid_ray.run import load_run

WORLDS = {
    "sysu_mm01": ("data.synthetic.spectrum=near_infrared", "data.synthetic.n_cameras=6"),
    "regdb": ("data.synthetic.spectrum=thermal", "data.synthetic.n_cameras=2"),
}

METHODS = {
    "ice": (),
    "am0bh": ("method={name: am0bh}", "training.sampler=random_instances"),
}


def cross_modal(protocol, method):
    return (
        *METHODS[method],
        *WORLDS[protocol],
        f"evaluation.protocol={protocol}",
        "data.synthetic.images_per_id=12",
        "training.precision=float32",
        "training.iterations=2",
        "evaluation.every=1",
        "evaluation.trials=3",
    )


@pytest.mark.parametrize("protocol", WORLDS)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_without_modalities_is_a_baseline(tiny, protocol, method):
    run = train(tiny(*cross_modal(protocol, method)))
    evaluations = run.metrics("evaluate")
    features = [run.embed_table(table) for table in (run.dataset.query, run.dataset.gallery)]
    if protocol == "sysu_mm01":
        expected = evaluate_sysu_mm01(*features, run.dataset.table, n_trials=3).as_dict()
        assert "R1_std" in evaluations[-1]
    else:
        expected = evaluate_regdb(*features, run.dataset.table)["v2t"].as_dict()
    for name, value in expected.items():
        assert evaluations[-1][name] == pytest.approx(value, abs=1e-5), name
    best = load_run(run.path)
    best.use_model("best")
    features = [best.embed_table(table) for table in (run.dataset.query, run.dataset.gallery)]
    if protocol == "sysu_mm01":
        found = evaluate_sysu_mm01(*features, run.dataset.table, n_trials=3).mean()["mAP"]
    else:
        found = evaluate_regdb(*features, run.dataset.table)["v2t"].mAP
    assert found == pytest.approx(max(event["mAP"] for event in evaluations), abs=1e-5)


def evaluated(run, *arguments):
    result = CliRunner().invoke(app, ["evaluate", str(run.path), *arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_evaluate_takes_the_run_s_protocol_and_others(tiny):
    run = train(tiny(*cross_modal("sysu_mm01", "am0bh")))
    features = [run.embed_table(table) for table in (run.dataset.query, run.dataset.gallery)]
    for arguments, settings in (
        ((), {}),
        (("evaluation.search=indoor",), {"search": "indoor"}),
        (("evaluation.shots=10",), {"shots": 10}),
    ):
        expected = evaluate_sysu_mm01(*features, run.dataset.table, n_trials=3, **settings).as_dict()
        found = evaluated(run, *arguments)
        assert found.keys() == expected.keys()
        assert np.allclose(list(found.values()), list(expected.values()), atol=1e-5)
    assert "R1_std" not in evaluated(run, "evaluation.protocol=single_query")
    refused = CliRunner().invoke(app, ["evaluate", str(run.path), "--rerank"])
    assert "--rerank is for evaluation.protocol=single_query" in str(refused.exception)
    refused = CliRunner().invoke(app, ["evaluate", str(run.path), "evaluation.protocol=regdb", "model.ema=0.5"])
    assert "only data.KEY=VALUE and evaluation.KEY=VALUE can" in str(refused.exception)


def test_data_that_does_not_fit_the_protocol_is_not_evaluated(tiny):
    run = train(
        tiny("method={name: source}", "training.epochs=1", "evaluation.every=1", "evaluation.protocol=sysu_mm01")
    )
    assert not run.metrics("evaluate")
