"""Contact sheets: thumbnails in a grid, to inspect a dataset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from reid_ray.data.images import Dataset
from reid_ray.types import IntArray


def contact_sheet(
    dataset: Dataset, rows: Sequence[int] | IntArray, n_columns: int = 16, gap: int = 2
) -> npt.NDArray[np.uint8]:
    """uint8 RGB [h, w, 3] of the table's `rows`, in reading order, `n_columns` per line, separated by white.

    All images must have one size. No rows give an empty [0, 0, 3] sheet.
    """
    paths = dataset.table.paths
    tiles = [dataset.images.read(paths[int(row)]).permute(1, 2, 0).numpy() for row in rows]
    if not tiles:
        return np.zeros((0, 0, 3), dtype=np.uint8)
    height, width = tiles[0].shape[0] + gap, tiles[0].shape[1] + gap
    n_lines = -(-len(tiles) // n_columns)
    sheet = np.full((n_lines * height, min(n_columns, len(tiles)) * width, 3), 255, dtype=np.uint8)
    for index, tile in enumerate(tiles):
        y, x = index // n_columns * height, index % n_columns * width
        sheet[y : y + height - gap, x : x + width - gap] = tile
    return sheet
