"""metrics.jsonl: every event of a run, one JSON object per line, written by rank 0.

Events: `start`, `refresh`, `step`, `epoch`, `evaluate`, `end`; docs/runs.md lists their fields. A
resumed run truncates the file to the position of its checkpoint, so that no event is in it twice.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from reid_ray.io.files import GrowingFile, open_append
from reid_ray.io.paths import Location

Event = dict[str, Any]


class MetricsLog:
    """Appends events to a file and hands them to listeners (progress bars).

    Args:
        path: the file; None on workers other than rank 0, which write nothing.
        listener: called with every event after it is written.
    """

    def __init__(self, path: Location | None, listener: Callable[[Event], None] | None = None) -> None:
        self._file: GrowingFile | None = open_append(path) if path else None
        self._listener = listener

    @property
    def position(self) -> int:
        """Bytes written so far; stored in checkpoints."""
        return self._file.size if self._file else 0

    def rewind(self, position: int) -> None:
        """Remove the events after `position`."""
        if self._file:
            self._file.truncate(position)

    def flush(self) -> None:
        """Make all events so far visible to readers; an object store delays those of steps for a short time."""
        if self._file:
            self._file.flush()

    def write(self, event: str, **fields: Any) -> None:
        """Append one event; numbers that JSON cannot represent (NaN, infinities) become null."""
        record: Event = {"event": event, "time": round(time.time(), 3), **_plain(fields)}
        if self._file:
            self._file.append(f"{json.dumps(record)}\n".encode())
            if event != "step":
                self._file.flush()
        if self._listener:
            self._listener(record)


def read_metrics(path: Location) -> list[Event]:
    """The events of a finished or running run; an incomplete last line is skipped."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1] if line]


def pauses(events: Sequence[Event]) -> list[float]:
    """Seconds between consecutive events, except between the end of one process and the start of the next."""
    return [later["time"] - earlier["time"] for earlier, later in pairwise(events) if later["event"] != "start"]


class MetricsFollower:
    """Reads the events that another process appends to a metrics file after the follower was created.

    A resumed run truncates the file before it appends, and both may happen between two calls of `read`. If the last
    line that was read is no longer in its place, the file is read again for later events.
    """

    def __init__(self, path: Location) -> None:
        self._path = path
        self._position = 0
        self._last_line = b""
        self._last_time = 0.0
        self.read()

    def read(self) -> list[Event]:
        """The complete lines written since the last call."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._position - len(self._last_line))
            known, data = file.read(len(self._last_line)), file.read()
            cut_back = known != self._last_line
            if cut_back:
                file.seek(0)
                self._position, data = 0, file.read()
        lines = data.splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        events = [event for event in map(json.loads, lines) if not cut_back or event["time"] > self._last_time]
        self._position += sum(map(len, lines))
        if lines or cut_back:
            self._last_line = lines[-1] if lines else b""
        if events:
            self._last_time = events[-1]["time"]
        return events


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if hasattr(value, "item"):
        return _plain(value.item())
    return value
