"""Pictures of generated images: written to the run directory at evaluations, and available for reports and in Python.

A method returns grids of images (`Method.render`) for a batch that is the same at every evaluation of a run, so that
pictures of different epochs are comparable. This module does not depend on what a method generates.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from reid_ray.config import Config, StageConfig
from reid_ray.data.views import IMAGENET_MEAN, IMAGENET_STD, make_view
from reid_ray.errors import MethodError
from reid_ray.io.files import atomic_write_bytes, storage_errors
from reid_ray.labels.refresh import ground_truth_labels
from reid_ray.methods import Batch, LabelSpec, Method, Stage, StreamSpec
from reid_ray.training.datasets import ImageCaches
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.modules import evaluation_mode
from reid_ray.training.rundir import RunDirectory
from reid_ray.training.streams import StageData

N_IDENTITIES, N_INSTANCES = 8, 2
"""Identities in the rendered batch, and images per identity; images of an identity are adjacent."""

GAP = 2
"""White pixels between the images of a grid."""


def render(
    method: Method,
    stage: Stage,
    caches: ImageCaches,
    *,
    seed: int | None = None,
    views: Mapping[str, str] | None = None,
) -> dict[str, Tensor]:
    """Pictures of what a method generates with its current modules: name → uint8 RGB [3, h, w] on the CPU.

    Called on one process; modes and buffers of the modules do not change.

    Args:
        caches: images of the tables that the stage reads.
        seed: selects the training images; None: the run's seed.
        views: replaces the stage's `rendered_views`; None: keep those.
    """
    if not stage.renders:
        return {}
    stage = stage if views is None else replace(stage, rendered_views=views)
    batch = rendered_batch(stage, method, caches, seed=seed)
    with torch.no_grad(), evaluation_mode(method.modules):
        return {name: picture(grid) for name, grid in method.render(stage.name, batch).items()}


def rendered_batch(stage: Stage, method: Method, caches: ImageCaches, *, seed: int | None = None) -> Batch:
    """The batch that a stage renders: training images of each stream without augmentation.

    Streams with true identities have 8 identities × 2 images, with the same identities in every stream that has them;
    other streams have 16 random images, whose labels are −1. Streams of cached features are left out. A view of an
    image is the unmodified image at the configured size; views of other sources are as the stage declares them. The
    primary stream also has the `rendered_views` of the stage.
    """
    config = method.config
    streams = {name: _without_augmentation(spec, config) for name, spec in stage.streams.items() if spec.cache is None}
    if stage.primary in streams:
        shown = streams[stage.primary]
        streams[stage.primary] = replace(shown, views={**shown.views, **stage.rendered_views})
    labelled = all(spec.labels.origin == "ground_truth" for spec in streams.values())
    drawn = StageConfig(
        n_pids=N_IDENTITIES,
        n_instances=N_INSTANCES,
        iterations=1,
        sampler="shared_identities" if labelled else "shuffle",
    )
    rendered = replace(stage, config=drawn, streams=streams, seed_offset=0)
    if seed is not None:
        config = config.model_copy(update={"seed": seed})
    parameter = next(parameter for module in method.modules.values() for parameter in module.parameters())
    data = StageData(rendered, config, caches, {}, DistributedContext(), parameter.device, parameter.dtype)
    labels = {}
    for name, spec in streams.items():
        table = caches.table(spec.data)
        known = table if spec.labels.origin == "ground_truth" else table.without_pids()
        labels[name] = ground_truth_labels(known.pids)
    (batch,) = data.batches(data.plan(labels, 0), labels, 0, 0)
    return batch


def picture(grid: Tensor) -> Tensor:
    """A grid of images as one picture, uint8 [3, h, w] on the CPU.

    Args:
        grid: [rows, columns, 3, H, W], normalised as the network's input; NaN is white.
    """
    if grid.ndim != 5 or grid.shape[2] != 3:
        raise MethodError(f"A rendered grid has the shape {list(grid.shape)}; it must be [rows, columns, 3, H, W].")
    grid = grid.detach().float().cpu()
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (IMAGENET_MEAN, IMAGENET_STD))
    colours = (grid * std + mean).clamp(0, 1).nan_to_num(1.0)
    padded = torch.nn.functional.pad(colours, (0, GAP, 0, GAP), value=1.0)
    whole = padded.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    return (255 * whole[:, :-GAP, :-GAP]).round().to(torch.uint8)


def write_pictures(directory: RunDirectory, stage: str, epoch: int, pictures: Mapping[str, Tensor]) -> None:
    """Write pictures into the run directory as `generated/STAGE-epoch-EEE-NAME.png`.

    Args:
        epoch: epochs completed in the stage.
        pictures: by name, uint8 [3, h, w].

    Raises:
        MethodError: a name cannot be used as a file name.
        RunError: the pictures cannot be written.
    """
    from torchvision.io import encode_png  # slow to import; most methods render nothing

    for name, pixels in pictures.items():
        if not re.fullmatch(r"\w[\w-]*", name):
            raise MethodError(f"A rendered grid is named '{name}'; use letters, digits, '-' and '_'.")
        file = directory.generated_file(stage, epoch, name)
        with storage_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_bytes(file, encode_png(pixels.contiguous()).numpy().tobytes())


def _without_augmentation(spec: StreamSpec, config: Config) -> StreamSpec:
    """The same stream with single, unmodified images, labelled with true identities or not at all."""
    views = {
        key: "resize" if make_view(view, config.data).source == "image" else view for key, view in spec.views.items()
    }
    labels = LabelSpec("ground_truth" if spec.labels.origin == "ground_truth" else "none")
    return replace(spec, views=views, labels=labels, frames=1)
