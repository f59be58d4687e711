"""NumPy archives from users, read without pickle; invalid ones raise a one-line error."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from reid_ray.errors import DataError
from reid_ray.io.paths import Location

Arrays = dict[str, npt.NDArray[Any]]


def read_arrays(file: Location, what: str) -> Arrays:
    """All arrays of a `.npz`, or the array of a `.npy` under the name `faces`.

    Raises:
        DataError: no such file, or not a NumPy file of plain arrays; `what` names the expected file.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise DataError(f"Cannot read the {what} {file}: {error.strerror or error}.") from error
    try:
        content = np.load(io.BytesIO(data), allow_pickle=False)
        return {"faces": content} if isinstance(content, np.ndarray) else {name: content[name] for name in content}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        raise DataError(f"The {what} {file} is not a NumPy .npz file of plain arrays ({reason}).") from error
