"""The plan of a run is known, and refused in one sentence, before anything starts."""

import pytest

from reid_ray.config import RuntimeConfig
from reid_ray.errors import ConfigError
from reid_ray.runtime.resources import check_fits, plan


def test_a_run_needs_trainers_extractors_and_a_labeller():
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
