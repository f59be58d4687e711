"""The public package `reid` loads an exported folder as a module and gives our features.

It is no dependency, since it brings OpenCV, supervision and downloaders. To run this test, install it next to this
package: pip install --pre --no-deps reid supervision pydeprecate opencv-python-headless gdown
"""

import json

import numpy as np
import pytest
from PIL import Image

import reid_ray
from reid_ray.encoder import HubNetwork
from reid_ray.export.check import MIN_COSINE, smallest_cosine

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
