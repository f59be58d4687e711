"""The file of corrections: what it says about rows, and the one-line message of each mistake."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reid_ray.errors import DataError
from reid_ray.labels.constraints import (
    Constraints,
    Verdict,
    format_verdicts,
    parse_verdicts,
    read_constraints,
    resolve,
)

PATHS = ["/d/cam1/a.jpg", "/d/cam2/a.jpg", "/d/b.jpg", "/d/c.jpg", "/d/e.jpg"]
HEADER = "path_a,path_b,verdict\n"


def resolved(text: str, items: list[int] | None = None) -> Constraints:
    numbers = None if items is None else np.array(items)
    return resolve(parse_verdicts(HEADER + text, "c.csv"), PATHS, source="c.csv", items=numbers)


def test_rows_of_verdicts() -> None:
    found = resolved("/d/b.jpg,c.jpg,same\r\n\ncam1/a.jpg,cam2/a.jpg, different\n/d/e.jpg,,junk\n")
    assert found.same.tolist() == [[2, 3]]
    assert found.different.tolist() == [[0, 1]]
    assert found.junk.tolist() == [4]
    assert found.counts() == {"n_same": 1, "n_different": 1, "n_junk": 1}


def test_rows_of_tracklets() -> None:
    found = resolved("b.jpg,c.jpg,same\n/d/e.jpg,,junk\n", items=[0, 0, 1, 2, 3])
    assert (found.same.tolist(), found.different.tolist(), found.junk.tolist()) == ([[1, 2]], [], [3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("b.jpg,c.jpg,maybe\n", r"c\.csv, line 2: 'b\.jpg,c\.jpg,maybe' is not two paths and a verdict \(same, diff"),
        ("b.jpg,same\n", "is not two paths and a verdict"),
        ("b.jpg,,same\n", "line 2: the verdict 'same' needs two paths"),
        ("b.jpg,c.jpg,junk\n", "line 2: the verdict 'junk' needs one path, in path_a"),
        ("x.jpg,,junk\n", r"c\.csv, line 2: 'x\.jpg' is none of the 5 images; write paths as in the column 'path'"),
        ("a.jpg,,junk\n", r"line 2: 'a\.jpg' is the end of 2 paths"),
        (
            "b.jpg,c.jpg,same\nc.jpg,e.jpg,same\nb.jpg,e.jpg,different\nb.jpg,,junk\n",
            r"line 4: 'b\.jpg' and 'e\.jpg' are different, but lines 2 and 3 make them the same; remove one of these "
            r"lines \(1 more contradictions\)",
        ),
        ("b.jpg,,junk\nb.jpg,c.jpg,same\n", r"line 2: 'b\.jpg' is junk, but line 3 compares it with another image"),
        ("b.jpg,b.jpg,different\n", "are different, but are one image or tracklet"),
    ],
)
def test_mistakes_are_one_line(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        resolved(text)
    assert "\n" not in str(caught.value)


def test_frames_of_one_tracklet_cannot_differ() -> None:
    with pytest.raises(DataError, match="are different, but are one image or tracklet"):
        resolved("b.jpg,c.jpg,different\n", items=[0, 0, 1, 1, 2])


def test_other_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not begin with the line 'path_a,path_b,verdict'"):
        parse_verdicts("a,b,c\n", "c.csv")
    with pytest.raises(DataError, match=r"none\.csv cannot be read: No such file"):
        read_constraints(str(tmp_path / "none.csv"), PATHS)
    (tmp_path / "latin.csv").write_bytes(HEADER.encode() + b"\xe9.jpg,,junk\n")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        read_constraints(str(tmp_path / "latin.csv"), PATHS)
    (tmp_path / "excel.csv").write_bytes(b"\xef\xbb\xbf" + HEADER.encode() + b"b.jpg,,junk\n")
    assert read_constraints(str(tmp_path / "excel.csv"), PATHS).junk.tolist() == [2]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1), unique=True))
def test_any_name_survives_the_file(names: list[str]) -> None:
    """Quotes, commas, markup, newlines, right-to-left marks."""
    rows = [(name, "", "junk") for name in names] + [(name, name, "same") for name in names]
    found = parse_verdicts(format_verdicts(rows), "c.csv")
    assert [verdict[1:] for verdict in found] == rows
    assert all(isinstance(verdict, Verdict) for verdict in found)
