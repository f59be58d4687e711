"""Labels, evaluations and features: the same for any number of workers, and errors reach all of them."""

import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_runs import METHOD_RUNS, SOURCE, on_workers

from reid_ray.data.readers import read_dataset
from reid_ray.data.views import make_view
from reid_ray.errors import DataError
from reid_ray.inference.extraction import assemble, augmented, batch_rows, extract
from reid_ray.inference.folding import for_extraction
from reid_ray.inference.retriever import Retriever
from reid_ray.labels.refresh import ground_truth_labels
from reid_ray.methods import FeatureCache, LabelSpec, Stage, StreamSpec, stages_of
from reid_ray.models import build_embedder
from reid_ray.training import services
from reid_ray.training.datasets import ImageCaches, evaluation_table
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.services import (
    MEMORY,
    InlineServices,
    LabelRequest,
    known_labels,
    label_request,
    label_streams,
    run_on_main,
    run_on_main_with_heartbeat,
    with_statistics,
)
from reid_ray.types import Labels

CPU = torch.device("cpu")


@pytest.fixture
def config(tiny):
    return tiny("training.precision=float32", "evaluation.batch_size=5")


@pytest.fixture
def dataset(config):
    return read_dataset(config.data)


@pytest.fixture
def teacher(config):
    torch.manual_seed(0)
    return Retriever("teacher", build_embedder(config.model), (0, 4))


def make_services(config, dataset, context, **others):
    datasets = {"data": dataset, **others}
    return InlineServices(config, datasets, context, CPU, ImageCaches(datasets, config))


def main_request(config, epoch=4, previous=None, memory=None):
    """Labels of the only stream of a run's last stage."""
    return LabelRequest(stages_of(config)[-1], ("train",), epoch, previous or {}, memory)


def refresh(answering, request, retriever):
    answering.begin_labels(request, retriever)
    return answering.collect_labels()


def evaluate(answering, retriever):
    answering.begin_evaluation(retriever)
    return answering.collect_evaluation()


def unit(*shape, seed=0):
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.mark.parametrize("size", [2, 3])
def test_workers_share_the_extraction_and_get_the_same_answers(size, config, dataset, teacher):
    alone = make_services(config, dataset, DistributedContext())
    labels, metrics = refresh(alone, main_request(config), teacher)["train"], evaluate(alone, teacher)
    assert labels.version == 4
    assert {"extract_seconds", "label_seconds", "n_clusters"} <= labels.statistics.keys()
    assert metrics["evaluate_seconds"] > 0
    assert metrics["n_queries"] == len(dataset.query)

    def together(context):
        answering = make_services(config, dataset, context)
        return refresh(answering, main_request(config), teacher)["train"], evaluate(answering, teacher)

    for others, evaluated in on_workers(size, together):
        assert others.digest() == labels.digest()
        assert evaluated["mAP"] == metrics["mAP"]


class CountingImages:
    """The images of a dataset, and how many were read."""

    def __init__(self, dataset):
        self.images, self.n_read = dataset.images, 0

    def read(self, path):
        self.n_read += 1
        return self.images.read(path)


def test_each_worker_extracts_its_share_only(config, dataset, teacher):
    def extracted(context):
        images = CountingImages(dataset)
        refresh(make_services(config, replace(dataset, images=images), context), main_request(config), teacher)
        return images.n_read

    counts = on_workers(2, extracted)
    assert sum(counts) == len(dataset.train)
    assert abs(counts[0] - counts[1]) <= config.evaluation.batch_size


def test_where_nothing_can_be_evaluated_nothing_is(config, dataset, teacher):
    blind = replace(dataset, table=dataset.table.without_pids())
    assert evaluate(make_services(config, blind, DistributedContext()), teacher) is None


def test_an_image_that_one_worker_cannot_read_is_every_worker_s_error(config, dataset, teacher):
    bad = dataset.train.paths[-1]

    class Images:
        def read(self, path):
            if path == bad:
                raise DataError(f"Cannot decode {path}.")
            return dataset.images.read(path)

    broken = replace(dataset, images=Images())
    answers = on_workers(
        2, lambda context: refresh(make_services(config, broken, context), main_request(config), teacher)
    )
    assert [type(answer) for answer in answers] == [DataError, DataError]
    assert all(bad in str(answer) for answer in answers)


def test_labels_come_from_clusters_or_from_identities(tiny, dataset):
    features, tables = {"data": unit(len(dataset.train), 8)}, {"data": dataset.train}

    def labels(config, tables):
        return label_streams(main_request(config, epoch=2), features, tables, config, CPU)["train"]

    truth = labels(tiny("method.mode=supervised"), tables)
    assert (np.unique(dataset.train.pids, return_inverse=True)[1] == truth.labels).all()
    blind = labels(tiny(), {"data": dataset.train.without_pids()})
    known = labels(tiny(), tables)
    assert blind.digest() == known.digest()
    assert "ari" in known.statistics
    assert "ari" not in blind.statistics
    assert truth.version == known.version == 2
    assert truth.centroids.shape == (truth.n_clusters, 8)
    assert all(found.features is None for found in (truth, blind, known)), "ICE needs none"


def test_each_stream_has_the_labels_of_its_table_and_features_where_it_needs_them(tiny, dataset):
    """SpCL at its start: the target's clusters with the features that fill the memory, the source's identities."""
    config = tiny(*METHOD_RUNS["spcl-joint"])
    source = read_dataset(config.source).train
    features = {"data": unit(len(dataset.train), 8), "source": unit(len(source), 8, seed=1)}
    tables = {"data": dataset.train, "source": source}
    request = LabelRequest(stages_of(config)[-1], ("train", "source"), 0)
    assert request.tables == ["data", "source"]
    found = label_streams(request, features, tables, config, CPU)
    assert list(found) == ["train", "source"]
    np.testing.assert_array_equal(found["train"].features, features["data"])
    assert found["source"].features is None
    assert found["source"].n_clusters == 5
    for label in range(5):
        expected = features["source"][found["source"].labels == label].mean(axis=0)
        np.testing.assert_allclose(found["source"].centroids[label], expected, atol=1e-6)
    alone = label_streams(LabelRequest(request.stage, ("train",), 0), features, tables, config, CPU)
    assert list(alone) == ["train"]
    assert alone["train"].digest() == found["train"].digest()


def test_features_that_a_method_keeps_are_clustered_in_place_of_extracted_ones(tiny, dataset):
    config, values = tiny(*METHOD_RUNS["spcl"]), unit(len(dataset.train), 8)
    tables = {"data": dataset.train}
    kept = main_request(config, memory=values)
    assert (kept.features_of("train"), kept.tables) == (MEMORY, [])
    from_memory = label_streams(kept, {MEMORY: values}, tables, config, CPU)["train"]
    extracted = label_streams(main_request(config), {"data": values}, tables, config, CPU)["train"]
    assert (from_memory.labels == extracted.labels).all()
    assert from_memory.features is None, "the method has them"
    again = main_request(config, 5, {"train": from_memory}, values)
    later = label_streams(again, {MEMORY: values}, tables, config, CPU)["train"]
    assert later.statistics["stability"] == 1
    assert later.threshold == from_memory.threshold


def test_memory_is_not_extracted(tiny, dataset, teacher):
    config, images = tiny(*METHOD_RUNS["spcl"]), CountingImages(dataset)
    answering = make_services(config, replace(dataset, images=images), DistributedContext())
    memory = unit(len(dataset.train), 8)
    assert list(refresh(answering, main_request(config, memory=memory), teacher)) == ["train"]
    assert images.n_read == 0


def test_a_table_that_is_compared_with_has_a_part_in_the_distance(tiny, dataset):
    config = tiny(*METHOD_RUNS["abmt"], *SOURCE, "labels.source_weight=0.3")
    source = read_dataset(config.source).train
    request = main_request(config)
    assert request.tables == ["data", "source"]
    tables = {"data": dataset.train, "source": source}
    features = {"data": unit(len(dataset.train), 8), "source": unit(len(source), 8, seed=1)}

    def labels(features):
        return label_streams(request, features, tables, config, CPU)["train"]

    found = labels(features)
    assert found.statistics["source_seconds"] > 0
    assert found.digest() == labels(features).digest()
    without = tiny(*METHOD_RUNS["abmt"])
    alone = label_streams(main_request(without), features, {"data": dataset.train}, without, CPU)["train"]
    assert "source_seconds" not in alone.statistics
    assert alone.digest() != found.digest()


def stage_with(config, **streams):
    return Stage("main", config.training, streams, {}, "student")


def test_what_has_to_be_labelled(config):
    """Streams that read features, each epoch or once; memory is asked for only where a stream clusters it."""
    asked = []
    memory = unit(3, 2)
    method = SimpleNamespace(memory_features=lambda stage: asked.append(stage) or memory)
    centroids = frozenset({"centroids"})
    stage = stage_with(
        config,
        clusters=StreamSpec({}, labels=LabelSpec("clusters")),
        once=StreamSpec({}, labels=LabelSpec("ground_truth", centroids, once=True)),
        always=StreamSpec({}, labels=LabelSpec("ground_truth", centroids)),
        known=StreamSpec({}, labels=LabelSpec("ground_truth")),
        none=StreamSpec({}),
    )
    first = label_request(method, stage, {}, 0)
    assert (first.streams, first.epoch, first.memory) == (("clusters", "once", "always"), 0, None)
    labels = {name: Labels(0, np.arange(3)) for name in stage.streams}
    later = label_request(method, stage, labels, 3)
    assert later.streams == ("clusters", "always")
    assert later.previous is labels
    assert asked == []
    stage = stage_with(config, clusters=StreamSpec({}, labels=LabelSpec("clusters", features_from="memory")))
    assert label_request(method, stage, {}, 0).memory is memory
    assert asked == ["main"]
    assert label_request(method, stage_with(config, none=StreamSpec({})), {}, 0).streams == ()


def test_tables_are_extracted_once_however_many_streams_read_them(config):
    stage = stage_with(
        config,
        a=StreamSpec({}, labels=LabelSpec("clusters", compare_with="source")),
        b=StreamSpec({}, data="source", labels=LabelSpec("ground_truth", frozenset({"centroids"}))),
        c=StreamSpec({}, labels=LabelSpec("clusters")),
    )
    assert LabelRequest(stage, ("a", "b", "c"), 0).tables == ["data", "source"]
    assert LabelRequest(stage, ("c",), 0).tables == ["data"]


def test_labels_that_need_no_features(config, dataset):
    stage = stage_with(
        config,
        truth=StreamSpec({}, labels=LabelSpec("ground_truth")),
        none=StreamSpec({}, data="source"),
        clusters=StreamSpec({}, labels=LabelSpec("clusters")),
        means=StreamSpec({}, labels=LabelSpec("ground_truth", frozenset({"centroids"}))),
    )
    table = dataset.train
    found = known_labels(stage, {"data": table, "source": table})
    assert list(found) == ["truth", "none"]
    assert found["truth"].digest() == ground_truth_labels(table.pids).digest()
    assert (found["none"].labels == -1).all()
    assert len(found["none"].labels) == len(table)


def test_the_score_is_the_configured_one(tiny, dataset):
    table = evaluation_table(dataset, tiny())
    features = unit(len(table), 8)
    mean, trapezoid = (
        services.score(features, table, tiny(f"evaluation.ap={ap}").evaluation) for ap in ("mean", "trapezoid")
    )
    assert mean["R1"] == trapezoid["R1"]
    assert mean["mAP"] != trapezoid["mAP"]
    assert mean["n_queries"] == len(dataset.query)


@pytest.mark.parametrize("size", [1, 2])
def test_copies_of_a_table_follow_one_another(config, dataset, teacher, size):
    """Each is what extraction gives of the table's augmented images, whoever extracts them."""
    cache = FeatureCache("teacher", view="strong", copies=2)
    caches = ImageCaches({"data": dataset}, config)
    model, view = for_extraction(teacher.network), make_view("strong", config.data)
    batches = batch_rows(len(dataset.train), 5)
    expected = [
        assemble(extract(model, augmented(caches["data"], view, config.seed, copy), batches, device=CPU))
        for copy in range(2)
    ]
    assert not np.allclose(*expected)

    def copies(context):
        return make_services(config, dataset, context).extract_copies(teacher, cache, "data")

    for found in on_workers(size, copies) if size > 1 else [copies(DistributedContext())]:
        np.testing.assert_array_equal(found, np.concatenate(expected))


def test_a_copy_of_a_retriever_stays_as_it_is(teacher):
    before = {name: tensor.clone() for name, tensor in teacher.network.state_dict().items()}
    copied = replace(teacher, global_step=7).copied()
    other = copied.with_weights({name: tensor + 1 for name, tensor in before.items()}, 3)
    torch.nn.init.zeros_(teacher.network.neck.weight)
    assert (copied.module, copied.version, copied.global_step) == ("teacher", (0, 4), 7)
    assert all(torch.equal(copied.network.state_dict()[name], before[name]) for name in before)
    assert (other.module, other.version, other.global_step) == ("teacher", (0, 4), 3)
    assert all(torch.equal(other.network.state_dict()[name], before[name] + 1) for name in before)


def test_rank_0_answers_for_all_and_its_mistakes_are_shared():
    assert on_workers(3, lambda context: run_on_main(context, lambda: context.rank)) == [0, 0, 0]

    def mistake():
        raise DataError("no such image")

    answers = on_workers(2, lambda context: run_on_main(context, mistake))
    assert [str(answer) for answer in answers] == ["no such image"] * 2
    with pytest.raises(DataError, match="no such image"):
        run_on_main(DistributedContext(), mistake)


def test_long_work_of_rank_0_is_reported_until_it_is_done(tiny):
    """More often than a collective times out, and with its answer or its mistake at the end."""
    config = tiny("runtime.timeout_seconds=1")
    beats = []

    def work():
        time.sleep(0.6)
        return "done"

    def mistake():
        raise DataError("no such image")

    def on_worker(function):
        def call(context):
            if context.rank == 1:
                broadcast = context.broadcast_object
                object.__setattr__(
                    context, "broadcast_object", lambda value: beats.append(time.time()) or broadcast(value)
                )
            return run_on_main_with_heartbeat(context, config, function)

        return call

    assert on_workers(2, on_worker(work)) == ["done", "done"]
    assert len(beats) >= 3, "every quarter of the time-out"
    assert [str(answer) for answer in on_workers(2, on_worker(mistake))] == ["no such image"] * 2
    assert run_on_main_with_heartbeat(DistributedContext(), config, lambda: 3) == 3


def test_numbers_are_added_to_the_statistics(config, dataset, teacher):
    labels = refresh(make_services(config, dataset, DistributedContext()), main_request(config), teacher)["train"]
    found = with_statistics(labels, extract_seconds=1.5, more=2.5)
    assert (found.statistics["extract_seconds"], found.statistics["more"]) == (1.5, 2.5)
    assert found.statistics["n_clusters"] == labels.n_clusters
    assert found.digest() == labels.digest()
