"""Descriptions of stages: what follows from them, and from the configuration."""

import pytest

from reid_ray.config import load_config
from reid_ray.methods.stage import LabelSpec, OptimizerSpec, Stage, StreamSpec, from_clusters, optimizers


def stage(**streams):
    config = load_config("demo").training
    return Stage("main", config, streams, optimizers(config, main=("student",)), retriever="student")


@pytest.mark.parametrize(
    ("spec", "reads"),
    [
        (LabelSpec(), False),
        (LabelSpec("ground_truth"), False),
        (LabelSpec("ground_truth", frozenset({"centroids"})), True),
        (LabelSpec("clusters"), True),
        (LabelSpec("clusters", features_from="memory"), True),
    ],
)
def test_labels_that_need_features(spec, reads):
    assert spec.reads_features is reads


def test_the_first_stream_is_the_primary_one():
    clusters, truth = StreamSpec({}, labels=LabelSpec("clusters")), StreamSpec({}, labels=LabelSpec("ground_truth"))
    assert stage(b=truth, a=clusters).primary == "b"
    assert stage(b=truth, a=clusters).clusters
    assert stage(b=clusters).clusters
    assert not stage(b=truth).clusters


def test_optimizers_have_the_settings_of_their_stage():
    config = load_config("demo", ["training.lr=0.5", "training.optimizers.head={optimizer: sgd, lr: 0.25}"]).training
    made = optimizers(config, body=("student", "neck"), head=("classifier",))
    assert list(made) == ["body", "head"]
    assert made["body"] == OptimizerSpec(("student", "neck"), config.optimizer_config("body"))
    assert made["head"] == OptimizerSpec(("classifier",), config.optimizer_config("head"))
    assert (made["body"].config.lr, made["head"].config.lr, made["head"].config.optimizer) == (0.5, 0.25, "sgd")


@pytest.mark.parametrize(
    ("overrides", "compared"),
    [
        ((), None),
        (("labels.source_weight=0.1",), None),
        (("source.layout=synthetic",), None),
        (("source.layout=synthetic", "labels.source_weight=0.1"), "source"),
    ],
)
def test_clusters_are_compared_with_a_source_where_there_is_one_and_a_weight(overrides, compared):
    config = load_config("demo", overrides)
    assert from_clusters(config, "centroids") == LabelSpec("clusters", frozenset({"centroids"}), compare_with=compared)
    memory = from_clusters(config, memory=True)
    assert (memory.features_from, memory.needs, memory.compare_with) == ("memory", frozenset(), compared)
