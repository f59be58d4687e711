"""`export_run`: write the files of an exported model and check each against the run."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import torch
from safetensors.torch import save
from torch import Tensor, nn

import reid_ray
from reid_ray.config import Config
from reid_ray.data.views import IMAGENET_MEAN, IMAGENET_STD
from reid_ray.encoder.backends import program_input
from reid_ray.encoder.description import (
    WEIGHTS,
    Description,
    ExportedFile,
    InputFormat,
    Kind,
    Takes,
    write_description,
)
from reid_ray.encoder.rebuilding import in_float32, settings_of
from reid_ray.encoder.torchreid import write_torchreid
from reid_ray.errors import ExportError, RunError
from reid_ray.evaluation.protocols import protocol_of
from reid_ray.export.card import LICENCE_NOTE, model_card
from reid_ray.export.check import Check, check_files, images_to_compare
from reid_ray.export.programs import write_int8, write_onnx, write_torch_export, write_torchscript
from reid_ray.inference.exported import read_exported
from reid_ray.io.files import first_line, sha256_of
from reid_ray.io.paths import as_path
from reid_ray.methods import METHODS, Method
from reid_ray.run import Run

Format = Literal["folder", "onnx", "torchscript", "torch-export", "torchreid"]
FORMATS: tuple[Format, ...] = get_args(Format)

CARD = "README.md"
MODULES = "modules.safetensors"
INT8 = "model-int8.onnx"
CALIBRATION_BATCH = 16

Writer = Callable[[nn.Module, InputFormat, Takes, Path, str], None]


@dataclass(frozen=True)
class Program:
    """Writer and file name of a format; `{backbone}` in the name is replaced."""

    file: str
    kind: Kind
    write: Writer


PROGRAMS: Mapping[Format, Program] = {
    "onnx": Program("model.onnx", "onnx", write_onnx),
    "torchscript": Program("model.torchscript.pt", "torchscript", write_torchscript),
    "torch-export": Program("model.pt2", "torch-export", write_torch_export),
    "torchreid": Program("{backbone}.pt", "torchreid", write_torchreid),
}


def export_run(
    run: Run,
    out: str | Path,
    *,
    formats: Sequence[Format] = ("folder",),
    model: str = "last",
    preprocess: bool = False,
    int8: bool = False,
    whole: bool = False,
) -> list[Check]:
    """Write a run's model to a new folder, and compare each file with the run.

    Args:
        out: the folder; it is created when all files in it have been checked.
        formats: `folder`: safetensors, read by `load_encoder` and hub clients; `onnx`, `torchscript`, `torch-export`:
            programs that do not need this package; `torchreid`: an OSNet for torchreid, BoxMOT and `reid`.
        model: `last`, or `best` by the run's own evaluations.
        preprocess: programs read uint8 BGR crops of any size instead of normalised images.
        int8: also write the ONNX program quantised to 8 bits; the run's images determine the ranges of activations.
        whole: also write all modules of the method's newest checkpoint, generators and discriminators included.

    Returns:
        The comparison of each file that computes features.

    Raises:
        ExportError: an unknown format, a folder that is not empty, a network that cannot be exported, or
            features that differ from the run's.
        RunError: the run has no model yet.
    """
    for name in formats:
        if name not in FORMATS:
            raise ExportError(f"There is no format '{name}'; formats are {', '.join(FORMATS)}.")
    if int8 and "onnx" not in formats:
        raise ExportError("int8 is made from the ONNX program; add --format onnx.")
    if preprocess and not {"onnx", "torchscript", "torch-export"} & set(formats):
        raise ExportError("--preprocess is for programs; add --format onnx, torchscript or torch-export.")
    target = as_path(str(out))
    if not isinstance(target, Path):
        raise ExportError(f"{out} is in an object store; export to a local folder, and copy it there.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ExportError(f"{target} exists and is not empty; choose a new folder, or remove it.")
    run.use_model(model)
    description = describe(run, model)
    images = images_to_compare(run)
    if int8 and not images.real:
        raise ExportError("--int8 needs the run's images for the ranges of activations, and they cannot be read.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"Cannot create {target.parent} ({first_line(error)}); choose another folder.") from error
    with TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
        folder = Path(temporary) / target.name
        folder.mkdir()
        files = dict(_weights_file(run, folder) if "folder" in formats else {})
        if whole:
            files |= _modules_file(run, folder)
        takes: Takes = "frames" if preprocess else "images"
        for name in (name for name in PROGRAMS if name in formats):
            files |= _program_file(run, folder, description, PROGRAMS[name], takes)
        if int8:
            batches = [program_input(batch, takes) for batch in torch.split(images.pixels, CALIBRATION_BATCH)]
            write_int8(folder / PROGRAMS["onnx"].file, folder / INT8, batches)
            files[INT8] = ExportedFile("onnx", takes, sha256_of(folder / INT8))
        description = replace(description, files=files)
        write_description(description, folder)
        (folder / CARD).write_text(model_card(description), encoding="utf-8")
        names = [name for name, file in files.items() if file.kind != "modules"]
        checks = check_files(run, folder, names, images, inexact=[INT8])
        if target.exists():
            target.rmdir()
        shutil.move(folder, target)
    return checks


def describe(run: Run, model: str) -> Description:
    """The description of a run's model, without its files.

    Raises:
        ExportError: the model has inputs other than images.
    """
    config, network = run.config, run.model
    columns = getattr(network, "columns", ())
    if columns:
        raise ExportError(
            f"The model of {run.path} reads the column {columns[0]} with each image, and an exported model has images "
            f"only; use Run.embed_table."
        )
    content = read_exported(run.directory.model_file(model))
    kind = METHODS[config.method.name]
    builds_alike = all(getattr(kind, name).__func__ is getattr(Method, name).__func__ for name in ("network", "build"))
    return Description(
        name=config.name,
        method=config.method.name,
        stage=content["stage"],
        module=content["module"],
        epoch=content["epoch"],
        backbone=config.model.backbone,
        feature_size=int(network.dim),  # type: ignore[arg-type]
        input=InputFormat(config.data.height, config.data.width, IMAGENET_MEAN, IMAGENET_STD),
        metrics=_metrics(run, model),
        data=data_name(config),
        licence_note=LICENCE_NOTE,
        settings=settings_of(config),
        builder="network" if builds_alike and "." not in content["module"] else "method",
        library=f"reid_ray {reid_ray.__version__}",
    )


def data_name(config: Config) -> str:
    """Description of the training data: its layout, and the name of its folder without parent folders."""
    root = config.data.root
    return f"{config.data.layout} ({as_path(root).name})" if root else config.data.layout


def _metrics(run: Run, model: str) -> dict[str, float]:
    """Metrics of the evaluation of the exported model, `last` or `best`."""
    events = run.metrics("evaluate")
    if not events:
        return {}
    primary = protocol_of(run.config.evaluation).primary
    event = max(events, key=lambda each: each.get(primary) or 0.0) if model == "best" else events[-1]
    ignored = {"event", "time", "epoch", "global_step", "seconds"}
    return {name: value for name, value in event.items() if isinstance(value, int | float) and name not in ignored}


def _weights_file(run: Run, folder: Path) -> dict[str, ExportedFile]:
    _save(run.model.state_dict(), folder / WEIGHTS)
    return {WEIGHTS: ExportedFile("weights", "images", sha256_of(folder / WEIGHTS))}


def _modules_file(run: Run, folder: Path) -> dict[str, ExportedFile]:
    """All modules of the method; their names are the first parts of the tensors' names."""
    try:
        modules = run.load_method().modules
    except RunError as error:
        raise ExportError(f"--whole needs a checkpoint ({str(error).rstrip('.')}); leave it out.") from error
    state = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    _save(state, folder / MODULES)
    return {MODULES: ExportedFile("modules", "images", sha256_of(folder / MODULES))}


def _program_file(
    run: Run, folder: Path, description: Description, program: Program, takes: Takes
) -> dict[str, ExportedFile]:
    network = in_float32(copy.deepcopy(run.model))
    described = _embedded_description(description)
    name = program.file.format(backbone=description.backbone)
    takes = "images" if program.kind == "torchreid" else takes
    program.write(network, description.input, takes, folder / name, described)
    return {name: ExportedFile(program.kind, takes, sha256_of(folder / name))}


def _embedded_description(description: Description) -> str:
    """`config.json` for embedding in a file, which cannot contain its own hash."""
    return json.dumps({**description.to_json(), "files": {}}, ensure_ascii=False)


def _save(state: Mapping[str, Any], file: Path) -> None:
    """Write tensors in the form that safetensors requires: on the CPU, contiguous, without shared memory."""
    tensors = {
        name: value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, value in state.items()
        if isinstance(value, Tensor)
    }
    file.write_bytes(save(tensors, metadata={"format": "pt"}))
