"""Paths on this machine or in an object store (`s3://bucket/runs`, `gs://bucket/runs`).

`as_path(text)` returns a `pathlib.Path` or a `RemotePath` with the same methods, so callers need not distinguish them.
There is no local mirror: a `RemotePath` always shows the current state of the store, to every process on every node.
Writes of objects are atomic: readers see the old object or the new one.
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
"""Arrow's default is a quarter of an hour."""


class Stat(NamedTuple):
    """Size and modification time of an object; names as in `os.stat_result`."""

    st_size: int
    st_mtime: float


@dataclass(frozen=True, order=True)
class RemotePath:
    """A path in an object store, with the methods of `pathlib.Path` that this project uses.

    Folders exist only through the names of objects: they need not be created, and empty folders do not exist. A missing
    object raises FileNotFoundError, like a file; every other failure is a `StorageError`.

    Attributes:
        store: scheme and bucket, such as s3://bucket.
        inside: the path in the bucket.
        options: of the connection, in the format of Arrow's URIs: endpoint_override=…&region=….
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
        """The last part, or the name of the bucket."""
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
        """The path itself: it is absolute, and there are no links."""
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
            raise FileNotFoundError(f"{self} does not exist.")
        return Stat(info.size or 0, info.mtime_ns / 1e9 if info.mtime_ns else 0.0)

    def iterdir(self) -> Iterator[RemotePath]:
        """Objects and folders directly below this path, sorted; empty if it does not exist."""
        return iter(self._below(recursive=False))

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Paths of `iterdir` whose name matches the pattern."""
        return (path for path in self.iterdir() if path.inside.match(pattern))

    def files(self) -> list[RemotePath]:
        """Every object below this path, at any depth, sorted."""
        return self._below(recursive=True, only_files=True)

    def read_bytes(self) -> bytes:
        with self._storage_errors("read"), self.filesystem.open_input_file(self.key) as file:
            content: bytes = file.readall()
            return content

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: Any) -> None:
        """Write the object atomically; if this fails, the old object stays."""
        with self._storage_errors("write"), self.filesystem.open_output_stream(self.key) as file:
            file.write(data)

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Open the object for random reads or, with "wb", for sequential writes.

        `close` publishes what was written, even if the writing failed. Use `write_bytes` if a partial object could be
        mistaken for a complete one.
        """
        file: IO[bytes]
        with self._storage_errors("write" if mode == "wb" else "read"):
            opening = self.filesystem.open_output_stream if mode == "wb" else self.filesystem.open_input_file
            file = opening(self.key)
        return file

    def unlink(self, missing_ok: bool = False) -> None:
        with self._storage_errors("remove"):
            try:
                self.filesystem.delete_file(self.key)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def remove_tree(self) -> None:
        """Remove every object below this path, if any."""
        with self._storage_errors("remove"):
            if self.is_dir():
                self.filesystem.delete_dir(self.key)

    def mkdir(self, **options: Any) -> None:
        """Nothing to do: folders need not be created."""

    @property
    def filesystem(self) -> Any:
        """The `pyarrow.fs.FileSystem` in which this path is `key`."""
        with self._storage_errors("reach"):
            return _connect(self.store, _with_defaults(self.store, self.options))

    @property
    def key(self) -> str:
        bucket = self.store.partition("://")[2].rpartition("@")[2]
        return str(PurePosixPath(bucket) / self.inside)

    def _at(self, inside: PurePosixPath) -> RemotePath:
        return RemotePath(self.store, inside, self.options)

    def _stat(self) -> Any:
        """Arrow's FileInfo, or None if nothing is there."""
        from pyarrow.fs import FileType

        with self._storage_errors("read"):
            info = self.filesystem.get_file_info(self.key)
        return None if info.type == FileType.NotFound else info

    def _below(self, *, recursive: bool, only_files: bool = False) -> list[RemotePath]:
        from pyarrow.fs import FileSelector

        with self._storage_errors("list"):
            selector = FileSelector(self.key, recursive=recursive, allow_not_found=True)
            found = self.filesystem.get_file_info(selector)
        bucket = self.key.partition("/")[0]
        return sorted(
            self._at(PurePosixPath(info.path).relative_to(bucket)) for info in found if info.is_file or not only_files
        )

    @contextmanager
    def _storage_errors(self, doing: str) -> Iterator[None]:
        """Turn Arrow's exceptions in the block into `StorageError`; a missing object stays FileNotFoundError."""
        try:
            yield
        except FileNotFoundError as error:
            if doing == "write":
                raise StorageError(f"Cannot write {self}: {_REASONS['NO_SUCH_BUCKET']}.") from error
            raise
        except (OSError, ValueError) as error:  # ArrowInvalid, for an unknown option, is a ValueError
            raise StorageError(f"Cannot {doing} {self}: {_reason(error)}.") from error


Location = Path | RemotePath


def as_path(text: str | Location) -> Location:
    """Parse a path or URI; ~ is the home folder.

    Raises:
        StorageError: a URI of an unsupported object store, or one that contains a password.
    """
    if not isinstance(text, str):
        return text
    scheme, mark, rest = text.partition("://")
    if not mark:
        return Path(text).expanduser()
    if scheme not in SCHEMES:
        known = " and ".join(f"{name}://" for name in SCHEMES)
        raise StorageError(f"{text} is on unsupported storage; use {known} for object stores, or a path.")
    rest, _, options = rest.partition("?")
    bucket, _, inside = rest.partition("/")
    if not bucket:
        raise StorageError(f"{text} lacks a bucket; write {scheme}://BUCKET/FOLDER.")
    if ":" in bucket:
        raise StorageError(
            f"The path of bucket {bucket.rpartition('@')[2]} contains credentials, which would be in every run; "
            f"set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment instead."
        )
    return RemotePath(f"{scheme}://{bucket}", PurePosixPath(inside), options)


def resolve_beside(folder: Location, name: str) -> Location:
    """Resolve a path from a list file in `folder`: relative to that folder, unless it is absolute or a URI."""
    if "://" in name or Path(name).is_absolute():
        return as_path(name)
    return folder / name


def relative_path(path: Location, folder: Location) -> PurePosixPath:
    """`path` relative to `folder`, which contains it."""
    return PurePosixPath(*path.parts[len(folder.parts) :])


def as_readable(path: Location) -> Path | io.BytesIO:
    """The file itself, or the content of an object: readable by `torch.load`, `zipfile` and Arrow."""
    return io.BytesIO(path.read_bytes()) if isinstance(path, RemotePath) else path


@cache
def _connect(store: str, options: str) -> Any:
    """One connection per process and bucket; looking up the region of a bucket is a request to AWS."""
    from pyarrow.fs import FileSystem

    filesystem, _ = FileSystem.from_uri(f"{store}?{options}" if options else store)
    return filesystem


def _with_defaults(store: str, options: str) -> str:
    """The options, completed by the environment and our defaults."""
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
    "NO_SUCH_BUCKET": "the bucket does not exist; check its name",
    "ACCESS_DENIED": "access is denied; check the credentials and their permissions on this bucket",
    "INVALID_ACCESS_KEY_ID": "the access key is unknown; check AWS_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH": "the credentials are rejected; check AWS_SECRET_ACCESS_KEY",
    "NETWORK_CONNECTION": "no answer; check the network and the endpoint, AWS_ENDPOINT_URL or endpoint_override",
}


def _reason(error: Exception) -> str:
    """Reason and remedy, from Arrow's long error message."""
    message = " ".join(str(error).split()).rstrip(".")
    code = re.search(r"AWS Error (\w+)", message)
    if code and code[1] in _REASONS:
        return _REASONS[code[1]]
    return f"{message[:300]}; check the bucket, the credentials and the endpoint"
