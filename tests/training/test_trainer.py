"""The loop around a method of one layer: which steps, rates, averages, files and events; and where it resumes."""

import shutil

import pytest
import torch
from one_layer import EMA, OneLayer, Scripted, events, failing_at, run_together
from small_runs import newest_state, steps_logged
from torch import nn

from reid_ray.errors import DegenerateLabelsError, RunError
from reid_ray.methods import Update
from reid_ray.models import GroupBatchNorm, make_teacher
from reid_ray.training.checkpoint import Checkpoint
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.interrupt import Request
from reid_ray.training.metrics import read_metrics


def test_steps_are_those_of_adam_by_hand(trainer):
    """The rate of the epoch, fresh gradients, weight decay, and the teacher's moving average."""
    options = ("training.lr=0.05", "training.warmup_epochs=3", "training.epochs=3", "training.weight_decay=0.01")
    torch.manual_seed(0)  # as config.seed
    student = nn.Linear(3, 4).double()
    teacher = make_teacher(student)
    trained = trainer(*options)
    trained.run()
    optimizer = torch.optim.Adam(student.parameters(), lr=1.0, weight_decay=0.01)
    for key, images, labels in trained.method.batches:
        optimizer.param_groups[0]["lr"] = trained.config.training.learning_rate(key[1])
        optimizer.zero_grad()
        nn.functional.cross_entropy(student(images.mean((2, 3))), labels).backward()
        optimizer.step()
        with torch.no_grad():
            for mean, latest in zip(teacher.parameters(), student.parameters(), strict=True):
                mean.copy_(EMA * mean + (1 - EMA) * latest)
    torch.testing.assert_close(trained.method.student.state_dict(), student.state_dict(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(trained.method.teacher.state_dict(), teacher.state_dict(), rtol=1e-9, atol=1e-12)
    exported = torch.load(trained.directory.model_file("last"), weights_only=True)
    torch.testing.assert_close(exported["model"], teacher.state_dict(), rtol=1e-9, atol=1e-12)
    assert exported["epoch"] == 3
    assert [event["lr"] for event in events(trained.directory, "step")][::4] == pytest.approx(
        [trained.config.training.learning_rate(epoch) for epoch in range(3)]
    )


@pytest.mark.parametrize("size", [2, 4])
def test_workers_take_the_steps_of_one(size, trainer):
    alone = trainer("name=alone")
    alone.run()
    together = [trainer(f"runtime.n_workers={size}", context=DistributedContext(rank, size)) for rank in range(size)]
    run_together(together)
    for made in together:
        found, expected = made.method.student.state_dict(), alone.method.student.state_dict()
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert steps_logged(together[0].directory) == list(range(1, 9))


def test_batches_hold_what_the_plan_says(trainer):
    trained = trainer("seed=5")
    trained.run()
    assert [key for key, _, _ in trained.method.batches] == [(5, e, s) for e in (0, 1) for s in range(4)]
    first, second = ([labels.tolist() for _, _, labels in trained.method.batches[i : i + 4]] for i in (0, 4))
    assert first != second  # each epoch has a plan of its own
    again = trainer("name=again", "seed=6")
    again.run()
    assert [labels.tolist() for _, _, labels in again.method.batches[:4]] != first


def test_a_refresh_is_told_the_labels_before(trainer):
    options = ("training.epochs=3", "training.iterations=2")
    with pytest.raises(RuntimeError, match="gone"):
        trainer(*options, listener=failing_at(3)).run()
    resumed = trainer(*options)
    resumed.run()
    whole = trainer("name=whole", *options)
    whole.run()
    assert whole.services.previous[0] is None
    for epoch, given in enumerate(whole.services.previous[1:]):
        assert given.labels.tolist() == [(i + epoch) % 4 for i in range(len(given.labels))]
    assert [given.digest() for given in resumed.services.previous] == [whole.services.previous[2].digest()]


def test_what_is_logged_and_when(trainer):
    trained = trainer("training.iterations=5", "training.log_every=2", "training.epochs=1", "evaluation.at_start=true")
    trained.run()
    log = read_metrics(trained.directory.metrics_file)
    names = ["start", "evaluate", "refresh", "step", "step", "step", "epoch", "evaluate", "end"]
    assert [event["event"] for event in log] == names
    assert steps_logged(trained.directory) == [2, 4, 5]
    step = events(trained.directory, "step")[-1]
    assert step["loss"] == step["terms"]["entropy"]
    epoch = events(trained.directory, "epoch")[0]
    assert epoch["images_per_second"] * epoch["train_seconds"] == pytest.approx(5 * 16, rel=1e-3)


def test_when_it_is_evaluated_and_which_model_is_best(trainer):
    maps = {2: 0.3, 4: 0.6, 5: 0.4}
    trained = trainer("training.epochs=5", "training.iterations=1", "evaluation.every=2", maps=maps)
    trained.run()
    assert trained.services.evaluated == [2, 4, 5]
    assert torch.load(trained.directory.model_file("best"), weights_only=True)["epoch"] == 4
    assert torch.load(trained.directory.model_file("last"), weights_only=True)["epoch"] == 5
    longer = ("training.epochs=6", "training.iterations=1", "evaluation.every=2")
    trainer(*longer, maps={6: 0.5}).run()  # better than the last, not than the best
    assert torch.load(trained.directory.model_file("best"), weights_only=True)["epoch"] == 4


def test_without_an_evaluation_there_is_no_best_model(trainer):
    trained = trainer("training.epochs=1", "training.iterations=1")
    trained.services.maps = None
    trained.run()
    assert not events(trained.directory, "evaluate")
    assert not trained.directory.model_file("best").exists()


def test_when_checkpoints_are_written(trainer, monkeypatch):
    saved = []
    monkeypatch.setattr(Checkpoint, "save", lambda self, folder, keep: saved.append((self.state, keep)))
    trainer("training.iterations=5", "training.checkpoint_every=2", "training.keep_checkpoints=7").run()
    places = [(state.epoch, state.step, state.global_step, state.refreshed) for state, _ in saved]
    first = [(0, 0, 0, True), (0, 2, 2, True), (0, 4, 4, True), (1, 0, 5, False)]
    assert places == [*first, (1, 0, 5, True), (1, 2, 7, True), (1, 4, 9, True), (2, 0, 10, False)]
    assert {keep for _, keep in saved} == {7}
    assert [state.metrics for state, _ in saved] == sorted({state.metrics for state, _ in saved})
    assert [state.stage_step for state, _ in saved] == [state.global_step for state, _ in saved]


def test_at_a_multiple_of_checkpoint_every_the_epoch_s_end_is_saved_once(trainer, monkeypatch):
    saved = []
    monkeypatch.setattr(Checkpoint, "save", lambda self, folder, keep: saved.append(self.state.step))
    trainer("training.iterations=4", "training.checkpoint_every=2", "training.epochs=1").run()
    assert saved == [0, 2, 0]


@pytest.mark.parametrize("step", [1, 3, 4, 5, 6, 8])
def test_it_goes_on_from_the_last_checkpoint(step, trainer):
    """Nothing is done or logged twice, no evaluation at the start is repeated, and the end is the same."""
    options = ("training.checkpoint_every=2", "evaluation.every=1", "evaluation.at_start=true")
    whole = trainer("name=whole", *options)
    whole.run()
    with pytest.raises(RuntimeError, match="the machine is gone"):
        trainer(*options, listener=failing_at(step)).run()
    resumed = trainer(*options)
    resumed.run()
    for name in ("student", "teacher"):
        expected, found = (getattr(t.method, name).state_dict() for t in (whole, resumed))
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert steps_logged(resumed.directory) == list(range(1, 9))
    for kind in ("refresh", "evaluate", "epoch", "end"):
        assert [e.get("epoch") for e in events(resumed.directory, kind)] == [
            e.get("epoch") for e in events(whole.directory, kind)
        ]
    states = [newest_state(t.directory)["state"] | {"metrics": 0} for t in (whole, resumed)]
    assert states[0] == states[1]
    resumed_epoch = events(resumed.directory, "epoch")[(step - 1) // 4]
    done = resumed_epoch["images_per_second"] * resumed_epoch["train_seconds"]
    assert done == pytest.approx(16 * (4 - (step - 1) % 4 // 2 * 2), rel=1e-3)


class NormedLayer(OneLayer):
    """With a batch norm before the layer, whose running statistics each worker has for itself."""

    def __init__(self, config, collectives):
        super().__init__(config, collectives)
        self.student = nn.Sequential(GroupBatchNorm(3), nn.Linear(3, 4))
        self.teacher = make_teacher(self.student)


def merge(module):
    """In place of `synchronise_buffers`, as if another worker's running means were larger by 2."""
    for layer in module.modules():
        if isinstance(layer, GroupBatchNorm):
            layer.running_mean += 1


def test_a_worker_goes_on_with_its_own_statistics_after_a_checkpoint(trainer, method, monkeypatch):
    """The file has the merged ones too; neither writing it nor resuming from it may put them in place of the own."""
    monkeypatch.setattr("reid_ray.training.checkpoint.synchronise_buffers", merge)
    seldom, often, resumed = (f"name={name}" for name in ("seldom", "often", "resumed"))

    def begin(name, every, listener=None):
        method(NormedLayer)
        return trainer(name, f"training.checkpoint_every={every}", listener=listener)

    def end(begun):
        begun.run()
        state = newest_state(begun.directory)
        own, merged = state["local_buffers"][0]["student"], state["modules"]["student"]["0.running_mean"]
        assert torch.equal(begun.method.student[0].running_mean, own[:3])
        torch.testing.assert_close(merged, own[:3] + 1)
        return own

    expected = end(begin(seldom, 100))
    assert torch.equal(end(begin(often, 1)), expected)
    with pytest.raises(RuntimeError, match="gone"):
        begin(resumed, 2, failing_at(3)).run()
    assert torch.equal(end(begin(resumed, 2)), expected)


def test_a_run_that_never_came_to_a_checkpoint_begins_again(trainer):
    def gone(event):
        if event["event"] == "refresh":
            raise RuntimeError("the machine is gone")

    with pytest.raises(RuntimeError, match="gone"):
        trainer(listener=gone).run()
    again = trainer()
    again.run()
    assert len(events(again.directory, "start")) == 1
    assert len(events(again.directory, "refresh")) == 2


def test_degenerate_labels_are_counted_in_a_row(trainer):
    """The labels before are kept, and a good refresh begins the count anew."""
    options = ("training.epochs=7", "training.iterations=1", "labels.max_degenerate_epochs=2")
    trained = trainer(*options, degenerate=(1, 2, 4, 5))
    trained.run()
    flags = [event["degenerate"] for event in events(trained.directory, "refresh")]
    assert flags == [epoch in (1, 2, 4, 5) for epoch in range(7)]
    assert trained.method.labels.version == 6
    ended = trainer("name=ended", *options, degenerate=(1, 2, 3))
    with pytest.raises(DegenerateLabelsError, match=r"3 epochs in a row \(1 cluster now"):
        ended.run()
    assert ended.method.labels.version == 0
    with pytest.raises(DegenerateLabelsError, match="first clustering gave 1 cluster of"):
        trainer("name=first", degenerate=(0,)).run()


def test_the_count_of_degenerate_labels_survives_a_restart(trainer):
    options = ("training.epochs=5", "training.iterations=1", "labels.max_degenerate_epochs=2")
    with pytest.raises(RuntimeError, match="gone"):
        trainer(*options, degenerate=(1, 2, 3), listener=failing_at(3)).run()
    with pytest.raises(DegenerateLabelsError, match="3 epochs in a row"):
        trainer(*options, degenerate=(1, 2, 3)).run()


def test_workers_with_different_labels_do_not_train(trainer, tiny_dataset):
    class Different(Scripted):
        def labels(self, epoch):
            labels = super().labels(epoch)
            labels.labels[0] = self.rank
            return labels

    made = [
        trainer("runtime.n_workers=2", context=DistributedContext(rank, 2), services=Different(len(tiny_dataset.train)))
        for rank in (0, 1)
    ]
    for rank in (0, 1):
        made[rank].services.rank = rank
    with pytest.raises(RuntimeError, match="Workers hold different labels of train"):
        run_together(made)


def test_a_loss_that_is_not_finite_reaches_no_weight(trainer, monkeypatch):
    trained = trainer("training.checkpoint_every=1")
    updates = trained.method.updates

    def broken(stage, batch):
        for update in updates(stage, batch):
            factor = float("nan") if batch.key[2] == 2 else 1.0
            yield Update(update.optimizers, update.loss * factor, update.terms)

    monkeypatch.setattr(trained.method, "updates", broken)
    with pytest.raises(RunError, match="no longer finite at epoch 0, step 2"):
        trained.run()
    saved = newest_state(trained.directory)
    assert saved["state"]["step"] == 2
    seen = torch.load(trained.directory.diverged_file(0), weights_only=True)
    torch.testing.assert_close(seen["modules"], saved["modules"], rtol=0, atol=0)
    assert (seen["epoch"], seen["step"]) == (0, 2)


def test_a_notice_writes_a_checkpoint_and_training_goes_on(trainer):
    """Each of two workers is told in another step; both save both times."""
    saved = []
    for rank in (0, 1):
        answers = iter([Request.SAVE if step == 1 + rank else Request.NOTHING for step in range(99)])
        saved.append(lambda answers=answers: next(answers))
    made = [trainer("runtime.n_workers=2", "training.epochs=1", context=DistributedContext(rank, 2)) for rank in (0, 1)]
    steps = {0: [], 1: []}
    for rank, one in enumerate(made):
        one._notice = saved[rank]
        one._save = lambda one=one, rank=rank, save=one._save: (steps[rank].append(one._state.step), save())
    run_together(made)
    assert steps[0] == steps[1] == [0, 2, 3, 0]
    assert made[0]._state.epoch == 1


def test_one_worker_s_interrupt_ends_all_with_a_checkpoint(trainer):
    made = [trainer("runtime.n_workers=2", context=DistributedContext(rank, 2)) for rank in (0, 1)]
    steps = iter(range(99))
    made[1]._notice = lambda: Request.STOP if next(steps) == 2 else Request.NOTHING
    ended = run_together(made)
    assert [type(end) for end in ended] == [KeyboardInterrupt] * 2
    assert newest_state(made[0].directory)["state"]["step"] == 3


OVERLAP = ("evaluation.overlap=true", "evaluation.every=1", "training.epochs=3")
RISING = {1: 0.1, 2: 0.3, 3: 0.2}


def story(directory):
    """Events but the start's, by what they say and not when."""
    return [
        (event["event"], event.get("epoch"), event.get("mAP")) for event in read_metrics(directory.metrics_file)[1:]
    ]


def test_an_evaluation_may_go_on_while_the_next_epoch_trains(trainer):
    beside, apart = trainer("name=beside", *OVERLAP, maps=RISING), trainer("name=apart", *OVERLAP[1:], maps=RISING)
    beside.run()
    apart.run()
    told = [(kind, epoch) for kind, epoch, _ in story(beside.directory) if kind in ("epoch", "evaluate")]
    assert told == [("epoch", 0), ("epoch", 1), ("evaluate", 1), ("epoch", 2), ("evaluate", 2), ("evaluate", 3)]
    first, second = (torch.load(made.directory.model_file("best"), weights_only=True) for made in (beside, apart))
    assert first["epoch"] == second["epoch"] == 2
    torch.testing.assert_close(first["model"], second["model"], rtol=0, atol=0)


@pytest.mark.parametrize("step", [4, 5, 8, 9, 11])
def test_a_killed_run_goes_on_with_the_evaluation_that_it_was_waiting_for(trainer, step):
    whole = trainer("name=whole", *OVERLAP, maps=RISING)
    whole.run()
    options = ("name=killed", *OVERLAP, "training.checkpoint_every=1")
    with pytest.raises(RuntimeError, match="gone"):
        trainer(*options, maps=RISING, listener=failing_at(step)).run()
    again = trainer(*options, maps=RISING)
    again.run()
    assert [line for line in story(again.directory) if line[0] != "start"] == story(whole.directory)
    steps = [[event["global_step"] for event in events(made.directory, "evaluate")] for made in (whole, again)]
    assert steps[0] == steps[1]
    models = [torch.load(made.directory.model_file("best"), weights_only=True)["model"] for made in (whole, again)]
    torch.testing.assert_close(models[0], models[1], rtol=0, atol=0)


def test_storage_that_gives_out_on_rank_0_ends_all_workers(trainer):
    made = [trainer("runtime.n_workers=2", context=DistributedContext(rank, 2)) for rank in (0, 1)]
    shutil.rmtree(made[0].directory.labels)
    answers = run_together(made)
    assert [type(answer) for answer in answers] == [RunError, RunError]
    assert all("epoch-000.parquet" in str(answer) for answer in answers)


def test_checkpoints_that_are_all_damaged_end_all_workers(trainer):
    made = [trainer("runtime.n_workers=2", context=DistributedContext(rank, 2)) for rank in (0, 1)]
    (made[0].directory.checkpoints / "step-00000003-0-0.pt").write_bytes(b"nonsense")
    with pytest.warns(UserWarning, match="damaged"):
        answers = run_together(made)
    assert [type(answer) for answer in answers] == [RunError, RunError]


class Growing(OneLayer):
    """A classifier next to the layer, made again with all new labels."""

    def __init__(self, config, collectives):
        super().__init__(config, collectives)
        self.head = nn.Linear(4, 4, bias=False)

    @classmethod
    def stages(cls, config):
        return (cls.stage_of("main", config.training, trained=("student", "head")),)

    @property
    def modules(self):
        return {**super().modules, "head": self.head}

    def on_labels(self, stage, labels):
        super().on_labels(stage, labels)
        self.head = nn.Linear(4, 4, bias=False).double()

    def updates(self, stage, batch):
        for update in super().updates(stage, batch):
            yield Update(update.optimizers, update.loss + self.head.weight.sum(), update.terms)

    def ema_pairs(self, stage):
        return []


@pytest.mark.parametrize("reset", [False, True])
def test_moments_stay_with_the_parameters_that_stay(trainer, method, reset):
    method(Growing)
    made = trainer(f"training.reset_optimizer={reset}", "training.epochs=1")
    made.run()
    kept, before = made.method.student.weight, made.method.head.weight
    assert made._optimizers["main"].state[kept]["step"] == 4
    made._take(made._labels, 0, 0.0)
    optimizer = made._optimizers["main"]
    trained = [*made.method.student.parameters(), *made.method.head.parameters()]
    assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in trained]
    assert (kept in optimizer.state) == (not reset)
    assert before not in optimizer.state
    assert made.method.head.weight not in optimizer.state
