"""A world of procedural pedestrians seen by different cameras: person-ReID data without a download.

With it, the system can be installed, tested and tried without a dataset, and a loss of accuracy can be traced to its
cause, because everything in an image is known. The layers are separate, so that the world can be extended: `people`
(identity) → `body` (pose, solids) → `cameras` (scene, light) → `render` (G-buffer) → `shading` (light; `infrared` has
its materials) → `sensor` (bytes). `schedule` lists the images, `walks` moves people, `world` composes one image.
`attributes` and `mesh` give its ground truth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from reid_ray.config.data import SyntheticConfig
from reid_ray.data.holdout import query_rows
from reid_ray.data.images import Dataset
from reid_ray.data.synthetic.attributes import ATTRIBUTES, attributes_of
from reid_ray.data.synthetic.image_grid import contact_sheet
from reid_ray.data.synthetic.mesh import BodyMesh, SyntheticMeshes, body_mesh, write_meshes
from reid_ray.data.synthetic.people import make_person
from reid_ray.data.synthetic.schedule import Shot, parse_key, schedule, stations
from reid_ray.data.synthetic.world import draw, visible_share
from reid_ray.data.table import ATTRIBUTE_PREFIX, ImageTable

__all__ = [
    "BodyMesh",
    "SyntheticImages",
    "SyntheticMeshes",
    "body_mesh",
    "contact_sheet",
    "make_dataset",
    "visibility",
    "write_meshes",
]


@dataclass(frozen=True)
class SyntheticImages:
    """Renders the image that a key names. It holds only the configuration, so it pickles to a few bytes."""

    config: SyntheticConfig

    def read(self, path: str) -> Tensor:
        """uint8 RGB [3, height, width]; the same configuration and key give the same bytes in every process.

        Raises `DataError` for a key that is not in this world.
        """
        return torch.from_numpy(draw(self.config, parse_key(path, self.config))).permute(2, 0, 1).contiguous()


def visibility(config: SyntheticConfig, key: str) -> float:
    """Share of the person in the image `key` that nothing occludes, 0 … 1; `DataError` for an unknown key."""
    return visible_share(config, parse_key(key, config))


def make_dataset(config: SyntheticConfig) -> Dataset:
    """The world as a dataset with true identities and cameras.

    `train` contains all images of pids 0 … n_train_ids − 1; `split_test` divides those of later persons into query and
    gallery. Rows are sorted by split, person, camera, tracklet and frame.

    Columns: `tracklet` numbers the walks over the whole table; `mesh` has keys for `SyntheticMeshes`; `attr_NAME` are
    the `ATTRIBUTES`; where some cameras are infrared, `modality` marks their images.
    """
    train = [shot for pid in range(config.n_train_ids) for shot in schedule(config, pid)]
    query: list[Shot] = []
    gallery: list[Shot] = []
    for pid in range(config.n_train_ids, config.n_train_ids + config.n_test_ids):
        asked, answers = split_test(config, schedule(config, pid))
        query += asked
        gallery += answers
    shots = train + query + gallery
    first_camera = min(stations(config))  # worlds like SYSU-MM01 and RegDB number theirs from 1; a table counts from 0
    table = ImageTable.from_columns(
        path=[shot.key for shot in shots],
        pid=[shot.pid for shot in shots],
        camid=[shot.camid - first_camera for shot in shots],
        split=["train"] * len(train) + ["query"] * len(query) + ["gallery"] * len(gallery),
        name="synthetic",
        extra=_columns(config, shots),
    )
    return Dataset(table, SyntheticImages(config))


def split_test(config: SyntheticConfig, shots: tuple[Shot, ...]) -> tuple[list[Shot], list[Shot]]:
    """Query and gallery of one person's shots.

    With infrared cameras the modality decides: queries are infrared in the world like SYSU-MM01, visible in that like
    RegDB. Otherwise one image (or tracklet, with all its frames) per camera is a query, the first, as long as the
    gallery keeps a match at another camera for each query; a person seen by one camera has no query.
    """
    if config.spectrum == "visible":
        units = sorted({_unit(config, shot) for shot in shots})
        chosen = {units[row] for row in query_rows([unit.camid for unit in units])}
        asks = [_unit(config, shot) in chosen for shot in shots]
    else:
        wanted = "visible" if config.spectrum == "thermal" else "near_infrared"
        asks = [stations(config)[shot.camid].spectrum == wanted for shot in shots]
    query = [shot for shot, is_query in zip(shots, asks, strict=True) if is_query]
    gallery = [shot for shot, is_query in zip(shots, asks, strict=True) if not is_query]
    return query, gallery


def _unit(config: SyntheticConfig, shot: Shot) -> Shot:
    """The unit of retrieval: the image, or the tracklet, represented by its first frame."""
    return replace(shot, frame=0) if config.tracklets_per_id else shot


def _columns(config: SyntheticConfig, shots: list[Shot]) -> dict[str, list[Any]]:
    """The optional columns of the table."""
    walks = {walk: number for number, walk in enumerate(sorted({(s.pid, s.tracklet, s.camid) for s in shots}))}
    people = {pid: attributes_of(make_person(config.seed, pid)) for pid in {shot.pid for shot in shots}}
    columns: dict[str, list[Any]] = {
        "tracklet": [walks[shot.pid, shot.tracklet, shot.camid] for shot in shots],
        "mesh": [shot.key for shot in shots],
    }
    if config.spectrum != "visible":
        spectra = [stations(config)[shot.camid].spectrum for shot in shots]
        columns["modality"] = ["visible" if spectrum == "visible" else "infrared" for spectrum in spectra]
    for name in ATTRIBUTES:
        columns[ATTRIBUTE_PREFIX + name] = [people[shot.pid][name] for shot in shots]
    return columns
