"""Fixtures of all tests: a dataset small enough to train in seconds, and runs in separate processes."""

import ctypes
import gc
import os
import platform
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import hypothesis
import pytest
from small_processes import free_port

from reid_ray.config import dump_config


def pytest_configure():
    # The same cases in every run, however slow the machine is.
    hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None)
    hypothesis.settings.load_profile("fixed")
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # no telemetry from tests
    # Background jobs of a shell, and their children, ignore Ctrl-C; tests send it.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that no process is left alone with one of them at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    """Thousands of tests and the modules that they import stay to the end; without `freeze`, each collection of garbage
    would visit them all again, a second or more for every file."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def _memory_handed_back():
    """Training keeps freed memory for its next step; a process that runs many test files must not."""
    yield
    if platform.libc_ver()[0] == "glibc":
        gc.collect()
        gc.freeze()  # modules that were imported since
        ctypes.CDLL(None).malloc_trim(0)


@pytest.fixture(autouse=True, scope="session")
def _no_fsync():
    """Files of tests need not survive a power failure, and most are removed before the system would write them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True)
def _seeded():
    """Random tensors of a test do not depend on the tests before it in the same process."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def _nothing_left(request):
    """Remove the files of a test as soon as it ends: a run takes up to half a gigabyte, and pytest would keep them
    until the end of the session."""
    if "tmp_path" not in request.fixturenames:
        yield
        return
    folder = request.getfixturevalue("tmp_path")
    yield
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def bf16_on_this_cpu(monkeypatch):
    """`precision=bf16` computes in bfloat16 within the test, also where the CPU has no instructions for it."""
    monkeypatch.setattr("reid_ray.models.precision.cpu_supports_bf16", lambda: True)


@pytest.fixture
def tiny(tmp_path):
    """`tiny("key=value", …)`: the configuration of a small run in `tmp_path`, inline unless told otherwise."""
    from small_runs import tiny_config  # imported here because it imports PyTorch, which not all tests need

    return lambda *overrides: tiny_config(tmp_path, *overrides)


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """A finished run of one epoch with an evaluation, for tests that only read it."""
    from small_runs import tiny_config

    from reid_ray.api import train

    folder = tmp_path_factory.mktemp("finished")
    yield train(tiny_config(folder, "training.epochs=1", "evaluation.every=1"))
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def exported_folder(finished_run, tmp_path_factory):
    """The weights of `finished_run`, exported, for tests that only read them."""
    from reid_ray.export import export_run

    folder = tmp_path_factory.mktemp("export") / "exported"
    export_run(finished_run, folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def market_copy(finished_run, tmp_path):
    """A folder with the test images of `finished_run` as Market-1501 names them, at the input size, without loss."""
    from PIL import Image

    dataset, size = finished_run.dataset, finished_run.config.data
    for folder, table in (("query", dataset.query), ("bounding_box_test", dataset.gallery)):
        (tmp_path / folder).mkdir()
        for i, path in enumerate(table.paths):
            pixels = dataset.images.read(path).permute(1, 2, 0).numpy()
            name = f"{table.pids[i] + 1:04d}_c{table.camids[i] + 1}s1_{i:06d}_00.jpg"
            Image.fromarray(pixels).resize((size.width, size.height)).save(tmp_path / folder / name, format="PNG")
    (tmp_path / "bounding_box_train").symlink_to(tmp_path / "query")
    return tmp_path


@pytest.fixture
def file_size_limit():
    """`with file_size_limit(n):` writes beyond n bytes per file fail, as on a full disk."""

    @contextmanager
    def limited(n_bytes):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.fixture(scope="session")
def ray_folder():
    """Folder of Ray's sessions. It holds sockets, whose paths must be short, so it is not in pytest's folder."""
    with tempfile.TemporaryDirectory(prefix="reid-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def ray_address(ray_folder):
    """Address of a Ray cluster with four logical CPUs, which starts once for all tests; searches need its dashboard."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # Not the argument temp_dir: Ray would still write the address to /tmp/ray, which need not exist.
        for name in ("HOME", "RAY_TMPDIR"):
            patch.setenv(name, str(ray_folder))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))  # for modules of tests
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RAY_AUTH_MODE", "disabled")
        head = {"num_cpus": 4, "include_dashboard": True, "include_log_monitor": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(scope="module")
def local_ray(ray_address):
    """The tests of a file are a driver of the cluster at `ray_address`."""
    import ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")  # as a run sets it
        ray.init(address=ray_address, log_to_driver=False)
        yield
        ray.shutdown()


@pytest.fixture
def process_group(tmp_path, tmp_path_factory, ray_folder):
    """`process_group(config, command, …)`: `reid-ray COMMAND` with a configuration, in its own process group."""
    started = []

    def start(config, command, *options, launcher=()):
        recipe = tmp_path / f"{config.name}.yaml"
        recipe.write_text(dump_config(config), encoding="utf-8")
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HOME": str(tmp_path),
            "MPLCONFIGDIR": str(tmp_path_factory.getbasetemp() / "matplotlib"),  # one font cache for all processes
            "RAY_AUTH_MODE": "disabled",
            "RAY_TMPDIR": str(ray_folder),
        }
        process = subprocess.Popen(
            [sys.executable, *launcher, "-m", "reid_ray", command, str(recipe), *options],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, 9)
            process.wait()


@pytest.fixture
def reid_ray_process(process_group):
    """`reid_ray_process(config, n_workers=1)`: `reid-ray train` with a configuration, in its own process group."""

    def start(config, *, n_workers=1):
        torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n_workers}")
        return process_group(config, "train", launcher=torchrun if n_workers > 1 else ())

    return start


@pytest.fixture(scope="session")
def object_store():
    """The address of an S3-compatible store on this machine."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            assert server.poll() is None, "moto's server has ended"
            assert time.monotonic() < deadline, "moto's server does not answer"
            time.sleep(0.1)
    yield f"http://127.0.0.1:{port}"
    server.kill()
    server.wait()


@pytest.fixture
def bucket(object_store, tmp_path, monkeypatch):
    """The URI of a new bucket in the test store; the environment of this process and its children points to it."""
    from pyarrow.fs import S3FileSystem

    for name, value in (
        ("AWS_ENDPOINT_URL", object_store),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_REGION", "us-east-1"),
        ("REID_CACHE", str(tmp_path / "cache")),
    ):
        monkeypatch.setenv(name, value)
    scheme, _, address = object_store.partition("://")
    store = S3FileSystem(endpoint_override=address, scheme=scheme, allow_bucket_creation=True)
    name = f"bucket-{uuid4().hex[:8]}"
    store.create_dir(name)
    return f"s3://{name}"
