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
