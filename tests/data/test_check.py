"""`check` must find every planted fault, by name, in one pass, and must not find any that is not there."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from reid_ray.cli.data import app
from reid_ray.config import DataConfig
from reid_ray.data.check import CheckReport, check
from reid_ray.data.headers import is_truncated
from reid_ray.data.integrity import inspect_image
from reid_ray.errors import ConfigError, DataError, UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (48, 24, 3), dtype=np.uint8)


def encode(kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, kind, **options)
    return stream.getvalue()


def look(root: Path, layout: Any = "folder", **settings: Any) -> CheckReport:
    return check(DataConfig(layout=layout, root=str(root), **settings), threads=2)


def found(report: CheckReport) -> set[tuple[str, str]]:
    return {(problem.kind, Path(problem.path).name) for problem in report.problems}


# One image


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"quality": 100, "subsampling": 0}),
        ("JPEG", {"restart_marker_blocks": 2}),
        ("PNG", {}),
        ("GIF", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_truncation_is_found_wherever_the_cut_is(kind: str, options: dict[str, Any]):
    data = encode(kind, **options)
    assert inspect_image(data).fault is None
    assert (inspect_image(data).height, inspect_image(data).width) == (48, 24)
    cuts = {len(data) - n for n in (1, 2, 3, 5, 8, 11)} | set(range(16, len(data) - 12, 97))
    assert [cut for cut in sorted(cuts) if inspect_image(data[:cut]).fault != "truncated"] == []


@pytest.mark.parametrize("tail", [b"\0" * 7, b"\r\n", b"preview" * 9])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_bytes_behind_the_end_are_no_truncation(kind: str, tail: bytes):
    assert not is_truncated(encode(kind) + tail)


def test_the_end_of_a_thumbnail_is_not_the_end_of_the_image():
    thumbnail = encode("JPEG")
    segment = b"Exif\0\0" + thumbnail
    whole = encode("JPEG")
    data = whole[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + whole[2:]
    assert inspect_image(data).fault is None
    assert is_truncated(data[:-2])
    assert is_truncated(data[: len(segment) + 10])


@pytest.mark.parametrize(
    ("data", "fault", "detail"),
    [
        (b"", "empty", "is empty"),
        (b"\xff", "unreadable", "cannot be decoded"),
        (b"<html>404 not found</html>", "unreadable", "it is not a JPEG, PNG, GIF, WebP, BMP, TIFF or PNM file"),
        (b"\xff\xd8" + b"not a jpeg" * 9 + b"\xff\xd9", "truncated", "ends before"),
        (b"\x89PNG\r\n\x1a\n" + b"x" * 40 + b"IEND\xaeB`\x82", "unreadable", "cannot be decoded"),
        (encode("BMP")[:-1], "unreadable", "image file is truncated"),  # the format has no end mark
        (b"\0\0\0\x20ftypavif", "unreadable", "cannot be decoded"),
        (
            encode("GIF", save_all=True, append_images=[Image.fromarray(255 - PIXELS)]),
            "unreadable",
            "animation of 2",
        ),
    ],
)
def test_other_faults(data: bytes, fault: str, detail: str):
    inspection = inspect_image(data)
    assert inspection.fault == fault
    assert detail in inspection.detail
    assert ".cpp" not in inspection.detail


def test_sixteen_bit_png_is_read_and_said_to_be_converted():
    stream = io.BytesIO()
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(stream, "PNG")
    inspection = inspect_image(stream.getvalue())
    assert (inspection.fault, inspection.height, inspection.width) == (None, 48, 24)
    assert inspection.conversions == ("16 bits per channel, of which the upper 8 are read",)


# A dataset


def test_a_clean_dataset_is_clean_and_counted(market: Path):
    report = look(market, "market1501")
    assert report.clean
    assert report.problems == ()
    train, query, gallery = report.splits
    assert (train.images, train.pids, train.n_cameras, train.cameras) == (4, 2, 2, {0: 2, 2: 2})
    assert (query.images, query.pids, query.cameras) == (1, 1, {5: 1})
    assert (gallery.images, gallery.pids) == (2, 2)
    assert report.notes == ("1 junk images (pid -1) left out",)
    assert report.sizes is not None
    assert report.sizes.height == (32, 32, 32)
    assert report.sizes.width == (16, 16, 16)
    assert report.sizes.distinct == 1


def test_what_operating_systems_leave_is_a_note_not_a_problem(market: Path):
    """The archive of Market-1501 itself holds Thumbs.db."""
    for name in ("Thumbs.db", ".DS_Store", "._0002_c1s1_000451_03.jpg"):
        (market / "bounding_box_test" / name).write_bytes(b"x")
    report = look(market, "market1501")
    assert report.clean
    assert report.notes[-1] == (
        "3 files that operating systems leave (.DS_Store, ._0002_c1s1_000451_03.jpg, Thumbs.db) are ignored"
    )
    assert run(market).exit_code == 0


def test_size_statistics(tmp_path: Path, write_image: Callable[..., Path]):
    files = [write_image(tmp_path / f"{i}.png", height=height) for i, height in enumerate((8, 64, 16, 16))]
    sizes = look(tmp_path).sizes
    assert sizes is not None
    assert (sizes.height, sizes.width, sizes.distinct) == ((8, 16, 64), (16, 16, 16), 3)
    assert sizes.total_bytes == sum(file.stat().st_size for file in files)


@pytest.fixture
def damaged(tmp_path: Path, write_image: Callable[..., Path]) -> Path:
    """A folder with one of each fault, and good images between."""
    root = tmp_path / "damaged"
    for i in range(5):
        write_image(root / "cam1" / f"good{i}.jpg")
    good = (root / "cam1" / "good0.jpg").read_bytes()
    (root / "cam1" / "cut.jpg").write_bytes(good[: len(good) // 2])
    cut_png = write_image(root / "cam2" / "cut.png")
    cut_png.write_bytes(cut_png.read_bytes()[:-4])  # decodes all the same
    (root / "cam2" / "nothing.jpg").touch()
    (root / "cam2" / "nothing2.jpg").touch()
    (root / "cam2" / "page.jpg").write_text("<html>")
    (root / "cam2" / "copy1.jpg").write_bytes(good)
    (root / "cam2" / "copy2.jpg").write_bytes(good)
    (root / "cam2" / "Thumbs.db").write_bytes(b"x")
    (root / "cam2" / "._good0.jpg").write_bytes(b"x")
    (root / "cam2" / "scan.bmp").write_bytes(b"BM")
    (root / "cam2" / "phone.heic").write_bytes(b"x")
    return root


EXPECTED = {
    ("truncated", "cut.jpg"),
    ("truncated", "cut.png"),
    ("empty", "nothing.jpg"),
    ("empty", "nothing2.jpg"),
    ("unreadable", "page.jpg"),
    ("duplicate", "good0.jpg"),
    ("unreadable", "scan.bmp"),
    ("not an image", "phone.heic"),
}


def test_every_fault_is_listed_in_one_pass(damaged: Path):
    report = look(damaged)
    assert found(report) == EXPECTED
    assert len(report.problems) == len(EXPECTED)
    assert not report.clean
    assert report.splits[0].images == 13
    assert report.notes[-1] == "2 files that operating systems leave (._good0.jpg, Thumbs.db) are ignored"


def test_duplicates_are_one_group_with_all_its_files(damaged: Path):
    (duplicate,) = (problem for problem in look(damaged).problems if problem.kind == "duplicate")
    for name in ("good0.jpg", "copy1.jpg", "copy2.jpg"):
        assert name in duplicate.detail


def test_problems_come_by_kind_then_path_whatever_the_threads(damaged: Path):
    config = DataConfig(layout="folder", root=str(damaged))
    assert check(config, threads=1) == check(config, threads=8)


def test_misnamed_files_and_empty_splits_do_not_stop_the_check(market: Path, write_image: Callable[..., Path]):
    write_image(market / "bounding_box_train" / "who.jpg")
    (market / "bounding_box_train" / "0002_c1s1_000451_03.jpg").write_bytes(b"")
    shutil.rmtree(market / "query")
    report = look(market, "market1501")
    assert found(report) == {
        ("empty split", "query"),
        ("misnamed", "who.jpg"),
        ("empty", "0002_c1s1_000451_03.jpg"),
    }
    assert [split.split for split in report.splits] == ["train", "gallery"]


def test_files_missing_from_a_list_are_listed(make_msmt17: Callable[..., Path]):
    root = make_msmt17()
    (root / "test/0001/0001_000_05_0113noon_0017_2.jpg").unlink()
    assert found(look(root, "msmt17")) == {("missing", "0001_000_05_0113noon_0017_2.jpg")}


def test_query_and_gallery_may_share_a_file(tmp_path: Path, write_image: Callable[..., Path]):
    write_image(tmp_path / "a.jpg")
    write_image(tmp_path / "b.jpg")
    (tmp_path / "list.csv").write_text("path,split\na.jpg,train\nb.jpg,query\nb.jpg,gallery\n")
    calls: list[tuple[int, int]] = []
    config = DataConfig(layout="csv", root=str(tmp_path / "list.csv"))
    assert check(config, progress=lambda done, total: calls.append((done, total))).clean
    assert calls[-1] == (2, 2)  # it is decoded once


@pytest.mark.parametrize(("level", "cameras"), [(None, {-1: 1}), (0, {0: 1})])
def test_no_camera_and_one_camera(
    tmp_path: Path, write_image: Callable[..., Path], level: int | None, cameras: dict[int, int]
):
    write_image(tmp_path / "hall" / "a.jpg")
    (train,) = look(tmp_path, camera_level=level).splits
    assert train.cameras == cameras
    assert train.n_cameras == (0 if level is None else 1)
    assert train.pids == 0


def test_progress_ends_at_the_number_of_images(damaged: Path):
    calls: list[tuple[int, int]] = []
    check(
        DataConfig(layout="folder", root=str(damaged)),
        progress=lambda done, total: calls.append((done, total)),
    )
    assert calls == [(n, 13) for n in range(1, 14)]


# The command


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def test_command_says_a_clean_dataset_is_clean(market: Path):
    result = run(market)
    assert result.exit_code == 0, result.output
    assert "layout market1501" in result.stdout
    assert "No problems found." in result.stdout


def test_command_lists_problems_and_exits_with_1(damaged: Path):
    result = run(damaged)
    assert result.exit_code == 1
    assert "8 problems" in result.stdout
    for kind, name in EXPECTED:
        assert any(line.startswith(f"{kind}: ") and name in line for line in result.stdout.splitlines()), name


def test_command_prints_json_and_nothing_else(damaged: Path):
    result = run(damaged, "--json", "--camera-level", "0")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert report["clean"] is False
    assert report["problem_counts"] == {
        "empty": 2,
        "truncated": 2,
        "unreadable": 2,
        "duplicate": 1,
        "not an image": 1,
    }
    assert report["splits"][0]["cameras"] == {"0": 6, "1": 7}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["nowhere"], DataError, "There is no file or folder nowhere"),
        (["nowhere", "--layout", "folder"], DataError, "There is no folder nowhere"),
        ([".", "--layout", "market1501"], DataError, "is not Market-1501"),
        (
            ["x.csv", "--camera-level", "0"],
            ConfigError,
            "need the layout folder, but x.csv is read as csv",
        ),
        ([".", "--camera-level", "0", "--camera-regex", "(a)"], ConfigError, "not both"),
    ],
)
def test_a_mistake_propagates_as_a_user_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    error: type[UserError],
    message: str,
):
    monkeypatch.chdir(tmp_path)
    Path("x.csv").write_text("path\n")
    result = run(*arguments)
    assert isinstance(result.exception, error)
    assert message in str(result.exception)


def test_sheet_draws_the_synthetic_world(tmp_path: Path):
    result = CliRunner().invoke(
        app, ["sheet", str(tmp_path / "sheet.png"), "--people", "2", "--images", "3", "--cameras", "2"]
    )
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size[0] > 3 * 64
        assert sheet.size[1] > 2 * 128
