"""Device, dtype and number of threads of a process."""

import os

import pytest
import torch

from reid_ray import devices
from reid_ray.config import RuntimeConfig, TrainingConfig
from reid_ray.devices import (
    choose_device,
    local_rank,
    memory_errors,
    n_threads,
    parameter_dtype,
    prepare_process,
)
from reid_ray.errors import ConfigError, OutOfMemoryError


@pytest.fixture
def gpus(monkeypatch):
    def pretend(number):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: number)

    return pretend


def test_without_a_gpu(gpus):
    gpus(0)
    assert choose_device(RuntimeConfig(device="auto"), 3) == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"runtime\.device"):
        choose_device(RuntimeConfig(device="cuda"))


def test_gpus_are_assigned_to_local_processes(gpus):
    gpus(2)
    assert [choose_device(RuntimeConfig(), number).index for number in range(4)] == [0, 1, 0, 1]
    assert choose_device(RuntimeConfig(device="cuda")) == torch.device("cuda", 0)
    assert choose_device(RuntimeConfig(device="cpu"), 1) == torch.device("cpu")


def test_local_rank_is_set_by_the_launcher(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert local_rank() == 0
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_rank() == 3


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("bf16", torch.float32), ("float64", torch.float64)]
)
def test_weights_are_float32_or_better(precision, dtype):
    assert parameter_dtype(TrainingConfig(precision=precision)) == dtype


def test_threads_are_as_configured_else_a_share_of_the_cores(monkeypatch):
    monkeypatch.setattr(devices, "n_cores", lambda: 8)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert n_threads(RuntimeConfig(threads=5)) == 5
    assert n_threads(RuntimeConfig()) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert n_threads(RuntimeConfig()) == 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "99")
    assert n_threads(RuntimeConfig()) == 1


def test_cores_respect_the_cpu_affinity(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5}, raising=False)
    assert devices.n_cores() == 2
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert devices.n_cores() == 3


@pytest.mark.parametrize(
    ("error", "names_gpu"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), False),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), False),
    ],
)
def test_out_of_memory_names_process_and_device(error, names_gpu):
    with pytest.raises(OutOfMemoryError) as caught, memory_errors("training worker 3", "use more workers"):
        raise error
    assert ("GPU memory in training worker 3" in str(caught.value)) == names_gpu
    assert "use more workers" in str(caught.value)


def test_other_errors_pass_through():
    with pytest.raises(RuntimeError, match="shapes"), memory_errors("a worker", "rest"):
        raise RuntimeError("shapes do not match")


def test_prepare_process(monkeypatch):
    kept = []
    monkeypatch.setattr(devices, "_keep_freed_memory", lambda: kept.append(True))
    before = torch.get_num_threads()
    try:
        prepare_process(RuntimeConfig(threads=2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert kept
