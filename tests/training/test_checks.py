"""Mistakes in a method's stages, in the configuration and in the data are one line each, before anything is written."""

from dataclasses import replace

import pytest
import torch
from small_runs import METHOD_RUNS, SOURCE
from torch import nn
from torchvision.io import write_jpeg

from reid_ray.api import train
from reid_ray.config import load_config
from reid_ray.data.images import Dataset
from reid_ray.data.table import ImageTable
from reid_ray.errors import ConfigError, DataError, MethodError
from reid_ray.methods import METHODS, FeatureCache, LabelSpec, Stage, StreamSpec, build_method, stages_of
from reid_ray.methods.stage import OptimizerSpec, optimizers
from reid_ray.models import GroupBatchNorm, make_teacher
from reid_ray.training import checks
from reid_ray.training.checks import (
    build_modules,
    check_layers,
    check_method,
    check_modules,
    check_stage_names,
    check_streams,
    check_tables,
    parameter_names,
)
from reid_ray.training.distributed import DistributedContext


def stage_with(config, streams=None, modules=("body", "head"), **options):
    streams = {"train": StreamSpec({"image": "resize"})} if streams is None else streams
    made = {"optimizers": optimizers(config.training, main=modules), "retriever": "body", **options}
    return Stage("main", config.training, streams, **made)


@pytest.fixture
def modules():
    """A body and a head, a moving average without gradient, and nothing else."""
    body = nn.Sequential(nn.Linear(2, 2), GroupBatchNorm(2))
    return {"body": body, "head": nn.Linear(2, 3), "mean": make_teacher(body)}


@pytest.mark.parametrize("name", METHOD_RUNS)
def test_the_methods_of_the_papers_fit(tiny, name):
    for source in ((), SOURCE[:1]):
        check_method(build_method(tiny(*METHOD_RUNS[name], *source), DistributedContext()))


def test_all_checks_are_made_when_a_run_builds_its_modules(tiny, monkeypatch):
    made = []
    for name in ("check_stage_names", "check_layers", "check_streams", "check_modules"):
        monkeypatch.setattr(checks, name, lambda *arguments, name=name: made.append(name))
    build_modules(tiny(SOURCE[0]), DistributedContext())
    assert made == ["check_stage_names", "check_layers", *["check_streams", "check_modules"] * 2]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("stages.sorce.epochs=3",), "stages.sorce: unknown; did you mean 'source'?"),
        (
            ("stages.zzz.epochs=3",),
            "stages.zzz: unknown; abmt has the stages before its main one source.",
        ),
        (("stages.main.epochs=3",), "stages.main: this is the main stage of abmt, whose settings are training.KEY."),
        (("training.optimizers.mein.lr=1",), "training.optimizers.mein: unknown; did you mean 'main'?"),
        (
            ("training.optimizers.zzz.lr=1",),
            "training.optimizers.zzz: unknown; stage main has the optimizers main.",
        ),
        (
            ("stages.source.optimizers.zzz.lr=1",),
            "stages.source.optimizers.zzz: unknown; stage source has the optimizers main.",
        ),
    ],
)
def test_unknown_stages_and_optimizers(tiny, overrides, message):
    config = tiny(*METHOD_RUNS["abmt"], *SOURCE, *overrides)
    with pytest.raises(ConfigError) as caught:
        check_stage_names(config, stages_of(config))
    assert str(caught.value) == message


def test_a_method_without_earlier_stages_says_so(tiny):
    config = tiny("stages.source.epochs=3")
    with pytest.raises(
        ConfigError, match=r"^stages\.source: unknown; ice has the stages before its main one \(none\)\.$"
    ):
        check_stage_names(config, stages_of(config))


def test_settings_of_a_source_stage_that_is_left_out_are_no_mistake(tiny):
    """As in a recipe whose `model.weights` is the exported model of a run."""
    config = tiny(*METHOD_RUNS["abmt"], *SOURCE, "source_stage=false")
    check_stage_names(config, stages_of(config))
    config = tiny(*METHOD_RUNS["spcl-joint"], "stages.source.epochs=3")
    with pytest.raises(
        ConfigError, match=r"^stages\.source: unknown; spcl has the stages before its main one \(none\)"
    ):
        check_stage_names(config, stages_of(config))


def test_optimizers_of_the_main_stage_need_not_be_in_the_others(tiny):
    config = tiny(*METHOD_RUNS["abmt"], *SOURCE, "training.optimizers.main.lr=0.5")
    check_stage_names(config, stages_of(config))
    source, main = stages_of(config)
    assert source.optimizers["main"].config.lr == main.optimizers["main"].config.lr == 0.5


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.SyncBatchNorm(2)])
def test_a_plain_batch_norm(modules, layer):
    modules["head"] = nn.Sequential(nn.Linear(2, 2), layer)
    message = (
        rf"^head\.1 is a plain {type(layer).__name__}, whose statistics depend on the number of workers; "
        rf"use reid_ray\.models\.GroupBatchNorm\.$"
    )
    with pytest.raises(MethodError, match=message):
        check_layers(modules)
    modules["head"] = layer
    with pytest.raises(MethodError, match=r"^head is a plain"):
        check_layers(modules)


@pytest.mark.parametrize("layer", [nn.Dropout(0.5), nn.Dropout2d(0.1), nn.AlphaDropout(0.5)])
def test_a_layer_that_draws_by_itself(modules, layer):
    modules["head"] = nn.Sequential(nn.Linear(2, 2), layer)
    message = (
        rf"^head\.1 is a {type(layer).__name__}, which draws per process; multiply by a mask drawn with Batch\.rng"
    )
    with pytest.raises(MethodError, match=message):
        check_layers(modules)
    modules["head"] = nn.Dropout(0.0)
    check_layers(modules)


def test_a_stage_without_a_stream(tiny):
    with pytest.raises(MethodError, match=r"^Stage main has no stream\.$"):
        check_streams(stage_with(tiny(), {}), tiny())


@pytest.mark.parametrize("section", ["sources", "labels", "source"])
def test_a_table_that_there_is_not(tiny, section):
    message = rf"^stage main, stream train: there is no table '{section}'; tables are data, source and target\.$"
    with pytest.raises(MethodError, match=message):
        check_streams(stage_with(tiny(), {"train": StreamSpec({}, data=section)}), tiny())
    check_streams(stage_with(tiny(), {"train": StreamSpec({}, data="source")}), tiny("source={layout: synthetic}"))


def test_a_view_that_there_is_not(tiny):
    stage = stage_with(tiny(), {"train": StreamSpec({"a": "resize", "b": "stron"})})
    with pytest.raises(
        MethodError, match=r"^stage main, stream train: There is no view 'stron'; did you mean 'strong'\?$"
    ):
        check_streams(stage, tiny())


def test_a_view_of_features_without_a_cache(tiny):
    stream = StreamSpec({"code": "feature"})
    message = r"^stage main, stream train: the view 'feature' reads cached features, and the stream has no cache\.$"
    with pytest.raises(MethodError, match=message):
        check_streams(stage_with(tiny(), {"train": stream}), tiny())
    check_streams(stage_with(tiny(), {"train": replace(stream, cache=FeatureCache("body"))}), tiny())


@pytest.mark.parametrize(
    "options",
    [
        {"retriever": "bdy"},
        {"frozen": ("bdy",)},
        {"init": {"mean": "bdy"}},
        {"init": {"bdy": "mean"}},
        {"modules": ("bdy", "head")},
        {"streams": {"train": StreamSpec({"a": "feature"}, cache=FeatureCache("bdy"))}},
    ],
)
def test_an_unknown_module_wherever_it_is_named(tiny, modules, options):
    with pytest.raises(MethodError, match=r"^stage main: There is no module 'bdy'; did you mean 'body'\?$"):
        check_modules(stage_with(tiny(), **options), modules)


def test_a_parameter_in_two_optimizers(tiny, modules):
    both = {name: OptimizerSpec(("body", "head"), tiny().training) for name in ("a", "b")}
    with pytest.raises(MethodError, match=r"^stage main: body\.0\.weight belongs to two optimizers, a and b\.$"):
        check_modules(stage_with(tiny(), optimizers=both), modules)
    modules["head"] = nn.Linear(2, 3)
    modules["head"].weight = nn.Parameter(modules["body"][0].weight.new_zeros(3, 2))
    modules["body"].register_parameter("shared", modules["head"].weight)
    apart = {name: OptimizerSpec((name,), tiny().training) for name in ("body", "head")}
    with pytest.raises(MethodError, match=r"body\.shared belongs to two optimizers, body and head\."):
        check_modules(stage_with(tiny(), optimizers=apart), modules)


def test_a_parameter_that_is_frozen_and_trained(tiny, modules):
    message = r"^stage main: body\.0\.weight is frozen and belongs to the optimizer main\.$"
    with pytest.raises(MethodError, match=message):
        check_modules(stage_with(tiny(), frozen=("body",)), modules)


def test_a_parameter_in_no_optimizer(tiny, modules):
    message = r"^stage main: head\.weight belongs to no optimizer; name its module in one, or in frozen\.$"
    with pytest.raises(MethodError, match=message):
        check_modules(stage_with(tiny(), modules=("body",)), modules)
    check_modules(stage_with(tiny(), modules=("body",), frozen=("head",)), modules)
    check_modules(stage_with(tiny(), modules=("body.0", "body.1", "head")), modules)


@pytest.mark.parametrize(
    ("recipe", "left_out"), [("havana", "method.baseline=false"), ("gcl", "method.warmup=false"), ("gcl-uda", "seed=1")]
)
def test_a_recipe_may_describe_a_stage_that_a_run_leaves_out(recipe, left_out):
    overrides = ["data.root=crops", "source.root=crops"] if recipe == "gcl-uda" else ["data.root=crops"]
    config = load_config(recipe, [*overrides, "model.weights=null", left_out])
    check_stage_names(config, stages_of(config))
    other = load_config(recipe, [*overrides, "model.weights=null", left_out, "stages.genrate.epochs=2"])
    with pytest.raises(ConfigError, match="stages\\.genrate: unknown"):
        check_stage_names(other, stages_of(other))


@pytest.fixture
def dataset():
    table = ImageTable.from_columns(path=["a", "b"], pid=[0, 1], split=["train", "gallery"], name="crops")
    return Dataset(table, images=None)


def test_a_table_without_the_identities_that_a_stage_learns_from(tiny, dataset):
    """Those of its training split count."""
    stage = stage_with(tiny(), {"train": StreamSpec({}, labels=LabelSpec("ground_truth"))})
    check_tables([stage], {"data": dataset}, tiny())
    blind = ImageTable.from_columns(path=["a", "b"], pid=[-1, 1], split=["train", "gallery"], name="crops")
    message = (
        "^crops has no identities in its training split, which the stage main learns from; "
        "give data with identities, or a method that learns from clusters\\.$"
    )
    with pytest.raises(DataError, match=message):
        check_tables([stage], {"data": replace(dataset, table=blind)}, tiny())
    unlabelled = stage_with(tiny(), {"train": StreamSpec({}, labels=LabelSpec("clusters"))})
    check_tables([unlabelled], {"data": replace(dataset, table=blind)}, tiny())


def test_clusters_of_tracklets_need_tracklets(tiny, dataset):
    stage = stage_with(tiny(), {"train": StreamSpec({}, labels=LabelSpec("clusters"))})
    known = stage_with(tiny(), {"train": StreamSpec({}, labels=LabelSpec("ground_truth"))})
    by_tracklet = tiny("labels.unit=tracklet")
    with pytest.raises(DataError, match="has no column 'tracklet'"):
        check_tables([stage], {"data": dataset}, by_tracklet)
    check_tables([known], {"data": dataset}, by_tracklet)


@pytest.mark.parametrize(
    ("stream", "column"),
    [
        (StreamSpec({}, columns=("attributes",)), "attributes"),
        (StreamSpec({}, frames=4), "tracklet"),
        (StreamSpec({}, modality="infrared"), "modality"),
    ],
)
def test_a_table_without_a_column_that_a_stream_reads(tiny, dataset, stream, column):
    stage = stage_with(tiny(), {"train": stream})
    with pytest.raises(DataError, match=f"has no column '{column}', which is needed here; it has pid, camid"):
        check_tables([stage], {"data": dataset}, tiny())
    extra = {"attr_hat": [0, 1], "tracklet": [0, 1], "modality": ["infrared", "visible"]}
    table = ImageTable.from_columns(path=["a", "b"], pid=[0, 1], split="train", extra=extra)
    check_tables([stage], {"data": replace(dataset, table=table)}, tiny())


def test_parameters_are_named_by_module_and_path(modules):
    names = parameter_names({**modules, "again": modules["body"]})
    assert names[id(modules["body"][1].weight)] == "body.1.weight"
    assert names[id(modules["head"].bias)] == "head.bias"
    assert names[id(modules["mean"][0].bias)] == "mean.0.bias"


@pytest.mark.parametrize("name", ["abmt", "spcl-joint", "source"])
def test_data_is_checked_before_anything_is_written(tiny, tmp_path, name):
    """A source, or a training split, without identities."""
    (tmp_path / "crops").mkdir()
    for i in range(4):
        write_jpeg(torch.zeros(3, 64, 32, dtype=torch.uint8), str(tmp_path / "crops" / f"{i}.jpg"))
    section = "data" if name == "source" else "source"
    crops = f"{section}={{layout: folder, root: {tmp_path / 'crops'}, height: 32, width: 16}}"
    with pytest.raises(DataError, match="no identities in its training split"):
        train(tiny("name=uda", *METHOD_RUNS[name], crops))
    assert not (tmp_path / "uda").exists()


def test_every_method_of_the_package_is_checked():
    own = {name for name, cls in METHODS.items() if cls.__module__.startswith("reid_ray.")}
    assert {name.partition("-")[0] for name in METHOD_RUNS} == own
