"""SCR's network: the notation of the thesis's tables, its shapes and sizes, and every layer called by hand."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from reid_ray.config import ModelConfig
from reid_ray.errors import ConfigError
from reid_ray.inference.folding import for_extraction
from reid_ray.models import (
    SCR_PARTITIONS,
    GroupBatchNorm,
    PartClassifiers,
    Partition,
    PartitionEmbedder,
    build_embedder,
    build_partitions,
    parse_partitions,
)

TABLES = {
    "p1": 1,
    "p2(s2c2)": 5,
    "p3(s3c3)": 7,
    "p1+p2(s2)+p3(s3)": 1 + 3 + 4,
    "p1+p2(c2)+p3(c3)": 1 + 3 + 4,
    "p1+p2(s2c2)": 1 + 5,
    "p1+p2(s2c2)+p3(s3c3)": 1 + 5 + 7,
    "p1+p2(s2c2)+p3(s3c3)+p4(s4c4)": 1 + 5 + 7 + 9,
}
"""Every architecture of tables 3.2 and 3.3, and the four branches of the text, with their numbers of vectors."""


def small(partitions: str = SCR_PARTITIONS, *, reduced_dim: int = 8, bf16: bool = False, **settings):
    torch.manual_seed(0)
    config = ModelConfig(**{"backbone": "resnet18", "weights": None, "bn_group": 4, **settings})
    return build_partitions(config, parse_partitions(partitions), reduced_dim=reduced_dim, bf16=bf16)


def with_statistics(model: nn.Module) -> nn.Module:
    """A network whose batch norms are not the identity."""
    for module in model.modules():
        if isinstance(module, GroupBatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


# The notation


@pytest.mark.parametrize("text", list(TABLES))
def test_every_architecture_of_the_tables(text: str):
    partitions = parse_partitions(text)
    assert sum(each.n_vectors for each in partitions) == TABLES[text]
    assert "+".join(each.name for each in partitions) == "+".join(part.partition("(")[0] for part in text.split("+"))


def test_notation():
    assert parse_partitions(" p1 + p2(s2) +p7(s10c12)+p3(c4)") == (
        Partition("p1"),
        Partition("p2", stripes=2),
        Partition("p7", stripes=10, groups=12),
        Partition("p3", groups=4),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' in the partitions '' is not a branch; write p1"),
        ("p1+", "'' in the partitions 'p1\\+' is not a branch"),
        ("p1,p2", "'p1,p2' in the partitions"),
        ("q2(s2)", "is not a branch"),
        ("p2()", "is not a branch"),
        ("p2(c2s2)", "is not a branch"),
        ("p2(s)", "is not a branch"),
        ("p2(s2", "is not a branch"),
        ("p2(s1)", "fewer than two parts"),
        ("p2(s2c0)", "fewer than two parts"),
        ("p1+p2(s2)+p1", "branch p1 twice"),
    ],
)
def test_bad_notation_is_named(text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        parse_partitions(text)


# Shapes and sizes of the thesis


def test_sizes_of_the_thesis(monkeypatch: pytest.MonkeyPatch):
    """Without memory: ResNet-50 on the meta device, which autocast does not know, 384×192."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    with torch.device("meta"):
        model = build_partitions(ModelConfig(weights=None, bn_group=None), parse_partitions(SCR_PARTITIONS)).eval()
        classifiers = PartClassifiers(model.n_vectors, model.vector_dim, 751)
        images = torch.empty(2, 3, 384, 192)
    shared = model.backbone(images)
    assert shared.shape == (2, 1024, 24, 12)
    for branch in model.branches:
        assert branch.backbone(shared).shape == (2, 2048, 24, 12)
    inputs = [[reduction[0].in_features for reduction in branch.reductions] for branch in model.branches]
    assert inputs == [[2048], [2048] * 3 + [1024] * 2, [2048] * 4 + [683, 683, 682]]
    assert (model.n_vectors, model.vector_dim, model.dim) == (13, 256, 3328)
    embedding = model(images)
    assert embedding.pooled.shape == (2, 3, 2048)
    assert embedding.reduced.shape == (2, 3, 256)
    assert embedding.vectors.shape == (2, 13, 256)
    assert model.embed(images).shape == (2, 3328)
    assert classifiers(embedding.vectors).shape == (13, 2, 751)


def test_parameters_of_the_thesis():
    """Counted from ResNet-50's blocks: 23,508,032 without classifier, of which a branch has 5 + 3 blocks."""
    third_stage_block, first_of_third, fourth_stage = 1_117_184, 1_512_448, 14_964_736
    of_branch = 5 * third_stage_block + fourth_stage
    of_trunk = 23_508_032 - of_branch
    assert of_trunk == 225_344 + 1_219_584 + first_of_third  # stem and first stage, second stage, conv4_1
    inputs = [2048] * 8 + [1024] * 2 + [683, 683, 682]
    of_reductions = sum(256 * channels + 2 * 256 for channels in inputs)
    with torch.device("meta"):
        model = build_partitions(ModelConfig(weights=None), parse_partitions(SCR_PARTITIONS))
        classifiers = PartClassifiers(13, 256, 751)
    counts = [sum(parameter.numel() for parameter in module.parameters()) for module in (model, classifiers)]
    assert counts == [of_trunk + 3 * of_branch + of_reductions, 13 * (256 * 751 + 751)] == [69_858_880, 2_509_091]
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_channel_groups_cover_the_channels_once():
    with torch.device("meta"):
        (branch,) = build_partitions(ModelConfig(weights=None), parse_partitions("p3(c3)")).branches
    channels = torch.arange(2048.0)[None, :, None, None].expand(1, 2048, 3, 2)
    whole, *groups = branch.pool_parts(channels)
    assert [group.shape[1] for group in groups] == [683, 683, 682]
    assert torch.equal(torch.cat(groups, dim=1), whole)
    assert whole[0].tolist() == list(range(2048))


@pytest.mark.parametrize(
    ("n_rows", "expected"),
    [(24, [23, 7, 15, 23]), (8, [7, 2, 5, 7]), (3, [2, 0, 1, 2])],
    ids=["thesis", "uneven", "a row each"],
)
def test_pooling_of_a_map_whose_rows_are_numbered(n_rows: int, expected: list[float]):
    """The maximum of a stripe is the number of its last row: stripes from the top, larger ones first."""
    (branch,) = small("p3(s3)").branches
    rows = torch.arange(float(n_rows))[None, None, :, None].expand(2, 512, n_rows, 4)
    parts = branch.pool_parts(rows)
    assert [part[0, 0].item() for part in parts] == expected
    assert all((part == part[0, 0]).all() for part in parts)


def test_more_parts_than_there_are():
    with pytest.raises(ConfigError, match=r"p2 has 9 stripes, but its feature map has 4 rows"):
        small("p2(s9)")(torch.randn(4, 3, 64, 32))
    with pytest.raises(ConfigError, match=r"p2 has 600 groups of only 512 channels"):
        small("p2(c600)")


# What the network computes


def test_step_by_step():
    """Every layer called by hand, in the order of fig. 3.3."""
    model = with_statistics(small("p1+p2(s2c3)")).eval().double()
    images = torch.randn(3, 3, 64, 32, dtype=torch.float64)
    trunk = model.backbone
    x = trunk.maxpool(trunk.relu(trunk.bn1(trunk.conv1(images))))
    shared = getattr(trunk.layer3, "0")(trunk.layer2(trunk.layer1(x)))
    vectors, pooled = [], []
    for branch, parts in zip(model.branches, [(1, 1), (2, 3)], strict=True):
        feature_map = branch.backbone.layer4(getattr(branch.backbone.layer3, "1")(shared))
        stripes, groups = parts
        inputs = [feature_map.amax(dim=(2, 3))]
        if stripes > 1:
            height = feature_map.shape[2] // stripes
            inputs += [feature_map[:, :, i * height : (i + 1) * height].amax(dim=(2, 3)) for i in range(stripes)]
        if groups > 1:
            inputs += [
                feature_map[:, first:last].amax(dim=(2, 3)) for first, last in ((0, 171), (171, 342), (342, 512))
            ]
        pooled.append(inputs[0])
        for (reduction, norm), vector in zip(branch.reductions, inputs, strict=True):
            convolved = F.conv2d(vector[:, :, None, None], reduction.weight[:, :, None, None]).flatten(1)
            vectors.append(norm(convolved))
    found = model(images)
    torch.testing.assert_close(found.vectors, torch.stack(vectors, dim=1))
    torch.testing.assert_close(found.pooled, torch.stack(pooled, dim=1))
    torch.testing.assert_close(found.reduced, torch.stack([vectors[0], vectors[1]], dim=1))
    joined = torch.cat(vectors, dim=1)
    torch.testing.assert_close(model.embed(images), joined / joined.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("backbone", ["resnet18", "ibn_resnet50"])
def test_one_branch_without_parts_is_the_plain_network_pooled_by_maximum(backbone: str):
    config = ModelConfig(backbone=backbone, weights=None, bn_group=4, pooling="max")
    torch.manual_seed(3)
    embedder = build_embedder(config).eval()
    torch.manual_seed(3)
    model = build_partitions(config, parse_partitions("p1"), reduced_dim=8).eval()
    images = torch.randn(2, 3, 64, 32)
    assert torch.equal(model(images).pooled[:, 0], embedder(images).pooled)


def test_branches_start_equal_and_share_the_trunk_alone():
    model = small("p1+p2(s2)")
    first, second = (branch.backbone.state_dict() for branch in model.branches)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    model(torch.randn(4, 3, 64, 32)).pooled[:, 0].sum().backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    layers = {name for name, _ in model.named_parameters() if ".reductions." not in name}
    assert reached == {name for name in layers if not name.startswith("branches.1.")}


def test_without_the_cross_entropy_no_classifier_gets_a_gradient():
    model, classifiers = small("p1+p2(s2)"), PartClassifiers(4, 8, 5)
    embedding = model(torch.randn(4, 3, 64, 32))
    logits = classifiers(embedding.vectors)
    (embedding.reduced.sum() + 0 * logits.sum()).backward()
    assert all(not parameter.grad.any() for parameter in classifiers.parameters())


def test_each_vector_has_its_own_classifier():
    torch.manual_seed(0)
    classifiers, vectors = PartClassifiers(3, 8, 5), torch.randn(2, 3, 8)
    logits = classifiers(vectors)
    for v, classifier in enumerate(classifiers.classifiers):
        for n in range(2):
            torch.testing.assert_close(logits[v, n], classifier.weight @ vectors[n, v] + classifier.bias)


def test_settings_reach_the_layers():
    model = small("p1+p2(s2c2)", bn_group=2, bn_buffers="mean")
    layers = [module for module in model.modules() if isinstance(module, GroupBatchNorm)]
    assert len(layers) == (1 + 4 + 5 + 3) + 2 * (2 + 5) + 6
    assert all(layer.group == 2 and layer.running_from == "mean" for layer in layers)


@pytest.mark.parametrize("bf16", [False, True])
def test_extraction_gives_the_same_features(bf16: bool):
    model = with_statistics(small("p1+p2(s2c2)", bf16=bf16)).eval()
    images = torch.randn(2, 3, 64, 32)
    embedded = for_extraction(model).embed(images)
    assert embedded.dtype == torch.float32
    tolerance = {"rtol": 0, "atol": 0.05} if bf16 else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(embedded, model.embed(images), **tolerance)


def test_the_state_is_complete():
    model = small()
    again = small()
    for parameter in again.parameters():
        nn.init.constant_(parameter, 0.5)
    again.load_state_dict(model.state_dict())
    images = torch.randn(2, 3, 64, 32)
    assert isinstance(again, PartitionEmbedder)
    assert torch.equal(again.eval().embed(images), model.eval().embed(images))
