"""Stop a run whose loss is not finite, and keep the data needed to find the cause."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor, nn

from reid_ray.errors import DivergedError
from reid_ray.io.paths import Location
from reid_ray.io.tensors import save_atomically
from reid_ray.methods import Batch, Inputs


def check_finite(
    loss: Tensor, terms: Mapping[str, Tensor], batch: Batch, modules: Mapping[str, nn.Module], file: Location
) -> None:
    """Raise `DivergedError` if a loss is not finite, after writing the batch and the weights that caused it to `file`.

    Waits for the device. `torch.load` reads the file: `streams`, each with `views` (this worker's items, as the
    network saw them), `labels`, `rows` and `columns` of the global batch; `terms` of the loss; `modules` by name as
    state dicts.
    """
    if math.isfinite(float(loss.detach())):
        return
    _, epoch, step = batch.key
    values = {"loss": float(loss.detach()), **{name: float(value.detach()) for name, value in terms.items()}}
    save_atomically(
        {
            "epoch": epoch,
            "step": step,
            "terms": values,
            "streams": {name: _plain(inputs) for name, inputs in batch.streams.items()},
            "modules": {name: module.state_dict() for name, module in modules.items()},
        },
        file,
    )
    listed = ", ".join(f"{name} {value:g}" for name, value in values.items())
    raise DivergedError(
        f"The loss is no longer finite at epoch {epoch}, step {step} ({listed}). {file} holds the batch and the "
        f"weights; the last checkpoint is sound. Lower training.lr or raise a temperature, under another name."
    )


def _plain(inputs: Inputs) -> dict[str, Any]:
    values = {field.name: getattr(inputs, field.name) for field in fields(inputs)}
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in values.items()}
