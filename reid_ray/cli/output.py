"""Checks of the files that a command is told to write, before it does any work."""

from __future__ import annotations

from pathlib import Path

from reid_ray.errors import DataError
from reid_ray.io.paths import Location, as_path


def png_file(out: str | Location) -> Location:
    """The PNG that `--out` names.

    Raises:
        DataError: a name with another suffix, or a folder that does not exist.
    """
    file = as_path(out)
    if file.suffix.lower() != ".png":
        raise DataError(f"{out} should end in .png, as a PNG is written.")
    if isinstance(file, Path) and not file.absolute().parent.is_dir():
        raise DataError(f"The folder of {out} does not exist; create it, or give another name.")
    return file
