"""The mean teacher against the formula, one number at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from reid_ray.models import GroupBatchNorm, make_teacher, update_teacher


def student() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), GroupBatchNorm(4), nn.Linear(4, 2)).double()


@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.999])
def test_parameters_follow_the_formula(momentum: float) -> None:
    model = student()
    teacher = make_teacher(model)
    expected = {name: value.tolist() for name, value in _flat(teacher).items()}
    for _ in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        update_teacher(teacher, model, momentum)
        for name, values in _flat(model).items():
            pairs = zip(expected[name], values.tolist(), strict=True)
            expected[name] = [momentum * old + (1 - momentum) * new for old, new in pairs]
    for name, values in _flat(teacher).items():
        assert values.tolist() == pytest.approx(expected[name], rel=1e-12, abs=1e-12), name


def test_teacher_is_a_copy_without_gradients() -> None:
    model = student()
    teacher = make_teacher(model)
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        model[0].weight.zero_()
    assert teacher[0].weight.any()


def test_buffers_are_left_to_the_teachers_own_forward_passes() -> None:
    model = student()
    teacher = make_teacher(model)
    model(torch.randn(4, 3, dtype=torch.float64))
    before = {name: value.clone() for name, value in teacher.named_buffers()}
    update_teacher(teacher, model, 0.5)
    for name, value in teacher.named_buffers():
        assert torch.equal(value, before[name]), name
    assert not torch.equal(model[1].running_mean, teacher[1].running_mean)
    teacher(torch.randn(4, 3, dtype=torch.float64))
    assert not torch.equal(teacher[1].running_mean, before["1.running_mean"])


def _flat(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().flatten() for name, parameter in module.named_parameters()}
