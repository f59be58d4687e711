"""What a method generates, in the report: the pictures that a run has written, and new ones from its checkpoint."""

from __future__ import annotations

import re
import warnings

from reid_ray.errors import UserError
from reid_ray.io.paths import Location
from reid_ray.run import Run
from reid_ray.training.rendering import write_pictures

_FILE = re.compile(r"(?P<stage>.+)-epoch-(?P<epoch>\d+)-(?P<name>\w[\w-]*)\.png")


def generated_pictures(run: Run) -> dict[str, Location]:
    """Heading → picture, the latest one of each grid and stage, grid by grid."""
    latest: dict[tuple[str, str], tuple[int, Location]] = {}
    for file in (run.path / "generated").glob("*.png"):
        if found := _FILE.fullmatch(file.name):
            key, epoch = (found["name"], found["stage"]), int(found["epoch"])
            latest[key] = max(latest.get(key, (-1, file)), (epoch, file), key=lambda pair: pair[0])
    return {
        f"Generated: {name} (stage {stage}, epoch {epoch})": file
        for (name, stage), (epoch, file) in sorted(latest.items(), key=lambda item: item[0])
    }


def redraw_generated(run: Run) -> None:
    """Draw the pictures of the newest checkpoint again, into the files of its epoch.

    Within an epoch there is nothing to draw again: the pictures of its start are there. Where the checkpoint or the
    images cannot be read, a warning says so, and the pictures stay as they are.
    """
    try:
        rendered = run.rendering()
        if rendered is not None and rendered.step == 0:
            write_pictures(run.directory, rendered.stage, rendered.epoch, rendered.pictures)
    except UserError as error:
        warnings.warn(f"Generated images are not drawn again: {error}", stacklevel=2)
