"""A world of procedural pedestrians seen by different cameras: person-ReID data without a download.

It exists so that installing, testing and trying the system need no dataset, and so that a loss of accuracy
can be traced to its cause: everything in an image is known. Layers are apart so that more can be asked of
the world later: `people` (identity) → `body` (pose, solids) → `cameras` (scene, light) → `render` (G-buffer)
→ `shading` (light) → `sensor` (bytes); `world` says who passes where and when.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from reid_ray.config.data import SyntheticConfig
from reid_ray.data.holdout import query_rows
from reid_ray.data.images import Dataset
from reid_ray.data.synthetic.sheet import contact_sheet
from reid_ray.data.synthetic.world import Shot, draw, parse_key, schedule
from reid_ray.data.table import ImageTable

__all__ = ["SyntheticImages", "contact_sheet", "make_dataset"]


@dataclass(frozen=True)
class SyntheticImages:
    """Draws the image that a key names. Holds the configuration only, so that it pickles to a few bytes."""

    config: SyntheticConfig

    def read(self, path: str) -> Tensor:
        """uint8 RGB [3, height, width]; the same configuration and key give the same bytes in every process.

        Raises `DataError` for a key that this world does not have.
        """
        return torch.from_numpy(draw(self.config, parse_key(path, self.config))).permute(2, 0, 1).contiguous()


def make_dataset(config: SyntheticConfig) -> Dataset:
    """The world as a dataset with true identities and cameras.

    `train` holds all images of pids 0 … n_train_ids − 1. Of every later person, one image per camera is a
    query as long as the gallery keeps a match at another camera for each query; the other images are the
    gallery. So a person seen by one camera has no query. Rows are sorted by split, person, camera, tracklet
    and frame; the column `tracklet` numbers the walks over the whole table.
    """
    train = [shot for pid in range(config.n_train_ids) for shot in schedule(config, pid)]
    query: list[Shot] = []
    gallery: list[Shot] = []
    for pid in range(config.n_train_ids, config.n_train_ids + config.n_test_ids):
        mine = queries_of(schedule(config, pid))
        query.extend(mine)
        gallery.extend(shot for shot in schedule(config, pid) if shot not in mine)
    shots = train + query + gallery
    walks = {walk: number for number, walk in enumerate(sorted({(s.pid, s.tracklet) for s in shots}))}
    table = ImageTable.from_columns(
        path=[shot.key for shot in shots],
        pid=[shot.pid for shot in shots],
        camid=[shot.camid for shot in shots],
        split=["train"] * len(train) + ["query"] * len(query) + ["gallery"] * len(gallery),
        name="synthetic",
        extra={"tracklet": [walks[shot.pid, shot.tracklet] for shot in shots]},
    )
    return Dataset(table, SyntheticImages(config))


def queries_of(shots: tuple[Shot, ...]) -> list[Shot]:
    """One person's queries: the first shot at each camera, as long as all queries stay answerable."""
    return [shots[row] for row in query_rows([shot.camid for shot in shots])]
