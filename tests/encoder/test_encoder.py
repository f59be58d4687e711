"""An encoder gives its run's features for images in any form, without the weight of the training code."""

import io
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from small_runs import WIDTH, tiny_config

import reid_ray
from reid_ray.api import train
from reid_ray.devices import cpu_supports_bf16
from reid_ray.encoder.adapters import FeatureExtractor, for_tracker
from reid_ray.errors import DataError, ExportError
from reid_ray.export import export_run

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 90, 40, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder whose run has been deleted, and the run's features of `PIXELS`."""
    folder = tmp_path_factory.mktemp("encoder")
    run = train(tiny_config(folder, "training.epochs=1"))
    features = run.embed(PIXELS)
    export_run(run, folder / "exported")
    shutil.rmtree(run.path)
    yield folder / "exported", features
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def encoder(exported):
    return reid_ray.load_encoder(exported[0])


@pytest.fixture
def features(exported):
    return exported[1]


def test_features_are_those_of_the_deleted_run(encoder, features):
    assert encoder.dim == WIDTH
    assert np.array_equal(encoder.embed(PIXELS), features)


def test_every_form_of_an_image(encoder, features, tmp_path):
    stream = io.BytesIO()
    Image.fromarray(PIXELS[0]).save(stream, "PNG")
    (tmp_path / "a.png").write_bytes(stream.getvalue())
    tensor = torch.from_numpy(PIXELS[0]).permute(2, 0, 1)
    path = tmp_path / "a.png"
    for image in (PIXELS[0], tensor, Image.fromarray(PIXELS[0]), stream.getvalue(), path, str(path)):
        np.testing.assert_allclose(encoder(image), features[:1], atol=1e-5)
    np.testing.assert_allclose(encoder.embed(PIXELS[..., ::-1], channels="bgr"), features, atol=1e-5)
    assert encoder.embed([]).shape == (0, WIDTH)


def test_batches_do_not_matter(exported, features):
    small = reid_ray.load_encoder(exported[0], batch_size=2)
    np.testing.assert_allclose(small.embed(PIXELS), features, atol=1e-5)


def test_float32_differs_from_the_runs_bf16_by_rounding_only(exported, features):
    single = reid_ray.load_encoder(exported[0], precision="float32").embed(PIXELS)
    assert np.array_equal(single, features) != cpu_supports_bf16()
    assert (single * features).sum(axis=1).min() > 0.999


def test_boxes_are_crops(encoder):
    frame = np.random.default_rng(1).integers(0, 256, (120, 200, 3), dtype=np.uint8)
    boxes = [[10, 20, 50, 100], [9.4, 19.6, 50.2, 99.1], [-5, -5, 30, 60], [180, 100, 999, 999]]
    expected = [frame[20:100, 10:50], frame[19:100, 9:51], frame[0:60, 0:30], frame[100:120, 180:200]]
    np.testing.assert_allclose(encoder.embed_boxes(frame, boxes), encoder.embed(expected), atol=1e-5)
    assert encoder.embed_boxes(frame, []).shape == encoder.embed_boxes(frame, np.empty((0, 4))).shape == (0, WIDTH)


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[0, 0, 5, 5], [30, 0, 30, 9]], r"Box 1.*holds no pixel of the frame of 40×90"),
        ([[50, 0, 60, 9]], r"Box 0.*holds no pixel"),
        ([[0, 0, float("nan"), 5]], r"Box 0.*must be finite"),
        ([[0, 0, 5]], r"Boxes are \[N, 4\].*not \[1, 3\]"),
    ],
)
def test_bad_boxes_are_named(encoder, boxes, message):
    with pytest.raises(DataError, match=message):
        encoder.embed_boxes(PIXELS[0], boxes)


def test_threads_share_an_encoder(encoder, features):
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: encoder.embed(PIXELS), range(12)))
    assert all(np.array_equal(each, features) for each in found)


def test_the_adapters_give_the_same_features(exported, encoder, features, tmp_path):
    folder, _ = exported
    extracted = FeatureExtractor(folder, device="cpu")(list(PIXELS))
    np.testing.assert_allclose(extracted.numpy(), features, atol=1e-5)
    bgr, whole = PIXELS[0][..., ::-1], [[0, 0, 40, 90]]
    np.testing.assert_allclose(for_tracker(encoder)(bgr, whole), features[:1], atol=1e-5)
    encoder.save_pretrained(tmp_path / "copy")
    assert np.array_equal(reid_ray.load_encoder(tmp_path / "copy").embed(PIXELS), features)
    with pytest.raises(ExportError, match="is not an empty folder"):
        encoder.save_pretrained(tmp_path / "copy")


def test_hugging_faces_mixin_loads_the_folder(exported, monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    from reid_ray.data.views import normalize, resize
    from reid_ray.encoder import HubNetwork

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    kind = type("Kind", (HubNetwork, hub.PyTorchModelHubMixin), {})
    model = kind.from_pretrained(str(exported[0]), strict=True)
    pixels = torch.stack([resize(torch.from_numpy(each).permute(2, 0, 1), 32, 16) for each in PIXELS])
    single = reid_ray.load_encoder(exported[0], precision="float32").embed(PIXELS)
    with torch.no_grad():
        np.testing.assert_allclose(model(normalize(pixels)).numpy(), single, atol=1e-5)


def test_an_encoder_loads_no_training_code(exported):
    code = (
        "import sys, numpy, reid_ray; "
        f"reid_ray.load_encoder({str(exported[0])!r}).embed(numpy.zeros((50, 20, 3), numpy.uint8)); "
        "heavy = 'ray', 'pandas', 'matplotlib', 'torchvision', 'sklearn', 'scipy', 'numba', 'optuna', 'torch._dynamo'; "
        "print([name for name in (*heavy, 'reid_ray.methods', 'reid_ray.training') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
