"""The loop over stages: what each begins with, freezes and leaves, where it resumes, and labels that are known."""

import numpy as np
import pytest
import torch
from one_layer import EMA, OneLayer, events, failing_at, run_together
from small_runs import assert_bit_equal, newest_state, steps_logged
from torch import nn

from reid_ray.errors import DegenerateLabelsError
from reid_ray.methods import LabelSpec, Update
from reid_ray.models import make_teacher
from reid_ray.training.datasets import ImageCaches
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.metrics import read_metrics
from reid_ray.training.rundir import RunDirectory


class Known(OneLayer):
    """The same on identities, which need no features."""

    @classmethod
    def stages(cls, config):
        return (cls.stage_of("main", config.training, LabelSpec("ground_truth")),)

    def __init__(self, config, collectives):
        super().__init__(config, collectives)
        self.student = nn.Linear(3, 8)
        self.teacher = make_teacher(self.student)
        self.refreshes = []

    def on_labels(self, stage, labels):
        super().on_labels(stage, labels)
        self.refreshes.append(stage)


def test_labels_that_are_known_are_taken_once_and_nothing_is_extracted_for_them(trainer, method, tiny_dataset):
    """One refresh in the log, one file of labels, and none again for a resumed run."""
    method(Known)
    options = ("training.epochs=3", "training.iterations=2")
    with pytest.raises(RuntimeError, match="gone"):
        trainer(*options, listener=failing_at(3)).run()
    resumed = trainer(*options)
    resumed.run()
    whole = trainer("name=whole", *options)
    whole.run()
    assert whole.services.requests == resumed.services.requests == []
    assert (whole.method.refreshes, resumed.method.refreshes) == (["main"], [])
    for made in (whole, resumed):
        (refresh,) = events(made.directory, "refresh")
        assert (refresh["epoch"], refresh["n_clusters"]) == (0, 8)
        assert [path.name for path in made.directory.labels.iterdir()] == ["epoch-000.parquet"]
        assert [event["epoch"] for event in events(made.directory, "epoch")] == [0, 1, 2]
    assert_bit_equal(newest_state(whole.directory), newest_state(resumed.directory))
    pids = np.unique(tiny_dataset.train.pids, return_inverse=True)[1]
    assert all((labels >= 0).all() for _, _, labels in resumed.method.batches)
    assert (whole._labels["train"].labels == pids).all()
    assert (resumed._labels["train"].labels == pids).all()


class Unlabelled(OneLayer):
    """Images without labels."""

    @classmethod
    def stages(cls, config):
        return (cls.stage_of("main", config.training, LabelSpec()),)

    def updates(self, stage, batch):
        (codes,) = (self.student(self.collectives.all_gather(batch["train"].views["weak"]).mean((2, 3))),)
        yield Update(("main",), codes.square().mean(), {})


def test_a_stage_without_labels_logs_no_refresh_and_writes_none(trainer, method):
    method(Unlabelled)
    made = trainer()
    made.run()
    assert made.services.requests == []
    assert [event["event"] for event in read_metrics(made.directory.metrics_file) if event["event"] != "step"] == [
        *("start", "epoch", "epoch", "evaluate", "end"),
    ]
    assert list(made.directory.labels.iterdir()) == []
    assert steps_logged(made.directory) == list(range(1, 9))


class TwoStages(OneLayer):
    """First a layer on identities, frozen afterwards; then another on clusters, which begins as the first."""

    def __init__(self, config, collectives):
        super().__init__(config, collectives)
        self.first = nn.Linear(3, 8)
        self.student = nn.Linear(3, 8)
        self.teacher = make_teacher(self.student)
        self.steps = []

    @classmethod
    def stages(cls, config):
        first = cls.stage_of(
            "first",
            config.stage_config("first"),
            LabelSpec("ground_truth"),
            trained=("first",),
            frozen=("student",),
            retriever="first",
            evaluated=False,
            seed_offset=5,
        )
        return first, cls.stage_of(
            "main", config.training, frozen=("first",), init={"student": "first", "teacher": "student"}
        )

    @property
    def modules(self):
        return {**super().modules, "first": self.first}

    def on_labels(self, stage, labels):
        super().on_labels(stage, labels)
        self.begun = {name: module.weight.detach().clone() for name, module in self.modules.items()}

    def updates(self, stage, batch):
        inputs = batch["train"]
        images = self.collectives.all_gather(inputs.views["weak"])
        self.batches.append((batch.key, images, inputs.labels))
        network = self.first if stage == "first" else self.student
        loss = nn.functional.cross_entropy(network(images.mean((2, 3))), inputs.labels)
        yield Update(("main",), loss, {"entropy": loss})

    def ema_pairs(self, stage):
        return super().ema_pairs(stage) if stage == "main" else []

    def ema_momentum(self, step):
        self.steps.append(step)
        return EMA


STAGES = ("stages.first={epochs: 2, iterations: 3, lr: 0.5}", "training.checkpoint_every=2", "evaluation.every=1")


def test_stages_follow_one_another(trainer, method):
    method(TwoStages)
    made = trainer(*STAGES, "evaluation.at_start=true")
    made.run()
    told = [(event["stage"], event["event"]) for event in read_metrics(made.directory.metrics_file)]
    told = [line for line in told if line[1] != "step"]
    first = [("first", kind) for kind in ("start", "refresh", "epoch", "epoch")]
    main = ("start", "evaluate", "refresh", "epoch", "evaluate", "refresh", "epoch", "evaluate", "end")
    assert told == [*first, *(("main", kind) for kind in main)]
    keys = [key for key, _, _ in made.method.batches]
    assert keys[:6] == [(5, epoch, step) for epoch in (0, 1) for step in range(3)]
    assert keys[6:] == [(0, epoch, step) for epoch in (0, 1) for step in range(4)]
    assert made.method.steps == [*range(6), *range(8)], "counted from the stage's start"
    steps = events(made.directory, "step")
    assert [event["global_step"] for event in steps] == list(range(1, 15))
    assert [event["lr"] for event in steps[:6]] == pytest.approx(
        [made.stages[0].config.learning_rate(epoch) for epoch in (0, 0, 0, 1, 1, 1)]
    )
    assert [event["n_steps"] for event in steps] == [3] * 6 + [4] * 8
    (request, retriever), _ = made.services.requests
    assert (request.stage.name, retriever.module, retriever.version, retriever.global_step) == (
        "main",
        "teacher",
        (1, 0),
        6,
    )
    assert made.services.evaluated == [0, 1, 2]
    assert {path.name for path in made.directory.labels.iterdir()} == {
        "first-epoch-000.parquet",
        "epoch-000.parquet",
        "epoch-001.parquet",
    }
    final = newest_state(made.directory)["state"]
    assert (final["stage"], final["epoch"], final["stage_step"], final["global_step"]) == (1, 2, 8, 14)


def test_a_stage_begins_with_the_weights_of_the_one_before_and_leaves_what_it_freezes(trainer, method):
    """Its optimizers begin anew, and what it freezes neither learns nor gets a gradient."""
    method(TwoStages)
    made = trainer(*STAGES, "training.epochs=1")
    made.run()
    networks = made.method
    exported = torch.load(made.directory.model_file("first"), weights_only=True)
    assert (exported["module"], exported["stage"], exported["epoch"]) == ("first", "first", 2)
    assert torch.equal(networks.first.weight, exported["model"]["weight"]), "frozen in the main stage"
    assert torch.equal(networks.begun["student"], exported["model"]["weight"])
    assert torch.equal(networks.begun["teacher"], exported["model"]["weight"]), "in the order of init"
    assert not torch.equal(networks.student.weight, exported["model"]["weight"])
    assert networks.first.weight.requires_grad is False
    assert networks.student.weight.requires_grad
    assert made._optimizers["main"].state[networks.student.weight]["step"] == 4
    last = torch.load(made.directory.model_file("last"), weights_only=True)
    assert (last["module"], last["stage"], last["epoch"]) == ("teacher", "main", 1)


@pytest.mark.parametrize("step", [1, 2, 3, 5, 6, 7, 9, 10, 11, 14])
def test_a_run_that_is_killed_in_any_stage_resumes_there(trainer, method, step):
    method(TwoStages)
    whole = trainer("name=whole", *STAGES)
    whole.run()
    with pytest.raises(RuntimeError, match="gone"):
        trainer(*STAGES, listener=failing_at(step)).run()
    resumed = trainer(*STAGES)
    resumed.run()
    assert_bit_equal(newest_state(whole.directory), newest_state(resumed.directory))
    assert steps_logged(resumed.directory) == list(range(1, 15))
    for kind in ("refresh", "evaluate", "epoch", "end"):
        told = [
            [(event["stage"], event.get("epoch")) for event in events(made.directory, kind)]
            for made in (whole, resumed)
        ]
        assert told[0] == told[1]


def test_a_run_that_is_killed_between_two_stages_begins_the_second(trainer, method):
    """Its first event there has not been: the modules of the checkpoint are those at the end of the stage before."""
    method(TwoStages)

    def gone(event):
        if event["event"] == "start" and event["stage"] == "main":
            raise RuntimeError("the machine is gone")

    with pytest.raises(RuntimeError, match="gone"):
        trainer(*STAGES, listener=gone).run()
    state = newest_state(RunDirectory.of(trainer(*STAGES).config))["state"]
    assert (state["stage"], state["epoch"], state["global_step"], state["refreshed"]) == (1, 0, 6, False)
    resumed, whole = trainer(*STAGES), trainer("name=whole", *STAGES)
    resumed.run()
    whole.run()
    assert_bit_equal(newest_state(whole.directory), newest_state(resumed.directory))
    assert [event["stage"] for event in events(resumed.directory, "start")] == ["first", "main"]


@pytest.mark.parametrize("size", [2])
def test_workers_take_the_steps_of_one_in_every_stage(size, trainer, method):
    method(TwoStages)
    alone = trainer("name=alone", *STAGES)
    alone.run()
    together = [
        trainer(f"runtime.n_workers={size}", *STAGES, context=DistributedContext(rank, size)) for rank in range(size)
    ]
    run_together(together)
    for made in together:
        for name, module in alone.method.modules.items():
            found = made.method.modules[name].state_dict()
            torch.testing.assert_close(found, module.state_dict(), rtol=1e-9, atol=1e-12)


def test_degenerate_labels_are_counted_by_stage(trainer, method):
    """The labels before are those of the same stage."""

    class Twice(OneLayer):
        @classmethod
        def stages(cls, config):
            return cls.stage_of("first", config.stage_config("first")), cls.stage_of("main", config.training)

    method(Twice)
    options = ("stages.first={epochs: 3, iterations: 1}", "training.iterations=1", "labels.max_degenerate_epochs=2")
    with pytest.raises(DegenerateLabelsError, match="first clustering gave 1 cluster"):
        trainer("name=first", *options, degenerate=(0,)).run()
    made = trainer(*options, "training.epochs=2", degenerate=(1, 2))
    made.run()
    flags = [(event["stage"], event["degenerate"]) for event in events(made.directory, "refresh")]
    assert flags == [("first", False), ("first", True), ("first", True), ("main", False), ("main", True)]


def test_stale_labels_are_looked_ahead_for_inside_a_stage_only(trainer, method):
    class Twice(OneLayer):
        @classmethod
        def stages(cls, config):
            return cls.stage_of("first", config.stage_config("first")), cls.stage_of("main", config.training)

    method(Twice)
    made = trainer("labels.staleness=1", "stages.first={epochs: 2, iterations: 1}", "training.iterations=1")
    made.run()
    asked = [(request.stage.name, request.epoch, retriever.version) for request, retriever in made.services.requests]
    assert asked == [("first", 0, (0, 0)), ("first", 1, (0, 0)), ("main", 0, (1, 0)), ("main", 1, (1, 0))]
    assert [event["staleness"] for event in events(made.directory, "refresh")] == [0, 1, 0, 1]


def test_images_of_a_table_that_the_stage_does_not_read_are_freed(trainer, method, monkeypatch):
    method(TwoStages)
    kept = []
    keep_only = ImageCaches.keep_only
    monkeypatch.setattr(ImageCaches, "keep_only", lambda caches, names: kept.append(names) or keep_only(caches, names))
    trainer(*STAGES).run()
    assert kept == [["data", "evaluation"]] * 2


class Continued(TwoStages):
    """Both stages train the same layer on identities, by an optimizer of the same name."""

    resumes = ("main",)

    def __init__(self, config, collectives):
        super().__init__(config, collectives)
        self.moments = []

    @classmethod
    def stages(cls, config):
        return tuple(
            cls.stage_of(name, settings, LabelSpec("ground_truth"), frozen=("first",), evaluated=False, resumes=resumed)
            for name, settings, resumed in (
                ("first", config.stage_config("first"), ()),
                ("main", config.training, cls.resumes),
            )
        )

    def on_labels(self, stage, labels):
        self.labels = labels["train"]

    def updates(self, stage, batch):
        yield from OneLayer.updates(self, stage, batch)


@pytest.mark.parametrize("resumes", [("main",), ()])
def test_an_optimizer_keeps_its_moments_where_the_stage_resumes_it(trainer, method, resumes):
    """Adam counts its steps; killed at the border of the stages it counts on just the same."""
    method(type("Resumed", (Continued,), {"resumes": resumes}))
    options = ("stages.first={epochs: 1, iterations: 3}", "training.epochs=1", "training.iterations=2")
    whole = trainer("name=whole", *options)
    whole.run()
    (count,) = {int(state["step"]) for state in newest_state(whole.directory)["optimizers"]["main"]["state"].values()}
    assert count == (5 if resumes else 2)

    def at_the_border(event):
        if event["event"] == "start" and event["stage"] == "main":
            raise RuntimeError("the machine is gone")

    with pytest.raises(RuntimeError, match="gone"):
        trainer(*options, listener=at_the_border).run()
    resumed = trainer(*options)
    resumed.run()
    assert_bit_equal(newest_state(whole.directory), newest_state(resumed.directory))
