"""Weights files: all the forms that are read, and a sentence for each that is not."""

from __future__ import annotations

from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from reid_ray.errors import WeightsError
from reid_ray.models import (
    Backbone,
    build_backbone,
    from_numpy,
    load_backbone_weights,
    load_torchvision_weights,
    to_numpy,
)


def backbone(name: str = "resnet18", stride_in: str = "conv2") -> Backbone:
    return build_backbone(name, stride_in=stride_in, last_stride=1, norm=nn.BatchNorm2d)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.manual_seed(7)
    return {key: torch.rand_like(value.float()).to(value.dtype) for key, value in backbone().state_dict().items()}


def save(content: object, folder: Path) -> Path:
    path = folder / "weights.pth"
    torch.save(content, path)
    return path


@pytest.mark.parametrize("form", ["bare", "state_dict", "module.", "with fc", "with stride_in", "no counters"])
def test_forms_of_a_file(form: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    content: object = {
        "bare": state,
        "state_dict": {"state_dict": state, "epoch": 3},
        "module.": {f"module.{key}": value for key, value in state.items()},
        "with fc": {**state, "fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)},
        "with stride_in": {**state, "stride_in": "conv1"},  # a network of basic blocks does not care
        "no counters": {key: value for key, value in state.items() if "num_batches" not in key},
    }[form]
    module = backbone()
    load_backbone_weights(module, save(content, tmp_path))
    for key, value in module.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_half_precision_is_cast_up(state: dict[str, Tensor], tmp_path: Path) -> None:
    half = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    module = backbone()
    load_backbone_weights(module, save(half, tmp_path))
    for key, value in module.state_dict().items():
        assert value.dtype == state[key].dtype
        torch.testing.assert_close(value, half[key].to(value.dtype), rtol=0, atol=0)


@pytest.mark.parametrize("nested", [True, False])
def test_stride_in_of_the_file_must_agree(nested: bool, tmp_path: Path) -> None:
    tensors = backbone("resnet50").state_dict()
    path = save(
        {"state_dict": tensors, "stride_in": "conv1"} if nested else {**tensors, "stride_in": "conv1"},
        tmp_path,
    )
    load_backbone_weights(backbone("resnet50", stride_in="conv1"), path)
    with pytest.raises(WeightsError, match=r"strides in conv1, but model\.stride_in is conv2"):
        load_backbone_weights(backbone("resnet50", stride_in="conv2"), path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights file .*absent\.pth"):
        load_backbone_weights(backbone(), tmp_path / "absent.pth")


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", bytes(1000)])
def test_not_a_weights_file(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"Cannot read .* as a weights file"):
        load_backbone_weights(backbone(), path)


def test_other_python_objects_are_not_unpickled(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"Cannot read .* as a weights file"):
        load_backbone_weights(backbone(), save({"conv1.weight": Path("code that would run")}, tmp_path))


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": 5}])
def test_not_a_state_dict(content: object, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"must (hold|be) a state dict"):
        load_backbone_weights(backbone(), save(content, tmp_path))


def test_keys_and_shapes_that_do_not_fit(state: dict[str, Tensor], tmp_path: Path) -> None:
    wrong = {key: value for key, value in state.items() if not key.startswith("layer4.1")}
    wrong |= {"extra.weight": torch.zeros(1), "conv1.weight": torch.zeros(64, 1, 7, 7)}
    module = backbone()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        load_backbone_weights(module, save(wrong, tmp_path))
    message = str(caught.value)
    assert "10 missing (layer4.1.conv1.weight, layer4.1.bn1.weight, layer4.1.bn1.bias, …)" in message
    assert "1 unexpected (extra.weight)" in message
    assert "conv1.weight [64, 1, 7, 7] instead of [64, 3, 7, 7]" in message
    for key, value in module.state_dict().items():
        assert torch.equal(value, before[key]), "nothing is loaded from a file that does not fit"


def test_no_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", fail)
    with pytest.raises(WeightsError, match=r"no route to host.*model\.weights=PATH.*model\.weights=null"):
        load_torchvision_weights(backbone("resnet50"), "resnet50")


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101"])
def test_torchvision_weights_are_loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    source = {**backbone(name).state_dict(), "fc.weight": torch.zeros(1)}
    asked: list[str] = []

    def answer(weights: WeightsEnum, **kwargs: object) -> dict[str, Tensor]:
        asked.append(str(weights))
        return source

    monkeypatch.setattr(WeightsEnum, "get_state_dict", answer)
    module = backbone(name)
    load_torchvision_weights(module, name)
    assert asked == [f"ResNet{name.removeprefix('resnet')}_Weights.IMAGENET1K_V1"]
    assert torch.equal(module.state_dict()["layer4.1.conv2.weight"], source["layer4.1.conv2.weight"])


def test_torchvision_has_no_weights_for_other_functions() -> None:
    with pytest.raises(WeightsError, match=r"set model\.stride_in=conv2"):
        load_torchvision_weights(backbone("resnet50", stride_in="conv1"), "resnet50")
    with pytest.raises(WeightsError, match="torchvision has no weights for resnet18_narrow"):
        load_torchvision_weights(backbone("resnet18_narrow"), "resnet18_narrow")
    with pytest.raises(WeightsError, match="torchvision has no weights for ibn_resnet50"):
        load_torchvision_weights(backbone("ibn_resnet50"), "ibn_resnet50")


def test_numpy_there_and_back_copies(state: dict[str, Tensor]) -> None:
    arrays = to_numpy(state)
    for array in arrays.values():
        array.setflags(write=False)  # as they come from an object store
    back = from_numpy(arrays)
    assert all(torch.equal(back[key], state[key]) and back[key].dtype == state[key].dtype for key in state)
    back["conv1.weight"].zero_()
    assert np.array_equal(arrays["conv1.weight"], state["conv1.weight"].numpy())
    live = {"weight": torch.ones(2)}
    taken = to_numpy(live)
    live["weight"].zero_()
    assert taken["weight"].tolist() == [1, 1]
    module = backbone()
    module.load_state_dict(from_numpy(to_numpy(module.state_dict())))
