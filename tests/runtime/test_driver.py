"""The driver without Ray: following the log, restoring signals, unwrapping Ray's errors, joining a cluster."""

import signal
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from reid_ray import errors
from reid_ray.data.readers import read_dataset
from reid_ray.errors import ConfigError, DataError, LoaderError, OutOfMemoryError, RunError
from reid_ray.io.lease import Fence
from reid_ray.runtime import cluster, driver, worker
from reid_ray.runtime.faults import plain_error
from reid_ray.runtime.worker import Assignment, Failure, train_worker
from reid_ray.training.metrics import MetricsLog
from reid_ray.training.rundir import RunDirectory


def test_every_event_reaches_the_listener_once(tmp_path):
    directory = RunDirectory(tmp_path)
    log = MetricsLog(directory.metrics_file)
    log.write("start")
    seen = []
    with driver.following(directory, seen.append):
        log.write("step", step=1)
        deadline = time.monotonic() + 20
        while not seen and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [event["event"] for event in seen] == ["step"]
        log.write("end")
    assert [event["event"] for event in seen] == ["step", "end"]  # the last ones too, and none from before


def test_no_listener(tmp_path):
    with driver.following(RunDirectory(tmp_path), None):
        pass


def test_signal_handler_is_restored():
    before = signal.getsignal(signal.SIGINT)
    with driver.restored_signal(signal.SIGINT):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("where", ["cause", "__cause__", "itself"])
def test_user_error_behind_a_failed_training(where):
    mistake = DataError("image 3 is bad")
    failure = RuntimeError("worker died")
    if where == "cause":
        failure.cause = mistake
    elif where == "__cause__":
        failure.__cause__ = mistake
    else:
        failure = mistake
    error = RuntimeError("training failed")
    error.worker_failures = {1: RuntimeError("a bug"), 0: failure}
    assert plain_error(error) is mistake
    error.worker_failures = {1: RuntimeError("a bug")}
    assert plain_error(error) is error
    assert plain_error(KeyError("other")).args == ("other",)


@pytest.mark.parametrize(
    ("reason", "kind", "part"),
    [
        ("Task was killed due to the node running low on memory", OutOfMemoryError, "ran out of memory"),
        ("Owner's worker crashed: SYSTEM_ERROR connection closed", RunError, "runtime.max_failures"),
    ],
)
def test_dead_worker_is_a_one_line_error(reason, kind, part):
    error = RuntimeError("training failed")
    error.worker_failures = {0: ray.exceptions.RayActorError(error_msg=reason)}
    found = plain_error(error)
    assert type(found) is kind
    assert part in str(found)
    assert "same command" in str(found)


@pytest.mark.parametrize(
    "kind", [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.UserError)]
)
def test_user_error_survives_as_a_value(kind):
    error = Failure(kind.__name__, "what, where, what to do").error()
    assert type(error) is kind
    assert str(error) == "what, where, what to do"


@pytest.fixture
def train_with(tiny, monkeypatch):
    """`train_with(error)`: what a Ray Train worker returns or raises if its training raises `error`."""
    config = tiny()
    dataset = read_dataset(config.data)
    directory = RunDirectory.of(config)
    directory.create(config, {"data": dataset})

    def train(error):
        class Trainer:
            def __init__(self, *arguments, started, listener, notice, fence):
                assert started == 17.0

            def run(self):
                if error:
                    raise error

        monkeypatch.setattr(worker, "Trainer", Trainer)
        monkeypatch.setattr(worker, "PreemptionNotice", lambda: None)
        pool, lease = SimpleNamespace(extractors=(), labellers=()), Fence(directory.lease_file, "token")
        return train_worker({"assignment": Assignment(config, {"data": dataset.images}, pool, 17.0, lease)})

    return train


def test_user_error_of_all_workers_is_returned_and_other_errors_are_raised(train_with):
    assert train_with(None) is None
    assert train_with(RunError("the disk is full")) == Failure("RunError", "the disk is full")
    alone = (LoaderError("image 3, which this worker alone has met"), OutOfMemoryError("here"), ValueError("a bug"))
    for error in alone:
        with pytest.raises(type(error), match=str(error)):
            train_with(error)


@pytest.fixture
def fake_ray(monkeypatch):
    """Stand-in for `ray.init` and `ray.shutdown`; `state.resources` are the resources of the cluster."""
    state = SimpleNamespace(running=False, started=[], stopped=0, resources={"CPU": 8.0}, refuse=False)

    def init(**options):
        if state.refuse:
            raise ConnectionError("nobody there")
        state.started.append(options)

    def shutdown():
        state.stopped += 1

    monkeypatch.setattr(ray, "is_initialized", lambda: state.running)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", shutdown)
    monkeypatch.setattr(ray, "cluster_resources", lambda: state.resources)
    monkeypatch.setattr(cluster, "n_cores", lambda: 2)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "2")
    return state


def test_local_cluster_is_started_with_enough_cpus_and_stopped(tiny, fake_ray):
    with cluster.cluster(tiny("runtime.n_workers=4", "runtime.device=cpu")) as plan:
        assert fake_ray.started[0]["num_cpus"] >= plan.cpus == 4
        folder = Path(fake_ray.started[0]["_temp_dir"])
        assert folder.is_dir()
        assert fake_ray.started[0]["namespace"] == cluster.NAMESPACE
        assert "address" not in fake_ray.started[0]
        assert not fake_ray.stopped
    assert fake_ray.stopped == 1
    assert not folder.exists()


def test_running_cluster_is_joined(tiny, fake_ray, monkeypatch):
    with cluster.cluster(tiny("runtime.address=here:1", "runtime.device=cpu")):
        pass
    monkeypatch.setenv("RAY_ADDRESS", "there:2")
    with cluster.cluster(tiny("runtime.device=cpu")):
        pass
    assert [options["address"] for options in fake_ray.started] == ["here:1", "there:2"]
    assert not any("num_cpus" in options for options in fake_ray.started)


def test_ray_started_by_the_caller_keeps_running(tiny, fake_ray):
    fake_ray.running = True
    with cluster.cluster(tiny("runtime.device=cpu")):
        pass
    assert (fake_ray.started, fake_ray.stopped) == ([], 0)


def test_unreachable_cluster_is_refused(tiny, fake_ray):
    fake_ray.refuse = True
    with pytest.raises(RunError, match=r"here:1.*ray start --head"), cluster.cluster(tiny("runtime.address=here:1")):
        pass


def test_cluster_that_is_too_small_is_refused_and_left(tiny, fake_ray):
    fake_ray.resources = {"CPU": 2.0}
    three = tiny("runtime.device=cpu", "runtime.placement=separate")
    with pytest.raises(ConfigError, match="1 more CPU;"), cluster.cluster(three):
        pass
    with pytest.raises(ConfigError, match="has no GPU"), cluster.cluster(tiny("runtime.device=cuda")):
        pass
    assert fake_ray.stopped == 2


def test_gpus_are_used_if_available(tiny, fake_ray):
    fake_ray.resources = {"CPU": 8.0, "GPU": 4.0}
    with cluster.cluster(tiny("runtime.device=auto", "runtime.n_workers=2")) as plan:
        assert plan.trainers.gpus == 1
    with cluster.cluster(tiny("runtime.device=cpu")) as plan:
        assert plan.gpus == 0
