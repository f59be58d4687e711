"""Runs with other trunks than ResNet: every method builds on an OSNet, and a run trains, evaluates and embeds."""

from importlib.util import find_spec

import pytest
import torch
from small_runs import METHOD_RUNS, tiny_config

from reid_ray.api import train
from reid_ray.training.checks import build_modules
from reid_ray.training.distributed import DistributedContext


@pytest.mark.parametrize("name", METHOD_RUNS)
def test_every_method_builds_on_an_osnet(name, tmp_path):
    """`build_modules` checks that every parameter is trained once and that all batch norms are in groups."""
    config = tiny_config(tmp_path, *METHOD_RUNS[name], "model.backbone=osnet_x0_25", "model.weights=null")
    method = build_modules(config, DistributedContext(0, 1))
    names = {key for module in method.modules.values() for key in module.state_dict()}
    assert any("conv5.conv.weight" in key for key in names)


@pytest.mark.parametrize("backbone", ["osnet_ain_x0_25", "timm:resnet10t", "timm:vit_tiny_patch16_224"])
def test_a_run(backbone, tmp_path):
    if backbone.startswith("timm:") and find_spec("timm") is None:
        pytest.skip("needs timm")
    run = train(
        tiny_config(
            tmp_path,
            f"model.backbone={backbone}",
            "training.epochs=1",
            "training.iterations=2",
            "evaluation.every=1",
        )
    )
    (evaluation,) = run.metrics("evaluate")
    assert 0 < evaluation["mAP"] <= 1
    features = run.embed([run.dataset.images.read(path) for path in run.dataset.query.paths[:3]])
    assert features.shape == (3, run.model.dim)
    assert torch.isfinite(torch.from_numpy(features)).all()
