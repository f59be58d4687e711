"""OSNet trunks: parameters, names and sizes of torchreid's, a file with torchreid's head, every split."""

from functools import partial

import pytest
import torch
from torch import nn

from reid_ray.config import BranchConfig, ModelConfig
from reid_ray.errors import ConfigError, WeightsError
from reid_ray.inference.folding import for_extraction
from reid_ray.models import (
    Embedder,
    GroupBatchNorm,
    build_backbone,
    build_network,
    load_backbone_weights,
    split_backbone,
)

NORM = partial(GroupBatchNorm, group=None)

PUBLISHED = {"osnet_x0_25": 0.2, "osnet_x0_5": 0.6, "osnet_x0_75": 1.3, "osnet_x1_0": 2.2, "osnet_ain_x1_0": 2.2}
"""Millions of parameters without classifier, as torchreid's model zoo lists them."""


def trunk(name):
    return build_backbone(name, stride_in="conv2", last_stride=1, norm=NORM)


def head(channels):
    """torchreid's layers behind the trunk."""
    return nn.ModuleDict(
        {
            "fc": nn.Sequential(nn.Linear(channels, 512), nn.BatchNorm1d(512), nn.ReLU()),
            "classifier": nn.Linear(512, 751),
        }
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_many_as_published(name):
    backbone = trunk(name)
    behind = sum(p.numel() for p in head(backbone.out_channels)["fc"].parameters())
    n_parameters = sum(p.numel() for p in backbone.parameters()) + behind
    assert round(n_parameters / 1e6, 1) == PUBLISHED[name]
    if name == "osnet_x1_0":
        assert n_parameters == 2_169_508


def test_names_are_those_of_torchreid():
    """Names and shapes as in torchreid's source, one of each kind."""
    plain, ain = (trunk(name).state_dict() for name in ("osnet_x1_0", "osnet_ain_x1_0"))
    expected = {
        "conv1.conv.weight": (64, 3, 7, 7),
        "conv1.bn.running_mean": (64,),
        "conv2.0.conv1.conv.weight": (64, 64, 1, 1),
        "conv2.0.conv2a.conv1.weight": (64, 64, 1, 1),
        "conv2.0.conv2a.conv2.weight": (64, 1, 3, 3),
        "conv2.0.conv2d.3.bn.weight": (64,),
        "conv2.1.gate.fc1.weight": (4, 64, 1, 1),
        "conv2.1.gate.fc2.bias": (64,),
        "conv2.0.conv3.bn.weight": (256,),
        "conv2.0.downsample.conv.weight": (256, 64, 1, 1),
        "conv2.2.0.conv.weight": (256, 256, 1, 1),
        "conv3.2.0.bn.bias": (384,),
        "conv4.1.conv3.conv.weight": (512, 128, 1, 1),
        "conv5.conv.weight": (512, 512, 1, 1),
    }
    assert {key: tuple(plain[key].shape) for key in expected} == expected
    assert not any(key.startswith("conv4.2") for key in plain)
    expected = {
        "conv2.0.conv2.0.layers.0.conv1.weight": (64, 64, 1, 1),
        "conv2.0.conv2.3.layers.3.bn.weight": (64,),
        "conv2.0.IN.weight": (256,),
        "conv2.1.IN.weight": (256,),
        "conv3.1.IN.bias": (384,),
        "conv4.0.IN.bias": (512,),
        "conv3.0.conv3.bn.weight": (384,),
        "pool2.0.conv.weight": (256, 256, 1, 1),
        "pool3.0.bn.weight": (384,),
    }
    assert {key: tuple(ain[key].shape) for key in expected} == expected
    assert "conv1.bn.running_mean" not in ain  # an instance norm
    assert "conv2.0.conv3.bn.weight" not in ain
    assert not any(key.startswith(("conv3.0.IN", "conv4.1.IN")) for key in ain)


@pytest.mark.parametrize("name", ["osnet_x0_25", "osnet_ain_x0_25"])
def test_extraction_folds_batch_norms(name):
    torch.manual_seed(0)
    network = build_network(ModelConfig(backbone=name, weights=None, bn_group=None))
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, GroupBatchNorm):
                layer.running_mean.uniform_(-0.2, 0.2)
                layer.running_var.uniform_(0.5, 2)
                layer.weight.uniform_(0.5, 1.5)
        images = torch.randn(3, 3, 64, 32)
        expected = network.eval().embed(images)
        folded = for_extraction(network)
        torch.testing.assert_close(folded.embed(images), expected, rtol=1e-4, atol=1e-5)
    left = [layer for layer in folded.backbone.modules() if isinstance(layer, GroupBatchNorm)]
    assert not left


@pytest.mark.parametrize("name", ["osnet_x0_25", "osnet_ain_x0_25"])
def test_a_file_of_torchreid_is_loaded_without_its_head(name, tmp_path):
    torch.manual_seed(0)
    source, target = trunk(name), trunk(name)
    state = {f"module.{key}": value for key, value in (source.state_dict() | head(128).state_dict()).items()}
    torch.save({"state_dict": state, "epoch": 60, "rank1": 0.9}, tmp_path / "model.pth.tar-60")
    with pytest.warns(UserWarning, match="head tensors left out"):
        loaded = load_backbone_weights(target, tmp_path / "model.pth.tar-60")
    assert loaded.origin == "torchreid"
    found = target.state_dict()
    for key, tensor in source.state_dict().items():
        assert torch.equal(found[key], tensor), key


def test_files_that_do_not_fit(tmp_path):
    torch.save(trunk("osnet_x0_5").state_dict(), tmp_path / "half.pt")
    with pytest.raises(WeightsError, match="of another shape"):
        load_backbone_weights(trunk("osnet_x0_25"), tmp_path / "half.pt")
    with pytest.raises(WeightsError, match="missing"):
        load_backbone_weights(trunk("osnet_ain_x0_5"), tmp_path / "half.pt")
    torch.save({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "resnet.pt")
    with pytest.raises(WeightsError, match="holds no network with torchreid's names"):
        load_backbone_weights(trunk("osnet_x0_5"), tmp_path / "resnet.pt")
    with pytest.raises(WeightsError, match="torchvision has no weights for osnet_x0_25"):
        build_network(ModelConfig(backbone="osnet_x0_25"))


@pytest.mark.parametrize("at", ["conv4_1", "conv4_end"])
def test_split(at):
    backbone = trunk("osnet_x0_25").eval()
    images = torch.randn(2, 3, 64, 32)
    first, rest = split_backbone(backbone, at)
    with torch.no_grad():
        middle = first(images)
        assert middle.shape == (2, first.out_channels, 4, 2)
        assert torch.equal(rest(middle), backbone(images))


def test_branches_have_copies_of_the_last_stage():
    torch.manual_seed(0)
    config = ModelConfig(
        backbone="osnet_ain_x0_25",
        weights=None,
        bn_group=None,
        branches=(BranchConfig(), BranchConfig(pooling="max", n_extra=1)),
    )
    network = build_network(config).eval()
    first, second = network.branches
    assert torch.equal(first.backbone.conv4[0].conv1.conv.weight, second.backbone.conv4[0].conv1.conv.weight)
    assert len(second.backbone.extra) == len(first.backbone.extra) + 1
    assert second.backbone.extra[0].ain
    assert network.embed(torch.randn(2, 3, 64, 32)).shape == (2, 256)


def test_the_stem_keeps_its_relu():
    with pytest.raises(ConfigError, match=r"stem_relu=false is for ResNets; model\.backbone is osnet_x0_25"):
        build_network(ModelConfig(backbone="osnet_x0_25", weights=None, stem_relu=False))


def test_training_uses_groups():
    """Two groups in one batch are normalised on their own, also where streams share a gate."""
    torch.manual_seed(0)
    network = build_network(ModelConfig(backbone="osnet_x0_25", weights=None, bn_group=2)).double().train()
    assert isinstance(network, Embedder)
    images = torch.randn(4, 3, 32, 16, dtype=torch.float64)
    both = network(images).pooled
    torch.testing.assert_close(both[:2], network(images[:2]).pooled)
    torch.testing.assert_close(both[2:], network(images[2:]).pooled)
