"""Which device, number format and threads a process gets."""

import os

import pytest
import torch

from reid_ray.config import RuntimeConfig, TrainingConfig
from reid_ray.errors import ConfigError
from reid_ray.training import devices
from reid_ray.training.devices import choose_device, local_rank, n_threads, parameter_dtype, prepare_process


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


def test_gpus_are_dealt_to_the_processes_of_a_machine(gpus):
    gpus(2)
    assert [choose_device(RuntimeConfig(), number).index for number in range(4)] == [0, 1, 0, 1]
    assert choose_device(RuntimeConfig(device="cuda")) == torch.device("cuda", 0)
    assert choose_device(RuntimeConfig(device="cpu"), 1) == torch.device("cpu")


def test_the_number_on_a_machine_is_the_launcher_s(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert local_rank() == 0
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_rank() == 3


@pytest.mark.parametrize(
    ("precision", "dtype"), [("float32", torch.float32), ("bf16", torch.float32), ("float64", torch.float64)]
)
def test_weights_are_float32_or_better(precision, dtype):
    assert parameter_dtype(TrainingConfig(precision=precision)) == dtype


def test_threads_are_those_asked_for_else_the_cpus_reserved(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert n_threads(RuntimeConfig(threads=5)) == 5
    assert n_threads(RuntimeConfig(cpus_per_worker=4)) == 4
    assert n_threads(RuntimeConfig(cpus_per_worker=0.5)) == 1
    assert n_threads(RuntimeConfig(cpus_per_worker=99)) == 8


def test_a_process_is_prepared(monkeypatch):
    kept = []
    monkeypatch.setattr(devices, "_keep_freed_memory", lambda: kept.append(True))
    before = torch.get_num_threads()
    try:
        prepare_process(RuntimeConfig(threads=2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert kept
