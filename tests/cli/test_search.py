"""`index`, `search` and `threshold` on a small finished run, and the page of a search."""

import json
import re
import shutil

import pytest
from torchvision.io import encode_jpeg
from typer.testing import CliRunner

from reid_ray.cli import app


def command(*arguments, code=0):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(scope="module")
def crops(finished_run, tmp_path_factory):
    """A folder of crops whose names hold the camera, and one of them markup."""
    folder = tmp_path_factory.mktemp("camera-crops") / "crops"
    folder.mkdir()
    table = finished_run.dataset.table
    for i, path in enumerate(table.paths[:24]):
        name = "<b>cam1_[red]" if i == 0 else f"cam{table.camids[i] + 1}_{i:03d}"
        image = finished_run.dataset.images.read(path)
        (folder / f"{name}.jpg").write_bytes(encode_jpeg(image).numpy().tobytes())
    return folder


@pytest.fixture(scope="module")
def index(finished_run, crops, tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "index"
    shown = command("index", finished_run.path, crops, "--out", out, r"data.camera_regex=(cam\d)_").stdout
    assert "24 images added" in shown
    return out


def test_the_query_finds_itself(index, crops):
    query = crops / "<b>cam1_[red].jpg"
    (printed,) = json.loads(command("search", index, query, "--top", 3, "--json").stdout)
    assert printed["query"] == str(query)
    assert next(match["path"] for match in printed["matches"]) == str(query)
    assert printed["matches"][0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert len(printed["matches"]) == 3
    shown = command("search", index, query, "--top", 3).stdout
    assert "No threshold" in shown
    assert "[red]" in shown


def test_a_camera(index, crops):
    query = next(crops.glob("cam1_*"))
    (printed,) = json.loads(command("search", index, query, "--camera", 1, "--json").stdout)
    assert printed["matches"]
    assert all("cam2_" in match["path"] for match in printed["matches"])
    assert "its cameras are 0, 1" in str(command("search", index, query, "--camera", 9, code=1).exception)


def test_approximately(finished_run, crops, tmp_path):
    """So few images have one cell, so nothing is missed; an addition is found too."""
    pytest.importorskip("faiss")
    regex = r"data.camera_regex=(cam\d)_"
    for pattern, more in (("cam1_*", ()), ("cam*", ("--append",))):
        part = tmp_path / pattern.strip("*_")
        part.mkdir()
        for file in crops.glob(pattern):
            (part / file.name).symlink_to(file)
        command("index", finished_run.path, part, "--out", tmp_path / "index", regex, *more)
        options = (tmp_path / "index", next(crops.glob("cam2_*")), "--top", 5, "--json")
        approximate, exact = (command("search", *options, *also).stdout for also in (("--approximate",), ()))
        assert approximate == exact
    assert (tmp_path / "index" / "_ivf.faiss").exists()


def test_the_page_shows_names_as_text(index, crops, tmp_path):
    page = tmp_path / "matches.html"
    command("search", index, crops / "<b>cam1_[red].jpg", next(crops.glob("cam2_*")), "--top", 4, "--html", page)
    text = page.read_text()
    assert "<script" not in text
    assert "<b>" not in text
    assert "&lt;b&gt;cam1_[red].jpg" in text
    assert text.count("data:image/jpeg;base64,") == 10
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    assert "prefers-color-scheme: dark" in text


def test_a_page_of_images_that_are_gone(finished_run, crops, tmp_path):
    folder, out, page = tmp_path / "gone", tmp_path / "index", tmp_path / "page.html"
    folder.mkdir()
    for file in sorted(crops.iterdir())[:3]:
        (folder / file.name).write_bytes(file.read_bytes())
    command("index", finished_run.path, folder, "--out", out)
    first, *others = sorted(folder.iterdir())
    others[0].unlink()
    command("search", out, first, "--html", page)
    assert page.read_text().count("not readable") == 1


def test_append(finished_run, crops, tmp_path):
    folder, out = tmp_path / "growing", tmp_path / "index"
    folder.mkdir()
    files = sorted(crops.iterdir())
    for i, file in enumerate(files[:10]):
        if i == 6:
            assert "6 images added; " in command("index", finished_run.path, folder, "-o", out).stdout
        (folder / file.name).write_bytes(file.read_bytes())
    shown = command("index", finished_run.path, folder, "-o", out, "--append").stdout
    assert "4 images added, 6 of the given ones were in it already" in shown
    refused = command("index", finished_run.path, folder, "-o", out, code=1).exception
    assert "add --append" in str(refused)


def test_thresholds(index, crops):
    shown = command("threshold", index, "--far", 0.1).stdout
    assert "held-out identities" in shown
    (printed,) = json.loads(command("search", index, next(crops.iterdir()), "--json").stdout)
    assert {match["accepted"] for match in printed["matches"]} <= {True, False}
    assert printed["matches"][0]["accepted"]
    assert "≥ threshold" in command("search", index, next(crops.iterdir())).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--html", "page.pdf"), "must end in .html"),
        (("--html", "none/page.html"), "does not exist"),
        (("--html", "folder.html"), "is a folder; choose a file"),
        (("--since", "yesterday"), "is not a time"),
        (("--since", "2026-05-01"), "no column 'time'"),
    ],
)
def test_wrong_options(index, crops, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    assert message in str(command("search", index, next(crops.iterdir()), *arguments, code=1).exception)


def test_wrong_images(index, crops, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    assert "Cannot decode" in str(command("search", index, tmp_path / "text.jpg", code=1).exception)
    assert "Cannot read the image" in str(command("search", index, tmp_path / "none.jpg", code=1).exception)
    assert "is not an index" in str(command("search", crops, tmp_path / "text.jpg", code=1).exception)


def test_a_split_without_images(finished_run, crops, tmp_path):
    options = ("index", finished_run.path, crops, "--out", tmp_path / "index", "--split", "all of it")
    assert "no images in split 'all of it'; use train, query" in str(command(*options, code=1).exception)
    assert not (tmp_path / "index").exists()


def test_a_damaged_index(index, crops, tmp_path):
    """Messages are about the index, not about the folder of features that a part is."""
    damaged = shutil.copytree(index, tmp_path / "index")
    next((damaged / "part-00000").glob("rows-*.parquet")).unlink()
    error = str(command("search", damaged, next(crops.iterdir()), code=1).exception)
    assert error == f"{damaged} is damaged ({damaged}/part-00000 lacks 1 of 1 shards); build the index again."


def test_clusters_and_data_exclude_each_other(index):
    assert "leave the data settings out" in str(
        command("threshold", index, "data.layout=folder", "--clusters", code=1).exception
    )
