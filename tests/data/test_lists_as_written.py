"""Lists as programs and people write them: separators, encodings, capitals, missing values, other names of splits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reid_ray.config import DataConfig
from reid_ray.data import read_dataset
from reid_ray.data.readers import detect_layout, scan_dataset
from reid_ray.errors import DataError, UserError

EXPECTED = [("a.jpg", 7, 0, "train"), ("b.jpg", -1, 1, "train"), ("c.jpg", 9, 0, "query"), ("d.jpg", 9, 1, "gallery")]

MISSING = [
    "",
    "nan",
    "NaN",
    "NAN",
    "-nan",
    "None",
    "none",
    "null",
    "NULL",
    "NA",
    "N/A",
    "n/a",
    "#N/A",
    "<NA>",
    "NaT",
    "-1",
]


@pytest.fixture
def crops(tmp_path: Path, write_image: Callable[..., Path]) -> Path:
    for name in "abcdef":
        write_image(tmp_path / f"{name}.jpg")
    return tmp_path


def rows(file: Path, **settings: Any) -> list[tuple[str, int, int, str]]:
    config = DataConfig(layout=detect_layout(file), root=str(file), **settings)
    columns = read_dataset(config).table.arrow.to_pydict()
    names = [Path(path).name for path in columns["path"]]
    return list(zip(names, columns["pid"], columns["camid"], columns["split"], strict=True))


def written(folder: Path, text: str, name: str = "list.csv", encoding: str = "utf-8") -> Path:
    (folder / name).write_text(text, encoding=encoding)
    return folder / name


def lines(*cells: tuple[Any, ...], separator: str = ",") -> str:
    return "".join(separator.join(map(str, row)) + "\n" for row in cells)


BODY = [
    ("a.jpg", 7, "x", "train"),
    ("b.jpg", "", "y", "train"),
    ("c.jpg", 9, "x", "query"),
    ("d.jpg", 9, "y", "gallery"),
]


# How cells are written


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", ", ", " ; ", ",  "])
def test_every_usual_separator(crops: Path, separator: str):
    file = written(crops, lines(("path", "pid", "camid", "split"), *BODY, separator=separator))
    assert rows(file) == EXPECTED


def test_a_tsv_is_a_list_by_its_name(crops: Path):
    file = written(crops, lines(("path", "pid", "camid", "split"), *BODY, separator="\t"), name="list.tsv")
    assert rows(file) == EXPECTED


@pytest.mark.parametrize(
    "header",
    [("PATH", "Pid", "CamID", "Split"), (" path", "pid ", " camid ", "split"), ("Path", "identity", "camid", "SPLIT")],
)
def test_capitals_and_spaces_in_the_header(crops: Path, header: tuple[str, ...]):
    assert rows(written(crops, lines(header, *BODY))) == EXPECTED


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_every_unicode_encoding(crops: Path, encoding: str, newline: str):
    text = lines(("path", "pid", "camid", "split"), *BODY).replace("\n", newline)
    (crops / "list.csv").write_bytes(text.encode(encoding))
    assert rows(crops / "list.csv") == EXPECTED


def test_quotes_spaces_and_empty_lines(crops: Path):
    file = written(crops, '\n"path", "pid","camid","split"\n "a.jpg", "7" ,x, train\n,,,\n\nb.jpg,,y,train\n')
    assert rows(file) == EXPECTED[:2]


def test_the_message_about_columns_names_the_separator(crops: Path):
    with pytest.raises(
        DataError, match=r"has no column 'path' \(its columns: image name, label\), separated by a semicolon"
    ):
        rows(written(crops, "image name;label\na.jpg;3\n"))
    with pytest.raises(DataError, match=r"line 2: 2 cells, but the header has 3 \(separated by a tab\)"):
        rows(written(crops, "path\tpid\tcamid\na.jpg\t3\n"))


def test_a_column_given_twice_in_other_letters(crops: Path):
    with pytest.raises(DataError, match="has the column 'path' twice: 'path' and 'PATH'"):
        rows(written(crops, "path,PATH\na.jpg,b.jpg\n"))


def test_paths_as_windows_writes_them(tmp_path: Path, write_image: Callable[..., Path]):
    write_image(tmp_path / "crops" / "day1" / "a.jpg")
    write_image(tmp_path / "odd\\name.jpg")
    file = written(tmp_path, "path\ncrops\\day1\\a.jpg\nodd\\name.jpg\n")
    assert [row[0] for row in rows(file)] == ["a.jpg", "odd\\name.jpg"]


# What is not known


@pytest.mark.parametrize("spelling", MISSING)
def test_every_spelling_of_nothing_is_unknown_in_csv(crops: Path, spelling: str):
    file = written(crops, lines(("path", "pid", "camid"), ("a.jpg", spelling, spelling), ("b.jpg", "ann", "hall")))
    assert [row[1:3] for row in rows(file)] == [(-1, -1), (0, 0)]


def test_two_spellings_of_nothing_are_not_two_identities(crops: Path):
    file = written(
        crops, lines(("path", "pid", "camid", "split"), ("a.jpg", "nan", 0, "train"), ("b.jpg", "NaN", 0, "train"))
    )
    table = read_dataset(DataConfig(layout="csv", root=str(file))).table
    assert table.pids.tolist() == [-1, -1]
    assert not table.has_pids


@pytest.mark.parametrize(
    "values", [["nan", "None", "7"], [float("nan"), None, 7.0], ["NA", "N/A", "7"], [None, "<NA>", "7.0"]]
)
def test_every_spelling_of_nothing_is_unknown_in_parquet(crops: Path, values: list[Any]):
    columns = {"path": ["a.jpg", "b.jpg", "c.jpg"], "pid": values, "camid": values}
    pq.write_table(pa.table(columns), crops / "list.parquet")
    assert [row[1:3] for row in rows(crops / "list.parquet")] == [(-1, -1), (-1, -1), (7, 0)]


@pytest.mark.parametrize(("name", "is_known"), [("Na", True), ("Nan", False), ("Nona", True), ("Null Island", True)])
def test_names_that_look_like_nothing(crops: Path, name: str, is_known: bool):
    file = written(crops, lines(("path", "pid"), ("a.jpg", name), ("b.jpg", "Ann")))
    assert [row[1] for row in rows(file)] == ([1, 0] if is_known else [-1, 0])


@pytest.mark.parametrize("sep", [",", ";"])
@pytest.mark.parametrize("na_rep", ["", "NaN"])
def test_a_csv_written_by_pandas_with_gaps(crops: Path, sep: str, na_rep: str):
    """A gap makes pandas write 7 as 7.0; the index goes to a column without a name."""
    frame = pd.DataFrame(
        {
            "path": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"],
            "pid": [7, None, 9, 9],
            "camid": [0.0, 1.0, 0.0, float("nan")],
            "split": ["train", "train", "query", "gallery"],
        }
    )
    frame.to_csv(crops / "list.csv", sep=sep, na_rep=na_rep)
    assert rows(crops / "list.csv") == [*EXPECTED[:3], ("d.jpg", 9, -1, "gallery")]
    assert scan_dataset(DataConfig(layout="csv", root=str(crops / "list.csv"))).notes == ()
    frame.set_index("split").reset_index().to_parquet(crops / "list.parquet")
    assert rows(crops / "list.parquet") == [*EXPECTED[:3], ("d.jpg", 9, -1, "gallery")]


def test_a_parquet_list_whose_text_is_not_utf8_is_refused(crops: Path):
    file = crops / "list.parquet"
    pq.write_table(pa.table({"path": ["a.jpg"], "pid": ["ann"]}), file, compression="none", use_dictionary=False)
    file.write_bytes(file.read_bytes().replace(b"ann", b"a\xffn"))
    with pytest.raises(DataError, match=r"Cannot read .*list\.parquet as Parquet: .*UTF-?8"):
        rows(file)


# Splits


@pytest.mark.parametrize(
    ("train", "query", "gallery"),
    [
        ("Train", "QUERY", "Gallery"),
        ("bounding_box_train", "query", "bounding_box_test"),
        ("image_train", "image_query", "image_test"),
        ("training", "probe", "gallery"),
        ("train", "query", "test"),
        (" train ", "query", "VAL"),
    ],
)
def test_names_of_splits_in_other_toolkits(crops: Path, train: str, query: str, gallery: str):
    named = {"train": train, "query": query, "gallery": gallery}
    file = written(crops, lines(("path", "pid", "camid", "split"), *[(*row[:3], named[row[3]]) for row in BODY]))
    assert rows(file) == EXPECTED


@pytest.mark.parametrize("test", ["test", "val"])
def test_a_test_set_in_one_piece_is_divided(crops: Path, test: str):
    cells = [
        ("a.jpg", 1, 0, "train"),
        *[(f"{name}.jpg", 2, cam, test) for name, cam in zip("bcde", (0, 0, 1, 1), strict=True)],
    ]
    file = written(crops, lines(("path", "pid", "camid", "split"), *cells, ("f.jpg", 3, 0, test)))
    assert [(row[0], row[3]) for row in rows(file)] == [
        ("a.jpg", "train"),
        ("b.jpg", "query"),
        ("d.jpg", "query"),
        ("c.jpg", "gallery"),
        ("e.jpg", "gallery"),
        ("f.jpg", "gallery"),  # nothing would answer a query of the only image
    ]
    (note,) = scan_dataset(DataConfig(layout="csv", root=str(file))).notes
    assert "divided into query and gallery" in note


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (
            [("a.jpg", 1, "train"), ("b.jpg", "", "test")],
            "line 3, column 'split': 'test' is not a split; use train, query, gallery, or give the pids",
        ),
        (
            [("a.jpg", 1, "val"), ("b.jpg", 1, "test")],
            "line 2, column 'split': 'val', 'test' are several test sets; keep one",
        ),
        ([("a.jpg", 1, "gallery"), ("b.jpg", 1, "test")], "are several test sets"),
        ([("a.jpg", 1, "holdout")], "line 2, column 'split': 'holdout' is not a split"),
    ],
)
def test_splits_that_cannot_be_told(crops: Path, cells: list[tuple[Any, ...]], message: str):
    with pytest.raises(DataError, match=message):
        rows(written(crops, lines(("path", "pid", "split"), *cells)))


# Not only people


def test_a_list_of_animals(crops: Path):
    """Public sets come as path, identity, date; some have cameras, most do not."""
    text = lines(
        ("image_id", "identity", "path", "date", "orientation", "species"),
        (0, "Zarafa", "a.jpg", "2020-05-01", "left", "giraffe"),
        (1, "Sophie", "b.jpg", "2020-05-02", "right", "giraffe"),
        (2, "Zarafa", "c.jpg", "2021-01-01", "NaN", "giraffe"),
        (3, "NaN", "d.jpg", "2021-01-01", "left", "giraffe"),
    )
    file = written(crops, text)
    assert [row[:3] for row in rows(file)] == [("a.jpg", 1, -1), ("b.jpg", 0, -1), ("c.jpg", 1, -1), ("d.jpg", -1, -1)]
    held_out = rows(file, holdout=0.5)
    assert [(row[0], row[3]) for row in held_out] == [
        ("b.jpg", "train"),
        ("d.jpg", "train"),
        ("a.jpg", "query"),
        ("c.jpg", "gallery"),
    ]


# Absurd lists


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,pid\na\0b.jpg,1\n", "not on disk"),
        (f"path,pid\na.jpg,{'9' * 6000}\n", None),
        (f"path,attr_x\na.jpg,{'9' * 6000}\n", "is not an attribute value"),
        (f"path\n{'x' * 5000}.jpg\n", "not on disk"),
        ("path\ns3://\n", "lacks a bucket"),
        ("path\nftp://host/a.jpg\n", "is on unsupported storage"),
        ("path\n/dev/zero\n", "not on disk"),
        ("path\n.\n", "not on disk"),
        (f"path\n{'x' * 200_000}\n", "Cannot read .* as CSV|not on disk"),
    ],
)
def test_absurd_cells_are_refused(crops: Path, text: str, message: str | None):
    file = written(crops, text)
    if message is None:
        assert rows(file)[0][1] == 0  # more digits than a number has: a name
        return
    with pytest.raises(Exception, match=message) as caught:
        rows(file)
    assert isinstance(caught.value, UserError)
