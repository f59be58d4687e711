"""Placement of the processes of a run on simulated GPUs; and storage that not every node sees."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group

from reid_ray.data.readers import read_dataset
from reid_ray.errors import RunError
from reid_ray.runtime import shared
from reid_ray.runtime.actor_executor import fetch
from reid_ray.runtime.actor_pool import Pool
from reid_ray.runtime.resources import plan
from reid_ray.runtime.shared import check_shared, sees
from reid_ray.training.rundir import RunDirectory


@pytest.fixture
def three_gpus(ray_folder):
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("HOME", str(ray_folder)), ("OMP_NUM_THREADS", "1"), ("RAY_AUTH_MODE", "disabled")):
            patch.setenv(name, value)
        options = {"num_cpus": 4, "num_gpus": 3, "include_dashboard": False, "log_to_driver": False}
        ray.init("local", _temp_dir=str(ray_folder), **options)
    yield
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("three_gpus")
def test_every_trainer_finds_a_gpu_next_to_the_extractors(tiny):
    """Ray packs fractional GPUs: without placeholders both extractors would share one, and a trainer would get none."""
    config = tiny("runtime.n_workers=3", "training.n_pids=3", "runtime.n_extractors=2", "runtime.placement=colocated")
    dataset = read_dataset(config.data)
    RunDirectory.of(config).create(config, {"data": dataset})
    resources = plan(config, n_gpus=3, n_cores=None)
    pool = Pool.start(config, {"data": dataset.images}, resources)
    fetch([extractor.node.remote() for extractor in pool.extractors])  # all are placed
    trainers = placement_group([{"GPU": resources.trainers.gpus}] * resources.trainers.number)
    assert trainers.wait(60), ray.available_resources()
    remove_placement_group(trainers)
    pool.stop()


def test_node_that_does_not_see_the_storage_is_named(tmp_path, monkeypatch):
    """Node b has different storage at the same path; node c has left the cluster."""
    nodes = [{"NodeID": name, "NodeManagerAddress": f"10.0.0.{name}", "Alive": name != "d"} for name in "abcd"]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(
        shared, "on_node", lambda node, function: SimpleNamespace(remote=lambda mark: (node, Path(mark)))
    )

    def get(asked):
        node, mark = asked
        if node == "c":
            raise ray.exceptions.NodeDiedError("gone")
        return sees(str(mark if node == "a" else mark.parent / "elsewhere" / mark.name))

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(RunError, match=r"10\.0\.0\.b of the Ray cluster cannot write to .*all nodes share"):
        check_shared(tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(ray, "nodes", lambda: nodes[:1])
    check_shared(tmp_path)


def test_read_only_storage_is_refused(tmp_path, monkeypatch):
    def write_bytes(beside, data):
        raise PermissionError(beside)

    (tmp_path / "mark").touch()
    assert sees(str(tmp_path / "mark"))
    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    assert not sees(str(tmp_path / "mark"))


def test_nodes_can_check_at_the_same_time(tmp_path):
    (tmp_path / "mark").touch()
    with ThreadPoolExecutor(8) as nodes:
        assert all(nodes.map(sees, [str(tmp_path / "mark")] * 400))
    assert [path.name for path in tmp_path.iterdir()] == ["mark"]
