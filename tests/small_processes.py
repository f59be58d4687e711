"""Processes of tests: free ports, how one ended, and who is still there."""

import contextlib
import socket
import time
from pathlib import Path


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def finish(process, code=0):
    """A program's output, once it has ended with this exit code."""
    output, _ = process.communicate(timeout=240)
    assert process.returncode == code, output
    assert "Traceback" not in output, output
    return output


def assert_refused(result, *parts):
    """That a command, of this exit code and output, ended with one sentence, which holds these parts."""
    code, text = result
    assert code == 2, text
    assert text.startswith("error:"), text
    for part in parts:
        assert part in text, text


def stat(pid):
    """Fields of /proc/PID/stat behind the program's name: its state, its parent …"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def processes_named(title, home):
    """Process ids of those that were started with this home directory and whose title begins so."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            named = entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(title.encode())
            if named and f"HOME={home}\0".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def outlive(titles, home, seconds=30):
    """Which processes of these titles are there for good; Ray's see a moment later that they are no longer wanted."""
    until = time.monotonic() + seconds
    while left := [pid for title in titles for pid in processes_named(title, home)]:
        if time.monotonic() > until:
            break
        time.sleep(0.2)
    return left
