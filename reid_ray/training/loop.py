"""The training loop: refresh labels, train an epoch, evaluate, remember; from wherever the last checkpoint stands.

The same code runs in one process, under `torchrun` and inside Ray Train workers. What differs between methods is in
`reid_ray.methods`, what differs between runtimes in `Services`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import repeat
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from reid_ray.config import Config
from reid_ray.data.images import Dataset
from reid_ray.data.loader import ImageBank, ViewLoader
from reid_ray.data.samplers import plan_as_configured, worker_columns
from reid_ray.errors import DataError, LoaderError, StorageError
from reid_ray.methods import Batch, Method, build_method, without_weights
from reid_ray.models import (
    local_buffers,
    prepare_bn_groups,
    set_local_buffers,
    synchronise_buffers,
    update_teacher,
)
from reid_ray.training.checkpoint import (
    Checkpoint,
    Position,
    latest_checkpoint,
    of_this_version,
    save_atomically,
)
from reid_ray.training.degenerate import fall_back, is_degenerate
from reid_ray.training.devices import memory_errors, parameter_dtype
from reid_ray.training.divergence import check_finite
from reid_ray.training.interrupt import Request, deferred_interrupt
from reid_ray.training.metrics import Event, MetricsLog
from reid_ray.training.optimizers import learning_rate, make_optimizers, set_rate
from reid_ray.training.others import OtherBatch, OtherImages
from reid_ray.training.rundir import RunDirectory
from reid_ray.training.services import Services, first_answers
from reid_ray.training.world import World
from reid_ray.types import IntArray, PseudoLabels

T = TypeVar("T")


def build_networks(config: Config, world: World) -> Method:
    """The method of a run, on the CPU. One that has a checkpoint needs its initial weights no more, nor their file."""
    if RunDirectory.of(config).begun:
        config = without_weights(config)
    return build_method(config, world)


class Trainer:
    """One worker's part of a run.

    Args:
        config: the run.
        dataset: its images; pids are read in supervised mode, and for label quality and evaluation.
        world: this worker's place.
        device: where it computes.
        services: answers for labels and evaluations.
        bank: the training images.
        listener: called with every logged event (progress bars); rank 0 only.
        started: `time.time()` at which the run was asked for; the `start` event reports the seconds since.
        notice: asked after each step whether this machine is about to be taken away.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        world: World,
        device: torch.device,
        services: Services,
        bank: ImageBank,
        *,
        listener: Callable[[Event], None] | None = None,
        started: float | None = None,
        notice: Callable[[], Request] = lambda: Request.NOTHING,
    ) -> None:
        self.config = config
        self.world = world
        self.device = device
        self._started = started or time.time()
        self._notice = notice
        self._dtype = parameter_dtype(config.training)
        torch.manual_seed(config.seed)
        self.method = build_networks(config, world)
        self.method.to(device, self._dtype)
        self.method.train()
        batch_size = config.training.batch_size
        for network in self.method.networks.values():
            prepare_bn_groups(network, config.model.bn_group, batch_size // world.size)
        self._optimizers: dict[str, torch.optim.Adam] = {}
        self._optimizers = make_optimizers(self.method.parameters(), self.config.training, self._optimizers)
        self._services = services
        self._table = dataset.train
        self._camids = self._table.camids
        self._loader = ViewLoader(bank, config.data, self.method.views, config.seed)
        self._columns = worker_columns(batch_size, world.rank, world.size)
        other_data = self.method.other_data(config)
        self._others = None
        if other_data is not None:
            labelled = self.method.learns_source(config)
            self._others = OtherImages(other_data, config, self.method.views, self._columns, labelled=labelled)
        self._directory = RunDirectory.of(config)
        self._log = MetricsLog(self._directory.metrics_file if world.is_first else None, listener)
        self._labels: PseudoLabels | None = None
        self._ahead: nn.Module | None = None  # the teacher that gives the next epoch's labels, where they are stale
        self._evaluated: nn.Module | None = None  # the teacher whose evaluation goes on
        self._position = Position()

    def run(self) -> Position:
        """Train to the last epoch and return where the run stands; an already finished run returns at once."""
        with memory_errors(f"training worker {self.world.rank}", "use fewer images a step or more workers"):
            self._resume()
            if self._position.epoch < self.config.training.epochs:
                self._train()
        self._log_event("end", epochs=self._position.epoch, seconds=time.time() - self._started)
        return self._position

    def _train(self) -> None:
        training = self.config.training
        self._log_event(
            "start",
            epoch=self._position.epoch,
            step=self._position.step,
            epochs=training.epochs,
            iterations=training.iterations,
            n_images=len(self._table),
            n_workers=self.world.size,
            device=str(self.device),
            startup_seconds=time.time() - self._started,
        )
        if self.config.evaluation.at_start and self._position.global_step == 0 and not self._position.refreshed:
            self._services.begin_evaluation(self.method.teacher, 0)
            self._collect_evaluation(self.method.teacher, epoch=0)
        while self._position.epoch < training.epochs:
            if not self._position.refreshed:
                self._refresh()
                self._look_ahead()
                self._save()
            self._train_epoch()
            self._finish_epoch()

    def _refresh(self) -> None:
        epoch = self._position.epoch
        started, staleness = time.perf_counter(), int(self._ahead is not None)
        clustered = self.method.clustered() if self._ahead is None else None
        if clustered is not None:
            labels = self._services.label(clustered, epoch, self._labels)
        elif self._ahead is None:
            labels = self._services.refresh(self.method.teacher, epoch, self._labels)
        else:
            labels, self._ahead = self._services.collect(), None
        waited = time.perf_counter() - started
        self.world.check_same_labels(labels)
        degenerate = is_degenerate(labels)
        self._position.degenerate = self._position.degenerate + 1 if degenerate else 0
        self._log_event(
            "refresh", epoch=epoch, degenerate=degenerate, staleness=staleness, wait_seconds=waited, **labels.statistics
        )
        if degenerate:
            labels = fall_back(labels, self._labels, self.config.labels, n_in_a_row=self._position.degenerate)
        else:
            self._take(labels)
        self._position.refreshed = True
        self._position.step = 0
        first_answers(self.world, lambda: self._directory.write_labels(replace(labels, version=epoch), self._table))

    def _take(self, labels: PseudoLabels) -> None:
        """Go on with new labels."""
        self.method.begin_epoch(labels)
        self._labels = replace(labels, features=None)
        self._optimizers = make_optimizers(self.method.parameters(), self.config.training, self._optimizers)

    def _look_ahead(self) -> None:
        """With stale labels, have those of the next epoch made by the teacher as it is now, while this epoch trains."""
        if self.config.labels.staleness and self._position.epoch + 1 < self.config.training.epochs:
            self._ahead = copy.deepcopy(self.method.teacher)
            self._begin(self._position.epoch + 1)

    def _begin(self, epoch: int) -> None:
        assert self._ahead is not None
        self._services.begin(self._ahead, epoch, self._labels, taken=epoch - self.config.labels.staleness)

    def _train_epoch(self) -> None:
        labels, epoch, training = self._labels, self._position.epoch, self.config.training
        assert labels is not None
        rate = learning_rate(training, epoch)
        set_rate(self._optimizers.values(), rate)
        rng = np.random.default_rng([self.config.seed, epoch])
        plan = plan_as_configured(labels.labels, self._camids, training, rng)
        started, first_step = time.perf_counter(), self._position.step
        batches = self._loader.batches(plan, self._columns, epoch=epoch, start=first_step)
        with closing(batches), self._other_batches(epoch, first_step) as others, deferred_interrupt() as interrupt:
            for views, other in zip(_naming_worker(batches, self.world), others, strict=False):
                batch = self._batch(plan[self._position.step], labels.labels, self._camids, views)
                batch = replace(batch, other=self._batch(*other)) if other else batch
                parts = self._step(batch)
                self._position.step += 1
                self._position.global_step += 1
                last = self._position.step == training.iterations
                if last or self._position.step % training.log_every == 0:
                    self._log_step(parts, rate)
                wanted = Request.STOP if interrupt.requested else self._notice()
                request = self.world.highest(wanted)
                if request or (not last and self._position.step % training.checkpoint_every == 0):
                    self._save()
                if request == Request.STOP:
                    raise KeyboardInterrupt
        seconds = time.perf_counter() - started
        n_images = (training.iterations - first_step) * training.batch_size
        self._log_event("epoch", epoch=epoch, train_seconds=seconds, images_per_second=n_images / seconds)

    @contextmanager
    def _other_batches(self, epoch: int, start: int) -> Iterator[Iterator[OtherBatch | None]]:
        """Batches of the second table, or as many times None."""
        if self._others is None:
            yield repeat(None)
            return
        with closing(self._others.batches(epoch, start)) as batches:
            yield _naming_worker(batches, self.world)

    def _batch(self, rows: IntArray, labels: IntArray, camids: IntArray, views: dict[str, Tensor]) -> Batch:
        device = self.device
        return Batch(
            views={
                name: images.to(device=device, dtype=self._dtype, memory_format=torch.channels_last)
                for name, images in views.items()
            },
            labels=torch.tensor(labels[rows], device=device),
            camids=torch.tensor(camids[rows], device=device),
            rows=torch.tensor(rows, device=device),
            key=(self.config.seed, self._position.epoch, self._position.step),
        )

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        logged: dict[str, Tensor] = {}
        for update in self.method.updates(batch):
            parts = {**update.parts, "loss": update.loss}
            check_finite(parts, batch, self.method.networks, self._directory.diverged_file(self.world.rank))
            optimizer = self._optimizers[update.optimizer]
            optimizer.zero_grad(set_to_none=True)
            (update.loss / self.world.size).backward()  # type: ignore[no-untyped-call]
            self.world.sum_gradients(self.method.parameters()[update.optimizer])
            optimizer.step()
            logged.update({name: value.detach() for name, value in parts.items()})
        momentum = self.method.ema_momentum(self._position.global_step)
        for mean, followed in self.method.averages:
            update_teacher(mean, followed, momentum)
        return logged

    def _log_step(self, parts: dict[str, Tensor], rate: float) -> None:
        values = {name: float(value) for name, value in parts.items()}
        loss = values.pop("loss")
        position = self._position
        self._log_event(
            "step",
            epoch=position.epoch,
            step=position.step,
            global_step=position.global_step,
            lr=rate,
            loss=loss,
            parts=values,
        )

    def _finish_epoch(self) -> None:
        position = self._position
        for network in self.method.networks.values():
            synchronise_buffers(network)
        position.epoch += 1
        position.step = 0
        position.refreshed = False
        self._export("last", self.method.teacher, position.epoch)
        if self._evaluated is not None:
            evaluated, self._evaluated = self._evaluated, None
            self._collect_evaluation(evaluated, position.epoch - 1)
        every, last = self.config.evaluation.every, position.epoch == self.config.training.epochs
        if last or (every and position.epoch % every == 0):
            overlap = self.config.evaluation.overlap and not last
            teacher = copy.deepcopy(self.method.teacher) if overlap else self.method.teacher
            self._services.begin_evaluation(teacher, position.epoch)
            if overlap:
                self._evaluated = teacher
            else:
                self._collect_evaluation(teacher, position.epoch)
        self._save()

    def _collect_evaluation(self, teacher: nn.Module, epoch: int) -> None:
        """Log the metrics of the teacher after `epoch` epochs, once they are there, and keep it if it is the best."""
        metrics = self._services.collect_evaluation()
        if metrics is None:
            return
        self._log_event("evaluate", epoch=epoch, **metrics)
        if metrics["mAP"] > self._position.best_map:
            self._position.best_map = float(metrics["mAP"])
            self._export("best", teacher, epoch)

    def _export(self, which: str, teacher: nn.Module, epoch: int) -> None:
        """Write the teacher, the model that is used after training."""
        state = {
            "model": teacher.state_dict(),
            "epoch": epoch,
            "config": self.config.model.model_dump(mode="json"),
        }
        first_answers(self.world, lambda: save_atomically(state, self._directory.model_file(which)))

    def _save(self) -> None:
        """Write a checkpoint, and leave all as it is: when one is written must not change what follows."""
        networks = self.method.networks
        own = {name: local_buffers(network) for name, network in networks.items()}
        for network in networks.values():
            synchronise_buffers(network)
        self._position.metrics = self._log.position
        checkpoint = Checkpoint(
            position=replace(self._position),
            networks={name: network.state_dict() for name, network in networks.items()},
            local_buffers=self.world.gather_objects(own),
            optimizers={name: optimizer.state_dict() for name, optimizer in self._optimizers.items()},
            labels=self._labels,
            ahead=self._ahead.state_dict() if self._ahead else None,
            evaluated=self._evaluated.state_dict() if self._evaluated else None,
        )
        folder, keep = self._directory.checkpoints, self.config.training.keep_checkpoints

        def write() -> None:
            self._log.flush()  # before the checkpoint, which counts on these events
            checkpoint.save(folder, keep)

        first_answers(self.world, write)
        for name, network in networks.items():
            set_local_buffers(network, own[name])

    def _log_event(self, event: str, **fields: Any) -> None:
        """Log an event; like every file of the run it is written by rank 0, and all ranks learn if that fails."""
        first_answers(self.world, lambda: self._log.write(event, **fields))

    def _resume(self) -> None:
        path = first_answers(self.world, lambda: latest_checkpoint(self._directory.checkpoints))
        if path is None:
            self._rewind(0)
            return
        with of_this_version(path):
            checkpoint = Checkpoint.load(path)
        if checkpoint.labels is not None:
            self._take(checkpoint.labels)
        with of_this_version(path):
            for name, network in self.method.networks.items():
                network.load_state_dict(checkpoint.networks[name])
                if len(checkpoint.local_buffers) == self.world.size:
                    set_local_buffers(network, checkpoint.local_buffers[self.world.rank][name])
            for name, optimizer in self._optimizers.items():
                optimizer.load_state_dict(checkpoint.optimizers[name])
        self._position = checkpoint.position
        self._rewind(checkpoint.position.metrics)
        if checkpoint.ahead is not None:
            self._ahead = self._teacher_with(checkpoint.ahead)
            self._begin(self._position.epoch + self._position.refreshed)
        if checkpoint.evaluated is not None:
            self._evaluated = self._teacher_with(checkpoint.evaluated)
            self._services.begin_evaluation(self._evaluated, self._position.epoch)

    def _teacher_with(self, state: dict[str, Any]) -> nn.Module:
        """A copy of the teacher with other weights."""
        teacher = copy.deepcopy(self.method.teacher)
        teacher.load_state_dict(state)
        return teacher

    def _rewind(self, position: int) -> None:
        first_answers(self.world, lambda: self._log.rewind(position))


def _naming_worker(batches: Iterator[T], world: World) -> Iterator[T]:
    """The batches; an unreadable image becomes the error of this worker alone, which a runtime must treat otherwise."""
    try:
        yield from batches
    except (DataError, StorageError) as error:
        if world.size == 1:
            raise
        raise LoaderError(str(error)) from error
