"""The border type of every reader: what it accepts, what it refuses, and that rows stay where they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from seeds import SEEDS

from reid_ray.data.table import SCHEMA, ImageTable
from reid_ray.errors import DataError
from reid_ray.types import UNKNOWN


def columns(**changes: Any) -> dict[str, Any]:
    base = {
        "path": pa.array(["a", "b", "c", "d"]),
        "pid": pa.array([5, -1, 5, 0], pa.int64()),
        "camid": pa.array([0, 1, -1, 0], pa.int64()),
        "split": pa.array(["train", "query", "train", "gallery"]),
    }
    return {key: value for key, value in {**base, **changes}.items() if value is not None}


def test_columns_come_back_as_numpy():
    table = ImageTable(pa.table(columns()), "mine")
    assert table.paths == ["a", "b", "c", "d"]
    assert table.pids.tolist() == [5, -1, 5, 0]
    assert table.camids.tolist() == [0, 1, -1, 0]
    assert table.pids.dtype == table.camids.dtype == np.int64
    assert len(table) == 4


@pytest.mark.parametrize("column", SCHEMA.names)
def test_a_missing_column_is_named(column: str):
    with pytest.raises(DataError, match=f"mine: the table has no column '{column}'"):
        ImageTable(pa.table(columns(**{column: None})), "mine")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("pid", pa.array([1, 2, 3, 4], pa.int32())),
        ("pid", pa.array(["1", "2", "3", "4"])),
        ("camid", pa.array([0.0, 1.0, 0.0, 1.0])),
        ("path", pa.array([1, 2, 3, 4])),
    ],
)
def test_a_column_of_another_type_is_named(column: str, values: pa.Array):
    with pytest.raises(DataError, match=f"column '{column}' has type {values.type}; it should be"):
        ImageTable(pa.table(columns(**{column: values})))


def test_empty_cells_are_counted():
    with pytest.raises(DataError, match="column 'pid' has 2 empty cells"):
        ImageTable(pa.table(columns(pid=pa.array([1, None, None, 2], pa.int64()))))


def test_unknown_splits_are_named():
    with pytest.raises(DataError, match="unknown split 'test', 'val'; use train, query, gallery"):
        ImageTable(pa.table(columns(split=pa.array(["train", "val", "test", "val"]))))


def test_what_is_left_out_is_unknown():
    table = ImageTable.from_columns(path=["a", "b"])
    assert table.pids.tolist() == table.camids.tolist() == [UNKNOWN, UNKNOWN]
    assert (table.has_pids, table.has_cameras) == (False, False)
    assert table.arrow["split"].to_pylist() == ["train", "train"]


def test_columns_of_unequal_length_are_refused():
    with pytest.raises((pa.ArrowInvalid, DataError)):
        ImageTable.from_columns(path=["a", "b"], pid=[1])


@pytest.mark.parametrize(("values", "known"), [([-1, -1], False), ([-1, 0], True), ([0, 0], True)])
def test_one_known_value_is_enough_to_have_them(values: list[int], known: bool):
    assert ImageTable.from_columns(path=["a", "b"], pid=values).has_pids is known
    assert ImageTable.from_columns(path=["a", "b"], camid=values).has_cameras is known


def test_a_table_without_rows_is_a_table():
    table = ImageTable.from_columns(path=[])
    assert (len(table), table.has_pids, table.has_cameras) == (0, False, False)
    assert table.pids.shape == (0,)
    assert len(table.split("query")) == 0


@settings(max_examples=5)
@given(seed=SEEDS)
def test_split_keeps_rows_in_order(seed: int):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 40))
    splits = rng.choice(["train", "query", "gallery"], n).tolist()
    table = ImageTable.from_columns(path=[str(i) for i in range(n)], pid=rng.integers(0, 5, n), split=splits, name="t")
    for name in ("train", "query", "gallery"):
        expected = [i for i in range(n) if splits[i] == name]
        part = table.split(name)
        assert part.paths == [str(i) for i in expected]
        assert part.pids.tolist() == table.pids[expected].tolist()
        assert part.name == f"t/{name}"


def test_take_repeats_and_reorders():
    table = ImageTable(pa.table(columns()))
    assert table.take(np.array([3, 0, 0])).paths == ["d", "a", "a"]


def test_stripping_one_thing_leaves_the_other():
    table = ImageTable(pa.table(columns()), "mine")
    no_pids, no_cameras = table.without_pids(), table.without_cameras()
    assert (no_pids.has_pids, no_pids.camids.tolist()) == (False, table.camids.tolist())
    assert (no_cameras.has_cameras, no_cameras.pids.tolist()) == (False, table.pids.tolist())
    assert no_pids.name == no_cameras.name == "mine"
    assert table.has_pids  # the table itself is as it was


def test_write_and_read(tmp_path: Path):
    table = ImageTable.from_columns(path=["ä", "b"], pid=[1, 2], extra={"tracklet": [7, 8]}, name="mine")
    table.write(tmp_path / "saved.parquet")
    again = ImageTable.read(tmp_path / "saved.parquet")
    assert again.arrow.equals(table.arrow)
    assert again.name == "saved"
    assert ImageTable.read(tmp_path / "saved.parquet", "mine").name == "mine"


def test_reading_validates(tmp_path: Path):
    pq.write_table(pa.table(columns(camid=None)), tmp_path / "bad.parquet")
    with pytest.raises(DataError, match="bad: the table has no column 'camid'"):
        ImageTable.read(tmp_path / "bad.parquet")


def test_optional_columns_come_as_numbers():
    table = ImageTable.from_columns(
        path=["a", "b"],
        extra={
            "modality": ["infrared", "visible"],
            "tracklet": [3, None],
            "mesh": ["a.npz", None],
            "attr_hat": [1, None],
            "attr_age": [3, 0],
        },
    )
    assert table.column("modality").tolist() == [1, 0]
    assert table.column("tracklet").tolist() == [3, UNKNOWN]
    assert table.attribute_names == ("hat", "age")
    assert table.column("attributes").tolist() == [[1, 3], [UNKNOWN, 0]]
    assert table.where(np.array([False, True])).paths == ["b"]


def test_a_table_without_optional_columns_says_so():
    table = ImageTable.from_columns(path=["a"], name="mine")
    assert table.modalities.tolist() == table.tracklets.tolist() == [UNKNOWN]
    assert table.attributes.shape == (1, 0)
    for name in ("modality", "tracklet", "attributes", "modalty"):
        with pytest.raises(DataError, match=f"mine has no column '{name}', which is needed here; it has pid, camid"):
            table.column(name)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"modalty": ["visible"]}, "unknown column 'modalty'; a table has path, pid"),
        ({"modality": ["thermal"]}, "unknown modality 'thermal'; use visible, infrared"),
        ({"modality": [None]}, "unknown modality None"),
    ],
)
def test_columns_that_no_table_has_are_refused(extra: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        ImageTable.from_columns(path=["a"], extra=extra)


def test_an_attribute_of_another_type_is_named():
    with pytest.raises(DataError, match="column 'attr_hat' has type int64; it should be int8"):
        ImageTable(pa.table(columns(attr_hat=pa.array([0, 1, 0, 1], pa.int64()))))
