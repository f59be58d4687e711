"""Processes of tests: free ports, groups of workers, exit codes, and processes that are still running."""

import contextlib
import multiprocessing
import os
import socket
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

# What every run imports, here or later: the first optimizer of a process imports _dynamo, and the first table pandas.
multiprocessing.get_context("forkserver").set_forkserver_preload(
    ["reid_ray.training.inline", "reid_ray.data.synthetic", "torch._dynamo", "pandas"]
)


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def fork_workers(worker, size, seconds=600):
    """`worker(rank, size)` in as many forks of a server that has imported PyTorch and started no threads.

    A process that begins with an import of PyTorch takes longer to start than most tests of workers to run. Workers
    that do not end in time end with this process.
    """
    context = multiprocessing.get_context("forkserver")
    processes = [context.Process(target=worker, args=(rank, size), daemon=True) for rank in range(size)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    assert codes == [0] * size, f"exit codes of {size} workers: {codes}"


class TrainingProcess(ForkServerProcess):
    """A process that trains, for tests that kill it: a fork of a server that has imported PyTorch.

    A new interpreter takes several times as long to start as these runs take to train.
    """

    def __init__(self, config):
        super().__init__(daemon=True)
        self.config, self.environment = config, dict(os.environ)
        self.start()

    def run(self):
        from reid_ray.api import train

        os.environ.update(self.environment)  # the server has that of its start
        train(self.config)

    def poll(self):
        return self.exitcode

    def communicate(self):
        return f"{self}; its traceback is in the standard error of the tests", None


def finish(process, code=0):
    """The output of a program, after it has ended with this exit code."""
    output, _ = process.communicate(timeout=240)
    assert process.returncode == code, output
    assert "Traceback" not in output, output
    return output


def assert_refused(result, *parts):
    """Assert that a command ended with a one-line error that contains these parts."""
    code, text = result
    assert code == 2, text
    assert text.startswith("error:"), text
    for part in parts:
        assert part in text, text


def stat(pid):
    """Fields of /proc/PID/stat after the program name: state, parent …"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def processes_named(title, home):
    """Process ids with this home directory and this prefix of the title."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            named = entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(title.encode())
            if named and f"HOME={home}\0".encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    return found


def outlive(titles, home, seconds=30):
    """Processes with these titles that do not end; Ray's processes take a moment to end."""
    until = time.monotonic() + seconds
    while left := [pid for title in titles for pid in processes_named(title, home)]:
        if time.monotonic() > until:
            break
        time.sleep(0.2)
    return left
