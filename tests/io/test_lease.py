"""One process at a time works on a folder, and the lease of one that is gone is in nobody's way."""

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import pytest

from reid_ray.errors import RunError
from reid_ray.io import lease
from reid_ray.io.lease import Holder, hold, is_lease, wait_until_free
from reid_ray.io.paths import RemotePath, as_path

HOLDER = """
import sys, time
from reid_ray.io.lease import hold
from reid_ray.io.paths import as_path
with hold(as_path(sys.argv[1]), "training"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def other_process():
    """`other_process(file)`: a process that holds a lease."""
    started = []

    def start(file):
        process = subprocess.Popen([sys.executable, "-c", HOLDER, str(file)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(params=["disk", "store"])
def file(request, tmp_path):
    """A lease on a disk, and one in an object store."""
    if request.param == "store":
        return as_path(f"{request.getfixturevalue('bucket')}/runs/ice/lease.json")
    return tmp_path / "ice" / "lease.json"


@pytest.fixture
def fast(monkeypatch):
    """Times of a lease that are short enough for a test, and long enough for a store."""
    for name, seconds in (("BEAT", 0.3), ("STALE", 2.0), ("SETTLE", 0.2), ("FENCE", 0.0)):
        monkeypatch.setattr(lease, f"{name}_SECONDS", seconds)


def write(file, holder):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(lease._encoded(holder))


def elsewhere(**changes):
    return replace(Holder.this_process(), machine="node-7", system="another", **changes)


def is_free(file):
    try:
        with hold(file, "training"):
            return True
    except RunError:
        return False


def test_the_second_process_is_told_who_works_and_how_to_take_over(file, other_process):
    process = other_process(file)
    with pytest.raises(RunError) as caught, hold(file, "training into runs/ice", lambda: "in epoch 3"):
        pass
    message = str(caught.value)
    since = json.loads(file.read_bytes())["since"]
    for part in (
        "already training into runs/ice",
        f"process {process.pid} on {lease.socket.gethostname()}",
        f"since {since} (now in epoch 3)",
        f"remove {file} to take over",
    ):
        assert part in message
    assert "\n" not in message
    process.kill()  # and not waited for: a zombie holds nothing
    started = time.monotonic()
    wait_until_free(file, 10)
    assert is_free(file)
    assert time.monotonic() - started < 5, "a dead process of this machine is not waited for"


def test_a_lease_ends_with_its_block(file):
    assert is_free(file)
    assert not file.exists()
    assert not any(file.parent.iterdir()) if isinstance(file, RemotePath) else not file.parent.exists()
    with hold(file, "training"):
        assert is_lease(file)
        assert not is_free(file), "not even this process takes it twice"
        file.with_name("checkpoint").write_bytes(b"1")
    assert [path.name for path in file.parent.iterdir()] == ["checkpoint"]
    assert is_free(file)


def test_of_many_that_start_at_once_one_holds(file, fast):
    barrier, stack = threading.Barrier(8), ExitStack()

    def start(_):
        barrier.wait()
        try:
            return stack.enter_context(hold(file, "training"))
        except RunError:
            return None

    with stack, ThreadPoolExecutor(8) as pool:
        fences = [fence for fence in pool.map(start, range(8)) if fence]
        assert len(fences) == 1
        fences[0].check()


@pytest.mark.parametrize("found", ["dead", "number of another process", "forgotten"])
def test_of_many_that_find_a_stale_lease_one_holds(found, tmp_path, fast):
    file = tmp_path / "lease.json"
    here = Holder.this_process()
    write(
        file,
        {
            "dead": replace(here, process=2**22 + 1),
            "number of another process": replace(here, process=os.getppid(), process_started=1),
            "forgotten": here,
        }[found],
    )
    test_of_many_that_start_at_once_one_holds(file, None)


def test_a_holder_elsewhere_that_is_alive_is_recognised_by_its_touch(file, fast, monkeypatch):
    with hold(file, "training"):
        taken = json.loads(file.read_bytes())
        monkeypatch.setattr(lease, "_system", lambda: "another container")
        with pytest.raises(RunError, match=f"process {os.getpid()} on"), hold(file, "training"):
            pass
        assert json.loads(file.read_bytes()) == taken


def test_a_holder_elsewhere_that_is_silent_is_waited_for_and_replaced(file, fast):
    write(file, elsewhere())
    started = time.monotonic()
    with hold(file, "training") as fence:
        assert 0.9 < time.monotonic() - started < 8  # stores give times in whole seconds
        fence.check()
    write(file, elsewhere())
    if isinstance(file, RemotePath):
        time.sleep(3)
    else:
        os.utime(file, (1, 1))
    started = time.monotonic()
    assert is_free(file)
    assert time.monotonic() - started < 1.9, "that it is stale is seen at once"


def test_clocks_of_machines_need_not_agree(tmp_path, fast, monkeypatch):
    """Ages are differences between times of the storage."""
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 1e6)
    write(tmp_path / "lease.json", elsewhere(since="2001-01-01T00:00:00+00:00"))
    started = time.monotonic()
    assert is_free(tmp_path / "lease.json")
    assert time.monotonic() - started > 1.5


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b'{"token": 3}', b"\xff\xfe", b"[" * 2000, b'{"token": "a\\nb"}']
)
def test_a_damaged_lease_is_free_once_it_is_stale(content, tmp_path, fast):
    file = tmp_path / "lease.json"
    file.write_bytes(content)
    os.utime(file, (1, 1))
    assert is_free(file)


def test_a_process_whose_lease_was_removed_or_taken_stops_before_it_writes(file, fast):
    with hold(file, "training") as fence:
        fence = pickle.loads(pickle.dumps(fence))  # as it travels to a worker
        fence.check()
        file.unlink()
        with pytest.raises(RunError, match=r"lease\.json was removed"):
            fence.check()
        write(file, elsewhere())
        with pytest.raises(RunError, match=r"on node-7 has taken over .*ice, so this process stops"):
            fence.check()
        time.sleep(0.7)
        assert json.loads(file.read_bytes())["machine"] == "node-7", "it is not touched any more"
    assert file.exists(), "what is another's is left"


def test_the_lease_is_not_read_at_every_write(tmp_path):
    file = tmp_path / "lease.json"
    with hold(file, "training") as fence:
        fence.check()
        file.unlink()
        fence.check()  # less than FENCE_SECONDS later


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="Cannot write"), hold(tmp_path / "file" / "lease.json", "training"):
        pass


def test_where_there_are_no_hard_links_the_last_writer_holds(tmp_path, fast, monkeypatch):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with hold(tmp_path / "lease.json", "training") as fence:
        fence.check()
        assert not is_free(tmp_path / "lease.json")
