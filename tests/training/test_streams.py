"""The batches of a stage: named streams, drawn apart, alike for all workers, with the columns that a method reads."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from small_runs import METHOD_RUNS
from small_streams import Data, stage_with

from reid_ray.data.images import Dataset
from reid_ray.data.table import ImageTable
from reid_ray.data.views import normalize
from reid_ray.errors import DataError, LoaderError
from reid_ray.methods import FeatureCache, LabelSpec, StreamSpec, stages_of
from reid_ray.training.datasets import ImageCaches, read_datasets
from reid_ray.training.distributed import DistributedContext
from reid_ray.types import Labels

TRUTH = LabelSpec("ground_truth")
SOURCE = "source={layout: synthetic, synthetic: {seed: 7, n_train_ids: 5, images_per_id: 6}}"
PLAIN = "data.strong={pad: 0, flip: 0, blur: 0, erase: 0}"


@pytest.fixture
def config(tiny):
    return tiny(SOURCE, "source_stage=true", "training.precision=float32")


@pytest.fixture
def stage(config):
    """The stage on a labelled source, next to images of the target that are only forwarded."""
    return stages_of(config)[0]


def test_a_source_that_is_learned_from_comes_by_identity(config, stage):
    data = Data(config, stage)
    pids = data.tables["source"].pids
    numbers = {pid: number for number, pid in enumerate(sorted(set(pids.tolist())))}
    for batch in data.batches():
        inputs = batch["train"]
        rows = inputs.rows.numpy()
        assert inputs.labels.tolist() == [numbers[pid] for pid in pids[rows].tolist()]
        _, counts = np.unique(inputs.labels, return_counts=True)
        assert counts.tolist() == [config.training.n_instances] * config.training.n_pids
        assert inputs.camids.tolist() == data.tables["source"].camids[rows].tolist()


def test_images_without_labels_come_in_random_order(config, stage):
    data = Data(config, stage)
    inputs = [batch["target"] for batch in data.batches()]
    assert all((each.labels == -1).all() for each in inputs)
    n = len(data.tables["data"])
    rows = np.concatenate([each.rows for each in inputs])
    assert len(set(rows[:n].tolist())) == n, "each image before any comes again"
    assert rows.tolist() != sorted(rows.tolist())


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("size", [2, 4])
def test_workers_share_a_batch(config, stage, size, threads):
    whole = Data(config, stage).batches(epoch=1)
    config = config.model_copy(update={"data": config.data.model_copy(update={"loader_threads": threads})})
    parts = [Data(config, stage, context=DistributedContext(rank, size)).batches(epoch=1) for rank in range(size)]
    for batch, *others in zip(whole, *parts, strict=True):
        assert all(other.key == batch.key for other in others)
        for name, inputs in batch.streams.items():
            own = [other[name] for other in others]
            for each in own:
                assert torch.equal(each.rows, inputs.rows), "labels, rows and columns are global"
                assert torch.equal(each.labels, inputs.labels)
                assert torch.equal(each.camids, inputs.camids)
            assert torch.equal(torch.cat([each.views["strong"] for each in own]), inputs.views["strong"])


def test_a_resumed_epoch_has_the_same_batches(config, stage):
    whole, later = Data(config, stage).batches(epoch=1), Data(config, stage).batches(epoch=1, start=2)
    assert [batch.key for batch in whole] == [(config.seed, 1, step) for step in range(4)]
    assert [batch.key for batch in later] == [(config.seed, 1, 2), (config.seed, 1, 3)]
    for expected, found in zip(whole[2:], later, strict=True):
        for name in ("train", "target"):
            assert torch.equal(expected[name].rows, found[name].rows)
            assert torch.equal(expected[name].views["strong"], found[name].views["strong"])


@pytest.mark.parametrize("change", ["epoch", "seed", "seed_offset"])
def test_another_epoch_or_seed_draws_otherwise(config, stage, change):
    first = Data(config, stage).batches()
    if change == "epoch":
        others = Data(config, stage).batches(epoch=1)
    elif change == "seed":
        others = Data(config.model_copy(update={"seed": 9}), stage).batches()
        assert others[0].key == (9, 0, 0)
    else:
        others = Data(config, replace(stage, seed_offset=9)).batches()
        assert others[0].key == (9, 0, 0)
    for name in ("train", "target"):
        assert [batch[name].rows.tolist() for batch in first] != [batch[name].rows.tolist() for batch in others]


def test_streams_of_one_table_draw_apart(config):
    """Other rows, and of the same row at the same place another view."""
    strong = StreamSpec({"strong": "strong"}, labels=TRUTH)
    data = Data(config, stage_with(config, first=strong, second=strong))
    plan = data.plan()
    assert (plan["first"] != plan["second"]).any()
    same = {"first": plan["first"], "second": plan["first"]}
    batch = next(iter(data.data.batches(same, data.labels, 0, 0)))
    assert torch.equal(batch["first"].rows, batch["second"].rows)
    assert not torch.equal(batch["first"].views["strong"], batch["second"].views["strong"])


def test_the_images_are_those_of_the_rows(tiny):
    config = tiny(PLAIN, "training.precision=float32")
    stage = stage_with(config, train=StreamSpec({"as it is": "resize", "plain": "strong"}, labels=TRUTH))
    data = Data(config, stage)
    images = ImageCaches(read_datasets(config), config)["data"]
    for batch in data.batches():
        inputs = batch["train"]
        expected = normalize(images.batch(inputs.rows.tolist()).values)
        assert torch.equal(inputs.views["as it is"], expected)
        assert torch.equal(inputs.views["plain"], expected)
    assert Data(config, stage, dtype=torch.float64).batches()[0]["train"].views["plain"].dtype == torch.float64


def test_views_have_the_settings_of_the_primary_stream_s_data(tiny):
    """A stage on a source augments as the source says, the images of the target too."""
    source = SOURCE[:-1] + ", strong: {pad: 0, flip: 0, blur: 0, erase: 0}}"
    config = tiny(source, "source_stage=true", "training.precision=float32")
    stage, main = stages_of(config)
    images = ImageCaches(read_datasets(config), config)
    batch = Data(config, stage).batches()[0]
    for name, section in (("train", "source"), ("target", "data")):
        rows = batch[name].rows.tolist()
        assert torch.equal(batch[name].views["strong"], normalize(images[section].batch(rows).values))
    labels = {"train": Labels(0, np.arange(48) % 4)}
    views = Data(config, main, labels=labels).batches()[0]["train"].views
    assert not torch.equal(views["strong_1"], views["weak"])


def test_one_pass_over_the_images(tiny):
    config = tiny("training.iterations=null", "training.sampler=shuffle")
    data = Data(config, stage_with(config, train=StreamSpec({"image": "resize"})))
    plan = data.plan()["train"]
    n = len(data.tables["data"])
    assert plan.shape == (n // 16, 16, 1)
    assert len(set(plan.ravel().tolist())) == plan.size
    assert len(data.batches()) == n // 16


@dataclass(frozen=True)
class RowNumbers:
    """Images whose pixels are their path, a number."""

    def read(self, path):
        return torch.full((3, 32, 16), int(path), dtype=torch.uint8)


@pytest.fixture
def tracked():
    """Six people in two modalities, a tracklet of four frames each, and two single images."""
    n = 50
    pids = np.concatenate([np.repeat(np.arange(6), 8), [4, 5]])
    tracklets = np.concatenate([np.repeat(np.arange(12), 4), [-1, -1]])
    modality = np.array(["visible"] * 4 + ["infrared"] * 4)[np.arange(n) % 8]
    table = ImageTable.from_columns(
        path=[str(i) for i in range(n)],
        pid=pids,
        camid=np.arange(n) % 3,
        extra={"tracklet": tracklets, "modality": modality.tolist(), "attr_hat": pids % 2 - (pids == 0)},
    )
    return {"data": Dataset(table, RowNumbers())}


def test_a_stream_of_one_modality(config, tracked):
    stage = stage_with(
        config,
        visible=StreamSpec({"image": "resize"}, labels=TRUTH, modality="visible"),
        infrared=StreamSpec({"image": "resize"}, modality="infrared"),
    )
    modalities = tracked["data"].table.modalities
    for batch in Data(config, stage, tracked).batches():
        for name, code in (("visible", 0), ("infrared", 1)):
            assert (modalities[batch[name].rows] == code).all()
        assert (batch["visible"].labels >= 0).all()
        assert (batch["infrared"].labels == -1).all()


def test_shared_identities_of_two_modalities(config, tracked):
    training = config.training.model_copy(update={"sampler": "shared_identities"})
    config = config.model_copy(update={"training": training})
    stage = stage_with(
        config,
        **{name: StreamSpec({"image": "resize"}, labels=TRUTH, modality=name) for name in ("visible", "infrared")},
    )
    for batch in Data(config, stage, tracked).batches():
        assert torch.equal(batch["visible"].labels, batch["infrared"].labels)
        assert not set(batch["visible"].rows.tolist()) & set(batch["infrared"].rows.tolist())


@pytest.mark.parametrize("size", [1, 2])
def test_frames_of_tracklets(config, tracked, size):
    """Three frames of a tracklet in order of time; rows and columns are those of its first drawn frame."""
    stage = stage_with(config, train=StreamSpec({"image": "resize"}, labels=TRUTH, frames=3))
    table = tracked["data"].table
    workers = [Data(config, stage, tracked, context=DistributedContext(rank, size)) for rank in range(size)]
    batches = zip(*(worker.batches() for worker in workers), strict=True)
    for rows, parts in zip(workers[0].plan()["train"], batches, strict=True):
        assert rows.shape == (16, 3)
        for frames in rows:
            assert len(set(table.tracklets[frames].tolist())) == 1
            assert (np.diff(frames) > 0).all() or table.tracklets[frames[0]] == -1
            assert len(set(frames.tolist())) == (3 if table.tracklets[frames[0]] != -1 else 1)
        images = torch.cat([part["train"].views["image"] for part in parts])
        assert images.shape == (16, 3, 3, 32, 16)
        pixels = torch.tensor(rows, dtype=torch.uint8)[:, :, None, None, None].expand(16, 3, 3, 32, 16)
        assert torch.equal(images, normalize(pixels))
        for part in parts:
            inputs = part["train"]
            assert inputs.rows.tolist() == rows[:, 0].tolist()
            assert inputs.camids.tolist() == table.camids[rows[:, 0]].tolist()


def test_the_frames_of_another_epoch_are_drawn_again(config, tracked):
    """Of the one tracklet that has a label."""
    stage = stage_with(config, train=StreamSpec({"image": "resize"}, labels=LabelSpec("clusters"), frames=2))
    labels = np.where(np.arange(50) < 4, 0, -1)
    data = Data(config, stage, tracked, labels={"train": Labels(0, labels)})
    assert set(data.plan(0)["train"].ravel().tolist()) == set(range(4))
    assert (data.plan(0)["train"] == data.plan(0)["train"]).all()
    assert (data.plan(0)["train"] != data.plan(1)["train"]).any()


@pytest.mark.parametrize("size", [2, 4])
def test_each_frame_has_a_view_of_its_own_whoever_makes_it(tiny, tracked, size):
    config = tiny("training.precision=float32", "data.strong={flip: 0, blur: 0}")
    stage = stage_with(config, train=StreamSpec({"strong": "strong"}, labels=TRUTH, frames=3))
    whole = Data(config, stage, tracked).batches()
    parts = [Data(config, stage, tracked, context=DistributedContext(rank, size)).batches() for rank in range(size)]
    for batch, *others in zip(whole, *parts, strict=True):
        views = [other["train"].views["strong"] for other in others]
        assert torch.equal(torch.cat(views), batch["train"].views["strong"])


def test_columns_come_with_the_batch(config, tracked):
    columns = ("attributes", "modality", "camid")
    stage = stage_with(config, train=StreamSpec({"image": "resize"}, labels=TRUTH, columns=columns))
    table = tracked["data"].table
    inputs = Data(config, stage, tracked).batches()[0]["train"]
    assert list(inputs.columns) == ["camid", "attributes", "modality"]
    assert torch.equal(inputs.columns["attributes"], torch.tensor(table.attributes[inputs.rows]))
    assert inputs.columns["attributes"].shape == (16, 1)
    assert torch.equal(inputs.columns["modality"], torch.tensor(table.modalities[inputs.rows]))
    blind = stage_with(config, train=StreamSpec({"image": "resize"}, labels=TRUTH))
    assert list(Data(config, blind, tracked).batches()[0]["train"].columns) == ["camid"]


def test_cached_features_in_place_of_images(config, tracked):
    """No image is read; of each item one of the copies is drawn."""

    class Nothing:
        def read(self, path):
            raise AssertionError(path)

    unread = {"data": replace(tracked["data"], images=Nothing())}
    features = np.arange(2 * 50, dtype=np.float32).reshape(2, 50, 1)
    spec = StreamSpec({"feature": "feature", "again": "feature"}, labels=TRUTH, cache=FeatureCache("encoder", copies=2))
    data = Data(config, stage_with(config, train=spec), unread, features={"train": features})
    drawn = set()
    for batch in data.batches():
        for row, *values in zip(batch["train"].rows.tolist(), *batch["train"].views.values(), strict=True):
            copies = [int(value) // 50 for value in values]
            assert [float(value) for value in values] == [features[copy, row, 0] for copy in copies]
            drawn.add(tuple(copies))
    assert drawn == {(0, 0), (0, 1), (1, 0), (1, 1)}


def test_outliers_are_not_drawn(config):
    stage = stage_with(config, train=StreamSpec({"image": "resize"}, labels=LabelSpec("clusters")))
    labels = np.full(48, -1)
    labels[10:30] = np.arange(20) % 4
    for batch in Data(config, stage, labels={"train": Labels(0, labels)}).batches():
        assert ((batch["train"].rows >= 10) & (batch["train"].rows < 30)).all()


def test_nothing_to_train_on_is_named_with_its_stage(config, tracked):
    stage = stage_with(config, train=StreamSpec({"image": "resize"}, labels=LabelSpec("clusters")))
    with pytest.raises(DataError, match=r"^Stage main has nothing to train on: no item has a label\.$"):
        Data(config, stage, labels={"train": Labels(0, np.full(48, -1))}).plan()
    training = config.training.model_copy(update={"sampler": "shared_identities"})
    shared = replace(
        stage_with(
            config,
            a=StreamSpec({"image": "resize"}, labels=LabelSpec("clusters")),
            b=StreamSpec({"image": "resize"}, labels=LabelSpec("clusters")),
        ),
        config=training,
    )
    labels = {"a": Labels(0, np.zeros(50, dtype=int)), "b": Labels(0, np.ones(50, dtype=int))}
    with pytest.raises(DataError, match="the streams a, b have no identity in common"):
        Data(config, shared, tracked, labels=labels).plan()


@pytest.mark.parametrize("method", ["spcl-joint", "source", "mmt-uda"])
def test_every_stage_of_a_method_with_several_streams_has_batches(tiny, method):
    config = tiny(*METHOD_RUNS[method], "training.precision=float32")
    tables = {section: dataset.train for section, dataset in read_datasets(config).items()}
    for stage in stages_of(config):
        labels = {name: Labels(0, np.arange(len(tables[stream.data])) % 5) for name, stream in stage.streams.items()}
        batches = Data(config, stage, labels=labels).batches()
        assert len(batches) == stage.config.iterations
        assert list(batches[0].streams) == list(stage.streams)
        for name, stream in stage.streams.items():
            assert list(batches[0][name].views) == list(stream.views)


def unreadable(tracked, row):
    class Images(RowNumbers):
        def read(self, path):
            if path == str(row):
                raise DataError(f"image {row} is bad")
            return super().read(path)

    return {"data": replace(tracked["data"], images=Images())}


def test_an_unreadable_image_is_one_worker_s_error_where_there_are_others(config, tracked):
    stage = stage_with(config, train=StreamSpec({"image": "resize"}))
    broken = unreadable(tracked, 3)
    with pytest.raises(DataError, match="image 3 is bad") as caught:
        Data(config, stage, broken).batches()
    assert type(caught.value) is DataError
    ended = []
    for rank in (0, 1):
        try:
            Data(config, stage, broken, context=DistributedContext(rank, 2)).batches()
        except LoaderError as error:
            ended.append(str(error))
    assert set(ended) == {"image 3 is bad"}
