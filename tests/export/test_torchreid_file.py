"""`--format torchreid`: an OSNet with torchreid's names, whose features are those of the run behind a ReLU.

The clients are no dependencies. To run their tests, install them next to this package, which has what they need for it:
pip install --no-deps boxmot torchreid opencv-python-headless, and `reid` as in test_reid_client.py.
"""

import json
import warnings

import numpy as np
import pytest
import torch
from small_runs import tiny_config
from torch import nn

import reid_ray
from reid_ray.api import train
from reid_ray.config import ModelConfig
from reid_ray.data.views import normalize
from reid_ray.encoder.description import InputFormat
from reid_ray.encoder.torchreid import rectified, torchreid_backend, write_torchreid
from reid_ray.errors import ExportError
from reid_ray.export import export_run
from reid_ray.export.check import smallest_cosine
from reid_ray.models import build_network

SIZE = InputFormat(64, 32, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CPU = torch.device("cpu")
PIXELS = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (8, 3, 64, 32), dtype=np.uint8))


def network_of(backbone, **settings):
    """A network whose neck has statistics and scales unlike those at the start."""
    torch.manual_seed(0)
    network = build_network(ModelConfig(backbone=backbone, weights=None, **settings)).eval()
    with torch.no_grad():
        pooled = network(normalize(PIXELS)).pooled
        network.neck.running_mean.copy_(pooled.mean(0))
        network.neck.running_var.copy_(pooled.var(0))
        network.neck.weight.uniform_(0.5, 2)
    return network


def written(network, backbone, folder):
    file = folder / f"{backbone}.pt"
    write_torchreid(network, SIZE, "images", file, json.dumps({"backbone": backbone}))
    return file


@torch.no_grad()
def features_of(network):
    return network.embed(normalize(PIXELS))


@pytest.mark.parametrize("backbone", ["osnet_x0_25", "osnet_ain_x0_5", "osnet_x1_0"])
def test_features_are_those_of_the_network_behind_a_relu(backbone, tmp_path):
    network = network_of(backbone)
    features = features_of(network)
    found = torchreid_backend(written(network, backbone, tmp_path), backbone, CPU)(PIXELS)
    width = features.shape[1]
    assert found.shape == (8, 512)
    expected = torch.zeros(8, 512)
    expected[:, :width] = features.clamp(min=0)
    if width <= 256:
        expected[:, width : 2 * width] = (-features).clamp(min=0)
    # Pooled features of noise hardly differ, so the neck magnifies rounding.
    np.testing.assert_allclose(found, nn.functional.normalize(expected), atol=1e-4)
    assert smallest_cosine(found[:, :width], features.numpy()) < 0.95


def test_both_halves_of_a_narrow_feature_remain():
    features = nn.functional.normalize(torch.randn(4, 256, generator=torch.Generator().manual_seed(0)))
    found = rectified(features)
    torch.testing.assert_close(found[:, :256] - found[:, 256:], features)
    assert rectified(torch.ones(1, 257)).count_nonzero() == 257


def test_other_networks_are_refused(tmp_path):
    for backbone, settings in (("resnet18_narrow", {}), ("osnet_x0_25", {"pooling": "gem"})):
        with pytest.raises(ExportError, match="is for an OSNet with average pooling"):
            written(network_of(backbone, **settings), backbone, tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    settings = ("model.backbone=osnet_x0_25", "training.epochs=1", "training.iterations=1")
    return train(tiny_config(tmp_path_factory.mktemp("osnet"), *settings))


def test_a_run_is_exported_checked_and_loaded(run, tmp_path):
    folder = tmp_path / "exported"
    first, second = export_run(run, folder, formats=["folder", "torchreid"])
    assert (first.file, second.file) == ("model.safetensors", "osnet_x0_25.pt")
    assert second.cosine > 0.9999
    assert second.images.startswith("rectified, 64 images")
    features = reid_ray.load_encoder(folder, precision="float32").embed(PIXELS)
    encoder = reid_ray.load_encoder(folder / "osnet_x0_25.pt")
    assert encoder.embed([]).shape == (0, 512)
    assert smallest_cosine(encoder.embed(PIXELS), rectified(torch.from_numpy(features)).numpy()) > 0.9999
    assert "`osnet_x0_25.pt` | torchreid" in (folder / "README.md").read_text()


def test_a_truncated_file_is_one_line(run, tmp_path):
    export_run(run, tmp_path / "exported", formats=["torchreid"])
    file = tmp_path / "exported" / "osnet_x0_25.pt"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ExportError, match="has changed since it was exported"):
        reid_ray.load_encoder(tmp_path / "exported")
    with pytest.raises(ExportError, match="PyTorch cannot read") as caught:
        torchreid_backend(file, "osnet_x0_25", CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backbone", ["osnet_x0_25", "osnet_ain_x1_0"])
def test_boxmot_builds_the_same_network(backbone, tmp_path):
    """The size of crops is in the file; OpenCV gets crops of this size, since it resizes otherwise."""
    runtime = pytest.importorskip("boxmot.reid.core.runtime", reason="the package boxmot is not installed")
    network = network_of(backbone)
    model = runtime.ReID(written(network, backbone, tmp_path), device="cpu")
    assert model.model.input_shape == (64, 32)
    found = model(list(PIXELS.permute(0, 2, 3, 1).flip(3).numpy()))
    assert smallest_cosine(found, rectified(features_of(network)).numpy()) > 0.9999


def test_torchreid_builds_the_same_network(tmp_path):
    pytest.importorskip("torchreid", reason="the package torchreid is not installed")
    osnet = pytest.importorskip("torchreid.reid.models.osnet")
    network = network_of("osnet_x0_5")
    file = written(network, "osnet_x0_5", tmp_path)
    theirs = osnet.osnet_x0_5(num_classes=1, pretrained=False).eval()
    missing, unexpected = theirs.load_state_dict(torch.load(file, weights_only=True)["state_dict"], strict=False)
    assert (set(missing), unexpected) == ({"classifier.weight", "classifier.bias"}, [])
    with torch.no_grad():
        found = theirs(normalize(PIXELS)).numpy()
    assert smallest_cosine(found, rectified(features_of(network)).numpy()) > 0.9999


def test_reid_builds_the_same_network(tmp_path):
    reid = pytest.importorskip("reid", reason="the package reid is not installed")
    network = network_of("osnet_x0_25")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # `reid` warns of tensors that are missing or left over
        model = reid.ReIDModel.from_pretrained(
            str(written(network, "osnet_x0_25", tmp_path)),
            architecture="osnet_x0_25",
            preprocessing=reid.ReIDPreprocessing(input_size=(64, 32)),
            device="cpu",
        )
    with torch.no_grad():
        found = model._backbone(normalize(PIXELS))
    features = features_of(network)
    assert smallest_cosine(found.numpy(), rectified(features).numpy()) > 0.9999
    assert smallest_cosine(found[:, : network.dim].numpy(), features.numpy()) < 0.9
