"""Remote paths behave like local ones; failures of a store are one-line errors."""

import pickle
from pathlib import Path, PurePosixPath

import pytest

from reid_ray.errors import StorageError
from reid_ray.io.paths import GCS_RETRY_SECONDS, RemotePath, as_path, as_readable, relative_path, resolve_beside

TREE = {"a.txt": b"a", "deep/b.txt": b"bb", "deep/deeper/c.bin": b"ccc", "deep/.hidden": b""}


def filled(folder):
    """Create the same files on a disk or in a store."""
    for name, content in TREE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def answers(folder):
    """Everything that this project does with a path."""
    deep = folder / "deep"
    return {
        "there": [(folder / name).exists() for name in ("", "deep", "a.txt", "deep/b.txt", "none", "dee")],
        "files": [(folder / name).is_file() for name in ("", "deep", "a.txt", "deep/b.txt", "none")],
        "folders": [(folder / name).is_dir() for name in ("", "deep", "a.txt", "deep/b.txt", "none")],
        "listed": sorted(path.name for path in deep.iterdir()),
        "globbed": sorted(path.name for path in deep.glob("*.txt")),
        "hidden": sorted(path.name for path in deep.glob(".*")),
        "nothing": list((folder / "none").glob("*")),
        "text": (deep / "b.txt").read_text(encoding="utf-8"),
        "bytes": (deep / "deeper" / "c.bin").stat().st_size,
        "seek": part(deep / "deeper" / "c.bin"),
        "names": [(path.name, path.stem, path.suffix) for path in (deep, deep / "b.txt", deep / "x.tar.gz")],
        "other": [deep.parent.name, deep.with_name("x").name, (deep / "b.txt").with_suffix(".c").name],
        "relative": str(relative_path(deep / "b.txt", folder)),
        "whole": (folder / "." / "a.txt") == folder / "a.txt",
    }


def part(path):
    with path.open("rb") as file:
        file.seek(1)
        return file.read(1)


def test_remote_path_behaves_like_a_local_one(tmp_path, bucket):
    local, remote = filled(tmp_path / "runs"), filled(as_path(f"{bucket}/runs"))
    assert answers(remote) == answers(local)
    assert [str(relative_path(path, remote)) for path in remote.files()] == sorted(TREE)
    assert as_readable(remote / "a.txt").read() == b"a"
    assert as_readable(local / "a.txt") == local / "a.txt"


def test_writes_replace_and_removed_objects_are_gone(bucket):
    folder = filled(as_path(f"{bucket}/runs"))
    (folder / "a.txt").write_bytes(b"new")
    assert (folder / "a.txt").read_bytes() == b"new"
    with (folder / "b").open("wb") as file:
        file.write(b"one")
        file.write(b"two")
    assert (folder / "b").read_bytes() == b"onetwo"
    (folder / "a.txt").unlink()
    (folder / "a.txt").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (folder / "a.txt").unlink()
    for read in (RemotePath.read_bytes, RemotePath.open, RemotePath.stat):
        with pytest.raises(FileNotFoundError):
            read(folder / "a.txt")
    (folder / "deep").remove_tree()
    (folder / "none").remove_tree()
    assert [path.name for path in folder.files()] == ["b"]


def test_parsing_round_trip():
    for text in ("s3://bucket", "s3://bucket/a/b.pt", "gs://anonymous@bucket/a?scheme=http&endpoint_override=x:1"):
        path = as_path(text)
        assert str(path) == text
        assert as_path(path) == pickle.loads(pickle.dumps(path)) == path
    inside = as_path("s3://bucket/a?region=x") / "b" / PurePosixPath("c")
    assert str(inside) == "s3://bucket/a/b/c?region=x"
    assert inside.key == "bucket/a/b/c"
    assert as_path("gs://anonymous@bucket/a").key == "bucket/a"
    assert as_path("s3://bucket").name == "bucket"
    assert as_path("runs/x") == Path("runs/x")
    assert as_path("~/x") == Path.home() / "x"


def test_list_may_name_files_elsewhere():
    for folder in (Path("/data"), as_path("s3://bucket/data")):
        assert resolve_beside(folder, "a/b.jpg") == folder / "a/b.jpg"
        assert resolve_beside(folder, "/abs/b.jpg") == Path("/abs/b.jpg")
        assert resolve_beside(folder, "s3://other/b.jpg") == as_path("s3://other/b.jpg")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("http://host/x", "s3:// and gs://"),
        ("s3://", "lacks a bucket"),
        ("s3://key:secret@bucket/x", "contains credentials"),
        ("s3://bucket/x?endpoint=here", "endpoint"),
    ],
)
def test_invalid_uris_are_refused(text, words):
    with pytest.raises(StorageError, match=words) as caught:
        as_path(text).exists()
    assert "secret" not in str(caught.value)


def error_of(function, *arguments):
    with pytest.raises(StorageError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_bucket(bucket):
    told = error_of((as_path(f"{bucket}-gone") / "x").write_bytes, b"x")
    assert told == f"Cannot write {bucket}-gone/x: the bucket does not exist; check its name."


def test_unreachable_endpoint(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "no answer" in error_of(as_path(f"{bucket}/x").read_bytes)


def test_rejected_credentials(bucket, object_store):
    """Makes the test store check credentials, which it does not do by default."""
    import urllib.request

    def look_at_credentials(after):
        url, headers = f"{object_store}/moto-api/reset-auth", {"Content-Type": "text/plain"}
        urllib.request.urlopen(urllib.request.Request(url, after, headers)).close()

    look_at_credentials(b"0")
    try:
        for failing in (lambda path: path.write_bytes(b"x"), RemotePath.read_bytes, RemotePath.exists):
            assert "credentials" in error_of(failing, as_path(f"{bucket}/x"))
    finally:
        look_at_credentials(b"inf")


def test_gcs_retries_are_limited():
    filesystem = as_path("gs://anonymous@bucket/x").filesystem
    limit = filesystem.__reduce__()[1][0]["retry_time_limit"]
    assert (filesystem.type_name, limit.total_seconds()) == ("gcs", GCS_RETRY_SECONDS)
