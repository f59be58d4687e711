"""Damage to files: what an interrupted copy, a bad disk or an attacker does to their bytes."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Damage = tuple[Any, ...]
EXTREMES = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
PLACE = st.integers(0, 10**6)
"""Positions are millionths of the length, so that examples shrink for any file."""

DAMAGE: st.SearchStrategy[Damage] = st.one_of(
    st.tuples(st.just("cut"), PLACE),
    st.tuples(st.just("change"), PLACE, st.integers(0, 255)),
    st.tuples(st.just("insert"), PLACE, st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("drop"), PLACE, st.integers(1, 64)),
    st.tuples(
        st.just("header"), st.integers(0, 63), st.sampled_from((1, 2, 4)), st.sampled_from(EXTREMES), st.booleans()
    ),
    st.tuples(st.just("repeat"), PLACE, st.integers(1, 200)),
)


def damaged(data: bytes, damages: list[Damage]) -> bytes:
    """The bytes after each damage in turn."""
    for name, *arguments in damages:
        if name == "header":
            offset, width, value, is_big = arguments
            field = (value % 256**width).to_bytes(width, "big" if is_big else "little")
            data = data[:offset] + field + data[offset + width :]
            continue
        place = len(data) * arguments[0] // 10**6
        match name:
            case "cut":
                data = data[:place]
            case "change":
                data = data[:place] + bytes([arguments[1]]) + data[place + 1 :]
            case "insert":
                data = data[:place] + arguments[1] + data[place:]
            case "drop":
                data = data[:place] + data[place + arguments[1] :]
            case "repeat":
                data = data[:place] + data[place : place + arguments[1]] + data[place:]
    return data
