"""Where files lie: on this machine, or in an object store (`s3://bucket/runs`, `gs://bucket/runs`).

`as_path(text)` gives a `pathlib.Path` or a `RemotePath`, which answers to the same calls, so that whoever reads and
writes need not ask which of the two it is. There is no mirror and nothing to bring up to date: a `RemotePath` says what
the store says now, to every process on every node. An object is put whole: readers see the old one or the new one.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple
from urllib.parse import urlsplit

from reid_ray.errors import StorageError

SCHEMES = ("s3", "gs")

GCS_RETRY_SECONDS = 30
"""Arrow would try for a quarter of an hour."""


class Stat(NamedTuple):
    """What is known of an object; names as in `os.stat_result`."""

    st_size: int
    st_mtime: float


@dataclass(frozen=True, order=True)
class RemotePath:
    """A path in an object store, with the methods of `pathlib.Path` that are called in this project.

    Folders are what the names of objects make them, so there is no need to create one, and an empty one does not
    exist. Absent objects are FileNotFoundError, as with files; every other failure is a `StorageError`.

    Attributes:
        store: scheme and bucket, as s3://bucket.
        inside: the path in the bucket.
        options: of the connection, as Arrow knows them in a URI: endpoint_override=…&region=….
    """

    store: str
    inside: PurePosixPath
    options: str = ""

    def __str__(self) -> str:
        inside = "" if self.inside == PurePosixPath() else f"/{self.inside}"
        return f"{self.store}{inside}{f'?{self.options}' if self.options else ''}"

    def __truediv__(self, part: str | PurePosixPath) -> RemotePath:
        return self._at(self.inside / part)

    @property
    def name(self) -> str:
        """The last part; of a bucket its name."""
        return self.inside.name or self.store.partition("://")[2]

    @property
    def stem(self) -> str:
        return self.inside.stem

    @property
    def suffix(self) -> str:
        return self.inside.suffix

    @property
    def parts(self) -> tuple[str, ...]:
        return self.inside.parts

    @property
    def parent(self) -> RemotePath:
        return self._at(self.inside.parent)

    def with_name(self, name: str) -> RemotePath:
        return self._at(self.inside.with_name(name))

    def with_suffix(self, suffix: str) -> RemotePath:
        return self._at(self.inside.with_suffix(suffix))

    def resolve(self) -> RemotePath:
        """Itself: it means the same everywhere, and there are no links."""
        return self

    absolute = resolve

    def exists(self) -> bool:
        return self._stat() is not None

    def is_file(self) -> bool:
        info = self._stat()
        return info is not None and bool(info.is_file)

    def is_dir(self) -> bool:
        """Whether there is an object below this path, or a bucket of this name."""
        info = self._stat()
        return info is not None and not info.is_file

    def stat(self) -> Stat:
        info = self._stat()
        if info is None:
            raise FileNotFoundError(f"There is no {self}.")
        return Stat(info.size or 0, info.mtime_ns / 1e9 if info.mtime_ns else 0.0)

    def iterdir(self) -> Iterator[RemotePath]:
        """Objects and folders directly below this one, sorted; none where it does not exist."""
        return iter(self._below(recursive=False))

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Those of `iterdir` whose name fits the pattern."""
        return (path for path in self.iterdir() if path.inside.match(pattern))

    def files(self) -> list[RemotePath]:
        """Every object below this path, at any depth, sorted."""
        return self._below(recursive=True, only_files=True)

    def read_bytes(self) -> bytes:
        with self._reported("read"), self.filesystem.open_input_file(self.key) as file:
            content: bytes = file.readall()
            return content

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: Any) -> None:
        """Put the object; it is there, whole, when this returns, and as it was before where this fails."""
        with self._reported("write"), self.filesystem.open_output_stream(self.key) as file:
            file.write(data)

    def open(self, mode: str = "rb") -> IO[bytes]:
        """A file to read, anywhere in it, or with "wb" one to write from its beginning to its end.

        What is written is there after `close`, however the writing went: who cannot tell a half-written object from a
        whole one should use `write_bytes`.
        """
        file: IO[bytes]
        with self._reported("write" if mode == "wb" else "read"):
            opening = self.filesystem.open_output_stream if mode == "wb" else self.filesystem.open_input_file
            file = opening(self.key)
        return file

    def unlink(self, missing_ok: bool = False) -> None:
        with self._reported("remove"):
            try:
                self.filesystem.delete_file(self.key)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def remove_tree(self) -> None:
        """Remove every object below this path; nothing where there is none."""
        with self._reported("remove"):
            if self.is_dir():
                self.filesystem.delete_dir(self.key)

    def mkdir(self, **options: Any) -> None:
        """Nothing: there is no need to."""

    @property
    def filesystem(self) -> Any:
        """The `pyarrow.fs.FileSystem` in which this path is `key`."""
        with self._reported("reach"):
            return _connect(self.store, _with_defaults(self.store, self.options))

    @property
    def key(self) -> str:
        bucket = self.store.partition("://")[2].rpartition("@")[2]
        return str(PurePosixPath(bucket) / self.inside)

    def _at(self, inside: PurePosixPath) -> RemotePath:
        return RemotePath(self.store, inside, self.options)

    def _stat(self) -> Any:
        """Arrow's FileInfo, None where there is nothing."""
        from pyarrow.fs import FileType

        with self._reported("read"):
            info = self.filesystem.get_file_info(self.key)
        return None if info.type == FileType.NotFound else info

    def _below(self, *, recursive: bool, only_files: bool = False) -> list[RemotePath]:
        from pyarrow.fs import FileSelector

        with self._reported("list"):
            selector = FileSelector(self.key, recursive=recursive, allow_not_found=True)
            found = self.filesystem.get_file_info(selector)
        bucket = self.key.partition("/")[0]
        return sorted(
            self._at(PurePosixPath(info.path).relative_to(bucket)) for info in found if info.is_file or not only_files
        )

    @contextmanager
    def _reported(self, doing: str) -> Iterator[None]:
        """Turn what Arrow raises in the block into a sentence; that an object is not there is told as of a file."""
        try:
            yield
        except FileNotFoundError as error:
            if doing == "write":
                raise StorageError(f"Cannot write {self}: {_REASONS['NO_SUCH_BUCKET']}.") from error
            raise
        except (OSError, ValueError) as error:  # ArrowInvalid, of an option that Arrow does not know, is a ValueError
            raise StorageError(f"Cannot {doing} {self}: {_reason(error)}.") from error


Location = Path | RemotePath


def as_path(text: str | Location) -> Location:
    """The path that a setting or an argument names; ~ is the home folder.

    Raises:
        StorageError: a URI that is none of an object store that can be read, or one with a password in it.
    """
    if not isinstance(text, str):
        return text
    scheme, mark, rest = text.partition("://")
    if not mark:
        return Path(text).expanduser()
    if scheme not in SCHEMES:
        known = " and ".join(f"{name}://" for name in SCHEMES)
        raise StorageError(f"{text} is on no storage that can be read; use {known} for object stores, or a path.")
    rest, _, options = rest.partition("?")
    bucket, _, inside = rest.partition("/")
    if not bucket:
        raise StorageError(f"{text} names no bucket; write {scheme}://BUCKET/FOLDER.")
    if ":" in bucket:
        raise StorageError(
            f"The path of bucket {bucket.rpartition('@')[2]} holds credentials, which would be written into every run; "
            f"set them in the environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
        )
    return RemotePath(f"{scheme}://{bucket}", PurePosixPath(inside), options)


def resolve_beside(folder: Location, name: str) -> Location:
    """What a list in `folder` calls `name`: a path in that folder, unless it is an absolute one or a URI."""
    if "://" in name or Path(name).is_absolute():
        return as_path(name)
    return folder / name


def relative_path(path: Location, folder: Location) -> PurePosixPath:
    """A path as it is seen from the folder in which it lies."""
    return PurePosixPath(*path.parts[len(folder.parts) :])


def as_readable(path: Location) -> Path | io.BytesIO:
    """What `torch.load`, `zipfile` and Arrow read a whole file from: the file itself, or the content of an object."""
    return io.BytesIO(path.read_bytes()) if isinstance(path, RemotePath) else path


@cache
def _connect(store: str, options: str) -> Any:
    """One connection a process for each bucket; looking up the region of a bucket asks AWS."""
    from pyarrow.fs import FileSystem

    filesystem, _ = FileSystem.from_uri(f"{store}?{options}" if options else store)
    return filesystem


def _with_defaults(store: str, options: str) -> str:
    """The options, with what the environment and we say where they say nothing."""
    chosen = [options] if options else []
    if store.startswith("gs://"):
        if "retry_limit_seconds=" not in options:
            chosen.append(f"retry_limit_seconds={GCS_RETRY_SECONDS}")
        return "&".join(chosen)
    if "allow_delayed_open=" not in options:
        chosen.append("allow_delayed_open=true")  # one request for a small object, instead of three
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and "endpoint_override=" not in options:
        parts = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        chosen.append(f"endpoint_override={parts.netloc}&scheme={parts.scheme}")
    return "&".join(chosen)


_REASONS = {
    "NO_SUCH_BUCKET": "there is no such bucket; check its name",
    "ACCESS_DENIED": "access is denied; check the credentials, and what they permit on this bucket",
    "INVALID_ACCESS_KEY_ID": "the credentials are not known there; check AWS_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH": "the credentials are not accepted; check AWS_SECRET_ACCESS_KEY",
    "NETWORK_CONNECTION": "nobody answers; check the network and the endpoint, AWS_ENDPOINT_URL or endpoint_override",
}


def _reason(error: Exception) -> str:
    """Why the store failed and what to do, from Arrow's long account of it."""
    told = " ".join(str(error).split()).rstrip(".")
    code = re.search(r"AWS Error (\w+)", told)
    if code and code[1] in _REASONS:
        return _REASONS[code[1]]
    return f"{told[:300]}; check the bucket, the credentials and the endpoint"
