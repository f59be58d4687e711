"""Which tables a run reads, what of them is evaluated, and the memory that their images take."""

from dataclasses import replace

import pytest
from small_runs import METHOD_RUNS, SOURCE

from reid_ray.data.readers import read_dataset
from reid_ray.methods import stages_of
from reid_ray.training.datasets import (
    EVALUATION,
    ImageCaches,
    evaluation_table,
    make_cache,
    read_datasets,
    sections_of_run,
    sections_of_stage,
)


@pytest.fixture
def dataset(tiny):
    return read_dataset(tiny().data)


def test_what_is_evaluated_is_query_then_gallery(tiny, dataset):
    table = evaluation_table(dataset, tiny())
    splits = table.arrow["split"].to_pylist()
    assert splits == ["query"] * len(dataset.query) + ["gallery"] * len(dataset.gallery)
    assert table.paths == dataset.query.paths + dataset.gallery.paths
    assert evaluation_table(replace(dataset, table=dataset.train), tiny()) is None
    assert evaluation_table(replace(dataset, table=dataset.table.without_pids()), tiny()) is None
    assert evaluation_table(dataset, tiny("evaluation.every=null")) is None


def test_a_cache_has_the_configured_size_and_memory(tiny, dataset):
    images = make_cache(dataset.train, dataset, tiny("data.height=64", "data.cache_mb=0"))
    assert images.image(0).shape == (3, 64, 16)
    assert images.image(0) is not images.image(0)
    kept = make_cache(dataset.train, dataset, tiny())
    assert kept.image(0) is kept.image(0)


@pytest.mark.parametrize(
    ("overrides", "sections", "by_stage"),
    [
        ((), ["data"], [["data"]]),
        (METHOD_RUNS["spcl-joint"], ["data", "source"], [["data", "source"]]),
        ((*METHOD_RUNS["abmt"], *SOURCE), ["data", "source"], [["source", "data"], ["data"]]),
        (
            (*METHOD_RUNS["abmt"], *SOURCE, "labels.source_weight=0.1"),
            ["data", "source"],
            [["source", "data"], ["data", "source"]],
        ),
        (METHOD_RUNS["source"], ["data", "target"], [["data", "target"]]),
        ((SOURCE[0], "source_stage=false"), ["data"], [["data"]]),
    ],
)
def test_a_run_reads_the_tables_of_its_stages(tiny, overrides, sections, by_stage):
    """A section that no stage reads is left alone, and the run's own table comes first."""
    config = tiny(*overrides)
    assert sections_of_run(config) == sections
    assert [sections_of_stage(stage) for stage in stages_of(config)] == by_stage
    datasets = read_datasets(config)
    assert list(datasets) == sections
    for section, dataset in datasets.items():
        assert dataset.table.arrow.equals(read_dataset(getattr(config, section)).table.arrow)


def test_images_of_all_tables_have_the_size_of_data_and_are_freed(tiny):
    config = tiny("source={layout: synthetic, height: 64, width: 64, synthetic: {seed: 3, n_train_ids: 4}}")
    datasets = {"data": read_dataset(config.data), "source": read_dataset(config.source)}
    caches = ImageCaches(datasets, config)
    assert caches.table("source").paths == datasets["source"].train.paths
    assert caches.table(EVALUATION).paths == evaluation_table(datasets["data"], config).paths
    for name, n in (("data", len(datasets["data"].train)), (EVALUATION, len(caches.table(EVALUATION)))):
        assert len(caches[name]) == n
        assert caches[name] is caches[name]
    assert caches["source"].image(0).shape == (3, 32, 16)
    kept, freed = caches["data"], caches["source"]
    caches.keep_only(["data", EVALUATION])
    assert caches["data"] is kept
    assert caches["source"] is not freed, "made again when it is used again"
