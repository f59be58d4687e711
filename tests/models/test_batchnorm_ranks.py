"""BN groups over several processes: the number of workers changes nothing.

One small network is trained for two steps on the same global batches in one process, and by 2 and 4 processes that
talk by gloo; outputs, gradients and running statistics must agree in float64.
"""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from small_processes import fork_workers
from torch import Tensor, nn

from reid_ray.errors import ConfigError
from reid_ray.models import GroupBatchNorm, make_teacher, prepare_bn_groups, synchronise_buffers

GLOBAL_BATCH = 16
N_STEPS = 2
WORLD_SIZES = (2, 4)
CASES = [(group, buffers) for group in (None, 16, 8, 4, 2) for buffers in ("first", "mean")]

Result = dict[str, Any]


class SmallNetwork(nn.Module):
    """A convolution, a 4-d and a 2-d batch norm: all gradients pass through group statistics."""

    def __init__(self, group: int | None, buffers: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)
        self.norm = GroupBatchNorm(5, group=group, buffers=buffers)
        self.neck = GroupBatchNorm(5, group=group, buffers=buffers)

    def forward(self, images: Tensor) -> Tensor:
        return self.neck(self.norm(self.conv(images)).relu().mean(dim=(2, 3)))


def global_batches() -> list[tuple[Tensor, Tensor]]:
    """Images far from 0, whose spread grows with the row: each rank's statistics differ from the group's."""
    generator = torch.Generator().manual_seed(1)
    spread = torch.linspace(0.5, 3, GLOBAL_BATCH, dtype=torch.float64).view(-1, 1, 1, 1)
    return [
        (
            5 + spread * torch.randn(GLOBAL_BATCH, 3, 5, 4, generator=generator, dtype=torch.float64),
            torch.randn(GLOBAL_BATCH, 5, generator=generator, dtype=torch.float64),
        )
        for _ in range(N_STEPS)
    ]


def train(group: int | None, buffers: str, rank: int, world_size: int) -> Result:
    """This rank's share of two steps. The loss is a sum over images, so that gradients add up over ranks."""
    torch.manual_seed(0)
    model = SmallNetwork(group, buffers).double()
    local_batch = GLOBAL_BATCH // world_size
    prepare_bn_groups(model, group, local_batch)
    mine = slice(rank * local_batch, (rank + 1) * local_batch)
    outputs, input_grads = [], []
    for all_images, upstream in global_batches():
        images = all_images[mine].clone().requires_grad_()
        output = model(images)
        (output.pow(3) * upstream[mine]).sum().backward()
        outputs.append(output.detach())
        input_grads.append(images.grad)
    synchronise_buffers(model)
    return {
        "outputs": outputs,
        "input_grads": input_grads,
        "grads": {name: parameter.grad for name, parameter in model.named_parameters()},
        "buffers": dict(model.named_buffers()),
    }


def other_facts(local_batch: int) -> Result:
    """What else only shows with several processes: mistakes, the teacher's copy, half precision."""
    facts: Result = {}
    images = torch.randn(local_batch, 3, 5, 4)
    model = SmallNetwork(None, "first")
    try:
        model(images)
    except ConfigError as error:
        facts["unprepared"] = str(error)
    try:
        prepare_bn_groups(model, 3 * local_batch, local_batch)
    except ConfigError as error:
        facts["impossible"] = str(error)
    prepare_bn_groups(model, 2 * local_batch, local_batch)
    try:
        model(images[:-1])
    except ConfigError as error:
        facts["other batch size"] = str(error)
    prepare_bn_groups(model, None, local_batch)
    facts["one group of any size"] = len(model(images[:-1]))
    teacher = make_teacher(model)
    facts["teacher"] = torch.equal(teacher(images), model(images))
    facts["evaluation"] = model.eval()(images[:1]).shape

    layer = GroupBatchNorm(3)
    prepare_bn_groups(layer, None, local_batch)
    channels_last = images.to(memory_format=torch.channels_last)
    expected = copy.deepcopy(layer)(channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        half_images = channels_last.bfloat16().requires_grad_()
        half = layer(half_images)
    half.float().pow(2).sum().backward()
    facts["bf16"] = {
        "types": [half.dtype, half_images.grad.dtype, layer.weight.grad.dtype, layer.running_mean.dtype],
        "error": (half.float() - expected).abs().max().item(),
        "channels_last": half.is_contiguous(memory_format=torch.channels_last),
    }
    return facts


def run_rank(rank: int, world_size: int, folder: Path) -> None:
    """All that one process does."""
    torch.set_num_threads(1)
    rendezvous = f"file://{folder}/rendezvous-{world_size}"
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=world_size)
    cases = {case: train(*case, rank, world_size) for case in CASES}
    facts = other_facts(GLOBAL_BATCH // world_size)
    torch.save({"cases": cases, "facts": facts}, folder / f"{rank}-of-{world_size}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the results of all ranks of all world sizes."""
    folder = tmp_path_factory.mktemp("ranks")
    for world_size in WORLD_SIZES:
        fork_workers(partial(run_rank, folder=folder), world_size)
    return folder


@pytest.fixture(params=WORLD_SIZES)
def ranks(request: pytest.FixtureRequest, results_folder: Path) -> list[Result]:
    """Results of all ranks of one world size, in order."""
    files = [results_folder / f"{rank}-of-{request.param}.pt" for rank in range(request.param)]
    return [torch.load(file, weights_only=False) for file in files]


@pytest.mark.parametrize(("group", "buffers"), CASES)
def test_equals_one_process(ranks: list[Result], group: int | None, buffers: str) -> None:
    alone = train(group, buffers, rank=0, world_size=1)
    shares = [rank["cases"][group, buffers] for rank in ranks]
    for step in range(N_STEPS):
        for what in ("outputs", "input_grads"):
            together = torch.cat([share[what][step] for share in shares])
            torch.testing.assert_close(together, alone[what][step], rtol=1e-9, atol=1e-9, msg=what)
    for name, expected in alone["grads"].items():
        total = sum(share["grads"][name] for share in shares)
        torch.testing.assert_close(total, expected, rtol=1e-9, atol=1e-9, msg=name)
    for share in shares:
        for name, expected in alone["buffers"].items():
            torch.testing.assert_close(share["buffers"][name], expected, rtol=1e-9, atol=1e-9, msg=name)


def test_mistakes_are_one_line_errors(ranks: list[Result]) -> None:
    for rank in ranks:
        assert "prepare_bn_groups" in rank["facts"]["unprepared"]
        assert "global batch of 16" in rank["facts"]["impossible"]
        assert "images per worker" in rank["facts"]["other batch size"]


def test_one_group_of_all_images_takes_batches_of_any_size(ranks: list[Result]) -> None:
    assert all(rank["facts"]["one group of any size"] == 16 // len(ranks) - 1 for rank in ranks)


def test_a_copied_teacher_shares_the_ranks(ranks: list[Result]) -> None:
    assert all(rank["facts"]["teacher"] for rank in ranks)


def test_evaluation_needs_no_other_rank(ranks: list[Result]) -> None:
    assert all(rank["facts"]["evaluation"] == (1, 5) for rank in ranks)


def test_bf16_over_ranks(ranks: list[Result]) -> None:
    for rank in ranks:
        facts = rank["facts"]["bf16"]
        assert facts["types"] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
        assert facts["error"] < 0.05
        assert facts["channels_last"]
