"""CSV and Parquet lists of images, with spellings of missing values and splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from PIL import Image

from fuzz_cases.damage import DAMAGE, damaged
from fuzz_cases.kind import Outcome, expect
from reid_ray.config import DataConfig
from reid_ray.data import read_dataset
from reid_ray.errors import UserError

MISSING = ("", "nan", "NaN", "None", "null", "NA", "N/A", "<NA>", "-1")
SPLITS = {
    "train": ("train", "Train", "bounding_box_train", " train"),
    "query": ("query", "probe", "QUERY"),
    "gallery": ("gallery", "bounding_box_test", "Gallery", "test"),
}
NAMES = [f"{letter}.png" for letter in "abcdef"]


@st.composite
def cells(draw: st.DrawFn) -> tuple[int | str | None, str]:
    """Intended values and their spellings."""
    meant = draw(st.one_of(st.none(), st.integers(0, 10**6), st.sampled_from(("ann", "bob", "Ünal", "a b", "Na"))))
    if meant is None:
        return None, draw(st.sampled_from(MISSING))
    return meant, draw(st.sampled_from((str(meant), f"{meant}.0", f" {meant} "))) if isinstance(meant, int) else meant


@st.composite
def lists(draw: st.DrawFn) -> dict[str, Any]:
    """Rows of a list with their spellings, and possibly damage to the bytes."""
    names = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=len(NAMES)))
    splits = [split for split, _ in zip(draw(st.permutations([*SPLITS] * 2)), names, strict=False)]
    gallery = draw(st.sampled_from(SPLITS["gallery"]))  # next to "gallery", "test" would be a second test set
    return {
        "names": names,
        "splits": draw(st.sampled_from((None, splits))),
        "written": [gallery if split == "gallery" else draw(st.sampled_from(SPLITS[split])) for split in splits],
        "pid": [draw(cells()) for _ in names],
        "camid": [draw(cells()) for _ in names],
        "separator": draw(st.sampled_from((",", ";", "\t", "|", ", "))),
        "encoding": draw(st.sampled_from(("utf-8", "utf-8-sig", "utf-16", "utf-16-le"))),
        "newline": draw(st.sampled_from(("\n", "\r\n"))),
        "header": draw(st.sampled_from((str, str.upper, str.title))),
        "parquet": draw(st.booleans()),
        "damages": draw(st.one_of(st.just([]), st.lists(DAMAGE, max_size=3))),
    }


def check_list(drawn: dict[str, Any], folder: Path) -> Outcome:
    with_images(folder)
    columns = {"path": drawn["names"], **{name: [text for _, text in drawn[name]] for name in ("pid", "camid")}}
    if drawn["splits"] is not None:
        columns["split"] = drawn["written"]
    headings = [drawn["header"](name) for name in columns]
    file = folder / ("list.parquet" if drawn["parquet"] else "list.csv")
    if drawn["parquet"]:
        pq.write_table(pa.table([pa.array(values, pa.string()) for values in columns.values()], names=headings), file)
        data = file.read_bytes()
    else:
        rows = [headings, *zip(*columns.values(), strict=True)]
        text = drawn["newline"].join(drawn["separator"].join(row) for row in rows) + drawn["newline"]
        data = text.encode(drawn["encoding"])
    file.write_bytes(damaged(data, drawn["damages"]))
    expected = expected_rows(drawn)
    try:
        table = read_dataset(DataConfig(layout="parquet" if drawn["parquet"] else "csv", root=str(file))).table
    except UserError:
        expect(bool(drawn["damages"]) or expected is None, "a good list was refused")
        return "refused"
    if not drawn["damages"]:
        arrow = table.arrow.to_pydict()
        names = [Path(path).name for path in arrow["path"]]
        found = list(zip(names, arrow["pid"], arrow["camid"], arrow["split"], strict=True))
        expect(found == expected, f"{found} instead of {expected}")
    return "read"


def expected_rows(drawn: dict[str, Any]) -> list[tuple[str, int, int, str]] | None:
    """The intended table; None if it lacks a required split."""
    names, splits = drawn["names"], drawn["splits"] or ["train"] * len(drawn["names"])
    if "train" not in splits or ("query" in splits) != ("gallery" in splits):
        return None
    meant = {column: [value for value, _ in drawn[column]] for column in ("pid", "camid")}
    numbers = {}
    for column, values in meant.items():
        known = {value for value in values if value is not None}
        if all(isinstance(value, int) for value in known):
            order = {value: value if column == "pid" else rank for rank, value in enumerate(sorted(known))}
        else:
            order = {value: rank for rank, value in enumerate(sorted(known, key=str))}
        numbers[column] = [-1 if value is None else order[value] for value in values]
    rows = list(zip(names, numbers["pid"], numbers["camid"], splits, strict=True))
    return sorted(rows, key=lambda row: ("train", "query", "gallery").index(row[3]))


def with_images(folder: Path) -> None:
    """Six different images in a folder, created once."""
    if not (folder / NAMES[-1]).exists():
        for shade, name in enumerate(NAMES):
            Image.new("RGB", (4, 6), (shade, 0, 0)).save(folder / name)
