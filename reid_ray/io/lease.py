"""Leases: one process at a time works on a folder, on a local disk, on NFS or in an object store.

A lease is a small JSON file that names its holder. The holder touches it every `BEAT_SECONDS`. It ends with its holder:

* A holder on the same machine is looked up by process id and start time, so the lease of a killed process is free at
  once.
* A holder elsewhere is watched: the next touch shows that it is alive; after `STALE_SECONDS` without one, the lease is
  free. Ages are differences between times of the storage, so clocks of machines need not agree.

Creating a file by a hard link is atomic on a disk and on NFS. Object stores have no such operation, and no storage
replaces a stale file only if it is still the same one. There the last of several writers holds the lease, which each of
them reads after `SETTLE_SECONDS`. A process that lost its lease all the same, or whose lease the user removed, learns
so from `Fence.check`, which it calls before it writes.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from reid_ray.errors import RunError, StorageError
from reid_ray.io.files import storage_errors
from reid_ray.io.paths import Location, RemotePath

LEASE = "lease.json"
"""Name of a lease in the folder that it protects."""

BEAT_SECONDS = 5.0
"""Seconds between two touches of a lease."""

STALE_SECONDS = 60.0
"""A lease that was not touched for so long is free."""

SETTLE_SECONDS = 0.5
"""Seconds after which concurrent writers of a lease see which of them was the last."""

FENCE_SECONDS = 2.0
"""Seconds between two reads of a lease by `Fence.check`."""

_held: set[str] = set()
"""Tokens of the leases that this process holds."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Attributes:
        token: unique for each time that a lease is taken.
        process: process id.
        process_started: start time of the process in clock ticks since boot; None where the system does not say.
        machine: host name.
        system: identifies the kernel and the container, within which process ids are unique.
        since: when it was taken, ISO 8601, by the holder's clock.
    """

    token: str
    process: int
    process_started: int | None
    machine: str
    system: str
    since: str

    @classmethod
    def this_process(cls) -> Holder:
        process = os.getpid()
        since = datetime.now().astimezone().isoformat(timespec="seconds")
        return cls(uuid4().hex, process, _process_started(process), socket.gethostname(), _system(), since)

    @property
    def is_here(self) -> bool:
        """Whether its process id means something to this process."""
        return self.machine == socket.gethostname() and self.system == _system()

    @property
    def is_alive_here(self) -> bool:
        """Whether a holder on this machine still exists."""
        if self.process == os.getpid():
            return self.token in _held
        started = _process_started(self.process)
        if started is None and self.process_started is None:
            return _exists(self.process)
        return started == self.process_started


@dataclass
class Fence:
    """Tells any process of a run whether the lease is still the run's. Small: it travels to the workers.

    Attributes:
        file: the lease.
        token: of the lease when it was taken.
    """

    file: Location
    token: str

    def __post_init__(self) -> None:
        self._next = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        return Fence, (self.file, self.token)  # clocks of other machines have other origins

    def check(self) -> None:
        """Raise `RunError` if another process holds the lease by now, or the user removed it.

        Reads the lease every `FENCE_SECONDS` at most. Storage that does not answer is no answer.
        """
        if time.monotonic() < self._next:
            return
        try:
            holder = _read(self.file)
        except (OSError, StorageError):
            return
        self._next = time.monotonic() + FENCE_SECONDS
        if holder is None:
            raise RunError(f"{self.file} was removed, so this process stops; the same command resumes.")
        if holder.token != self.token:
            raise RunError(
                f"Process {holder.process} on {holder.machine} has taken over {self.file.parent}, so this process "
                f"stops."
            )


@contextmanager
def hold(file: Location, work: str, progress: Callable[[], str] = lambda: "") -> Iterator[Fence]:
    """Hold a lease for the block. Its folder is created; what the block leaves empty of it is removed again.

    Args:
        file: the lease, in the folder that it protects or next to it.
        work: what holders do, as in "training into runs/ice"; for the message.
        progress: how far the holder is, as in "epoch 3"; called for the message.

    Raises:
        RunError: another process holds it, or the storage cannot be written.
    """
    created = [folder for folder in file.parents if not folder.exists()] if isinstance(file, Path) else []
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
    mine, stop = Holder.this_process(), threading.Event()
    beats = threading.Thread(target=_beat, args=(file, mine, stop), name="reid-lease", daemon=True)
    _held.add(mine.token)
    try:
        _take(file, mine, work, progress)
        beats.start()
        yield Fence(file, mine.token)
    finally:
        stop.set()
        if beats.ident is not None:
            beats.join()
        with suppress(OSError, StorageError):
            if _token(file) == mine.token:
                file.unlink(missing_ok=True)
            for folder in created:
                folder.rmdir()  # fails where the block wrote something
        _held.discard(mine.token)


def is_lease(file: Location) -> bool:
    """Whether a file is a lease named `LEASE`, or what a process writes that wants it."""
    return file.name == LEASE or file.name.startswith(f".{LEASE}.")


def wait_until_free(file: Location, seconds: float) -> None:
    """Wait until no living process of this machine holds a lease, `seconds` at most.

    For leases whose holder is known to be ending, as the workers of a driver that was killed.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            holder = _read(file)
        except (OSError, StorageError):
            return
        if holder is None or not (holder.is_here and holder.is_alive_here):
            return
        time.sleep(0.1)


def _take(file: Location, mine: Holder, work: str, progress: Callable[[], str]) -> None:
    """Write this process into a lease that is free, or wait until one that no process touches is stale."""
    with storage_errors(file):
        while not _create(file, mine):
            found = _read(file)
            if found is None:
                continue
            if _is_alive(file, found):
                raise RunError(_refusal(file, found, work, progress))
            if _token(file) == found.token and _replace(file, mine):
                return


def _create(file: Location, mine: Holder) -> bool:
    """Write the lease where there is none; whether this process holds it then."""
    if isinstance(file, RemotePath):
        return not file.exists() and _replace(file, mine)
    temporary = _temporary(file, mine)
    temporary.write_bytes(_encoded(mine))
    try:
        os.link(temporary, file)
    except (FileExistsError, FileNotFoundError):  # the second where the holder has tidied up temporary files
        return False
    except OSError:
        if not _is_linkless(file.parent):
            raise
        return not file.exists() and _replace(file, mine)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return True


def _replace(file: Location, mine: Holder) -> bool:
    """Write the lease, whatever is there; whether this process is the last of those that did."""
    if isinstance(file, RemotePath):
        file.write_bytes(_encoded(mine))
    else:
        temporary = _temporary(file, mine)
        temporary.write_bytes(_encoded(mine))
        with suppress(FileNotFoundError):
            temporary.replace(file)
    time.sleep(SETTLE_SECONDS)
    return _token(file) == mine.token


def _is_alive(file: Location, found: Holder) -> bool:
    """Whether a holder works; for one elsewhere this takes up to `STALE_SECONDS`."""
    if found.is_here:
        return found.is_alive_here
    try:
        touched = file.stat().st_mtime
        deadline = time.monotonic() + STALE_SECONDS - (_storage_time(file) - touched)
        while time.monotonic() < deadline:
            time.sleep(min(0.5, BEAT_SECONDS / 5))
            now = _read(file)
            if now is None or now.token != found.token:
                return False  # free, or another's, which the next look decides
            if file.stat().st_mtime != touched:
                return True
    except FileNotFoundError:
        pass
    return False


def _beat(file: Location, holder: Holder, stop: threading.Event) -> None:
    """Touch the lease until stopped, or until another process owns it."""
    while not stop.wait(BEAT_SECONDS):
        with suppress(OSError, StorageError):
            if _token(file) != holder.token:
                return
            if isinstance(file, RemotePath):
                file.write_bytes(_encoded(holder))
            else:
                os.utime(file)  # the time of the storage, not of this machine


def _storage_time(file: Location) -> float:
    """The present by the clock that dates files next to `file`."""
    probe = file.with_name(f".{file.name}.{uuid4().hex}.tmp")
    try:
        if isinstance(probe, RemotePath):
            probe.write_bytes(b"?")
            return probe.stat().st_mtime
        with probe.open("wb") as opened:  # stays readable if the holder removes temporary files meanwhile
            opened.write(b"?")
            opened.flush()
            os.fsync(opened.fileno())
            return os.fstat(opened.fileno()).st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _refusal(file: Location, found: Holder, work: str, progress: Callable[[], str]) -> str:
    far = ""
    with suppress(OSError, StorageError, ValueError, LookupError):
        far = progress()
    who = f"process {found.process} on {found.machine}, since {found.since}" + (f" (now {far})" if far else "")
    return (
        f"Another process is already {work}: {who}. Wait for it, or stop it and start again; if it cannot be stopped, "
        f"remove {file} to take over, and it ends before it writes again."
    )


def _read(file: Location) -> Holder | None:
    """The holder in the lease; None where there is no lease. A damaged one is held by an unknown process elsewhere."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return None
    unknown: dict[str, Any] = {
        "token": "", "process": 0, "process_started": None, "machine": "an unknown machine", "system": "", "since": "?"
    }  # fmt: skip
    try:
        content = json.loads(data)
        values = {name: content[name] for name in unknown}
        holder = Holder(**values)
    except (ValueError, TypeError, LookupError, RecursionError):
        return Holder(**unknown)
    texts = (holder.token, holder.machine, holder.system, holder.since)
    is_plain = isinstance(holder.process, int) and all(isinstance(text, str) and text.isprintable() for text in texts)
    return holder if is_plain else Holder(**unknown)


def _token(file: Location) -> str | None:
    holder = _read(file)
    return None if holder is None else holder.token


def _encoded(holder: Holder) -> bytes:
    return f"{json.dumps(asdict(holder), indent=2)}\n".encode()


def _temporary(file: Path, mine: Holder) -> Path:
    return file.with_name(f".{file.name}.{mine.token}.tmp")


def _is_linkless(folder: Path) -> bool:
    """Whether a folder takes files, but no hard links, as some FUSE mounts."""
    first, second = (folder / f".{uuid4().hex}.tmp" for _ in range(2))
    try:
        first.write_bytes(b"?")
        with suppress(OSError):
            os.link(first, second)
        return not second.exists()
    finally:
        for probe in (first, second):
            probe.unlink(missing_ok=True)


def _system() -> str:
    """Kernel and process namespace; containers of one machine may share a host name, but not these."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return ""


def _process_started(process: int) -> int | None:
    """Start of a process in clock ticks since boot; None where there is none, or where the system does not say."""
    try:
        # The second field is a name in parentheses, which may hold anything.
        fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _exists(process: int) -> bool:
    """Whether there is a process of this number, where more is not known."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
