"""The pool's actors as plain objects: their requests and results. test_ray_run.py tests them on Ray."""

import re
from dataclasses import replace
from itertools import zip_longest
from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch
from small_runs import METHOD_RUNS, SOURCE, WIDTH, on_workers

from reid_ray.data.readers import read_dataset
from reid_ray.errors import DataError
from reid_ray.inference.retriever import Retriever
from reid_ray.methods import METHODS, FeatureCache, build_method, stages_of
from reid_ray.models import build_embedder, to_numpy
from reid_ray.runtime import actor_pool
from reid_ray.runtime.actor_pool import Copy, Extractor, Labeller, Pool
from reid_ray.runtime.light_actors import Attempts
from reid_ray.runtime.pool_services import PoolServices
from reid_ray.training.datasets import EVALUATION, ImageCaches, evaluation_table, read_datasets
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.rundir import RunDirectory
from reid_ray.training.services import InlineServices, LabelRequest, label_request
from reid_ray.types import Weights


class Handle:
    """An actor handle: `handle.method.remote(…)` runs at once and is recorded."""

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
    return read_dataset(config.data)


def handles(config, datasets, *, n_extractors=1, n_labellers=1):
    """A pool of plain objects for a run, whose directory is written first, as extractors read it."""
    RunDirectory.of(config).create(config, datasets)
    readers = {section: dataset.images for section, dataset in datasets.items()}
    return Pool(
        tuple(Handle(Extractor(config, readers)) for _ in range(n_extractors)),
        tuple(Handle(Labeller(config)) for _ in range(n_labellers)),
    )


@pytest.fixture
def pool(config, dataset):
    return handles(config, {"data": dataset}, n_extractors=config.runtime.n_extractors, n_labellers=2)


@pytest.fixture
def teacher(config):
    torch.manual_seed(0)
    return build_embedder(config.model)


def weights(model, version=(0, 0), module="teacher"):
    return Weights(module, version, to_numpy(model.state_dict()))


def both(config, datasets, pool):
    """Services of this process, and of the pool."""
    context = DistributedContext()
    inline = InlineServices(config, datasets, context, torch.device("cpu"), ImageCaches(datasets, config))
    return inline, PoolServices(config, datasets, context, pool)


def refresh(services, request, retriever):
    services.begin_labels(request, retriever)
    return services.collect_labels()


def evaluate(services, retriever):
    services.begin_evaluation(retriever)
    return services.collect_evaluation()


def test_pool_services_equal_inline_services(config, dataset, pool, teacher):
    inline, services = both(config, {"data": dataset}, pool)
    for epoch in (0, 1):
        torch.nn.init.normal_(teacher.neck.weight, 1, 0.5)
        retriever = Retriever("teacher", teacher, (0, epoch))
        request = LabelRequest(stages_of(config)[-1], ("train",), epoch)
        expected, found = (refresh(each, request, retriever)["train"] for each in (inline, services))
        assert found.digest() == expected.digest()
        assert found.version == epoch
        assert found.statistics["extract_seconds"] > 0
        assert found.statistics["label_seconds"] > 0
        assert found.statistics["pool_idle_seconds"] >= 0
        assert len(found.statistics["extract_images_per_second"]) == 2
        expected, found = (evaluate(each, retriever) for each in (inline, services))
        assert {**found, "evaluate_seconds": 0} == {**expected, "evaluate_seconds": 0}


@pytest.mark.parametrize("name", ["ice-tracklets", "scr-video", "am0bh"])
def test_tracklets_and_attributes_equal_those_of_inline_services(tiny, name):
    """A labeller pools tracklets from stored features; predicted attributes are columns of the features."""
    config = tiny(*METHOD_RUNS[name], "training.precision=float32", "evaluation.batch_size=2")
    datasets = read_datasets(config)
    config = METHODS[config.method.name].resolve(config, datasets["data"].train)
    pool = handles(config, datasets, n_extractors=2, n_labellers=2)
    inline, services = both(config, datasets, pool)
    torch.manual_seed(0)
    stage = stages_of(config)[-1]
    retriever = Retriever(stage.retriever, METHODS[config.method.name].network(config, stage.retriever), (0, 0))
    expected, found = (evaluate(each, retriever) for each in (inline, services))
    assert {**found, "evaluate_seconds": 0} == {**expected, "evaluate_seconds": 0}
    assert ("attributes" in found) == (name == "am0bh")
    if name == "ice-tracklets":
        request = LabelRequest(stage, ("train",), 0)
        expected, found = (refresh(each, request, retriever)["train"] for each in (inline, services))
        assert found.digest() == expected.digest()
        assert found.statistics["n_frames"] == len(datasets["data"].train)


def test_labels_with_a_feature_memory_equal_inline_labels(tiny, dataset):
    config = tiny(*METHOD_RUNS["spcl"])
    pool = handles(config, {"data": dataset})
    inline, services = both(config, {"data": dataset}, pool)
    features = np.random.default_rng(0).normal(size=(len(dataset.train), 8)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    retriever, stage = Retriever("student", torch.nn.Linear(1, 1), (0, 0)), stages_of(config)[-1]
    previous = refresh(inline, LabelRequest(stage, ("train",), 0, memory=features), retriever)
    request = LabelRequest(stage, ("train",), 1, previous, features)
    found, expected = (refresh(each, request, retriever)["train"] for each in (services, inline))
    assert found.digest() == expected.digest()
    assert found.statistics["stability"] == 1
    assert "extract_images_per_second" not in found.statistics
    assert all(handle.calls == [] for handle in pool.extractors)


@pytest.mark.parametrize("method", ["abmt", "mmt", "spcl-joint"])
def test_pool_serves_every_method_like_one_process(tiny, method):
    """Their own networks, the source next to the target, and features where they are needed."""
    source = () if method == "spcl-joint" else (*SOURCE, "labels.source_weight=0.1")
    config = tiny(*METHOD_RUNS[method], *source, "training.precision=float32", "evaluation.batch_size=16")
    datasets = read_datasets(config)
    pool = handles(config, datasets)
    torch.manual_seed(0)
    stage = stages_of(config)[-1]
    trained = build_method(config, DistributedContext())
    retriever = Retriever(stage.retriever, METHODS[config.method.name].network(config, stage.retriever), (0, 0))
    request = label_request(trained, stage, {}, 0)
    expected, found = (refresh(each, request, retriever) for each in both(config, datasets, pool))
    assert found.keys() == expected.keys() == stage.streams.keys()
    for stream in found:
        assert found[stream].digest() == expected[stream].digest()
    assert (found["train"].features is not None) == (method == "spcl-joint")
    assert [call[1] for call in pool.extractors[0].calls if call[0] == "extract"][-1] == "source"
    if method != "spcl-joint":
        assert found["train"].statistics["source_seconds"] > 0


def test_extraction_with_a_submodule_of_a_method(tiny, dataset):
    """MMT's source stages retrieve with one of the two networks, which an extractor builds by its module path."""
    config = tiny(*METHOD_RUNS["mmt"], "training.precision=float32")
    extractor = handles(config, {"data": dataset}).extractors[0].actor
    torch.manual_seed(0)
    member = METHODS["mmt"].network(config, "student.members.1")
    pair = METHODS["mmt"].network(config, "teacher")
    one, _ = extractor.extract("data", weights(member, module="student.members.1"), [range(4)])
    two, _ = extractor.extract("data", weights(pair, module="teacher"), [range(4)])
    assert one.shape == two.shape == (4, WIDTH)
    assert not np.allclose(one, two)


def test_augmented_copies_equal_those_of_inline_services(config, dataset, pool, teacher):
    cache, retriever = FeatureCache("teacher", view="strong", copies=2), Retriever("teacher", teacher, (0, 0))
    inline, services = both(config, {"data": dataset}, pool)
    expected = inline.extract_copies(retriever, cache, "data")
    found = services.extract_copies(retriever, cache, "data")
    n = len(dataset.train)
    assert found.shape == expected.shape == (2 * n, WIDTH)
    for rows in (slice(0, 2 * n), slice(n - 3, n + 5), slice(2 * n - 1, 2 * n)):
        np.testing.assert_array_equal(found[rows], expected[rows])
    assert {call[4] for handle in pool.extractors for call in handle.calls} == {Copy("strong", 0), Copy("strong", 1)}


def test_rank_0_sends_the_request_and_all_ranks_get_the_labels(config, dataset, pool, teacher):
    retriever, request = Retriever("teacher", teacher, (0, 0)), LabelRequest(stages_of(config)[-1], ("train",), 0)
    cache = FeatureCache("teacher")

    def work(context):
        services = PoolServices(config, {"data": dataset}, context, pool)
        labels, metrics = refresh(services, request, retriever)["train"], evaluate(services, retriever)
        copies = services.extract_copies(retriever, cache, "data")
        return labels.digest(), metrics["mAP"], copies.shape

    first, second = on_workers(2, work)
    assert first[:2] == second[:2]
    assert first[2] == (len(dataset.train), WIDTH)
    assert second[2] == (0, 0), "only rank 0 may read them"
    n_evaluated = len(evaluation_table(dataset, config))
    n_extracted = sum(len(rows) for handle in pool.extractors for call in handle.calls for rows in call[3])
    assert n_extracted == 2 * len(dataset.train) + n_evaluated


def test_tasks_are_distributed_round_robin_in_order(config, dataset, pool, teacher):
    extraction = pool.features("data", len(dataset.train), 2, weights(teacher))
    features = extraction.wait()
    assert len(extraction.images_per_second()) == 2
    assert min(extraction.images_per_second()) > 0
    assert features.shape == (len(dataset.train), teacher.dim)
    tasks = [[call[3] for call in extractor.calls] for extractor in pool.extractors]
    assert all(tasks)
    dealt = [task for turn in zip_longest(*tasks, fillvalue=[]) for task in turn]
    rows = [row for task in dealt for batch in task for row in batch]
    assert rows == list(range(len(dataset.train)))
    assert all(len(task) <= actor_pool.BATCHES_PER_TASK for task in dealt)
    assert all(len(batch) == 2 for task in dealt for batch in task)


def test_extractor_loads_weights_when_their_version_changes(config, dataset, teacher):
    extractor = handles(config, {"data": dataset}).extractors[0].actor
    first, seconds = extractor.extract("data", weights(teacher), [range(2)])
    assert seconds > 0
    torch.nn.init.normal_(teacher.neck.weight, 1, 0.5)
    assert (extractor.extract("data", weights(teacher), [range(2)])[0] == first).all()  # the version says: the same
    for other in (weights(teacher, (0, 1)), weights(teacher, (1, 0)), weights(teacher, module="student")):
        found, _ = extractor.extract("data", other, [range(2)])
        assert (found != first).any()


def test_a_task_that_ended_two_extractors_is_searched_for_the_image(config, dataset, teacher, monkeypatch):
    """The first two attempts end without a word; the third tries the images in other processes and names one."""
    plain = handles(config, {"data": dataset}).extractors[0].actor
    tried, attempts = [], Attempts()

    def find(reader, paths, seconds):
        tried.append((reader, paths, seconds))
        return (paths[3], "signal SIGSEGV") if len(tried) == 1 else None

    monkeypatch.setattr(actor_pool, "find_fatal_image", find)
    task, table = [range(2, 4), range(4, 6)], evaluation_table(dataset, config)
    for _ in range(2):
        attempts.begin((EVALUATION, "teacher", (0, 0), 2, None))  # by extractors that are gone
    extractor = Extractor(config, {"data": dataset.images}, Handle(attempts))
    with pytest.raises(DataError, match=rf"{re.escape(table.paths[5])} ends the process .*signal SIGSEGV"):
        extractor.extract(EVALUATION, weights(teacher), task)
    assert tried == [(dataset.images, table.paths[2:6], config.runtime.timeout_seconds)]
    found, _ = extractor.extract(EVALUATION, weights(teacher), task)
    assert len(tried) == 2, "that no image is to blame is no error"
    np.testing.assert_array_equal(found, plain.extract(EVALUATION, weights(teacher), task)[0])
    extractor.extract(EVALUATION, weights(teacher), task)
    extractor.extract("data", weights(teacher), task)
    assert len(tried) == 2, "a task that has ended is forgotten, and others are not blamed"


def test_extractor_reads_the_requested_table(config, dataset, teacher):
    extractor = handles(config, {"data": dataset}).extractors[0].actor
    run_images = ImageCaches({"data": dataset}, config)
    for table in ("data", EVALUATION):
        features, _ = extractor.extract(table, weights(teacher), [range(3)])
        images = run_images[table].batch(range(3)).to(torch.device("cpu"), torch.float32)
        with torch.inference_mode():
            np.testing.assert_allclose(features, teacher.eval().embed(images), atol=1e-5)


def test_no_evaluation_without_query_and_gallery(config, dataset, pool):
    blind = replace(dataset, table=dataset.table.without_pids())
    services = PoolServices(config, {"data": blind}, DistributedContext(), pool)
    assert evaluate(services, None) is None


def test_stop_ends_all_actors(pool, monkeypatch):
    killed = []
    monkeypatch.setattr(ray, "kill", killed.append)
    pool.stop()
    assert killed == [*pool.extractors, *pool.labellers]
