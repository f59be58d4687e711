"""A loss that is no longer finite: what is written to see why, and what is said."""

import math

import pytest
import torch
from small_methods import inputs, make_batch
from torch import nn

from reid_ray.errors import DivergedError
from reid_ray.training.divergence import check_finite

MODULES = {"student": nn.Linear(2, 3), "memory": nn.Linear(1, 1)}


def batch():
    labels = torch.arange(4)
    views = {"strong": torch.randn(2, 3, 4, 4)}
    return make_batch(
        inputs(views, labels, modality=labels % 2),
        key=(9, 3, 17),
        source=inputs({"strong": torch.randn(2, 3, 4, 4)}, labels + 1, rows=labels + 50),
    )


def test_a_finite_loss_is_nothing(tmp_path):
    check_finite(torch.tensor(3.0, requires_grad=True), {"a": torch.tensor(math.nan)}, batch(), MODULES, tmp_path / "f")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_batch_weights_and_terms_are_written(tmp_path, value):
    data, file = batch(), tmp_path / "diverged-0.pt"
    terms = {"ce": torch.tensor(0.5, requires_grad=True), "soft": torch.tensor(value)}
    with pytest.raises(DivergedError) as caught:
        check_finite(torch.tensor(value, requires_grad=True), terms, data, MODULES, file)
    message = str(caught.value)
    assert message.startswith(
        f"The loss is no longer finite at epoch 3, step 17 (loss {value:g}, ce 0.5, soft {value:g})"
    )
    assert str(file) in message
    assert "\n" not in message
    seen = torch.load(file, weights_only=True)
    assert (seen["epoch"], seen["step"], seen["terms"]["ce"]) == (3, 17, 0.5)
    assert seen["streams"].keys() == {"train", "source"}
    for name, stream in seen["streams"].items():
        assert torch.equal(stream["views"]["strong"], data[name].views["strong"])
        assert torch.equal(stream["labels"], data[name].labels)
        assert torch.equal(stream["rows"], data[name].rows)
    assert torch.equal(seen["streams"]["train"]["columns"]["modality"], torch.arange(4) % 2)
    assert torch.equal(seen["modules"]["student"]["weight"], MODULES["student"].weight)
    assert seen["modules"].keys() == MODULES.keys()
