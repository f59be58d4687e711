"""CSV and Parquet lists: what is read, and each way in which a list can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from read_layouts import read, rows

from reid_ray.config import DataConfig
from reid_ray.data.readers import scan_dataset
from reid_ray.errors import DataError


def csv_file(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    file = tmp_path / "list.csv"
    file.write_text(text, encoding=encoding)
    return file


@pytest.fixture
def crops(tmp_path: Path, write_image: Callable[..., Path]) -> Path:
    for name in "abcd":
        write_image(tmp_path / "crops" / f"{name}.jpg")
    return tmp_path


def test_csv_with_paths_only(crops: Path):
    dataset = read("csv", csv_file(crops, "path\ncrops/b.jpg\ncrops/a.jpg\n"))
    assert rows(dataset) == [
        ("train", "b.jpg", -1, -1),
        ("train", "a.jpg", -1, -1),
    ]  # the file's order is kept
    assert dataset.images.read(dataset.table.paths[0]).shape == (3, 32, 16)
    assert dataset.table.name == "list"


def test_csv_with_everything(crops: Path):
    text = "split,path,pid,camid,comment\n" + "".join(
        f"{row}\n"
        for row in (
            'gallery,"crops/d.jpg",5,1,"a, b"',
            "train,crops/a.jpg,3.0,4,",
            "",
            f"train,{crops}/crops/b.jpg,,-1,",
            "query,crops/c.jpg,-1,10.0,",
        )
    )
    dataset = read("csv", csv_file(crops, text, encoding="utf-8-sig"))
    assert rows(dataset) == [
        ("train", "a.jpg", 3, 1),
        ("train", "b.jpg", -1, -1),
        ("query", "c.jpg", -1, 2),
        ("gallery", "d.jpg", 5, 0),
    ]


def test_csv_with_names_for_cameras_and_people(crops: Path):
    dataset = read("csv", csv_file(crops, "path,pid,camid\ncrops/a.jpg,zoe,hall\ncrops/b.jpg,ann,door\n"))
    assert [row[2:] for row in rows(dataset)] == [(1, 1), (0, 0)]


def test_the_same_image_may_be_query_and_gallery(crops: Path):
    text = "path,pid,split\ncrops/a.jpg,1,train\ncrops/b.jpg,2,query\ncrops/b.jpg,2,gallery\n"
    assert len(read("csv", csv_file(crops, text)).table) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"has no column 'path' \(its columns: none\)"),
        ("pid\n1\n", r"has no column 'path' \(its columns: pid\)"),
        ("path\n", "The train split is empty"),
        ("file,pid\ncrops/a.jpg,1\n", "rename the column 'file' to 'path'"),
        ("path,Cam_ID\ncrops/a.jpg,1\n", "rename the column 'Cam_ID' to 'camid'"),
        ("path,path\ncrops/a.jpg,crops/a.jpg\n", "has the column 'path' twice"),
        ("path,pid\ncrops/a.jpg\n", "line 2: 1 cells, but the header has 2"),
        ("path,pid\ncrops/a.jpg,1\n,2\n", "line 3, column 'path': there is no image file"),
        ("path,pid\ncrops/a.jpg,1\ncrops/b.jpg,-2\n", "line 3, column 'pid': -2 is negative"),
        (
            "path,split\ncrops/a.jpg,test\n",
            "line 2, column 'split': 'test' is not a split; use train, query, gallery",
        ),
        (
            "path\ncrops/a.jpg\ncrops/b.jpg\ncrops/a.jpg\n",
            r"line 4, .*a\.jpg is already in the train split at line 2",
        ),
        ("path\ncrops/a.jpg\ncrops/z.jpg\n", r"z\.jpg is in .*list\.csv, line 3, but not on disk"),
        ("path,split\ncrops/a.jpg,query\ncrops/b.jpg,gallery\n", "The train split is empty"),
        ("path,split\ncrops/a.jpg,train\ncrops/b.jpg,query\n", "The gallery split is empty"),
        ('path\n"crops/a.jpg\n', "Cannot read .*list.csv as CSV"),
        ("path,modalty\ncrops/a.jpg,rgb\n", "nothing reads the column 'modalty'; did you mean 'modality'"),
        ("path,track_id\ncrops/a.jpg,1\n", "rename the column 'track_id' to 'tracklet'"),
        ("path,modality\ncrops/a.jpg,x-ray\n", "line 2, column 'modality': 'x-ray' is not a modality; use visible"),
        ("path,attr_hat\ncrops/a.jpg,yes\n", "line 2, column 'attr_hat': 'yes' is not an attribute value"),
        ("path,attr_hat\ncrops/a.jpg,128\n", "line 2, column 'attr_hat': '128' is not an attribute value"),
    ],
)
def test_csv_errors_name_the_line_and_the_column(crops: Path, text: str, message: str):
    with pytest.raises(DataError, match=message):
        read("csv", csv_file(crops, text))


def test_csv_with_all_optional_columns(crops: Path):
    text = "path,modality,tracklet,mesh,attr_hat\ncrops/a.jpg,RGB,walk-2,m/a.npz,1\ncrops/b.jpg,thermal,,,\n"
    table = read("csv", csv_file(crops, text)).table
    assert table.modalities.tolist() == [0, 1]
    assert table.tracklets.tolist() == [0, -1]
    assert table.arrow["mesh"].to_pylist() == [str(crops / "m/a.npz"), None]
    assert (table.attribute_names, table.attributes.tolist()) == (("hat",), [[1], [-1]])


def test_columns_that_nothing_reads_are_noted(crops: Path):
    file = csv_file(crops, "path,weather,timestamp\ncrops/a.jpg,rain,12\n")
    (note,) = scan_dataset(DataConfig(layout="csv", root=str(file))).notes
    assert note.startswith(f"{file}: columns that nothing reads: 'weather', 'timestamp' (columns that are read: path")


def test_csv_in_another_encoding(crops: Path):
    with pytest.raises(DataError, match=r"list\.csv is not UTF-8 text"):
        read("csv", csv_file(crops, "path\nÄ.jpg\n", encoding="latin-1"))


def parquet_file(tmp_path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    return tmp_path / "list.parquet"


def test_parquet(crops: Path):
    file = parquet_file(
        crops,
        path=["crops/b.jpg", "crops/a.jpg", "crops/c.jpg"],
        pid=pa.array([4, None, -1]),
        camid=pa.array(["door", "hall", "door"]).dictionary_encode(),
        split=["gallery", "train", "query"],
    )
    assert rows(read("parquet", file)) == [
        ("train", "a.jpg", -1, 1),
        ("query", "c.jpg", -1, 0),
        ("gallery", "b.jpg", 4, 0),
    ]


def test_parquet_with_optional_columns(crops: Path):
    file = parquet_file(crops, path=["crops/a.jpg"], modality=["ir"], tracklet=[7], attr_age=pa.array([3.0]))
    table = read("parquet", file).table
    assert (table.modalities.tolist(), table.tracklets.tolist(), table.attributes.tolist()) == ([1], [7], [[3]])


def test_parquet_whole_floats_are_numbers_with_gaps(crops: Path):
    file = parquet_file(crops, path=["crops/a.jpg", "crops/b.jpg"], pid=[3.0, float("nan")])
    assert read("parquet", file).table.pids.tolist() == [3, -1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"path": [1]}, "row 0, column 'path': 1 is not a file name"),
        ({"path": ["crops/a.jpg"], "pid": [1.5]}, "row 0, column 'pid': 1.5 is not a whole number"),
        ({"path": ["crops/a.jpg"], "camid": [True]}, "row 0, column 'camid': True is neither"),
        ({"path": ["crops/a.jpg", None]}, "row 1, column 'path': there is no image file"),
        ({"path": ["crops/a.jpg"], "split": [None]}, "row 0, column 'split': None is not a split"),
        ({"pid": [1]}, "has no column 'path'"),
    ],
)
def test_parquet_errors(crops: Path, columns: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        read("parquet", parquet_file(crops, **columns))


def test_parquet_that_is_none(tmp_path: Path):
    (tmp_path / "list.parquet").write_text("path\n")
    with pytest.raises(DataError, match=r"Cannot read .*list\.parquet as Parquet"):
        read("parquet", tmp_path / "list.parquet")
