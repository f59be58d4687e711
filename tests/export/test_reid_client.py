"""The public package `reid` loads an exported folder as a module, and an OSNet by name, and gives our features.

It is no dependency, since it brings OpenCV, supervision and downloaders. To run this test, install it next to this
package: pip install --pre --no-deps reid supervision pydeprecate opencv-python-headless gdown defusedxml
"""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import reid_ray
from reid_ray.config import DataConfig, ModelConfig
from reid_ray.data.readers import read_dataset
from reid_ray.encoder import HubNetwork
from reid_ray.encoder.description import InputFormat
from reid_ray.encoder.torchreid import rectified, write_torchreid
from reid_ray.evaluation import evaluate_table
from reid_ray.export.check import MIN_COSINE, smallest_cosine
from reid_ray.models import build_network

reid = pytest.importorskip("reid", reason="the package reid is not installed; the head of this file says how")


def model_of(folder):
    config = json.loads((folder / "config.json").read_text())
    size = config["input"]
    return reid.ReIDModel.from_pretrained(
        str(folder / "model.safetensors"),
        architecture=HubNetwork(**config),
        preprocessing=reid.ReIDPreprocessing(
            input_size=(size["height"], size["width"]),
            mean=tuple(size["mean"]),
            std=tuple(size["std"]),
            interpolation=size["interpolation"],
        ),
        device="cpu",
    )


def written(pixels, folder):
    files = [folder / f"{i}.png" for i in range(len(pixels))]
    for image, file in zip(pixels, files, strict=True):
        Image.fromarray(image).save(file)
    return [str(file) for file in files]


def test_crops_of_the_input_size_give_equal_features(exported_folder, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 16, 3), dtype=np.uint8)
    files = written(pixels, tmp_path)
    expected = reid_ray.load_encoder(exported_folder, precision="float32").embed(files)
    assert smallest_cosine(model_of(exported_folder).extract_embeddings_from_paths(files), expected) > 0.999999


def test_crops_of_other_sizes_give_nearly_equal_features(exported_folder, finished_run, tmp_path):
    """Pillow resizes, and not PyTorch."""
    dataset = finished_run.dataset
    pixels = [dataset.images.read(path).permute(1, 2, 0).numpy() for path in dataset.query.paths[:8]]
    files = written(pixels, tmp_path)
    expected = reid_ray.load_encoder(exported_folder, precision="float32").embed(files)
    assert smallest_cosine(model_of(exported_folder).extract_embeddings_from_paths(files), expected) > MIN_COSINE


@pytest.fixture
def market(finished_run, tmp_path):
    """The test images of the run as Market-1501 names them, at the input size, without loss."""
    dataset = finished_run.dataset
    for folder, table in (("query", dataset.query), ("bounding_box_test", dataset.gallery)):
        (tmp_path / folder).mkdir()
        for i, path in enumerate(table.paths):
            image = Image.fromarray(dataset.images.read(path).permute(1, 2, 0).numpy()).resize((16, 32))
            name = f"{table.pids[i] + 1:04d}_c{table.camids[i] + 1}s1_{i:06d}_00.jpg"
            image.save(tmp_path / folder / name, format="PNG")
    shutil.copytree(tmp_path / "query", tmp_path / "bounding_box_train")
    return tmp_path


def test_its_evaluation_of_market_1501_agrees(exported_folder, market):
    found = model_of(exported_folder).evaluate(*reid.load_market1501(market), verbose=False).metrics
    dataset = read_dataset(DataConfig(layout="market1501", root=str(market), height=32, width=16))
    encoder = reid_ray.load_encoder(exported_folder, precision="float32")
    expected = evaluate_table(
        *(encoder.embed(split.paths) for split in (dataset.query, dataset.gallery)), dataset.table
    )
    assert found["map"] == pytest.approx(100 * expected.mAP, abs=0.1)
    assert found["rank1"] == pytest.approx(100 * expected.cmc[0], abs=0.1)
    assert 5 < found["map"] < 95


def test_an_osnet_with_torchreid_s_names_loads_by_name(tmp_path):
    """Every tensor fits, and features are those of the network behind the ReLU of the head."""
    torch.manual_seed(0)
    network = build_network(ModelConfig(backbone="osnet_x0_25", weights=None)).eval()
    images = torch.randn(8, 3, 64, 32)
    with torch.no_grad():
        pooled = network(images).pooled
        network.neck.running_mean.copy_(pooled.mean(0))
        network.neck.running_var.copy_(pooled.var(0))
        features = network.embed(images)
    file = tmp_path / "osnet_x0_25.pt"
    write_torchreid(network, InputFormat(64, 32, (), ()), "images", file, json.dumps({"backbone": "osnet_x0_25"}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # `reid` warns of tensors that are missing or left over
        model = reid.ReIDModel.from_pretrained(
            str(file),
            architecture="osnet_x0_25",
            preprocessing=reid.ReIDPreprocessing(input_size=(64, 32)),
            device="cpu",
        )
    with torch.no_grad():
        found = model._backbone(images)
    assert smallest_cosine(found.numpy(), rectified(features).numpy()) > MIN_COSINE
    assert smallest_cosine(found[:, : network.dim].numpy(), features.numpy()) < 0.9
