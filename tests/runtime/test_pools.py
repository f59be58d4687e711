"""The pool's actors as plain objects: what they are asked, what they answer. Ray itself is in test_ray_run.py."""

from dataclasses import replace
from itertools import zip_longest
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch
from small_runs import METHOD_RUNS

from reid_ray.data.readers import read_dataset
from reid_ray.methods import METHODS
from reid_ray.models import build_embedder, to_numpy
from reid_ray.runtime import pools
from reid_ray.runtime.pools import Extractor, Labeller, Pool
from reid_ray.runtime.services import PoolServices
from reid_ray.training.rundir import RunDirectory
from reid_ray.training.services import InlineServices, make_bank
from reid_ray.training.world import World
from reid_ray.types import Weights


class Handle:
    """An actor handle: `handle.method.remote(…)` runs at once and is remembered."""

    def __init__(self, actor):
        self.actor = actor
        self.calls = []

    def __getattr__(self, name):
        def remote(*arguments):
            self.calls.append((name, *arguments))
            return getattr(self.actor, name)(*arguments)

        return SimpleNamespace(remote=remote, options=lambda **options: SimpleNamespace(remote=remote))


@pytest.fixture(autouse=True)
def without_ray(monkeypatch):
    """References are the values themselves."""
    monkeypatch.setattr(ray, "get", lambda references: references)
    monkeypatch.setattr(ray, "put", lambda value: value)
    monkeypatch.setattr(ray, "wait", lambda references, **options: (references, []))


@pytest.fixture
def config(tiny):
    return tiny("training.precision=float32", "evaluation.batch_size=2", "runtime.n_extractors=2")


@pytest.fixture
def dataset(config):
    dataset = read_dataset(config.data)
    RunDirectory.of(config).create(config, dataset.table)
    return dataset


@pytest.fixture
def pool(config, dataset):
    extractors = tuple(Handle(Extractor(config, dataset.images)) for _ in range(config.runtime.n_extractors))
    labellers = tuple(Handle(Labeller(config)) for _ in range(2))
    return Pool(extractors, labellers)


@pytest.fixture
def teacher(config):
    torch.manual_seed(0)
    return build_embedder(config.model)


def weights(model, version=0):
    return Weights(version, to_numpy(model.state_dict()))


def evaluate(services, teacher, version=0):
    services.begin_evaluation(teacher, version)
    return services.collect_evaluation()


def test_the_pool_answers_as_the_inline_services_do(config, dataset, pool, teacher):
    inline = InlineServices(
        config, dataset, World(), torch.device("cpu"), train_bank=make_bank(dataset.train, dataset, config)
    )
    services = PoolServices(config, dataset, World(), pool)
    for version in (0, 1):
        torch.nn.init.normal_(teacher.neck.weight, 1, 0.5)
        expected, found = inline.refresh(teacher, version), services.refresh(teacher, version)
        assert found.digest() == expected.digest()
        assert found.statistics["extract_seconds"] > 0
        assert found.statistics["label_seconds"] > 0
        expected, found = evaluate(inline, teacher, version), evaluate(services, teacher, version)
        assert {**found, "evaluate_seconds": 0} == {**expected, "evaluate_seconds": 0}


def test_features_that_the_method_keeps_are_labelled_alike(config, dataset, pool, teacher):
    bank = make_bank(dataset.train, dataset, config)
    inline = InlineServices(config, dataset, World(), torch.device("cpu"), train_bank=bank)
    features = np.random.default_rng(0).normal(size=(len(bank), 8)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    previous = inline.label(features, 0)
    found = PoolServices(config, dataset, World(), pool).label(features, 1, previous)
    expected = inline.label(features, 1, previous)
    assert found.digest() == expected.digest()
    assert found.statistics["stability"] == 1


@pytest.mark.parametrize("method", ["abmt", "mmt", "spcl"])
def test_methods_ask_of_the_pool_what_they_ask_of_one_process(tiny, method):
    """Their own networks, the source beside the target, and features where they are wanted."""
    source = ("source={layout: synthetic, synthetic: {seed: 3, n_train_ids: 4}}", "labels.source_weight=0.1")
    config = tiny(*METHOD_RUNS[method], *source, "training.precision=float32", "evaluation.batch_size=16")
    dataset = read_dataset(config.data)
    RunDirectory.of(config).create(config, dataset.table)
    torch.manual_seed(0)
    teacher = METHODS[method].network(config)
    pool = Pool((Handle(Extractor(config, dataset.images)),), (Handle(Labeller(config)),))
    bank = make_bank(dataset.train, dataset, config)
    inline = InlineServices(config, dataset, World(), torch.device("cpu"), train_bank=bank)
    expected, found = inline.refresh(teacher, 0), PoolServices(config, dataset, World(), pool).refresh(teacher, 0)
    assert found.digest() == expected.digest()
    assert (found.features is not None) == (found.source_centroids is not None) == (method == "spcl")
    assert found.statistics["source_seconds"] > 0


def test_tasks_are_dealt_round_the_extractors_in_order(config, dataset, pool, teacher):
    extraction = pool.features("train", len(dataset.train), 2, weights(teacher))
    features = extraction.wait()
    assert len(extraction.images_per_second()) == 2
    assert min(extraction.images_per_second()) > 0
    assert features.shape == (len(dataset.train), teacher.dim)
    tasks = [[call[3] for call in extractor.calls] for extractor in pool.extractors]
    assert all(tasks)
    dealt = [task for turn in zip_longest(*tasks, fillvalue=[]) for task in turn]
    rows = [row for task in dealt for batch in task for row in batch]
    assert rows == list(range(len(dataset.train)))
    assert all(len(task) <= pools.BATCHES_PER_TASK for task in dealt)
    assert all(len(batch) == 2 for task in dealt for batch in task)


def test_an_extractor_loads_weights_when_their_version_changes(config, dataset, teacher):
    extractor = Extractor(config, dataset.images)
    first, seconds = extractor.extract("train", weights(teacher), [range(2)])
    assert seconds > 0
    torch.nn.init.normal_(teacher.neck.weight, 1, 0.5)
    assert (extractor.extract("train", weights(teacher), [range(2)])[0] == first).all()  # the version says: the same
    assert (extractor.extract("train", weights(teacher, 1), [range(2)])[0] != first).any()


def test_no_evaluation_where_there_is_nothing_to_evaluate(config, dataset, pool):
    blind = replace(dataset, table=dataset.table.without_pids())
    assert evaluate(PoolServices(config, blind, World(), pool), None) is None


def test_a_pool_is_stopped_whole(pool, monkeypatch):
    killed = []
    monkeypatch.setattr(ray, "kill", killed.append)
    pool.stop()
    assert killed == [*pool.extractors, *pool.labellers]
