"""Backbones other than ResNets are exported and loaded with equal features, for any number of images."""

import shutil

import numpy as np
import pytest
from small_runs import tiny_config

import reid_ray
from reid_ray.api import train
from reid_ray.export import export_run

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 90, 50, 3), dtype=np.uint8)
FILES = {"onnx": "model.onnx", "torchscript": "model.torchscript.pt", "torch-export": "model.pt2"}

TRACED = ("folder", "torchscript")
"""The other exporters analyse the program, which takes half a minute for OSNet's many layers."""


@pytest.mark.parametrize(
    ("backbone", "formats"),
    [
        ("osnet_ain_x0_25", TRACED),
        pytest.param("osnet_x0_25", ("folder", "onnx"), marks=pytest.mark.slow),
        ("timm:test_resnet", TRACED),
        ("timm:test_vit", ("folder", "torchscript", "torch-export")),
    ],
)
def test_round_trip(tmp_path, backbone, formats):
    if backbone.startswith("timm:"):
        pytest.importorskip("timm")
    if "onnx" in formats:
        pytest.importorskip("onnxruntime")
    settings = ("training.epochs=1", "training.iterations=1", "training.precision=float32")
    run = train(tiny_config(tmp_path, f"model.backbone={backbone}", *settings))
    features = run.embed(FRAMES)
    assert np.abs(features[1:] - features[0]).max(axis=1).min() > 1e-3  # far above the tolerance below
    export_run(run, tmp_path / "exported", formats=formats)
    shutil.rmtree(run.path)
    encoder = reid_ray.load_encoder(tmp_path / "exported")
    assert encoder.description.backbone == backbone
    assert np.array_equal(encoder.embed(FRAMES), features)
    for name in formats[1:]:
        program = reid_ray.load_encoder(tmp_path / "exported" / FILES[name])
        np.testing.assert_allclose(program.embed(FRAMES), features, atol=1e-5)
        np.testing.assert_allclose(program.embed(FRAMES[:1]), features[:1], atol=1e-5)
