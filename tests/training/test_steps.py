"""One step: updates in order, gradients for the parameters of an update's optimizers only, then moving averages."""

import pytest
import torch
from small_runs import on_workers
from torch import nn

from reid_ray.config import TrainingConfig
from reid_ray.errors import MethodError
from reid_ray.methods import Stage, StreamSpec, Update
from reid_ray.methods.stage import optimizers
from reid_ray.models import make_teacher
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.optimizers import make_optimizers
from reid_ray.training.steps import loss_fields, teacher_fields, train_step

CONFIG = TrainingConfig(optimizer="sgd", momentum=0, weight_decay=0, lr=0.1, warmup_epochs=0)
STAGE = Stage(
    "main", CONFIG, {"train": StreamSpec({})}, optimizers(CONFIG, first=("first",), second=("second",)), "first"
)


class Alternating:
    """A first layer learns on its output, a second one on the first's, which has moved by then."""

    def __init__(self, both=False):
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(2, 2).double(), nn.Linear(2, 1).double()
        self.mean = make_teacher(self.first)
        self.both, self.seen, self.steps = both, [], []

    @property
    def modules(self):
        return {"first": self.first, "second": self.second, "mean": self.mean}

    def updates(self, stage, batch):
        assert stage == "main"
        images = self.gather(batch)
        if self.both:
            loss = self.second(self.first(images)).square().mean()
            yield Update(("first", "second"), loss, {"square": loss})
            return
        codes = self.first(images)
        self.seen.append(self.first.weight.detach().clone())
        yield Update(("first",), codes.square().mean(), {"square": codes.square().mean()})
        self.seen.append(self.first.weight.detach().clone())
        loss = self.second(self.first(images)).square().mean()
        yield Update(("second",), loss, {"square": loss, "constant": torch.tensor(3.0)})

    def gather(self, batch):
        return batch

    def ema_pairs(self, stage):
        return [(self.mean, self.first)]

    def ema_momentum(self, step):
        self.steps.append(step)
        return 0.75


def step_of(method, batch, *, context=None, step=0, before_backward=lambda update: None, stage=STAGE):
    made = make_optimizers(method.modules, stage, {})
    return train_step(
        method, stage, batch, made, context or DistributedContext(), step=step, before_backward=before_backward
    )


IMAGES = torch.randn(4, 2, generator=torch.Generator().manual_seed(1)).double()


def test_updates_are_steps_in_order_by_hand():
    """The second sees the first's new weights; neither gives the other's parameters a gradient."""
    method, by_hand = Alternating(), Alternating()
    checked = []
    updates = step_of(method, IMAGES, step=7, before_backward=checked.append)
    (first_loss,) = (by_hand.first(IMAGES).square().mean(),)
    gradients = torch.autograd.grad(first_loss, list(by_hand.first.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(by_hand.first.parameters(), gradients, strict=True):
            parameter -= 0.1 * gradient
    second_loss = by_hand.second(by_hand.first(IMAGES)).square().mean()
    gradients = torch.autograd.grad(second_loss, list(by_hand.second.parameters()))
    with torch.no_grad():
        for parameter, gradient in zip(by_hand.second.parameters(), gradients, strict=True):
            parameter -= 0.1 * gradient
        for mean, latest in zip(by_hand.mean.parameters(), by_hand.first.parameters(), strict=True):
            mean.copy_(0.75 * mean + 0.25 * latest)
    for name, module in method.modules.items():
        for key, tensor in by_hand.modules[name].state_dict().items():
            torch.testing.assert_close(module.state_dict()[key], tensor, rtol=1e-12, atol=1e-12)
    assert [float(update.loss) for update in updates] == pytest.approx([first_loss.item(), second_loss.item()])
    assert not torch.equal(*method.seen), "an update is applied before the next is asked for"
    assert [update.optimizers for update in checked] == [("first",), ("second",)]
    assert all(update.loss.requires_grad for update in checked), "before backward"
    assert method.steps == [7]


def test_what_is_kept_of_updates_holds_no_graph():
    for update in step_of(Alternating(), IMAGES):
        assert not update.loss.requires_grad
        assert not any(term.requires_grad for term in update.terms.values())


def test_old_gradients_do_not_add_up():
    method = Alternating()
    once = step_of(method, IMAGES)[0]
    fresh = Alternating()
    for parameter in fresh.first.parameters():
        parameter.grad = torch.full_like(parameter, 100)
    again = step_of(fresh, IMAGES)[0]
    assert torch.equal(once.loss, again.loss)
    assert torch.equal(method.first.weight, fresh.first.weight)


def test_an_update_may_step_several_optimizers():
    method, before = Alternating(both=True), Alternating(both=True)
    step_of(method, IMAGES)
    loss = before.second(before.first(IMAGES)).square().mean()
    loss.backward()
    for name in ("first", "second"):
        for found, old in zip(method.modules[name].parameters(), before.modules[name].parameters(), strict=True):
            torch.testing.assert_close(found, old - 0.1 * old.grad, rtol=1e-12, atol=1e-12)


def test_an_update_of_an_unknown_optimizer(tiny):
    method = Alternating()
    method.updates = lambda stage, batch: [Update(("frist",), method.first(batch).sum(), {})]
    with pytest.raises(MethodError, match="Stage main has no optimizer 'frist'; did you mean 'first'"):
        step_of(method, IMAGES)


def test_an_error_before_backward_moves_nothing():
    method, before = Alternating(), Alternating()

    def stop(update):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        step_of(method, IMAGES, before_backward=stop)
    assert torch.equal(method.first.weight, before.first.weight)


@pytest.mark.parametrize("size", [2, 4])
def test_workers_take_the_step_of_one(size):
    """Among threads what is gathered has no gradient, so each computes the whole; test_distributed.py has processes."""
    alone = Alternating()
    step_of(alone, IMAGES)

    methods = [Alternating() for _ in range(size)]  # here: the seed is the process's

    def work(context):
        method = methods[context.rank]
        method.gather = lambda batch: context.all_gather(context.local_slice(batch))
        step_of(method, IMAGES, context=context)
        return method.modules

    for modules in on_workers(size, work):
        for name in ("first", "second", "mean"):
            for key, tensor in alone.modules[name].state_dict().items():
                torch.testing.assert_close(modules[name].state_dict()[key], tensor, rtol=1e-12, atol=1e-12)


def update(optimizers, loss, **terms):
    tensors = {name: torch.tensor(value) for name, value in terms.items()}
    return Update(optimizers, torch.tensor(loss), tensors)


def test_what_is_reported_of_one_update():
    fields = loss_fields([update(("main",), 2.0, ce=0.5, triplet=1.5)], {"main": 0.125})
    assert fields == {"lr": 0.125, "loss": 2.0, "terms": {"ce": 0.5, "triplet": 1.5}}
    assert type(fields["loss"]) is float


def test_what_is_reported_of_several_updates_and_optimizers():
    """The sum, each loss by its optimizers, and terms of one name told apart."""
    updates = [
        update(("d",), 1.0, adversarial=0.25, real=0.5),
        update(("g", "e"), 2.0, adversarial=0.75),
        update(("d",), 4.0, adversarial=0.125, fake=0.5),
    ]
    fields = loss_fields(updates[:2], {"g": 0.5, "d": 0.25})
    assert fields == {
        "lr": 0.5,
        "lrs": {"g": 0.5, "d": 0.25},
        "loss": 3.0,
        "losses": {"d": 1.0, "g+e": 2.0},
        "terms": {"d/adversarial": 0.25, "real": 0.5, "g+e/adversarial": 0.75},
    }
    assert loss_fields(updates, {"g": 0.5})["losses"] == {"d": 5.0, "g+e": 2.0}
    assert "losses" not in loss_fields(updates[:1], {"g": 0.5, "d": 0.25})


def test_the_distance_of_a_moving_average():
    method = Alternating()
    assert teacher_fields(method, STAGE) == {"teacher_distance": 0}
    with torch.no_grad():
        for parameter in method.first.parameters():
            parameter.zero_()
        method.first.weight[0, 0], method.first.bias[1] = 3, 4  # length 5
        for latest, mean in zip(method.first.parameters(), method.mean.parameters(), strict=True):
            mean.copy_(latest)
        method.mean.weight[1, 1], method.mean.bias[1] = 1.2, 4.9  # 1.5 away
    assert teacher_fields(method, STAGE)["teacher_distance"] == pytest.approx(0.3)
    method.ema_pairs = lambda stage: []
    assert teacher_fields(method, STAGE) == {}
