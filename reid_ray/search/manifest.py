"""Layout of an index folder: a feature folder for each addition, and the list of complete ones.

    index/
      part-00000/   features of the first crops, with their rows (`data.feature_folder`)
      part-00001/   those of the first addition
      _index.json   the run, the finished parts and where their images are, the threshold
      _ivf.faiss    cells of the rows for approximate searches, if there was one
      _lease.json   the process that is writing into the index

A part is listed when all of its features are written, by replacing `_index.json`: readers see the index before or after
an addition, never in between. Arrow reads the whole folder as one dataset, `pyarrow.parquet.read_table("index/")`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from pydantic import ValidationError

from reid_ray.config import DataConfig
from reid_ray.errors import DataError
from reid_ray.io.files import atomic_write_bytes, first_line
from reid_ray.io.paths import Location
from reid_ray.search.threshold import Threshold

MANIFEST = "_index.json"
LEASE = "_lease.json"
FORMAT = "reid-ray-index 1"


@dataclass(frozen=True)
class Part:
    """One addition to an index.

    Attributes:
        name: name of its folder.
        data: location of its images and settings for decoding them.
    """

    name: str
    data: DataConfig


@dataclass(frozen=True)
class IndexManifest:
    """The content of `_index.json`.

    Attributes:
        run: directory of the run whose model embeds crops and queries.
        which: which of its models, `last` or `best`.
        parts: complete additions, in the order of rows.
        threshold: similarity from which two crops count as the same person; None until one is chosen.
    """

    run: str
    which: str
    parts: tuple[Part, ...] = ()
    threshold: Threshold | None = None

    def with_part(self, part: Part) -> IndexManifest:
        return replace(self, parts=(*self.parts, part))

    def write(self, index: Location) -> None:
        """Replace the manifest of an index."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "run": self.run,
            "model": self.which,
            "parts": [{"name": part.name, "data": part.data.model_dump(mode="json")} for part in self.parts],
            "threshold": None if self.threshold is None else asdict(self.threshold),
        }
        atomic_write_bytes(index / MANIFEST, f"{json.dumps(content, indent=2)}\n".encode())


def part_name(number: int) -> str:
    return f"part-{number:05d}"


def read_index_manifest(index: Location) -> IndexManifest:
    """The manifest of an index; `DataError` if the folder is not an index."""
    file = index / MANIFEST
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']!r}, and this version reads {FORMAT!r}")
        parts = tuple(Part(part["name"], DataConfig.model_validate(part["data"])) for part in content["parts"])
        threshold = None if content["threshold"] is None else Threshold(**content["threshold"])
        if [part.name for part in parts] != [part_name(i) for i in range(len(parts))]:
            raise ValueError("its parts are not numbered from 0")
        return IndexManifest(str(content["run"]), str(content["model"]), parts, threshold)
    except FileNotFoundError as error:
        raise DataError(
            f"{index} is not an index: it has no {MANIFEST}; 'reid-ray index RUN CROPS --out {index}' makes one."
        ) from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, ValidationError) as error:
        raise DataError(f"Cannot read {file} ({first_line(error)}); build the index again.") from error
