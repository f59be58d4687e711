"""`export_run` and `reid-ray export`: every format gives the run's features, and what does not is refused."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_runs import METHOD_RUNS, WIDTH, tiny_config
from typer.testing import CliRunner

import reid_ray
from reid_ray.api import train
from reid_ray.cli import app
from reid_ray.errors import ExportError
from reid_ray.export import MIN_COSINE, export_run
from reid_ray.export.check import images_to_compare, smallest_cosine

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 90, 50, 3), dtype=np.uint8)


def run_command(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.fixture(scope="module")
def folder(finished_run, tmp_path_factory):
    """All formats of a run, by the command."""
    out = tmp_path_factory.mktemp("formats") / "exported"
    formats = [part for name in ("folder", "onnx", "torchscript", "torch-export") for part in ("--format", name)]
    result = run_command(finished_run.path, "--out", out, *formats, "--preprocess", "--int8", "--whole")
    assert result.exit_code == 0, result.output
    cosines = dict(
        re.findall(
            r"^(\S+): .* MB, smallest cosine with the run (\S+) \(64 images of synthetic/query\)$",
            result.output,
            re.MULTILINE,
        )
    )
    assert set(cosines) == {"model.safetensors", "model.onnx", "model.torchscript.pt", "model.pt2", "model-int8.onnx"}
    assert all(float(cosine) > MIN_COSINE for name, cosine in cosines.items() if name != "model-int8.onnx")
    yield out
    shutil.rmtree(out)


@pytest.fixture(scope="module")
def features(folder):
    return reid_ray.load_encoder(folder, precision="float32").embed(FRAMES, channels="bgr")


@pytest.mark.parametrize("file", ["model.onnx", "model.torchscript.pt", "model.pt2"])
def test_programs_are_encoders(folder, features, file):
    """A batch of one, of three, and of none."""
    encoder = reid_ray.load_encoder(folder / file)
    found = encoder.embed(FRAMES, channels="bgr")
    assert smallest_cosine(found, features) > 0.99999
    np.testing.assert_allclose(encoder.embed(FRAMES[:1], channels="bgr"), found[:1], atol=1e-4)
    assert encoder.embed([]).shape == (0, WIDTH)


def test_programs_resize_and_normalise_without_this_package(folder, features):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    assert smallest_cosine(session.run(["features"], {"frames": FRAMES})[0], features) > MIN_COSINE
    assert smallest_cosine(session.run(["features"], {"frames": FRAMES[:1]})[0], features[:1]) > MIN_COSINE
    (embedded,) = (json.loads(value) for value in session.get_modelmeta().custom_metadata_map.values())
    assert embedded["input"]["channels"] == "rgb"
    script = torch.jit.load(str(folder / "model.torchscript.pt"))
    assert smallest_cosine(script(torch.from_numpy(FRAMES)).detach().numpy(), features) > MIN_COSINE
    program = torch.export.load(str(folder / "model.pt2")).module()
    assert smallest_cosine(program(torch.from_numpy(FRAMES)).detach().numpy(), features) > MIN_COSINE


def test_int8_is_close(folder, features):
    found = reid_ray.load_encoder(folder / "model-int8.onnx").embed(FRAMES, channels="bgr")
    assert smallest_cosine(found, features) > 0.95
    assert (folder / "model-int8.onnx").stat().st_size < (folder / "model.onnx").stat().st_size / 2


def test_the_folder_explains_itself(folder, finished_run):
    config = json.loads((folder / "config.json").read_text())
    assert config["format_version"] == 1
    assert (config["backbone"], config["feature_size"], config["data"]) == ("resnet18_narrow", WIDTH, "synthetic")
    assert (config["input"]["height"], config["input"]["width"]) == (32, 16)
    assert config["metrics"]["mAP"] == finished_run.metrics("evaluate")[-1]["mAP"]
    assert str(finished_run.path.parent) not in (folder / "config.json").read_text()
    card = (folder / "README.md").read_text()
    for text in ("Responsible use", "load_encoder", "research only", f"{config['metrics']['mAP']:.1%}", "model.pt2"):
        assert text in card


def test_only_whole_exports_hold_more_than_what_retrieves(folder, finished_run):
    retriever = load_file(folder / "model.safetensors")
    assert set(retriever) == set(finished_run.model.state_dict())
    modules = load_file(folder / "modules.safetensors")
    assert {name.partition(".")[0] for name in modules} >= {"student", "teacher"}


@pytest.mark.parametrize("name", ["abmt", "scr", "gcl"])
def test_networks_that_a_method_builds(tmp_path, name):
    """Round trip without the run: branches, parts, and a module below another one."""
    run = train(tiny_config(tmp_path, *METHOD_RUNS[name], "training.epochs=1", "training.iterations=1"))
    features = run.embed(FRAMES)
    export_run(run, tmp_path / "exported")
    shutil.rmtree(run.path)
    assert np.array_equal(reid_ray.load_encoder(tmp_path / "exported").embed(FRAMES), features)


def test_a_model_that_reads_columns_is_refused(tmp_path):
    run = train(tiny_config(tmp_path, *METHOD_RUNS["dg_vae"], "training.epochs=1", "training.iterations=1"))
    with pytest.raises(ExportError, match="reads the column modality with each image"):
        export_run(run, tmp_path / "exported")


def test_other_features_are_an_error_and_leave_no_folder(finished_run, tmp_path, monkeypatch):
    def other(network, size, takes, file, description):
        with torch.no_grad():
            network.backbone.conv1.weight.mul_(-1)
        write(network, size, takes, file, description)

    from reid_ray.export import writing

    program = writing.PROGRAMS["torchscript"]
    write = program.write
    changed = writing.Program(program.file, program.kind, other)
    monkeypatch.setattr(writing, "PROGRAMS", {"torchscript": changed})
    with pytest.raises(ExportError, match=r"gives other features than .* must be above 0.9999"):
        export_run(finished_run, tmp_path / "exported", formats=["torchscript"])
    assert not list(tmp_path.iterdir())


def test_a_program_that_cannot_run_is_one_line(finished_run, tmp_path, monkeypatch):
    """Such as one that accepts only as many images as it was traced with."""

    class FixedBatch(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def embed(self, images):
            return self.network.embed(images.reshape(len(images), 3, 32, 16))

    from reid_ray.export import writing

    program = writing.PROGRAMS["torchscript"]
    fixed = writing.Program(
        program.file, program.kind, lambda network, *arguments: program.write(FixedBatch(network), *arguments)
    )
    monkeypatch.setattr(writing, "PROGRAMS", {"torchscript": fixed})
    with pytest.raises(ExportError, match="cannot compute features of 64 images") as caught:
        export_run(finished_run, tmp_path / "exported", formats=["torchscript"])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_noise_stands_in_for_images_that_are_gone(finished_run, tmp_path, monkeypatch):
    def gone(path):
        raise reid_ray.UserError("gone")

    monkeypatch.setattr(type(finished_run.dataset.images), "read", lambda self, path: gone(path))
    assert not images_to_compare(finished_run).real
    (check,) = export_run(finished_run, tmp_path / "exported")
    assert "noise" in check.images
    with pytest.raises(ExportError, match="--int8 needs the run's images"):
        export_run(finished_run, tmp_path / "int8", formats=["onnx"], int8=True)


def test_bad_arguments_are_one_line(finished_run, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    for arguments, message in (
        (("--out", tmp_path / "full"), "exists and is not empty"),
        (("--out", tmp_path / "new", "--format", "tflite"), "There is no format 'tflite'; formats are folder, onnx"),
        (("--out", tmp_path / "new", "--int8"), "add --format onnx"),
        (("--out", "s3://bucket/model"), "is in an object store"),
        (("--out", tmp_path / "full" / "file" / "new"), "Cannot create"),
        (("--out", tmp_path / "new", "--preprocess"), "--preprocess is for programs; add --format onnx"),
        (("--out", tmp_path / "new", "--format", "torchreid"), "is for an OSNet with average pooling"),
    ):
        result = run_command(finished_run.path, *arguments)
        assert isinstance(result.exception, ExportError)
        assert message in str(result.exception)
        assert "\n" not in str(result.exception)
    assert not (tmp_path / "new").exists()


def test_smallest_cosine():
    found = np.array([[1.0, 0.0], [0.6, 0.8]], np.float32)
    assert smallest_cosine(found, np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)) == pytest.approx(0.6)
    assert smallest_cosine(found, np.full((2, 2), np.nan, np.float32)) == -1
