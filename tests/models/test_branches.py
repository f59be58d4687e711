"""Branches: what they share and what not, against the parts called by hand and against the network of one branch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reid_ray.config import BranchConfig, ModelConfig
from reid_ray.devices import cpu_supports_bf16
from reid_ray.errors import WeightsError
from reid_ray.inference.folding import OneDNNBackbone, for_extraction
from reid_ray.models import (
    ABMT_BRANCHES,
    AsymmetricEmbedder,
    GroupBatchNorm,
    build_branches,
    build_embedder,
    make_teacher,
    update_teacher,
)
from reid_ray.models.residual import BasicBlock, Bottleneck

LAYOUTS = {
    "ABMT": ABMT_BRANCHES,
    "without branches": (BranchConfig(pooling="avg"),),
    "same pooling": (BranchConfig(pooling="avg"), BranchConfig(pooling="avg", n_extra=1)),
    "without extra bottleneck": (BranchConfig(pooling="avg"), BranchConfig(pooling="max")),
    "one more branch": (*ABMT_BRANCHES, BranchConfig(pooling="gem", n_extra=2)),
}


def small(branches: tuple[BranchConfig, ...] = ABMT_BRANCHES, *, bf16: bool = False, **settings):
    torch.manual_seed(0)
    config = ModelConfig(**{"backbone": "resnet18", "weights": None, "bn_group": 4, **settings})
    return build_branches(config, branches, bf16=bf16)


def with_statistics(model: AsymmetricEmbedder) -> AsymmetricEmbedder:
    """A network whose batch norms are not the identity."""
    for module in model.modules():
        if isinstance(module, GroupBatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            if module.bias.requires_grad:
                nn.init.normal_(module.bias, std=0.2)
    return model


@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_an_embedding_per_branch(layout: str) -> None:
    branches = LAYOUTS[layout]
    model = small(branches)
    images = torch.randn(8, 3, 64, 32)
    embeddings = model(images)
    assert len(embeddings) == len(branches)
    assert all(pooled.shape == feature.shape == (8, 512) for pooled, feature in embeddings)
    assert model.dim == 512 * len(branches)
    assert model.embed(images).shape == (8, model.dim)


def test_branches_step_by_step() -> None:
    """Every layer called by hand, in the order of fig. 4.1."""
    model = with_statistics(small()).eval().double()
    images = torch.randn(3, 3, 64, 32, dtype=torch.float64)
    trunk = model.backbone
    shared = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(images))))
    shared = trunk.layer3(trunk.layer2(trunk.layer1(shared)))
    average, maximum = (branch.backbone for branch in model.branches)
    expected = [
        average.layer4(shared).mean(dim=(2, 3)),
        maximum.extra(maximum.layer4(shared)).amax(dim=(2, 3)),
    ]
    for (pooled, feature), by_hand, branch in zip(model(images), expected, model.branches, strict=True):
        torch.testing.assert_close(pooled, by_hand)
        torch.testing.assert_close(feature, branch.neck(by_hand))


@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "ibn_resnet50"])
def test_depth_and_kind_of_the_extra_blocks(backbone: str) -> None:
    first, second = small(backbone=backbone).branches
    kind = BasicBlock if backbone == "resnet18" else Bottleneck
    n_blocks = [
        sum(isinstance(module, (BasicBlock, Bottleneck)) for module in branch.modules()) for branch in (first, second)
    ]
    assert n_blocks == ([2, 3] if backbone == "resnet18" else [3, 4])
    assert not len(first.backbone.extra)
    (block,) = second.backbone.extra
    assert type(block) is kind
    assert block.downsample is None
    assert {conv.stride for conv in block.modules() if isinstance(conv, nn.Conv2d)} == {(1, 1)}
    channels = [conv.in_channels for conv in block.modules() if isinstance(conv, nn.Conv2d)]
    assert channels == ([512, 512] if backbone == "resnet18" else [2048, 512, 512])


def test_retrieval_feature_is_the_unit_concatenation_of_the_necks_outputs() -> None:
    model = with_statistics(small()).eval()
    images = torch.randn(3, 3, 64, 32)
    (_, first), (_, second) = model(images)
    embedded = model.embed(images)
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(
        embedded, torch.cat([first, second], dim=1) / (first**2 + second**2).sum(1)[:, None].sqrt()
    )


@pytest.mark.parametrize("backbone", ["resnet18", "ibn_resnet50"])
def test_one_plain_branch_is_the_embedder(backbone: str) -> None:
    config = ModelConfig(backbone=backbone, weights=None, bn_group=4)
    torch.manual_seed(3)
    embedder = build_embedder(config)
    torch.manual_seed(3)
    model = build_branches(config, [BranchConfig(pooling="avg")])
    images = torch.randn(8, 3, 64, 32)
    (found,), expected = model(images), embedder(images)
    assert torch.equal(found.pooled, expected.pooled)
    assert torch.equal(found.feature, expected.feature)
    assert torch.equal(model.eval().embed(images), embedder.eval().embed(images))


def test_without_the_relu_of_the_stem() -> None:
    plain, without = small(), small(stem_relu=False)
    assert plain.state_dict().keys() == without.state_dict().keys()
    images = torch.randn(4, 3, 64, 32)
    trunk = without.backbone
    by_hand = trunk.maxpool(trunk.bn1(trunk.conv1(images)))
    expected = trunk.layer3(trunk.layer2(trunk.layer1(by_hand)))
    assert torch.equal(trunk(images), expected)
    assert not torch.allclose(plain.backbone(images), expected)


def test_branches_start_equal_and_share_the_trunk_alone() -> None:
    model = small()
    first, second = (branch.backbone for branch in model.branches)
    start = second.layer4.state_dict()
    assert all(torch.equal(value, start[name]) for name, value in first.layer4.state_dict().items())

    (pooled, _), _ = model(torch.randn(4, 3, 64, 32))
    pooled.sum().backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    of_layers = {name for name, _ in model.named_parameters() if ".neck." not in name}
    assert reached == {name for name in of_layers if not name.startswith("branches.1.")}


def test_necks_and_settings() -> None:
    model = small(bn_group=16, bn_buffers="mean")
    layers = [module for module in model.modules() if isinstance(module, GroupBatchNorm)]
    assert len(layers) == 15 + 5 + 5 + 2 + 2
    assert all(layer.group == 16 and layer.running_from == "mean" for layer in layers)
    assert all(not branch.neck.bias.requires_grad and not branch.neck.bias.any() for branch in model.branches)


def test_weights_come_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(5)
    source = build_embedder(ModelConfig(backbone="resnet18", weights=None)).backbone
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    model = small(weights=str(tmp_path / "weights.pth"))
    for name, value in source.state_dict().items():
        parts = [branch.backbone for branch in model.branches] if name.startswith("layer4") else [model.backbone]
        assert all(torch.equal(part.state_dict()[name], value) for part in parts)
    with pytest.raises(WeightsError, match="do not fit"):
        small(weights=str(tmp_path / "weights.pth"), backbone="resnet34")


def test_random_weights_follow_the_seed() -> None:
    first, second = small().state_dict(), small().state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_teacher_follows_every_branch() -> None:
    student = small()
    teacher = make_teacher(student)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(1)
    update_teacher(teacher, student, 0.5)
    for mean, latest in zip(teacher.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(mean, latest - 0.5)
        assert not mean.requires_grad


@pytest.mark.usefixtures("bf16_on_this_cpu")
@pytest.mark.parametrize("training", [True, False])
def test_bf16_is_the_convolutions_only(training: bool) -> None:
    model = small(bf16=True).train(training)
    maps: list[torch.Tensor] = []
    for part in (model.backbone, *(branch.backbone for branch in model.branches)):
        part.register_forward_hook(lambda module, inputs, output: maps.append(output))
    embeddings = model(torch.randn(8, 3, 64, 32))
    assert [feature_map.dtype for feature_map in maps] == [torch.bfloat16] * 3
    assert all(tensor.dtype == torch.float32 for embedding in embeddings for tensor in embedding)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("stem_relu", [True, False])
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "ibn_resnet50"])
def test_folding_changes_no_feature(backbone: str, stem_relu: bool) -> None:
    model = with_statistics(small(backbone=backbone, stem_relu=stem_relu)).double()
    images = torch.randn(3, 3, 64, 32, dtype=torch.float64)
    fast = for_extraction(model)
    torch.testing.assert_close(fast.embed(images), model.eval().embed(images), rtol=1e-9, atol=1e-11)
    left = [module for module in fast.modules() if isinstance(module, GroupBatchNorm)]
    assert len(left) == 2 + (13 if backbone == "ibn_resnet50" else 0)  # necks, and inside instance-batch norms


@pytest.mark.usefixtures("bf16_on_this_cpu")
@pytest.mark.parametrize("backbone", ["resnet18", "resnet50", "ibn_resnet50"])
def test_bfloat16_extraction_stays_within_its_rounding(backbone: str) -> None:
    model = with_statistics(small(backbone=backbone, bf16=True))
    images = torch.randn(5, 3, 64, 32).to(memory_format=torch.channels_last)
    fast = for_extraction(model)
    assert isinstance(fast.backbone, OneDNNBackbone) == (cpu_supports_bf16() and backbone != "ibn_resnet50")
    assert all(isinstance(branch.backbone, OneDNNBackbone) == cpu_supports_bf16() for branch in fast.branches)
    with torch.inference_mode():
        found, expected = fast.embed(images), model.eval().embed(images)
        again = fast.embed(images)
    assert found.dtype == torch.float32
    assert F.cosine_similarity(found, expected).min() > 0.999
    assert torch.equal(found, again)
