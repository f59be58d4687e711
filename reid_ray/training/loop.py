"""The training loop: refresh labels, train an epoch, evaluate, save; for each stage, starting at the last checkpoint.

The same code runs in one process, under `torchrun` and in Ray Train workers. Differences between methods are in
`reid_ray.methods`, differences between runtimes in `Services`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from reid_ray.config import Config
from reid_ray.data.images import Dataset
from reid_ray.devices import memory_errors, parameter_dtype
from reid_ray.evaluation.protocols import protocol_of
from reid_ray.inference.exported import save_exported
from reid_ray.inference.retriever import Retriever
from reid_ray.methods import Batch, Stage, Update, stages_of
from reid_ray.models import synchronise_buffers
from reid_ray.models.precision import precision_on
from reid_ray.training.checkpoint import (
    Checkpoint,
    TrainState,
    capture_modules,
    latest_checkpoint,
    restore_local_buffers,
    version_errors,
)
from reid_ray.training.checks import build_modules
from reid_ray.training.datasets import EVALUATION, ImageCaches, sections_of_stage
from reid_ray.training.degenerate import fall_back, is_degenerate
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.divergence import check_finite
from reid_ray.training.feature_cache import stage_features
from reid_ray.training.interrupt import Request, deferred_interrupt
from reid_ray.training.metrics import Event, MetricsLog
from reid_ray.training.modules import find_module, initialise, prepare_batch_norms, set_modes
from reid_ray.training.optimizers import make_optimizers, set_rates
from reid_ray.training.rendering import render, write_pictures
from reid_ray.training.rundir import RunDirectory
from reid_ray.training.services import Services, known_labels, label_request, run_on_main
from reid_ray.training.steps import loss_fields, teacher_fields, train_step
from reid_ray.training.streams import StageData
from reid_ray.types import Labels


class Trainer:
    """One worker's part of a run.

    Args:
        config: the run.
        datasets: the data that the run reads, by section of the configuration.
        context: rank and collectives of this worker.
        device: of modules and batches.
        services: computes labels and evaluations.
        caches: decoded images.
        listener: called with every logged event (progress bars); rank 0 only.
        started: `time.time()` at which the run was started; the first `start` event reports the seconds since.
        fence: called on rank 0 before it writes; raises a `UserError` if another process has taken over the run.
        notice: called after each step; returns whether this machine is about to be removed.
    """

    def __init__(
        self,
        config: Config,
        datasets: Mapping[str, Dataset],
        context: DistributedContext,
        device: torch.device,
        services: Services,
        caches: ImageCaches,
        *,
        listener: Callable[[Event], None] | None = None,
        started: float | None = None,
        notice: Callable[[], Request] = lambda: Request.NOTHING,
        fence: Callable[[], None] = lambda: None,
    ) -> None:
        self.config = config
        self.context = context
        self.device = device
        self.stages = stages_of(config)
        self.method = build_modules(config, context)
        self.method.to(device, parameter_dtype(config.training))
        self._run_started = self._stage_started = started or time.time()
        self._notice = notice
        self._fence = fence
        self._services = services
        self._caches = caches
        self._tables = {section: dataset.train for section, dataset in datasets.items()}
        self._directory = RunDirectory.of(config)
        self._log = MetricsLog(self._directory.metrics_file if context.is_main_process else None, listener)
        self._state = TrainState()
        self._labels: dict[str, Labels] = {}
        self._optimizers: dict[str, Optimizer] = {}
        self._frozen: list[nn.Parameter] = []
        self._data: StageData | None = None
        self._ahead: Retriever | None = None  # computes the next epoch's labels if labels are stale
        self._evaluated: Retriever | None = None  # being evaluated while training continues

    @property
    def stage(self) -> Stage:
        """The current stage."""
        return self.stages[self._state.stage]

    def run(self) -> TrainState:
        """Train to the last epoch and return the final state; a finished run returns at once."""
        with memory_errors(f"training worker {self.context.rank}", "use fewer images a step or more workers"):
            self._resume()
            while not self._is_finished():
                self._train_stage()
        self._log_event("end", epochs=self._state.epoch, seconds=time.time() - self._run_started)
        return self._state

    def _is_finished(self) -> bool:
        return self._state.stage == len(self.stages) - 1 and self._state.epoch >= self.stage.config.epochs

    def _train_stage(self) -> None:
        """Train the rest of the current stage."""
        number, config = self._state.stage, self.stage.config
        self._log_event(
            "start",
            epoch=self._state.epoch,
            step=self._state.step,
            global_step=self._state.global_step,
            epochs=config.epochs,
            iterations=config.iterations,
            n_images=len(self._tables[self.stage.streams[self.stage.primary].data]),
            n_workers=self.context.size,
            device=str(self.device),
            precision=precision_on(self.device, self.config.training),
            startup_seconds=time.time() - self._stage_started,
        )
        if self.config.evaluation.at_start and self.stage.evaluated and not self._state.stage_begun:
            self._services.begin_evaluation(self._retriever())
            self._collect_evaluation(self._retriever(), epoch=0)
        while self._state.stage == number and not self._is_finished():
            if not self._state.refreshed and self._refresh():
                self._look_ahead()
                self._save()
            self._train_epoch()
            self._finish_epoch()

    def _enter_stage(self) -> None:
        """Prepare modules, optimizers and labels for the current stage; the modules are those of the state."""
        stage, modules, begun = self.stage, self.method.modules, self._state.stage_begun
        for parameter in self._frozen:
            parameter.requires_grad_(True)
        if not begun:
            initialise(modules, stage)
        self._frozen = set_modes(modules, stage)
        n_images = stage.config.batch_size * stage.streams[stage.primary].frames
        prepare_batch_norms(modules, self.config.model.bn_group, n_images // self.context.size)
        resumed = {name: old for name, old in self._optimizers.items() if name in stage.resumes}
        self._optimizers = make_optimizers(modules, stage, resumed)
        self._labels = known_labels(stage, self._tables) if begun else {}
        self._data = None
        self._caches.keep_only([*sections_of_stage(stage), EVALUATION])

    def _refresh(self) -> bool:
        """Update the labels for the current epoch; returns whether there are new ones."""
        state, started, staleness = self._state, time.perf_counter(), int(self._ahead is not None)
        new = {} if state.stage_begun else known_labels(self.stage, self._tables)
        request = label_request(self.method, self.stage, self._labels, state.epoch)
        if request.streams:
            if self._ahead is None:
                self._services.begin_labels(request, self._retriever())
            new |= self._services.collect_labels()
            self._ahead = None
        state.refreshed, state.step = True, 0
        if new:
            self._take(new, staleness, time.perf_counter() - started)
        return bool(new)

    def _take(self, new: Mapping[str, Labels], staleness: int, waited: float) -> None:
        """Use new labels, or the previous ones if the new ones are degenerate."""
        self.context.check_same_labels(new)
        state, stage = self._state, self.stage
        degenerate = [name for name, labels in new.items() if self._learns(name) and is_degenerate(labels)]
        state.degenerate = state.degenerate + 1 if degenerate else 0
        logged = stage.primary in new and self._learns(stage.primary)
        if logged:
            self._log_event(
                "refresh",
                epoch=state.epoch,
                global_step=state.global_step,
                degenerate=bool(degenerate),
                staleness=staleness,
                wait_seconds=waited,
                **new[stage.primary].statistics,
            )
        for name in degenerate:
            fall_back(new[name], self._labels.get(name), self.config.labels, n_in_a_row=state.degenerate)
        if not degenerate:
            self._labels |= new
            self.method.on_labels(stage.name, self._labels)
            self._labels = {name: replace(labels, features=None) for name, labels in self._labels.items()}
            self._optimizers = make_optimizers(self.method.modules, stage, self._optimizers)
        if logged:
            labels = replace(self._labels[stage.primary], version=state.epoch)
            table = self._tables[stage.streams[stage.primary].data]
            prefix = "" if stage is self.stages[-1] else stage.name
            run_on_main(self.context, lambda: self._directory.write_labels(labels, table, prefix))

    def _learns(self, stream: str) -> bool:
        return self.stage.streams[stream].labels.origin != "none"

    def _look_ahead(self) -> None:
        """With stale labels, start computing those of the next epoch with the current retriever, during this epoch."""
        next_epoch = self._state.epoch + 1
        if self.config.labels.staleness and self.stage.clusters and next_epoch < self.stage.config.epochs:
            self._ahead = self._retriever().copied()
            self._services.begin_labels(label_request(self.method, self.stage, self._labels, next_epoch), self._ahead)

    def _train_epoch(self) -> None:
        state, stage, training = self._state, self.stage, self.config.training
        data, labels = self._stage_data(), self._labels
        rates = set_rates(self._optimizers, stage, state.epoch)
        plan = data.plan(labels, state.epoch)
        n_steps, first_step, started = len(plan[stage.primary]), state.step, time.perf_counter()
        batches = data.batches(plan, labels, state.epoch, first_step)
        with closing(batches), deferred_interrupt() as interrupt:
            for batch in batches:
                updates = self._step(batch)
                state.step += 1
                state.stage_step += 1
                state.global_step += 1
                last = state.step == n_steps
                if last or state.step % training.log_every == 0:
                    self._check_finite(updates, batch)
                    position = {"epoch": state.epoch, "step": state.step, "n_steps": n_steps}
                    self._log_event("step", **position, global_step=state.global_step, **loss_fields(updates, rates))
                request = self.context.all_reduce_max(Request.STOP if interrupt.requested else self._notice())
                if request or (not last and state.step % training.checkpoint_every == 0):
                    self._check_finite(updates, batch)
                    self._save()
                if request == Request.STOP:
                    raise KeyboardInterrupt
        seconds = time.perf_counter() - started
        n_items = (n_steps - first_step) * stage.config.batch_size
        self._log_event(
            "epoch",
            epoch=state.epoch,
            global_step=state.global_step,
            train_seconds=seconds,
            images_per_second=n_items / seconds,
            **teacher_fields(self.method, stage),
        )

    def _step(self, batch: Batch) -> list[Update]:
        def before_backward(update: Update) -> None:
            if self.device.type != "cuda":  # CUDA would have to synchronise; checked when logged
                self._check_finite([update], batch)

        return train_step(
            self.method,
            self.stage,
            batch,
            self._optimizers,
            self.context,
            step=self._state.stage_step,
            before_backward=before_backward,
        )

    def _check_finite(self, updates: list[Update], batch: Batch) -> None:
        file = self._directory.diverged_file(self.context.rank)
        for update in updates:
            check_finite(update.loss, update.terms, batch, self.method.modules, file)

    def _finish_epoch(self) -> None:
        state, stage = self._state, self.stage
        for module in self.method.modules.values():
            synchronise_buffers(module)
        state.epoch += 1
        state.step, state.refreshed = 0, False
        self._export("last", self._retriever())
        if self._evaluated is not None:
            evaluated, self._evaluated = self._evaluated, None
            self._collect_evaluation(evaluated, state.epoch - 1)
        every, last = self.config.evaluation.every, state.epoch == stage.config.epochs
        due = last or (every and state.epoch % every == 0)
        if due and every is not None and stage.renders:
            run_on_main(self.context, lambda: self._draw(state.epoch))
        if due and stage.evaluated:
            overlap = self.config.evaluation.overlap and not last
            retriever = self._retriever().copied() if overlap else self._retriever()
            self._services.begin_evaluation(retriever)
            if overlap:
                self._evaluated = retriever
            else:
                self._collect_evaluation(retriever, state.epoch)
        if last and stage is not self.stages[-1]:
            self._export(stage.name, self._retriever())
            self._state = replace(state, stage=state.stage + 1, epoch=0, stage_step=0, degenerate=0)
            self._stage_started = time.time()
            self._enter_stage()
        self._save()

    def _draw(self, epoch: int) -> None:
        """Write pictures of what the method generates after `epoch` epochs of the stage."""
        write_pictures(self._directory, self.stage.name, epoch, render(self.method, self.stage, self._caches))

    def _collect_evaluation(self, retriever: Retriever, epoch: int) -> None:
        """Wait for the metrics of a retriever after `epoch` epochs, log them, and export it if it is the best."""
        metrics = self._services.collect_evaluation()
        if metrics is None:
            return
        self._log_event("evaluate", epoch=epoch, global_step=retriever.global_step, **metrics)
        value = float(metrics[protocol_of(self.config.evaluation).primary])
        if value > self._state.best:
            self._state.best = value
            self._export("best", retriever)

    def _retriever(self, module: str | None = None) -> Retriever:
        """A module that embeds, by default the stage's retriever, with its current weights."""
        path = module or self.stage.retriever
        state, network = self._state, find_module(self.method.modules, path)
        return Retriever(path, network, (state.stage, state.epoch), state.global_step)

    def _stage_data(self) -> StageData:
        """The data of the stage, created at its first epoch, after extraction of the features that it trains on."""
        if self._data is None:
            features = stage_features(self.stage, self._directory, self._retriever, self._services, self.context)
            dtype = parameter_dtype(self.config.training)
            self._data = StageData(self.stage, self.config, self._caches, features, self.context, self.device, dtype)
        return self._data

    def _export(self, which: str, retriever: Retriever) -> None:
        """Export a retriever: the model that is used after training."""
        file, stage = self._directory.model_file(which), self.stages[retriever.version[0]]
        run_on_main(self.context, lambda: save_exported(retriever, stage.name, self.config, file))

    def _save(self) -> None:
        """Write a checkpoint without side effects: when checkpoints are written must not change the results."""
        modules = self.method.modules
        self._state.metrics = self._log.position
        merged, own = capture_modules(modules, self.context)
        checkpoint = Checkpoint(
            state=replace(self._state),
            modules=merged,
            local_buffers=own,
            optimizers={name: optimizer.state_dict() for name, optimizer in self._optimizers.items()},
            labels=self._labels,
            ahead=self._ahead.network.state_dict() if self._ahead else None,
            evaluated=self._evaluated.network.state_dict() if self._evaluated else None,
        )
        folder, keep = self._directory.checkpoints, self.config.training.keep_checkpoints

        def write() -> None:
            self._fence()
            self._log.flush()  # before the checkpoint, which refers to these events
            checkpoint.save(folder, keep)

        run_on_main(self.context, write)
        restore_local_buffers(modules, own, self.context)

    def _log_event(self, event: str, **fields: Any) -> None:
        """Log an event. Like every file of the run, rank 0 writes it; if that fails, all ranks raise the error."""
        fields = {"stage": self.stage.name, **fields}

        def write() -> None:
            self._fence()
            self._log.write(event, **fields)

        run_on_main(self.context, write)

    def _resume(self) -> None:
        """Restore the newest checkpoint and enter its stage; without a checkpoint, enter the first stage."""
        path = run_on_main(self.context, lambda: latest_checkpoint(self._directory.checkpoints))
        if path is None:
            run_on_main(self.context, lambda: self._log.rewind(0))
            self._enter_stage()
            return
        with version_errors(path):
            checkpoint = Checkpoint.load(path)
            for name, module in self.method.modules.items():
                module.load_state_dict(checkpoint.modules[name])
            restore_local_buffers(self.method.modules, checkpoint.local_buffers, self.context)
        self._state = checkpoint.state
        self._enter_stage()
        with version_errors(path):
            for name, optimizer in self._optimizers.items():
                optimizer.load_state_dict(checkpoint.optimizers[name])
        self._labels |= checkpoint.labels
        run_on_main(self.context, lambda: self._log.rewind(checkpoint.state.metrics))
        steps = self._state.global_step - self._state.step  # at the start of the epoch
        if checkpoint.ahead is not None:
            self._ahead, epoch = self._retriever().with_weights(checkpoint.ahead, steps), self._state.epoch
            request = label_request(self.method, self.stage, self._labels, epoch + self._state.refreshed)
            self._services.begin_labels(request, self._ahead)
        if checkpoint.evaluated is not None:
            self._evaluated = self._retriever().with_weights(checkpoint.evaluated, steps)
            self._services.begin_evaluation(self._evaluated)
