"""Check that a method's stages fit its modules, its configuration and the data, before anything is written.

Each mistake is reported in one line, to the author of a method or to a user who misspelt the name of a stage.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from reid_ray.config import Config, DataConfig, LabelsConfig, StageConfig
from reid_ray.data.images import Dataset
from reid_ray.data.meshes.table import available_rows
from reid_ray.data.views import make_view
from reid_ray.errors import ConfigError, DataError, MethodError
from reid_ray.labels.arguments import check_neighbourhood
from reid_ray.methods import METHODS, Method, Stage, build_method, stages_of, without_weights
from reid_ray.models import GroupBatchNorm
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.modules import Modules, find_module, trainable_parameters
from reid_ray.training.rundir import RunDirectory


def check_method(method: Method) -> None:
    """Raise `MethodError` or `ConfigError` if stages, modules and configuration are inconsistent."""
    stages = stages_of(method.config)
    check_stage_names(method.config, stages)
    check_layers(method.modules)
    for stage in stages:
        check_streams(stage, method.config)
        check_modules(stage, method.modules)


def check_stage_names(config: Config, stages: Iterable[Stage]) -> None:
    """Raise `ConfigError` if the configuration names a stage or an optimizer that the method does not have."""
    *earlier, main = stages
    skipped = stages_of(config.model_copy(update={"source_stage": True}))[:-1]  # settings of a stage that is left out
    method = METHODS[config.method.name]
    names = list(dict.fromkeys([*(stage.name for stage in (*earlier, *skipped)), *method.optional_stages]))
    if main.name in config.stages:
        raise ConfigError(
            f"stages.{main.name}: this is the main stage of {config.method.name}, whose settings are training.KEY."
        )
    _refuse_unknown(config.stages, names, "stages", f"{config.method.name} has the stages before its main one")
    settings: list[tuple[str, StageConfig, Stage]] = [("training", config.training, main)]
    settings += [(f"stages.{stage.name}", stage.config, stage) for stage in earlier if stage.name in config.stages]
    for where, stage_config, stage in settings:
        own = config.stages.get(stage.name, {}).get("optimizers", {}) if stage in earlier else stage_config.optimizers
        optimizers = list(dict.fromkeys([*stage.optimizers, *method.optional_optimizers]))
        _refuse_unknown(own, optimizers, f"{where}.optimizers", f"stage {stage.name} has the optimizers")


def check_layers(modules: Modules) -> None:
    """Raise `MethodError` for a layer whose output would depend on the number of workers."""
    for name, module in modules.items():
        for path, layer in module.named_modules():
            where = f"{name}.{path}".rstrip(".")
            if isinstance(layer, _BatchNorm) and not isinstance(layer, GroupBatchNorm):
                raise MethodError(
                    f"{where} is a plain {type(layer).__name__}, whose statistics depend on the number of workers; "
                    f"use reid_ray.models.GroupBatchNorm."
                )
            if isinstance(layer, _DropoutNd) and layer.p:
                raise MethodError(
                    f"{where} is a {type(layer).__name__}, which draws per process; multiply by a mask drawn with "
                    f"Batch.rng instead."
                )


def check_streams(stage: Stage, config: Config) -> None:
    """Raise `MethodError` if a stream names a view or a table that does not exist."""
    if not stage.streams:
        raise MethodError(f"Stage {stage.name} has no stream.")
    for name, stream in stage.streams.items():
        where = f"stage {stage.name}, stream {name}"
        if not isinstance(getattr(config, stream.data, None), DataConfig):
            raise MethodError(f"{where}: there is no table '{stream.data}'; tables are data, source and target.")
        for view in stream.views.values():
            try:
                made = make_view(view, config.data)
            except MethodError as error:
                raise MethodError(f"{where}: {error}") from None
            if made.source == "feature" and stream.cache is None:
                raise MethodError(f"{where}: the view '{view}' reads cached features, and the stream has no cache.")


def check_modules(stage: Stage, modules: Modules) -> None:
    """Raise `MethodError` for an unknown module, or a trainable parameter that is in no optimizer or in two."""
    where = f"stage {stage.name}"
    caches = [stream.cache.module for stream in stage.streams.values() if stream.cache]
    try:
        for path in (*stage.frozen, *stage.init, *stage.init.values(), stage.retriever, *caches):
            find_module(modules, path)
        owners: dict[int, str] = {}
        frozen = {id(p) for path in stage.frozen for p in find_module(modules, path).parameters()}
        names = parameter_names(modules)
        for optimizer, spec in stage.optimizers.items():
            for parameter in trainable_parameters(modules, spec.modules):
                other = owners.setdefault(id(parameter), optimizer)
                if other != optimizer:
                    raise MethodError(f"{names[id(parameter)]} belongs to two optimizers, {other} and {optimizer}.")
                if id(parameter) in frozen:
                    raise MethodError(f"{names[id(parameter)]} is frozen and belongs to the optimizer {optimizer}.")
    except MethodError as error:
        raise MethodError(f"{where}: {error}") from None
    for parameter in trainable_parameters(modules, modules):
        if id(parameter) not in owners and id(parameter) not in frozen:
            raise MethodError(
                f"{where}: {names[id(parameter)]} belongs to no optimizer; name its module in one, or in frozen."
            )


def check_tables(stages: Iterable[Stage], datasets: Mapping[str, Dataset], config: Config) -> None:
    """Raise `DataError` if a table lacks the identities, columns or meshes that a stream or its labels need."""
    for stage in stages:
        for stream in stage.streams.values():
            dataset = datasets[stream.data]
            table = dataset.train
            if stream.labels.origin == "ground_truth" and not table.has_pids:
                raise DataError(
                    f"{dataset.table.name} has no identities in its training split, which the stage {stage.name} "
                    f"learns from; give data with identities, or a method that learns from clusters."
                )
            for column in stream.columns:
                table.column(column)
            by_tracklet = stream.labels.origin == "clusters" and config.labels.unit == "tracklet"
            if stream.frames > 1 or by_tracklet:
                table.column("tracklet")
            if stream.modality is not None:
                table.column("modality")
            section = getattr(config, stream.data)
            views = (make_view(view, config.data) for view in stream.views.values())
            if any(view.source == "mesh" for view in views) and not available_rows(table, section).any():
                raise DataError(
                    f"{dataset.table.name} has no body meshes in its training split, which the stage {stage.name} "
                    f"needs to rotate people; name them in a column 'mesh', or set {stream.data}.meshes.rendered or "
                    f"fit_missing."
                )


def check_label_settings(stages: Iterable[Stage], datasets: Mapping[str, Dataset], labels: LabelsConfig) -> None:
    """Raise `ConfigError` if the table of a clustered stream has too few images for the settings."""
    for stage in stages:
        for stream in stage.streams.values():
            if stream.labels.origin == "clusters":
                check_neighbourhood(labels, len(datasets[stream.data].train))


def parameter_names(modules: Modules) -> dict[int, str]:
    """`MODULE.PATH` of each parameter, by its id."""
    names: dict[int, str] = {}
    for name, module in modules.items():
        for path, parameter in module.named_parameters():
            names.setdefault(id(parameter), f"{name}.{path}")
    return names


def _refuse_unknown(given: Iterable[str], known: list[str], where: str, what: str) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"{what} {', '.join(known) or '(none)'}."
            raise ConfigError(f"{where}.{name}: unknown; {hint}")


def build_modules(config: Config, context: DistributedContext) -> Method:
    """The method of a run, on the CPU, checked. A run with a checkpoint does not need the file of initial weights."""
    torch.manual_seed(config.seed)
    method = build_method(without_weights(config) if RunDirectory.of(config).begun else config, context)
    check_method(method)
    return method
