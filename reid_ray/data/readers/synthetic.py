"""The procedural world as a layout: no disk, every image rendered on request."""

from __future__ import annotations

from reid_ray.config import DataConfig
from reid_ray.data.readers.scan import Scan


def scan(config: DataConfig) -> Scan:
    """The dataset of `config.synthetic`."""
    from reid_ray.data.synthetic import make_dataset  # the renderer is imported only if it is used

    dataset = make_dataset(config.synthetic)
    return Scan(dataset.table, dataset.images, needs=(("train", "the synthetic world"),))
