"""`reid-ray generate` on a small run: the picture that Python gives, with the angles that are asked for."""

import shutil

import numpy as np
import pytest
from PIL import Image
from small_runs import GCL, tiny_config
from typer.testing import CliRunner

from reid_ray.api import train
from reid_ray.cli import app
from reid_ray.errors import ConfigError, DataError, RunError
from reid_ray.training.rendering import GAP

HEIGHT, WIDTH = 32, 16


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gcl")
    options = (f"method={{name: gcl, {GCL}, warmup: false}}", "training.sampler=shuffle", "training.precision=float32")
    short = ("training.epochs=1", "training.iterations=1", "stages.generate={epochs: 1, iterations: 1}")
    yield train(tiny_config(folder, *options, *short))
    shutil.rmtree(folder)


def generate(*arguments):
    return CliRunner().invoke(app, ["generate", *map(str, arguments)], catch_exceptions=False)


def pixels(file):
    return np.asarray(Image.open(file).convert("RGB"))


def test_people_are_turned_by_the_angles_that_are_asked_for(run, tmp_path):
    out = tmp_path / "grid.png"
    result = generate(run.path, "--angles", "45, 270", "--out", out)
    assert result.exit_code == 0
    assert result.stdout.startswith("Grid rotation: ")
    found = pixels(out)
    assert found.shape == (16 * (HEIGHT + GAP) - GAP, 3 * (WIDTH + GAP) - GAP, 3)
    every = run.render()["rotation"]
    assert every.shape[1] == 8 * (WIDTH + GAP) - GAP
    for column, place in enumerate((0, 1, 6)):  # 0°, 45°, 270°
        own, other = (slice(at * (WIDTH + GAP), at * (WIDTH + GAP) + WIDTH) for at in (column, place))
        np.testing.assert_array_equal(found[:, own], every[:, other])


def test_another_grid_and_other_images(run, tmp_path):
    out = tmp_path / "grid.png"
    assert generate(run.path, "--grid", "swap", "--seed", 5, "--out", out).exit_code == 0
    np.testing.assert_array_equal(pixels(out), run.render(seed=5)["swap"])
    assert not np.array_equal(run.render()["swap"], run.render(seed=5)["swap"])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (("--angles", "45,50"), ConfigError, "not by '50'"),
        (("--grid", "faces"), ConfigError, "choose one of rotation, interpolation, swap, panel"),
        (("--out", "grid.jpg"), DataError, "must end in .png"),
    ],
)
def test_what_cannot_be_drawn(run, options, error, message):
    with pytest.raises(error, match=message):
        generate(run.path, *options)


def test_a_run_that_generates_nothing(finished_run):
    with pytest.raises(RunError, match="its method generates no images"):
        generate(finished_run.path)
    with pytest.raises(ConfigError, match="ice has no body meshes"):
        generate(finished_run.path, "--angles", "45")
