"""Labels and evaluations: the same for any number of workers, and errors reach all of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import on_workers

from reid_ray.data.loader import ImageBank
from reid_ray.data.readers import read_dataset
from reid_ray.errors import DataError
from reid_ray.models import build_embedder
from reid_ray.training import services
from reid_ray.training.services import InlineServices, first_answers, label, make_bank, search_table
from reid_ray.training.world import World
from reid_ray.types import Features


@pytest.fixture
def config(tiny):
    return tiny("training.precision=float32", "evaluation.batch_size=5")


@pytest.fixture
def dataset(config):
    return read_dataset(config.data)


@pytest.fixture
def teacher(config):
    torch.manual_seed(0)
    return build_embedder(config.model)


def make_services(config, dataset, world):
    bank = make_bank(dataset.train, dataset, config)
    return InlineServices(config, dataset, world, torch.device("cpu"), train_bank=bank)


def evaluate(services, teacher, version=0):
    services.begin_evaluation(teacher, version)
    return services.collect_evaluation()


def test_what_is_searched_is_query_then_gallery(tiny, dataset):
    table = search_table(dataset, tiny())
    splits = table.arrow["split"].to_pylist()
    assert splits == ["query"] * len(dataset.query) + ["gallery"] * len(dataset.gallery)
    assert table.paths == dataset.query.paths + dataset.gallery.paths
    assert search_table(replace(dataset, table=dataset.train), tiny()) is None
    assert search_table(replace(dataset, table=dataset.table.without_pids()), tiny()) is None
    assert search_table(dataset, tiny("evaluation.every=null")) is None


@pytest.mark.parametrize("size", [2, 3])
def test_workers_share_the_extraction_and_get_the_same_answers(size, config, dataset, teacher):
    alone = make_services(config, dataset, World())
    labels, metrics = alone.refresh(teacher, 4), evaluate(alone, teacher)
    assert labels.version == 4
    assert {"extract_seconds", "label_seconds", "n_clusters"} <= labels.statistics.keys()
    assert metrics["evaluate_seconds"] > 0
    assert metrics["n_queries"] == len(dataset.query)

    def together(world):
        answering = make_services(config, dataset, world)
        return answering.refresh(teacher, 4), evaluate(answering, teacher)

    for others, evaluated in on_workers(size, together):
        assert others.digest() == labels.digest()
        assert evaluated["mAP"] == metrics["mAP"]


def test_each_worker_extracts_its_share_only(config, dataset, teacher, monkeypatch):
    counts = {0: 0, 1: 0}
    real = ImageBank.normalized

    def counting(bank, rows):
        counts[bank.rank] += len(rows)
        return real(bank, rows)

    monkeypatch.setattr(ImageBank, "normalized", counting)

    def refresh(world):
        bank = make_bank(dataset.train, dataset, config)
        bank.rank = world.rank
        InlineServices(config, dataset, world, torch.device("cpu"), train_bank=bank).refresh(teacher, 0)

    on_workers(2, refresh)
    assert sum(counts.values()) == len(dataset.train)
    assert abs(counts[0] - counts[1]) <= config.evaluation.batch_size


def test_where_nothing_can_be_evaluated_nothing_is(config, dataset, teacher):
    blind = replace(dataset, table=dataset.table.without_pids())
    assert evaluate(make_services(config, blind, World()), teacher) is None


def test_an_image_that_one_worker_cannot_read_is_every_worker_s_error(config, dataset, teacher):
    bad = dataset.train.paths[-1]

    class Images:
        def read(self, path):
            if path == bad:
                raise DataError(f"Cannot decode {path}.")
            return dataset.images.read(path)

    broken = replace(dataset, images=Images())
    answers = on_workers(2, lambda world: make_services(config, broken, world).refresh(teacher, 0))
    assert [type(answer) for answer in answers] == [DataError, DataError]
    assert all(bad in str(answer) for answer in answers)


def test_labels_come_from_clusters_or_from_identities(tiny, dataset):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(len(dataset.train), 8)).astype(np.float32)
    features = Features(values / np.linalg.norm(values, axis=1, keepdims=True), version=2)
    cpu = torch.device("cpu")
    truth = label(features, dataset.train, tiny("method.mode=supervised"), cpu)
    assert (np.unique(dataset.train.pids, return_inverse=True)[1] == truth.labels).all()
    blind = label(features, dataset.train.without_pids(), tiny(), cpu)
    known = label(features, dataset.train, tiny(), cpu)
    assert blind.digest() == known.digest()
    assert "ari" in known.statistics
    assert "ari" not in blind.statistics
    assert truth.version == known.version == 2


def test_the_score_is_the_configured_one(tiny, dataset):
    table = search_table(dataset, tiny())
    features = np.random.default_rng(0).normal(size=(len(table), 8)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    mean, trapezoid = (services.score(features, table, tiny(f"evaluation.ap={ap}")) for ap in ("mean", "trapezoid"))
    assert mean["R1"] == trapezoid["R1"]
    assert mean["mAP"] != trapezoid["mAP"]
    assert mean["n_queries"] == len(dataset.query)


def test_rank_0_answers_for_all_and_its_mistakes_are_shared():
    assert on_workers(3, lambda world: first_answers(world, lambda: world.rank)) == [0, 0, 0]

    def mistake():
        raise DataError("no such image")

    answers = on_workers(2, lambda world: first_answers(world, mistake))
    assert [str(answer) for answer in answers] == ["no such image"] * 2
    with pytest.raises(DataError, match="no such image"):
        first_answers(World(), mistake)


def test_a_bank_has_the_configured_size_and_memory(tiny, dataset):
    bank = make_bank(dataset.train, dataset, tiny("data.height=64", "data.cache_mb=0"))
    assert bank.image(0).shape == (3, 64, 16)
    assert bank.image(0) is not bank.image(0)
    kept = make_bank(dataset.train, dataset, tiny())
    assert kept.image(0) is kept.image(0)


def test_seconds_are_added_to_the_statistics(config, dataset, teacher):
    labels = services.with_seconds(make_services(config, dataset, World()).refresh(teacher, 0), extract=1.5, label=2.5)
    assert (labels.statistics["extract_seconds"], labels.statistics["label_seconds"]) == (1.5, 2.5)
