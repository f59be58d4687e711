"""A loss that is no longer a number ends the run before it reaches the weights, with all that is needed to see why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from reid_ray.errors import DivergedError
from reid_ray.locations import Location
from reid_ray.methods import Batch
from reid_ray.training.checkpoint import save_atomically


def check_finite(parts: Mapping[str, Tensor], batch: Batch, networks: Mapping[str, Any], file: Location) -> None:
    """Raise `DivergedError` where the loss is not finite, after writing the batch and weights that gave it to `file`.

    The file is for `torch.load`: `views` (this worker's images, as the network saw them), `labels`, `camids` and `rows`
    of the global batch, `parts` of the loss, `networks` by name as state dicts.
    """
    if bool(torch.isfinite(parts["loss"])):
        return
    _, epoch, step = batch.key
    values = {name: float(value.detach()) for name, value in parts.items()}
    save_atomically(
        {
            "epoch": epoch,
            "step": step,
            "parts": values,
            "views": dict(batch.views),
            "labels": batch.labels,
            "camids": batch.camids,
            "rows": batch.rows,
            "networks": {name: network.state_dict() for name, network in networks.items()},
        },
        file,
    )
    told = ", ".join(f"{name} {value:g}" for name, value in values.items())
    raise DivergedError(
        f"The loss is no longer finite at epoch {epoch}, step {step} ({told}). {file} holds the batch and the weights; "
        f"the last checkpoint is sound. Lower training.lr or raise a temperature, under another name."
    )
