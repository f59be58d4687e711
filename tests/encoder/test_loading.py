"""A folder that cannot be loaded is refused with a one-line message that says what to do."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from reid_ray.encoder import load_encoder
from reid_ray.errors import ExportError
from reid_ray.io.files import sha256_of


@pytest.fixture
def folder(exported_folder, tmp_path):
    return shutil.copytree(exported_folder, tmp_path / "exported")


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


def refused(path, message, **options):
    with pytest.raises(ExportError, match=message) as caught:
        load_encoder(path, **options)
    assert "\n" not in str(caught.value)


def test_another_format_version(folder):
    edit(folder, format_version=2, library="reid_ray 9.0")
    refused(folder, r"config.json has format version 2.*reads version 1; .*reid_ray 9.0")
    edit(folder, format_version="1")
    refused(folder, "has format version '1', and")


def test_no_exported_model(folder, tmp_path):
    refused(tmp_path / "gone", "gone does not exist")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "is not an exported model: it has no config.json")
    (folder / "config.json").write_text("{")
    refused(folder, "Cannot read .*config.json")
    (folder / "config.json").write_text('{"architectures": ["Bert"]}')
    refused(folder, "describes no model exported by reid_ray")


def test_a_missing_file(folder):
    (folder / "model.safetensors").unlink()
    refused(folder, "model.safetensors is missing, and config.json names it")


def test_a_missing_field(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["input"]
    (folder / "config.json").write_text(json.dumps(config))
    refused(folder, r"is incomplete or damaged \('input'\)")


def test_values_of_other_types(folder):
    config = json.loads((folder / "config.json").read_text())
    file = {"kind": "weights", "takes": "images", "sha256": 5}
    for changes, value in (
        ({"input": {**config["input"], "height": "256"}}, "height is '256'"),
        ({"input": {**config["input"], "width": 0}}, "width is 0"),
        ({"feature_size": "64"}, "feature_size is '64'"),
        ({"settings": None}, "settings is None"),
        ({"files": {"model.safetensors": file}}, "the sha256 of model.safetensors is 5"),
    ):
        edit(folder, **{**config, **changes})
        refused(folder, rf"is incomplete or damaged \({value}\); export the run again")


def test_a_changed_file(folder):
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    refused(folder, "model.safetensors has changed since it was exported")


def test_a_truncated_file_with_its_own_hash(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    config = json.loads((folder / "config.json").read_text())
    config["files"][file.name]["sha256"] = sha256_of(file)
    edit(folder, files=config["files"])
    refused(folder, "Cannot read .*model.safetensors")


def test_weights_of_another_size(folder):
    """Of another network, whose file and hash agree."""
    file = folder / "model.safetensors"
    state = load_file(file)
    state["neck.weight"] = state["neck.weight"][:-1].clone()
    save_file(state, file)
    config = json.loads((folder / "config.json").read_text())
    config["files"][file.name]["sha256"] = sha256_of(file)
    edit(folder, files=config["files"])
    refused(folder, r"does not fit its config.json: neck.weight is \[63\] in the file and \[64\] in the network")


def test_an_unknown_network(folder):
    config = json.loads((folder / "config.json").read_text())
    config["settings"]["model"]["backbone"] = "resnet9000"
    edit(folder, settings=config["settings"])
    refused(folder, "cannot build the network of demo")


def test_a_file_that_computes_nothing(folder):
    refused(folder / "README.md", "is not a file that computes features; .* has model.safetensors")
    edit(folder, files={})
    refused(folder, "has no file that computes features")


def test_arguments(folder):
    refused(folder, "precision='half': use 'run' or 'float32'", precision="half")
    refused(folder, "device='tpu9' is not a device", device="tpu9")
    refused(folder, "device='meta' is not supported; use 'cpu' or 'cuda'", device="meta")
    refused(folder, "batch_size=0: use 1 or more", batch_size=0)
    refused("s3://bucket/exported", "s3://bucket/exported is not a local folder; copy")


def test_copies(folder, tmp_path):
    encoder = load_encoder(folder)
    encoder.save_pretrained(tmp_path / "copy")
    assert load_encoder(tmp_path / "copy").dim == encoder.dim
    (tmp_path / "file").touch()
    for target, message in ((folder, "not an empty folder"), (tmp_path / "file", "not an empty folder")):
        with pytest.raises(ExportError, match=message):
            encoder.save_pretrained(target)
    with pytest.raises(ExportError, match="Cannot copy"):
        encoder.save_pretrained(tmp_path / "file" / "copy")
