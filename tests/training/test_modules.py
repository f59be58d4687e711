"""A method's modules as a stage uses them: found by path, frozen, initialised from others."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from reid_ray.config import TrainingConfig
from reid_ray.errors import MethodError
from reid_ray.methods import Stage, StreamSpec
from reid_ray.methods.stage import optimizers
from reid_ray.models import GroupBatchNorm, make_teacher
from reid_ray.training.modules import find_module, initialise, prepare_batch_norms, set_modes, trainable_parameters

STAGE = Stage("main", TrainingConfig(), {"train": StreamSpec({})}, optimizers(TrainingConfig(), main=("body",)), "body")


@pytest.fixture
def modules():
    body = nn.Sequential(nn.Linear(2, 2), GroupBatchNorm(2))
    return {"body": body, "head": nn.Linear(2, 3), "mean": make_teacher(body)}


def test_a_module_is_found_by_its_path(modules):
    assert find_module(modules, "body") is modules["body"]
    assert find_module(modules, "body.1") is modules["body"][1]
    for path, hint in (
        ("bodi", r"did you mean 'body'\?"),
        ("body.2", r"did you mean 'body\.[01]'\?"),
        ("head.weight", r"modules are body, head, mean\."),
        ("xyz", r"modules are body, head, mean\."),
    ):
        with pytest.raises(MethodError, match=rf"^There is no module '{path}'; {hint}$"):
            find_module(modules, path)


def test_trainable_parameters_come_once_and_in_order(modules):
    body = modules["body"]
    found = trainable_parameters(modules, ["body.1", "body", "mean"])
    assert [id(p) for p in found] == [id(p) for p in (body[1].weight, body[1].bias, body[0].weight, body[0].bias)]
    body[0].weight.requires_grad_(False)
    assert id(body[0].weight) not in {id(p) for p in trainable_parameters(modules, ["body"])}


def test_a_stage_begins_with_the_weights_that_it_takes_from_others(modules):
    torch.nn.init.normal_(modules["body"][0].weight)
    modules["body"][1].running_mean += 3
    initialise(modules, STAGE)
    assert not torch.equal(modules["mean"][0].weight, modules["body"][0].weight), "this stage takes none"
    initialise(modules, replace(STAGE, init={"mean": "body"}))
    for name, tensor in modules["body"].state_dict().items():
        assert torch.equal(modules["mean"].state_dict()[name], tensor)
    assert not any(parameter.requires_grad for parameter in modules["mean"].parameters())
    initialise(modules, replace(STAGE, init={"mean.0": "body.0"}))


def test_frozen_modules_neither_learn_nor_move_their_statistics(modules):
    stage = replace(STAGE, frozen=("body", "mean"))
    frozen = set_modes(modules, stage)
    assert {id(p) for p in frozen} == {id(p) for p in modules["body"].parameters()}, "the mean had no gradient before"
    assert not any(parameter.requires_grad for parameter in modules["body"].parameters())
    assert not any(layer.training for layer in modules["body"].modules())
    assert modules["head"].training
    assert modules["head"].weight.requires_grad
    before = modules["body"][1].running_mean.clone()
    modules["body"](torch.randn(4, 2))
    assert torch.equal(modules["body"][1].running_mean, before)
    for parameter in frozen:
        parameter.requires_grad_(True)
    assert set_modes(modules, STAGE) == []
    assert all(layer.training for name in modules for layer in modules[name].modules())


def test_a_part_of_a_module_may_be_frozen(modules):
    (weight, bias) = set_modes(modules, replace(STAGE, frozen=("body.0",)))
    assert (weight is modules["body"][0].weight, bias is modules["body"][0].bias) == (True, True)
    assert not modules["body"][0].training
    assert modules["body"][1].training
    assert modules["body"][1].weight.requires_grad


def test_all_batch_norms_get_their_groups(modules):
    """Statistics of two groups of four images are not those of the eight."""
    images = torch.randn(8, 2)
    prepare_batch_norms(modules, None, 8)
    whole = modules["body"](images)
    prepare_batch_norms(modules, 4, 8)
    grouped = modules["body"](images)
    assert not torch.allclose(whole, grouped)
    torch.testing.assert_close(grouped[:4].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(modules["mean"](images)[:4].mean(0), torch.zeros(2), atol=1e-5, rtol=0)
