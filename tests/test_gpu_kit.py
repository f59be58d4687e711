"""The GPU kit, as a dry run on the CPU: benchmarks/gpu.py and benchmarks/steps.py."""

from __future__ import annotations

import json

import gpu
import numpy as np
import pytest
import steps
import torch

CPU = torch.device("cpu")
TINY = ("data.height=64", "data.width=32", "model.backbone=resnet18_narrow", "training.n_instances=2")


def test_report_of_a_dry_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu, "VARIANTS", gpu.VARIANTS[1:2])
    gpu.main(["--device", "cpu", "--quick", "--recipes", "ice", "--out", str(tmp_path / "gpu.json")])
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["peak"] > 0
    (refresh,) = report["refresh"]
    assert refresh["search / limit"] == pytest.approx(refresh["search"] / (2000**2 * 64 / report["peak"]))
    (cost,) = report["steps"]
    assert cost["recipe"] == "ice"
    assert cost["of_peak"] == pytest.approx(cost["flops"] / cost["seconds"] / report["peak"])
    assert "| ice | main | float32 | 32 |" in capsys.readouterr().out


def test_without_a_gpu_the_kit_suggests_a_dry_run(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main([])
    assert "--device cpu --quick" in capsys.readouterr().err


STAGES = {
    "havana": ["baseline", "vnae"],
    "gcl": ["warmup", "generate", "joint"],
    "abmt-uda": ["source", "main"],
    "scr-video": ["main"],
}


@pytest.mark.parametrize("recipe", STAGES)
def test_each_stage_of_a_recipe_is_measured(recipe):
    settings = ["model.backbone=resnet18_narrow", "model.bn_group=null", "training.n_pids=4"]
    settings += ["data.height=64", "data.width=48"]  # a structure encoder of GCL's needs more than 36 pixels
    costs = steps.measure_recipe(recipe, settings, CPU, precision="float32", repeats=1, peak=1e12)
    assert [cost.stage for cost in costs] == STAGES[recipe]
    assert all(np.isfinite(cost.seconds) and cost.seconds > 0 for cost in costs)
    assert recipe == "gcl" or all(cost.flops for cost in costs)


def test_operations_of_a_step_are_those_of_its_passes():
    """A ResNet's forward pass and its backward pass, which costs twice as much, grow with the area of the images."""
    small, large = (
        steps.measure_recipe(
            "source",
            (*TINY, f"data.height={height}"),
            CPU,
            precision="float32",
            repeats=1,
        )[0]
        for height in (64, 128)
    )
    assert 1.9 < large.flops / small.flops <= 2.0
