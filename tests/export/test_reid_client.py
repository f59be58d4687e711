"""The public package `reid` loads an exported folder as a module, and gives our features.

It is no dependency, since it brings OpenCV, supervision and downloaders. To run this test, install it next to this
package: pip install --pre --no-deps reid supervision pydeprecate opencv-python-headless gdown defusedxml
"""

import numpy as np
import pytest
from clients import reid_model
from PIL import Image

import reid_ray
from reid_ray.config import DataConfig
from reid_ray.data.readers import read_dataset
from reid_ray.evaluation import evaluate_table
from reid_ray.export.check import MIN_COSINE, smallest_cosine

reid = pytest.importorskip("reid", reason="the package reid is not installed; the head of this file says how")


def written(pixels, folder):
    files = [folder / f"{i}.png" for i in range(len(pixels))]
    for image, file in zip(pixels, files, strict=True):
        Image.fromarray(image).save(file)
    return [str(file) for file in files]


def test_crops_of_the_input_size_give_equal_features(exported_folder, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 16, 3), dtype=np.uint8)
    files = written(pixels, tmp_path)
    expected = reid_ray.load_encoder(exported_folder, precision="float32").embed(files)
    assert smallest_cosine(reid_model(exported_folder).extract_embeddings_from_paths(files), expected) > 0.999999


def test_crops_of_other_sizes_give_nearly_equal_features(exported_folder, finished_run, tmp_path):
    """Pillow resizes, and not PyTorch."""
    dataset = finished_run.dataset
    pixels = [dataset.images.read(path).permute(1, 2, 0).numpy() for path in dataset.query.paths[:8]]
    files = written(pixels, tmp_path)
    expected = reid_ray.load_encoder(exported_folder, precision="float32").embed(files)
    assert smallest_cosine(reid_model(exported_folder).extract_embeddings_from_paths(files), expected) > MIN_COSINE


def test_its_evaluation_of_market_1501_agrees(exported_folder, market_copy):
    found = reid_model(exported_folder).evaluate(*reid.load_market1501(market_copy), verbose=False).metrics
    dataset = read_dataset(DataConfig(layout="market1501", root=str(market_copy), height=32, width=16))
    encoder = reid_ray.load_encoder(exported_folder, precision="float32")
    expected = evaluate_table(
        *(encoder.embed(split.paths) for split in (dataset.query, dataset.gallery)), dataset.table
    )
    assert found["map"] == pytest.approx(100 * expected.mAP, abs=0.1)
    assert found["rank1"] == pytest.approx(100 * expected.cmc[0], abs=0.1)
    assert 5 < found["map"] < 95
