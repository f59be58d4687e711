"""Arrays given to an encoder, of all shapes, types and channel orders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.extra import numpy as np_st
from PIL import Image

from fuzz_cases.kind import Outcome, expect
from reid_ray.data.arrays import to_pixels
from reid_ray.errors import UserError


@st.composite
def arrays(draw: st.DrawFn) -> tuple[Any, str, str]:
    others = st.sampled_from(("float32", "int64", "bool", "complex64"))
    dtype = draw(st.one_of(st.just("uint8"), st.just("uint16"), others))
    shapes = st.one_of(
        np_st.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
        st.tuples(st.integers(1, 5), st.integers(1, 5)),
        st.tuples(st.integers(1, 5), st.integers(1, 5), st.sampled_from((1, 3, 4))),
        st.tuples(st.sampled_from((1, 3, 4)), st.integers(1, 5), st.integers(1, 5)),
    )
    array = draw(np_st.arrays(dtype, draw(shapes)))
    return (
        array,
        draw(st.sampled_from(("numpy", "tensor", "transposed", "pillow"))),
        draw(st.sampled_from(("rgb", "bgr"))),
    )


def check_array(drawn: tuple[Any, str, Any], folder: Path) -> Outcome:
    array, container, channels = drawn
    given: Any = array
    if container == "tensor":
        given = torch.from_numpy(array.copy())
    elif container == "transposed":
        given = array.T.copy().T
    elif container == "pillow":
        if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
            return "refused"
        if not array.size:
            return "refused"
        given, channels = Image.fromarray(array), "rgb"
    expected = naive_pixels(array, channels, channels_first=container == "tensor")
    try:
        pixels = to_pixels(given, channels=channels)
    except UserError:
        expect(expected is None, "a good array was refused")
        return "refused"
    expect(pixels.tolist() == expected, f"{pixels.tolist()} instead of {expected}")
    return "read"


def naive_pixels(array: Any, channels: str, *, channels_first: bool) -> Any:
    """Convert pixel by pixel; None if the input is not an image."""
    if array.dtype not in (np.uint8, np.uint16) or array.ndim not in (2, 3) or 0 in array.shape:
        return None
    if array.ndim == 2:
        height, width, n = *array.shape, 1
    else:
        n, height, width = array.shape if channels_first else (array.shape[2], *array.shape[:2])
    if n not in (1, 3, 4):
        return None
    order = (0, 0, 0) if n == 1 else (0, 1, 2) if channels == "rgb" else (2, 1, 0)

    def value(c: int, y: int, x: int) -> int:
        found = array[y, x] if array.ndim == 2 else array[c, y, x] if channels_first else array[y, x, c]
        return int(found) // 256 if array.dtype == np.uint16 else int(found)

    return [[[value(c, y, x) for x in range(width)] for y in range(height)] for c in order]
