"""The number of concurrent trials is computed before the start; a trial that does not fit is refused."""

import pytest
from small_runs import tiny_config

from reid_ray.errors import ConfigError
from reid_ray.tuning import capacity
from reid_ray.tuning.capacity import PLACEHOLDER_BUNDLE, cpus_to_start, make_capacity


@pytest.fixture(autouse=True)
def _dashboard(monkeypatch):
    monkeypatch.setattr(capacity, "list_nodes", lambda **options: [])


def config(*runtime):
    return tiny_config("runs", "runtime.threads=null", *(f"runtime.{setting}" for setting in runtime))


@pytest.mark.parametrize(
    ("runtime", "wanted", "cluster", "n_cores", "concurrent", "bundle", "threads"),
    [
        (("device=cpu",), None, {"CPU": 4}, None, 4, {"CPU": 1}, 1),
        (("device=cpu", "cpus_per_worker=2"), None, {"CPU": 5}, None, 2, {"CPU": 2}, 2),
        (("device=cpu",), 2, {"CPU": 4}, 4, 2, {"CPU": 1}, 2),
        (("device=cpu",), 9, {"CPU": 4}, None, 4, {"CPU": 1}, 1),
        (("device=auto",), None, {"CPU": 8, "GPU": 2}, None, 2, {"CPU": 1, "GPU": 1}, 1),
        (("device=cpu", "threads=3"), 2, {"CPU": 4}, 4, 2, {"CPU": 1}, 3),
        (("backend=ray", "device=cpu", "n_workers=2"), None, {"CPU": 4}, None, 2, PLACEHOLDER_BUNDLE, None),
        (
            ("backend=ray", "device=cpu", "placement=separate"),
            None,
            {"CPU": 7},
            None,
            2,
            PLACEHOLDER_BUNDLE,
            None,
        ),
        (
            ("backend=ray", "device=auto", "n_workers=2"),
            None,
            {"CPU": 64, "GPU": 8},
            None,
            2,
            PLACEHOLDER_BUNDLE,
            None,
        ),
        (
            ("backend=ray", "device=auto", "placement=colocated"),
            None,
            {"CPU": 64, "GPU": 8},
            None,
            8,
            PLACEHOLDER_BUNDLE,
            None,
        ),
    ],
)
def test_as_many_trials_as_fit(runtime, wanted, cluster, n_cores, concurrent, bundle, threads):
    made = make_capacity(config(*runtime), wanted, cluster, n_cores)
    assert (made.concurrent, made.bundle, made.threads) == (concurrent, bundle, threads)
    assert made.device == ("cuda" if "GPU" in cluster else "cpu")


def test_hours_count_gpus_or_else_cpus():
    both = {"CPU": 64, "GPU": 8}
    assert make_capacity(config("backend=ray", "n_workers=2", "device=auto"), None, both, None).devices == 3
    assert make_capacity(config("backend=ray", "n_workers=2", "device=cpu"), None, both, None).devices == 2
    assert make_capacity(config("device=auto"), None, both, None).devices == 1


@pytest.mark.parametrize(
    ("runtime", "cluster", "part"),
    [
        (("backend=ray", "device=cpu", "n_workers=4", "cpus_per_worker=2"), {"CPU": 4}, "lacks 4 more CPUs"),
        (("device=cpu", "cpus_per_worker=8"), {"CPU": 4}, "lacks 4 more CPUs"),
        (("device=cuda",), {"CPU": 4}, "has no GPU"),
        (("n_workers=2",), {"CPU": 4}, "runtime.backend=inline a trial is one process"),
    ],
)
def test_trial_larger_than_the_cluster_is_refused(runtime, cluster, part):
    with pytest.raises(ConfigError, match=part):
        make_capacity(config(*runtime), None, cluster, None)


def test_cluster_without_a_dashboard_is_refused(monkeypatch):
    def refuse(**options):
        raise ConnectionError

    monkeypatch.setattr(capacity, "list_nodes", refuse)
    with pytest.raises(ConfigError, match="no dashboard"):
        make_capacity(config("backend=ray", "device=cpu"), None, {"CPU": 4}, None)
    make_capacity(config("device=cpu"), None, {"CPU": 4}, None)


@pytest.mark.parametrize(
    ("runtime", "wanted", "cpus"),
    [
        ((), None, 2),
        (("cpus_per_worker=2",), None, 2),
        (("cpus_per_worker=3",), None, 3),
        ((), 5, 5),
        (("backend=ray", "n_workers=2", "device=cpu"), 2, 4),
    ],
)
def test_local_cluster_has_enough_cpus(runtime, wanted, cpus):
    assert cpus_to_start(config(*runtime), wanted, n_cores=2) == cpus
