"""Optimizers of a stage: of the configured kind, with the moments of the parameters that stay."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from reid_ray.config import OptimizerConfig, TrainingConfig
from reid_ray.errors import MethodError
from reid_ray.methods import Stage, StreamSpec
from reid_ray.methods.stage import optimizers
from reid_ray.training.optimizers import make_optimizer, make_optimizers, optimizer_spec, set_rates


def stage_with(**settings):
    config = TrainingConfig(**settings)
    made = optimizers(config, body=("body",), head=("head", "body.1"))
    return Stage("main", config, {"train": StreamSpec({})}, made, "body")


@pytest.fixture
def modules():
    return {"body": nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), "head": nn.Linear(2, 3)}


@pytest.mark.parametrize(
    ("settings", "by_hand"),
    [
        ({"optimizer": "adam", "betas": (0.5, 0.9)}, lambda p: Adam(p, lr=0.1, betas=(0.5, 0.9), weight_decay=0.01)),
        ({"optimizer": "amsgrad"}, lambda p: Adam(p, lr=0.1, weight_decay=0.01, amsgrad=True)),
        ({"optimizer": "sgd", "momentum": 0.5}, lambda p: SGD(p, lr=0.1, momentum=0.5, weight_decay=0.01)),
        (
            {"optimizer": "sgd", "momentum": 0.5, "nesterov": True},
            lambda p: SGD(p, lr=0.1, momentum=0.5, nesterov=True, weight_decay=0.01),
        ),
    ],
)
def test_steps_are_those_of_the_configured_kind(settings, by_hand):
    start = torch.randn(4, 3, dtype=torch.float64)
    found, expected = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    made = make_optimizer([found], OptimizerConfig(lr=0.1, weight_decay=0.01, **settings))
    other = by_hand([expected])
    for step in range(5):
        for parameter, optimizer in ((found, made), (expected, other)):
            parameter.grad = (-1) ** step * (parameter.detach() ** 2 + step)
            optimizer.step()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_each_optimizer_has_its_modules_and_its_settings(modules):
    stage = stage_with(lr=0.5, optimizers={"head": {"optimizer": "sgd", "lr": 0.25}})
    modules["body"][0].bias.requires_grad_(False)
    made = make_optimizers(modules, stage, {})
    assert {name: type(optimizer) for name, optimizer in made.items()} == {"body": Adam, "head": SGD}
    expected = [modules["head"].weight, modules["head"].bias, *modules["body"][1].parameters()]
    assert [id(p) for p in made["head"].param_groups[0]["params"]] == [id(p) for p in expected]
    assert id(modules["body"][0].bias) not in {id(p) for p in made["body"].param_groups[0]["params"]}
    assert set_rates(made, stage, 99) == {"body": 0.5, "head": 0.25}


def test_rates_follow_the_schedules_by_epoch(modules):
    stage = stage_with(
        lr=1.0, warmup_epochs=2, warmup_factor=0.5, optimizers={"head": {"lr_steps": (1,), "warmup_epochs": 0}}
    )
    made = make_optimizers(modules, stage, {})
    for epoch, (body, head) in enumerate([(0.5, 1.0), (0.75, 0.1), (1.0, 0.1)]):
        rates = set_rates(made, stage, epoch)
        assert rates == {"body": pytest.approx(body), "head": pytest.approx(head)}
        assert {name: optimizer.param_groups[0]["lr"] for name, optimizer in made.items()} == rates


@pytest.mark.parametrize("reset", [False, True])
def test_moments_stay_with_the_parameters_that_stay(modules, reset):
    stage = stage_with(reset_optimizer=reset)
    made = make_optimizers(modules, stage, {})
    for parameter in (p for module in modules.values() for p in module.parameters()):
        parameter.grad = torch.ones_like(parameter)
    for optimizer in made.values():
        optimizer.step()
    kept, before = modules["body"][0].weight, modules["head"].weight
    moments = made["body"].state[kept]
    modules["head"] = nn.Linear(2, 5)
    again = make_optimizers(modules, stage, made)
    assert (kept in again["body"].state) == (not reset)
    if not reset:
        assert again["body"].state[kept] is moments
        assert modules["body"][1].weight in again["head"].state
    assert before not in again["head"].state
    assert modules["head"].weight not in again["head"].state
    assert make_optimizers(modules, stage, {})["body"].state == {}


def test_an_unknown_optimizer_is_named_with_the_nearest():
    stage = replace(stage_with(), name="refine")
    assert optimizer_spec(stage, "head") is stage.optimizers["head"]
    with pytest.raises(MethodError, match=r"^Stage refine has no optimizer 'heat'; did you mean 'head'\?$"):
        optimizer_spec(stage, "heat")
    with pytest.raises(MethodError, match=r"^Stage refine has no optimizer 'xyz'; optimizers are body, head\.$"):
        optimizer_spec(stage, "xyz")
