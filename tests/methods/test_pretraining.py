"""Stages on a labelled source: which there are, what they train and freeze, and when a run has none."""

import numpy as np
import pytest
import torch
from small_methods import in_training, inputs, make_batch, parameters_of
from small_runs import BRANCHES, METHOD_RUNS, SOURCE

from reid_ray.api import train
from reid_ray.methods import build_method, stages_of
from reid_ray.methods.pretraining import (
    CLASSIFIER_STD,
    has_source_stage,
    network_paths,
    resolve_source_stage,
    source_names,
)
from reid_ray.methods.stage import LabelSpec
from reid_ray.training.distributed import DistributedContext
from reid_ray.types import Labels

B, C = 16, 4
LABELS = torch.arange(C).repeat_interleave(B // C)


def images(seed):
    return torch.randn(B, 3, 32, 16, generator=torch.Generator().manual_seed(seed))


def source_batch():
    train_inputs = inputs({"strong": images(0)}, LABELS)
    target = inputs({"strong": images(1)}, torch.full((B,), -1))
    return make_batch(train_inputs, target=target)


@pytest.fixture
def make(tiny):
    def build(*overrides, stage="source"):
        torch.manual_seed(0)
        config = tiny(*overrides, *SOURCE, "training.precision=float32", "model.bn_group=null")
        return in_training(build_method(config, DistributedContext()), stage)

    return build


def test_names_and_paths_of_several_networks():
    assert (source_names(1), network_paths(1)) == (["source"], ["student"])
    assert source_names(3) == ["source", "source_2", "source_3"]
    assert network_paths(2) == ["student.members.0", "student.members.1"]


@pytest.mark.parametrize("name", ["ice", "abmt", "cap", "cluster_contrast"])
def test_a_run_with_a_source_begins_on_it(make, tiny, name):
    method = make(*METHOD_RUNS[name])
    config = method.config
    first, main = stages_of(config)
    assert (first.name, main.name) == ("source", "main")
    assert (first.config.epochs, first.config.iterations) == (1, 2)
    assert (main.config.epochs, main.config.iterations) == (config.training.epochs, config.training.iterations)
    assert first.config.n_pids == config.training.n_pids
    assert list(first.streams) == ["train", "target"]
    labelled, target = first.streams.values()
    assert (labelled.data, labelled.labels) == ("source", LabelSpec("ground_truth"))
    assert (target.data, target.labels) == ("data", LabelSpec())
    assert dict(labelled.views) == dict(target.views) == {"strong": "strong"}
    assert (first.retriever, first.evaluated, first.seed_offset) == ("student", False, 0)
    assert first.optimizers["main"].modules == ("student", "source_classifiers")
    assert "source_classifiers" in main.frozen
    (alone,) = stages_of(tiny(*METHOD_RUNS[name]))
    assert alone.streams == main.streams
    assert alone.frozen == ()


def test_mmt_trains_its_networks_one_after_the_other(make):
    method = make(*METHOD_RUNS["mmt"], "stages.source_2.epochs=3", stage="source_2")
    first, second, main = stages_of(method.config)
    assert [stage.name for stage in (first, second, main)] == ["source", "source_2", "main"]
    assert (first.retriever, second.retriever) == ("student.members.0", "student.members.1")
    assert (first.seed_offset, second.seed_offset, main.seed_offset) == (0, 1, 0)
    assert (first.config.epochs, second.config.epochs) == (1, 3)
    assert set(first.frozen) == {"student.members.1", "source_2_classifiers", "student_classifiers"}
    assert set(second.frozen) == {"student.members.0", "source_classifiers", "student_classifiers"}
    assert set(main.frozen) == {"source_classifiers", "source_2_classifiers"}
    members = method.modules["student"].members
    trained = parameters_of(method, "source_2")
    assert {id(p) for p in members[1].parameters() if p.requires_grad} < {id(p) for p in trained}
    assert not {id(p) for p in members[0].parameters()} & {id(p) for p in trained}


def test_the_networks_of_mmt_are_those_of_two_seeds(make, tiny):
    """Each begins as the network of a run on the source alone with the seed of its stage."""
    method = make(*METHOD_RUNS["mmt"])
    torch.manual_seed(0)
    members = build_method(method.config, DistributedContext()).modules["student"].members
    for number, member in enumerate(members):
        torch.manual_seed(number)
        alone = build_method(tiny("method={name: source}", f"seed={number}"), DistributedContext())
        for name, tensor in alone.modules["student"].state_dict().items():
            assert torch.equal(member.state_dict()[name], tensor), name


def test_spcl_learns_from_the_source_in_its_main_stage(tiny):
    config = tiny(*METHOD_RUNS["spcl-joint"])
    assert [stage.name for stage in stages_of(config)] == ["main"]


@pytest.mark.parametrize("name", ["abmt", "mmt", "cap"])
def test_the_modules_are_those_of_the_main_stage_and_a_classifier_for_each_source_stage(make, tiny, name):
    method = make(*METHOD_RUNS[name])
    alone = build_method(tiny(*METHOD_RUNS[name]), DistributedContext())
    expected = {f"{stage.name}_classifiers" for stage in stages_of(method.config)[:-1]}
    assert method.modules.keys() - alone.modules.keys() == expected
    assert alone.modules.keys() < method.modules.keys()


def test_a_source_stage_takes_its_own_labels_and_computes_its_own_loss(make, tiny):
    """What the recipe `source` computes with the same network; nothing of the main stage moves."""
    method = make(*METHOD_RUNS["abmt"])
    labels = {"train": Labels(0, LABELS.numpy()), "target": Labels(0, np.full(B, -1))}
    method.on_labels("source", labels)
    classifiers = method.modules["source_classifiers"]
    assert classifiers.n_classes == C
    assert method.modules["student_classifiers"].n_classes == 0
    torch.manual_seed(0)
    alone = build_method(
        tiny("method={name: source}", BRANCHES, "training.precision=float32", "model.bn_group=null"),
        DistributedContext(),
    )
    alone.modules["student"].load_state_dict(method.modules["student"].state_dict())
    alone.on_labels("main", labels)
    for found, expected in zip(classifiers.weights, alone.modules["classifiers"].weights, strict=True):
        assert torch.equal(found, expected)
        assert float(found.detach().std()) == pytest.approx(CLASSIFIER_STD, rel=0.1)
    (update,) = method.updates("source", source_batch())
    (expected,) = in_training(alone).updates("main", make_batch(source_batch()["train"]))
    assert (update.optimizers, list(update.terms)) == (("main",), ["ce", "triplet"])
    assert torch.equal(update.loss, expected.loss)
    assert list(method.ema_pairs("source")) == []
    assert len(method.ema_pairs("main")) == 2


def test_the_classifiers_of_two_source_stages_begin_differently(make):
    method = make(*METHOD_RUNS["mmt"])
    labels = {"train": Labels(0, LABELS.numpy()), "target": Labels(0, np.full(B, -1))}
    for stage in ("source", "source_2"):
        method.on_labels(stage, labels)
    first, second = (method.modules[f"{stage}_classifiers"].weights[0] for stage in ("source", "source_2"))
    assert first.shape == second.shape
    assert not torch.equal(first, second)


def test_images_of_the_target_move_bn_statistics_and_give_no_gradient(make):
    labels = {"train": Labels(0, LABELS.numpy()), "target": Labels(0, np.full(B, -1))}
    states, gradients = [], []
    for batch in (source_batch(), make_batch(source_batch()["train"])):
        method = make(*METHOD_RUNS["cap"])
        method.on_labels("source", labels)
        (update,) = method.updates("source", batch)
        update.loss.backward()
        gradients.append([parameter.grad for parameter in parameters_of(method, "source")])
        states.append(method.modules["student"].state_dict())
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    moved = {key.rpartition(".")[2] for key in states[0] if not torch.equal(states[0][key], states[1][key])}
    assert moved == {"running_mean", "running_var", "num_batches_tracked"}


def test_the_recipe_source_forwards_a_target_where_there_is_one(tiny):
    (alone,) = stages_of(tiny("method={name: source}"))
    assert list(alone.streams) == ["train"]
    assert alone.streams["train"].data == "data"
    (stage,) = stages_of(tiny("method={name: source}", "target={layout: synthetic}"))
    assert (stage.streams["target"].data, stage.streams["target"].labels) == ("target", LabelSpec())
    assert stage.evaluated
    assert stage.frozen == ()


def test_whether_there_is_a_source_stage_may_be_said(tiny):
    source = SOURCE[0]
    assert not has_source_stage(tiny())
    assert not has_source_stage(tiny("source_stage=true")), "there is no source"
    assert has_source_stage(tiny(source))
    assert has_source_stage(tiny(source, "source_stage=true"))
    assert not has_source_stage(tiny(source, "source_stage=false"))
    assert [stage.name for stage in stages_of(tiny(source, "source_stage=false"))] == ["main"]


def test_the_exported_model_of_a_run_stands_for_the_source_stage(tiny, tmp_path):
    """A file of a backbone does not; and what a configuration says itself is not asked again."""
    run = train(tiny("name=exported", "training.epochs=1", "training.iterations=1"))
    exported = run.directory.model_file("last")
    backbone = tmp_path / "backbone.pt"
    torch.save(run.model.backbone.state_dict(), backbone)
    for weights, begins in ((exported, False), (f"[{exported}, {exported}]", False), (backbone, True), ("null", True)):
        config = tiny(SOURCE[0], f"model.weights={weights}")
        resolved = resolve_source_stage(config)
        assert resolved.source_stage is begins
        assert has_source_stage(config) is begins
        assert resolved == config.model_copy(update={"source_stage": begins})
    said = tiny(SOURCE[0], f"model.weights={exported}", "source_stage=true")
    assert resolve_source_stage(said) is said
    alone = tiny(f"model.weights={exported}")
    assert resolve_source_stage(alone) is alone
