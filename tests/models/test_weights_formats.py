"""Weights of every toolkit of this field: recognised by their keys, said in one line, and the same function afterwards.

Files of timm, torchvision and safetensors are written by these libraries. The other toolkits cannot be installed here;
their files have the names of a torchvision ResNet, renamed as their code names it.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn

from reid_ray.errors import WeightsError
from reid_ray.models import Backbone, build_backbone, load_backbone_weights

State = dict[str, Tensor]
IMAGES = torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(0))


def backbone(name: str = "resnet18", **options: Any) -> Backbone:
    return build_backbone(name, **{"stride_in": "conv2", "last_stride": 2, "norm": nn.BatchNorm2d, **options})


@pytest.fixture(scope="module")
def source() -> nn.Module:
    """A ResNet-18 with random statistics, in evaluation mode."""
    torch.manual_seed(7)
    network = torchvision.models.resnet18(weights=None).eval()
    for name, buffer in network.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return network


@pytest.fixture(scope="module")
def expected(source: Any) -> Tensor:
    """What its trunk makes of the images."""
    with torch.no_grad():
        features = source.maxpool(source.relu(source.bn1(source.conv1(IMAGES))))
        return source.layer4(source.layer3(source.layer2(source.layer1(features))))


def loaded(path: Path, name: str = "resnet18") -> tuple[Tensor, str]:
    """What a backbone with the file's weights makes of the images, and what was said."""
    module = backbone(name).eval()
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        load_backbone_weights(module, path)
    said = [str(warning.message) for warning in caught]
    assert len(said) <= 1
    with torch.no_grad():
        return module(IMAGES), said[0].removeprefix(f"{path}: ") if said else ""


def renamed(state: State, prefix: str = "", **heads: Tensor) -> State:
    trunk = {f"{prefix}{key}": value for key, value in state.items() if not key.startswith("fc.")}
    return {**trunk, **{name.replace("__", "."): tensor for name, tensor in heads.items()}}


def sequential(state: State, *, with_relu: bool = True) -> State:
    """`self.base = nn.Sequential(conv1, bn1, relu, maxpool, layer1 …)` of SpCL, cluster-contrast, ICE and MMT."""
    first = 4 if with_relu else 3
    index = {"conv1": 0, "bn1": 1, **{f"layer{i}": first + i - 1 for i in range(1, 5)}}
    found = {}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        if part != "fc":
            found[f"base.{index[part]}.{rest}"] = value
    return {**found, "feat_bn.weight": torch.ones(512), "classifier.weight": torch.ones(9, 512)}


def transformers_names(state: State) -> State:
    """The names of `transformers.ResNetModel`, from the other direction than the reader's."""
    found: State = {"classifier.1.weight": state["fc.weight"], "classifier.1.bias": state["fc.bias"]}
    for key, value in state.items():
        parts = key.split(".")
        if key.startswith(("conv1", "bn1")):
            kind = "convolution" if parts[0] == "conv1" else "normalization"
            found[f"resnet.embedder.embedder.{kind}.{parts[-1]}"] = value
        elif key.startswith("layer"):
            place = f"resnet.encoder.stages.{int(parts[0][5:]) - 1}.layers.{parts[1]}"
            if parts[2] == "downsample":
                kind = "convolution" if parts[3] == "0" else "normalization"
                found[f"{place}.shortcut.{kind}.{parts[-1]}"] = value
            else:
                kind = "convolution" if parts[2].startswith("conv") else "normalization"
                found[f"{place}.layer.{int(parts[2][-1]) - 1}.{kind}.{parts[-1]}"] = value
    return found


def files(state: State) -> dict[str, tuple[Any, str]]:
    """What toolkits save → what is said of it."""
    head = torch.ones(9, 512)
    spcl = "read as SpCL, cluster-contrast or ICE, 2 head tensors left out."
    return {
        "torchvision": (state, "read as torchvision or timm, 2 head tensors left out."),
        "bare trunk": (renamed(state), ""),
        "torchreid": (
            {"state_dict": renamed(state, classifier__weight=head), "epoch": 60, "rank1": np.float64(0.8)},
            "read as torchreid, 1 head tensor left out.",
        ),
        "torchreid, parallel": (
            {"state_dict": renamed(state, "module.", module__classifier__weight=head)},
            "read as torchreid, 1 head tensor left out.",
        ),
        "fast-reid": (
            {
                "model": renamed(state, "backbone.", heads__weight=head, heads__bottleneck__0__weight=torch.ones(512)),
                "iteration": 17,
            },
            "read as fast-reid, 2 head tensors left out.",
        ),
        "fast-reid, older": (
            {"model": OrderedDict(renamed(state, "backbone.", heads__weight=head, pixel_mean=torch.ones(1, 3, 1, 1)))},
            "read as fast-reid, 2 head tensors left out.",
        ),
        "reid-strong-baseline": (
            renamed(state, "base.", bottleneck__weight=torch.ones(512), classifier__weight=head),
            "read as reid-strong-baseline, 2 head tensors left out.",
        ),
        "SpCL": ({"state_dict": sequential(state), "epoch": 3, "best_mAP": np.float64(0.5)}, spcl),
        "ICE, parallel": ({"state_dict": {f"module.{key}": value for key, value in sequential(state).items()}}, spcl),
        "without the stem's ReLU": (
            {"state_dict": sequential(state, with_relu=False)},
            spcl.removesuffix(".") + ", its stem has no ReLU: set model.stem_relu=false.",
        ),
        "transformers": (transformers_names(state), "read as transformers, 2 head tensors left out."),
        "compiled": (renamed(state, "_orig_mod.module."), ""),
        "Lightning": (
            {"state_dict": renamed(state, "model.net."), "pytorch-lightning_version": "2.5", "hyper_parameters": {}},
            "read as torchvision's names behind 'model.net.'.",
        ),
        "with arguments": ({"state_dict": renamed(state), "args": argparse.Namespace(lr=0.1)}, ""),
        "two levels down": ({"checkpoint": {"weights": renamed(state)}}, ""),
        "with averaged weights": ({"state_dict_ema": {"x": 3}, "state_dict": renamed(state), "epoch": 1}, ""),
    }


NAMES = tuple(files({"fc.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}))


@pytest.mark.parametrize("name", NAMES)
def test_files_of_every_toolkit_give_the_same_function(name: str, source: Any, expected: Tensor, tmp_path: Path):
    content, said = files(source.state_dict())[name]
    torch.save(content, tmp_path / "weights.pth")
    features, found = loaded(tmp_path / "weights.pth")
    torch.testing.assert_close(features, expected)
    assert found == said


@pytest.mark.parametrize("name", ["torchvision", "bare trunk", "fast-reid", "SpCL", "transformers"])
def test_the_same_in_safetensors_by_its_own_library(name: str, source: Any, expected: Tensor, tmp_path: Path):
    content, said = files(source.state_dict())[name]
    state = next((content[key] for key in ("state_dict", "model") if key in content), content)
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "model.safetensors")
    features, found = loaded(tmp_path / "model.safetensors")
    torch.testing.assert_close(features, expected)
    assert found == said


@pytest.mark.parametrize("form", ["pth", "safetensors", "half"])
@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_files_written_from_timm(name: str, form: str, tmp_path: Path):
    """The trunk's output is that of timm's own network; its last stage has stride 2, as timm's has."""
    torch.manual_seed(3)
    network = timm.create_model(name, pretrained=False, num_classes=11).eval()
    state = {key: value.half() if form == "half" else value for key, value in network.state_dict().items()}
    if form == "safetensors":
        save_file(state, tmp_path / "weights")
    else:
        torch.save(state, tmp_path / "weights")
    features, said = loaded(tmp_path / "weights", name)
    assert said == "read as torchvision or timm, 2 head tensors left out."
    with torch.no_grad():
        tolerance = {"rtol": 2e-2, "atol": 2e-2} if form == "half" else {}
        torch.testing.assert_close(features, network.forward_features(IMAGES), **tolerance)


def test_ibn_names_of_fast_reid(tmp_path: Path):
    ours = backbone("ibn_resnet50")
    state = renamed(ours.state_dict(), "backbone.", heads__weight=torch.ones(3, 2048))
    torch.save({"model": state}, tmp_path / "weights.pth")
    module = backbone("ibn_resnet50")
    load_backbone_weights(module, tmp_path / "weights.pth")
    for key, value in module.state_dict().items():
        assert torch.equal(value, ours.state_dict()[key]), key


@pytest.mark.parametrize("stride_in", ["conv1", "conv2"])
def test_the_stride_in_the_metadata_of_safetensors(stride_in: str, tmp_path: Path):
    path = tmp_path / "model.safetensors"
    save_file(dict(backbone("resnet50").state_dict()), path, metadata={"stride_in": stride_in, "format": "pt"})
    load_backbone_weights(backbone("resnet50", stride_in=stride_in), path)
    other = {"conv1": "conv2", "conv2": "conv1"}[stride_in]
    with pytest.raises(WeightsError, match=f"strides in {stride_in}, but model.stride_in is {other}"):
        load_backbone_weights(backbone("resnet50", stride_in=other), path)


# What is refused, in one sentence


def refused(path: Path) -> str:
    with pytest.raises(WeightsError) as caught:
        load_backbone_weights(backbone(), path)
    message = str(caught.value)
    assert "\x1b" not in message
    assert "\n" not in message
    assert "weights_only" not in message
    assert "add_safe_globals" not in message
    return message


class Opener:
    """A pickle that would write a file if it were run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickled_module_gets_advice(tmp_path: Path):
    torch.save(torchvision.models.resnet18(weights=None), tmp_path / "weights.pth")
    message = refused(tmp_path / "weights.pth")
    assert "a whole pickled module or other Python objects (torchvision.models.resnet.ResNet)" in message
    assert "torch.save(model.state_dict(), FILE)" in message


@pytest.mark.parametrize("as_zip", [True, False])
def test_code_in_a_file_is_not_executed(tmp_path: Path, as_zip: bool):
    mark = tmp_path / "mark"
    content = {"state_dict": {"conv1.weight": torch.zeros(1)}, "args": Opener(mark)}
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=as_zip)
    assert "could run code" in refused(tmp_path / "weights.pth")
    assert not mark.exists()


def test_a_torchscript_archive(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "weights.pth")
        assert "it is a TorchScript archive; save the state dict" in refused(tmp_path / "weights.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"epoch 3\n", "it is text"),
        (b"hello world, not weights", "it is text"),
        (b"101", "it is text"),
        (b"<!DOCTYPE html><html>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4\n", "a pointer of Git LFS"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
        (bytes(1000), "it is damaged, not all of it was copied, or it was not written by torch.save"),
        (b"PK\x03\x04" + bytes(100), "it is damaged"),
        (b"\x80\x02}q\x00.", "it is damaged"),
        (struct.pack("<Q", 10) + b"{garbage}}" + bytes(9), "as a safetensors file: it is damaged"),
        (struct.pack("<Q", 2**26) + b"{" + bytes(99), "as a safetensors file: it is damaged"),
    ],
)
def test_files_of_another_kind(content: bytes, message: str, tmp_path: Path):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert message in refused(path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("form", ["pth", "safetensors"])
def test_cut_files(share: float, form: str, source: Any, tmp_path: Path):
    path = tmp_path / "weights"
    (torch.save if form == "pth" else save_file)(dict(source.state_dict()), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert "not all of it was copied" in refused(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"epoch": 3, "model": {"a": 1}}, "holds no tensors (its first keys: epoch, model)"),
        (
            {"model": {"blocks.0.attn.qkv.weight": torch.zeros(1), "norm.bias": torch.zeros(1)}},
            "no known ResNet (its first keys: blocks.0.attn.qkv.weight, norm.bias)",
        ),
        ({}, "holds no tensors (its first keys: none)"),
        ([torch.zeros(3)], "holds a list; it must hold a state dict"),
        (torch.zeros(3), "holds a Tensor; it must hold a state dict"),
        ({"state_dict": 5}, "holds no tensors (its first keys: state_dict); it must hold a state dict"),
    ],
)
def test_first_keys_are_shown_where_nothing_is_recognised(content: Any, message: str, tmp_path: Path):
    torch.save(content, tmp_path / "weights.pth")
    assert message in refused(tmp_path / "weights.pth")


def test_several_networks_in_one_state_dict(source: Any, tmp_path: Path):
    state = source.state_dict()
    both = renamed(state, "encoder_q.") | renamed(state, "encoder_k.")
    torch.save({"state_dict": both}, tmp_path / "weights.pth")
    assert "holds 2 networks (torchvision's names behind 'encoder_q.'" in refused(tmp_path / "weights.pth")


def test_another_depth_and_blocks_that_are_not_ours(source: Any, tmp_path: Path):
    path = tmp_path / "weights.pth"
    torch.save({**source.state_dict(), "NL_1.0.g.weight": torch.zeros(1)}, path)
    assert "1 unexpected (NL_1.0.g.weight)" in refused(path)
    torch.save({"model": renamed(backbone("resnet34").state_dict(), "backbone.", heads__weight=torch.zeros(1))}, path)
    message = refused(path)
    assert "(read as fast-reid, 1 head tensor left out) do not fit model.backbone" in message
    assert "unexpected (layer1.2.conv1.weight" in message


@pytest.mark.parametrize(
    "change", [lambda t: t.to_sparse(), lambda t: t.to(torch.complex64)], ids=["sparse", "complex"]
)
def test_unsupported_tensors_are_refused_before_loading(change: Any, source: Any, tmp_path: Path):
    state = dict(source.state_dict())
    state["layer4.1.conv2.weight"] = change(state["layer4.1.conv2.weight"])
    torch.save(state, tmp_path / "weights.pth")
    module = backbone()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(WeightsError, match=r"1 tensors are sparse, complex, .*layer4\.1\.conv2\.weight"):
        load_backbone_weights(module, tmp_path / "weights.pth")
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_safetensors_with_a_wrong_header(tmp_path: Path):
    """Offsets beyond the data, overlaps and absurd shapes are the library's to refuse."""
    for entry in (
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 1 << 40]},
        {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]},
        {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]},
    ):
        header = json.dumps({"conv1.weight": entry}).encode()
        (tmp_path / "w").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
        assert re.search("as a safetensors file: it is damaged", refused(tmp_path / "w"))
