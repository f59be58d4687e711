"""The resource plan of a run is checked before anything starts."""

import pytest

from reid_ray.config import load_config
from reid_ray.errors import ConfigError
from reid_ray.runtime.resources import check_fits, plan


def config(*runtime, **settings):
    overrides = [f"runtime.{override}" for override in ("n_workers=1", *runtime)]
    return load_config("demo", [*overrides, *(f"{key.replace('__', '.')}={value}" for key, value in settings.items())])


@pytest.mark.parametrize(
    ("n_workers", "n_extractors", "n_gpus", "placement", "shares"),
    [
        (1, 1, 1, "colocated", (0.6, 0.4)),
        (4, 2, 4, "colocated", (0.6, 0.4)),
        (4, 4, 7, "colocated", (0.6, 0.4)),
        (1, 1, 2, "separate", (1, 1)),
        (4, 2, 6, "separate", (1, 1)),
    ],
)
def test_gpus_are_separate_if_there_are_enough(n_workers, n_extractors, n_gpus, placement, shares):
    made = plan(config(f"n_workers={n_workers}", f"n_extractors={n_extractors}"), n_gpus=n_gpus, n_cores=None)
    assert made.placement == placement
    assert (made.trainers.gpus, made.extractors.gpus) == pytest.approx(shares)
    assert made.gpus == (n_workers if placement == "colocated" else n_workers + n_extractors)
    assert made.labellers.gpus == 0


def test_two_processes_of_a_kind_never_share_a_gpu():
    made = plan(config("placement=colocated"), n_gpus=1, n_cores=None)
    assert 2 * made.trainers.gpus > 1 == made.trainers.gpus + made.extractors.gpus


@pytest.mark.parametrize(
    ("settings", "placement"),
    [({}, "colocated"), ({"labels__staleness": 1}, "separate"), ({"evaluation__overlap": "true"}, "separate")],
)
def test_on_cpus_processes_that_take_turns_share(settings, placement):
    made = plan(config("n_workers=2", "n_labellers=3", "cpus_per_worker=2", **settings), n_gpus=0, n_cores=None)
    assert made.placement == placement
    assert made.cpus == (4 if placement == "colocated" else 12)
    assert made.gpus == 0


@pytest.mark.parametrize(
    ("runtime", "settings", "n_cores", "threads"),
    [
        (("n_workers=2",), {}, 8, (4, 8, 8)),
        (("n_workers=2", "n_extractors=2", "n_labellers=4"), {}, 8, (4, 4, 2)),
        (("n_workers=2", "n_labellers=2"), {"labels__staleness": 1}, 8, (2, 2, 2)),
        (("n_workers=2", "n_labellers=6"), {"labels__staleness": 1}, 8, (1, 1, 1)),
        (("n_workers=1", "placement=colocated"), {"labels__staleness": 1}, 2, (1, 1, 1)),
        (("n_workers=4",), {}, 2, (1, 2, 2)),
        (("n_workers=2", "threads=3"), {}, 8, (3, 3, 3)),
        (("n_workers=2", "cpus_per_worker=5"), {}, None, (5, 5, 5)),
        (("cpus_per_worker=0.5",), {}, None, (1, 1, 1)),
    ],
)
def test_cores_are_split_between_concurrent_processes(runtime, settings, n_cores, threads):
    made = plan(config(*runtime, **settings), n_gpus=0, n_cores=n_cores)
    assert (made.trainers.threads, made.extractors.threads, made.labellers.threads) == threads


def test_more_extractors_than_trainers_cannot_share_gpus():
    shared = config("placement=colocated", "n_extractors=2")
    with pytest.raises(ConfigError, match=r"n_extractors=2 is more than runtime\.n_workers=1"):
        plan(shared, n_gpus=4, n_cores=None)
    assert plan(shared, n_gpus=0, n_cores=None).placement == "colocated"


def test_missing_resources_are_named():
    needed = plan(
        config("n_workers=4", "n_extractors=2", "cpus_per_worker=2", "placement=separate"), n_gpus=4, n_cores=None
    )
    check_fits(needed, {"CPU": 14, "GPU": 6})
    for short in ({"CPU": 13, "GPU": 6}, {"CPU": 14, "GPU": 5}):
        with pytest.raises(ConfigError, match=r"lacks 1 more [CG]PU; "):
            check_fits(needed, short)
    with pytest.raises(ConfigError, match=r"4 more CPUs and 2 more GPUs; .*placement=colocated"):
        check_fits(needed, {"CPU": 10, "GPU": 4})
    with pytest.raises(ConfigError, match=r"4 trainers, 2 extractors, 1 labeller, separate.*lacks 6 more GPUs"):
        check_fits(needed, {"CPU": 100})
