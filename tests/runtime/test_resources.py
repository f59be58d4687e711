"""The plan of a run is known, and refused in one sentence, before anything starts."""

import pytest

from reid_ray.config import RuntimeConfig
from reid_ray.errors import ConfigError
from reid_ray.runtime.resources import check_fits, plan


@pytest.mark.parametrize(
    ("n_workers", "n_extractors", "n_gpus", "share"),
    [(1, 1, 1, 0.5), (1, 1, 2, 1.0), (2, 1, 1, 1.0), (1, 2, 1, 1.0), (1, 1, 0, 0.0)],
)
def test_one_gpu_is_shared_by_one_trainer_and_one_extractor(n_workers, n_extractors, n_gpus, share):
    runtime = RuntimeConfig(n_workers=n_workers, n_extractors=n_extractors)
    assert plan(runtime, n_gpus=n_gpus).gpus_per_process == share


def test_a_run_needs_trainers_extractors_and_labellers():
    assert plan(RuntimeConfig(n_workers=4, n_extractors=2, n_labellers=3, cpus_per_worker=2), n_gpus=8).cpus == 18
    needed = plan(RuntimeConfig(n_workers=4, n_extractors=2, cpus_per_worker=2), n_gpus=8)
    assert (needed.cpus, needed.gpus) == (14, 6)
    assert plan(RuntimeConfig(n_workers=4, n_extractors=2), n_gpus=0).gpus == 0
    assert plan(RuntimeConfig(n_workers=1, n_extractors=1), n_gpus=1).gpus == 1


def test_what_is_missing_is_named():
    needed = plan(RuntimeConfig(n_workers=4, n_extractors=2, cpus_per_worker=2), n_gpus=4)
    check_fits(needed, {"CPU": 14, "GPU": 6})
    with pytest.raises(ConfigError, match="4 more CPUs and 2 more GPUs"):
        check_fits(needed, {"CPU": 10, "GPU": 4})
    with pytest.raises(ConfigError, match="lacks 6 more GPUs"):
        check_fits(needed, {"CPU": 100})
