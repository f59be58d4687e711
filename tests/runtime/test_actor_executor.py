"""The label engine on Ray actors: features stay in the object store, and workers may die."""

import os

import numpy as np
import pytest
import ray

from reid_ray.config import LabelsConfig
from reid_ray.errors import DataError
from reid_ray.labels import refresh
from reid_ray.runtime import actor_executor
from reid_ray.runtime.actor_executor import ActorExecutor, StoredFeatures, fetch
from reid_ray.runtime.faults import MAX_RESTARTS
from reid_ray.types import Features


def people(n_rows):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n_rows // 10, 24))[rng.integers(n_rows // 10, size=n_rows)]
    features += 0.4 * rng.normal(size=features.shape)
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def without_ray(monkeypatch):
    """References are the values themselves."""
    monkeypatch.setattr(ray, "get", lambda references: references)


@pytest.mark.usefixtures("without_ray")
def test_stored_features_read_like_an_array():
    whole = people(50)
    stored = StoredFeatures([whole[:7], whole[7:8], whole[8:8], whole[8:31], whole[31:]], [7, 1, 0, 23, 19])
    assert stored.shape == (50, 24)
    for start in range(0, 52):
        for stop in (start, start + 1, start + 9, 50, 60, None):
            np.testing.assert_array_equal(stored[start:stop], whole[start:stop])
    assert StoredFeatures([], []).shape == (0, 0)
    assert stored[3:5].dtype == np.float32


def test_user_error_in_an_actor_is_raised_as_itself(monkeypatch):
    def raising(cause):
        def get(references):
            raise ray.exceptions.RayTaskError("run", "a traceback", cause)

        monkeypatch.setattr(ray, "get", get)

    raising(DataError("image 3 is bad"))
    with pytest.raises(DataError, match="image 3 is bad"):
        fetch(None)
    raising(ray.exceptions.RayTaskError("extract", "a traceback", DataError("image 4 is bad")))
    with pytest.raises(DataError, match="image 4 is bad"):
        fetch(None)
    raising(ValueError("a bug"))
    with pytest.raises(ray.exceptions.RayTaskError):
        fetch(None)


class Mortal:
    """A labeller that dies just before a chosen step."""

    dies_before = None

    def die_before(self, step):
        self.dies_before = step

    def run(self, function, *arguments):
        if function.__name__ == self.dies_before:
            os._exit(1)  # the actor that Ray starts in its place has not been told
        return function(*arguments)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_actors_share_a_refresh_and_may_die_in_it(tmp_path):
    """1, 2 and 4 actors, and 2 of which one dies in the search, the graph or the statistics: the same labels."""
    values, camids = people(400), np.arange(400) % 3
    config = LabelsConfig(k1=8, k2=3, eps=0.6, min_samples=3)
    expected = refresh(Features(values, 0), config, camids, version=0, device="cpu")
    assert expected.n_clusters > 20
    parts = [ray.put(values[start : start + 64]) for start in range(0, 400, 64)]
    stored = Features(StoredFeatures(parts, [len(part) for part in ray.get(parts)]), 0)
    options = {"num_cpus": 0, "max_restarts": MAX_RESTARTS, "max_task_retries": -1}
    actors = [ray.remote(Mortal).options(**options).remote() for _ in range(4)]

    def digest(n_workers):
        return refresh(
            stored, config, camids, version=0, device="cpu", workers=ActorExecutor(actors[:n_workers])
        ).digest()

    for n_workers in (1, 2, 4):
        assert digest(n_workers) == expected.digest()
    for actor, step in zip(actors, ("search_exactly", "graph_rows", "border_labels"), strict=False):
        ray.get(actor.die_before.remote(step))
    assert digest(4) == expected.digest()
    for actor in actors:
        ray.kill(actor)


@pytest.mark.usefixtures("without_ray")
def test_calls_are_distributed_round_robin():
    turns = []

    class Actor:
        def __init__(self, name):
            self.run = type("Method", (), {"remote": staticmethod(lambda *_: turns.append(name))})

    workers = actor_executor.ActorExecutor([Actor("a"), Actor("b"), Actor("c")])
    assert workers.n_workers == 3
    for _ in range(5):
        workers.run(len, [])
    assert turns == ["a", "b", "c", "a", "b"]
