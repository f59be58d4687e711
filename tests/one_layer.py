"""A method of one layer, services that answer as a script says, and what their trainers leave behind."""

from dataclasses import replace

import numpy as np
from small_runs import on_workers
from torch import nn

from reid_ray.methods import LabelSpec, Method, Stage, StreamSpec, Update
from reid_ray.methods.stage import optimizers
from reid_ray.models import make_teacher
from reid_ray.training.metrics import read_metrics
from reid_ray.types import Labels

EMA = 0.75
CLUSTERS = LabelSpec("clusters")


class OneLayer(Method):
    """Cross-entropy of a linear layer on the mean colours of the global batch."""

    def __init__(self, config, collectives):
        super().__init__(config, collectives)
        self.student = nn.Linear(3, 4)
        self.teacher = make_teacher(self.student)
        self.batches = []

    @classmethod
    def stages(cls, config):
        return (cls.stage_of("main", config.training),)

    @classmethod
    def stage_of(cls, name, stage_config, labels=CLUSTERS, trained=("student",), **options):
        streams = {"train": StreamSpec({"weak": "resize"}, labels=labels)}
        options = {"retriever": "teacher", **options}
        return Stage(name, stage_config, streams, optimizers(stage_config, main=trained), **options)

    @property
    def modules(self):
        return {"student": self.student, "teacher": self.teacher}

    def on_labels(self, stage, labels):
        self.labels = labels["train"]

    def updates(self, stage, batch):
        inputs = batch["train"]
        images = self.collectives.all_gather(inputs.views["weak"])
        self.batches.append((batch.key, images, inputs.labels))
        loss = nn.functional.cross_entropy(self.student(images.mean((2, 3))), inputs.labels)
        yield Update(("main",), loss, {"entropy": loss})

    def ema_pairs(self, stage):
        return [(self.teacher, self.student)]

    def ema_momentum(self, step):
        return EMA


class Scripted:
    """Services that give what a test wants: labels that are degenerate in some epochs, mAPs after others."""

    def __init__(self, n_images, *, degenerate=(), maps=None):
        self.n_images, self.degenerate, self.maps = n_images, degenerate, maps or {}
        self.requests, self.evaluated = [], []

    def begin_labels(self, request, retriever):
        # The mapping of the labels before is the trainer's own, which goes on with it.
        self.requests.append((replace(request, previous=dict(request.previous)), retriever))

    def collect_labels(self):
        request, _ = self.requests[-1]
        return {stream: self.labels(request.epoch) for stream in request.streams}

    def labels(self, epoch):
        n_clusters = 1 if epoch in self.degenerate else 4
        return Labels(epoch, (np.arange(self.n_images) + epoch) % n_clusters, statistics={"n": 1})

    @property
    def previous(self):
        """The labels before that each refresh was given."""
        return [request.previous.get("train") for request, _ in self.requests]

    def begin_evaluation(self, retriever):
        self.evaluated.append(retriever.version[1])

    def collect_evaluation(self):
        return {"mAP": self.maps.get(self.evaluated[-1], 0.5)} if self.maps is not None else None


def events(directory, kind):
    return [event for event in read_metrics(directory.metrics_file) if event["event"] == kind]


def failing_at(step, error=RuntimeError("the machine is gone")):  # noqa: B008
    """A listener that ends the run behind a global step."""

    def listen(event):
        if event["event"] == "step" and event["global_step"] == step:
            raise error

    return listen


def run_together(trainers):
    """Run the trainers of all ranks, made one after the other: they draw from one random generator."""

    def run(context):
        made = trainers[context.rank]
        made.context = made.method.collectives = context
        return made.run()

    return on_workers(len(trainers), run)
