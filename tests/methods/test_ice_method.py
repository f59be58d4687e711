"""ICE as a method: which losses make up an update, what the teacher sees, what each mode changes."""

import numpy as np
import pytest
import torch
from small_methods import in_training, inputs, make_batch, parameters_of, stage_of
from small_runs import WIDTH

from reid_ray.methods import build_method, stages_of
from reid_ray.methods.stage import LabelSpec
from reid_ray.training.distributed import DistributedContext
from reid_ray.types import Labels

B, C, D = 16, 4, WIDTH


@pytest.fixture
def ice(tiny):
    def make(*overrides):
        torch.manual_seed(0)
        method = build_method(tiny("training.precision=float32", *overrides), DistributedContext())
        return in_training(method)

    return make


def pseudo_labels(seed=0):
    rng = np.random.default_rng(seed)

    def unit(n):
        rows = rng.normal(size=(n, D))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    return Labels(0, np.arange(C).repeat(4), unit(C), unit(2 * C), np.tile(np.arange(C), 2), np.repeat([0, 1], C))


def batch(seed=0, step=0):
    generator = torch.Generator().manual_seed(seed)
    views = {name: torch.randn(B, 3, 32, 16, generator=generator) for name in ("strong_1", "strong_2", "weak")}
    labels = torch.arange(C).repeat_interleave(4)
    return make_batch(inputs(views, labels, camids=torch.tensor([0, 0, 1, 1] * C)), key=(0, 0, step))


def views_of(data):
    return data["train"].views


def only_update(method, data=None):
    method.on_labels("main", {"train": pseudo_labels()})
    updates = list(method.updates("main", data or batch()))
    assert [update.optimizers for update in updates] == [("main",)]
    return updates[0]


def test_the_loss_is_the_weighted_sum_of_its_terms(ice):
    method = ice()
    update = only_update(method)
    terms, settings = update.terms, method.config.method
    expected = (
        terms["agnostic"]
        + settings.weight_cross * terms["cross"]
        + settings.weight_hard * terms["hard"]
        + settings.weight_soft * terms["soft"]
    )
    torch.testing.assert_close(update.loss, expected)
    assert (settings.weight_cross, settings.weight_hard, settings.weight_soft) == (0.5, 1.0, 10.0)
    assert all(term > 0 for term in terms.values())


def test_agnostic_mode_has_no_camera_loss_and_neither_has_a_world_without_cameras(ice):
    assert "cross" not in only_update(ice("method.mode=agnostic")).terms
    method = ice()
    labels = pseudo_labels()
    empty = np.empty(0, dtype=np.int64)
    blind = Labels(0, labels.labels, labels.centroids, np.empty((0, D), np.float32), empty, empty)
    method.on_labels("main", {"train": blind})
    assert "cross" not in next(iter(method.updates("main", batch()))).terms


def test_labels_come_from_clusters_or_in_supervised_mode_from_identities(tiny):
    """Either way with the teacher's centroids and proxies, and again before each epoch."""
    needs = frozenset({"centroids", "proxies"})
    for mode, origin in (("supervised", "ground_truth"), ("agnostic", "clusters"), ("aware", "clusters")):
        (stage,) = stages_of(tiny(f"method.mode={mode}"))
        assert stage.streams["train"].labels == LabelSpec(origin, needs)
        assert stage.streams["train"].data == "data"


def test_the_stage_is_that_of_table_6_1(ice):
    stage = stage_of(ice())
    assert dict(stage.streams["train"].views) == {"strong_1": "strong", "strong_2": "strong", "weak": "resize"}
    assert (stage.retriever, dict(stage.init), stage.frozen) == ("teacher", {"teacher": "student"}, ())
    assert stage.evaluated


def test_only_the_student_learns(ice):
    method = ice()
    only_update(method).loss.backward()
    trained = parameters_of(method)
    assert all(parameter.grad is not None for parameter in trained)
    assert not any(parameter.requires_grad for parameter in method.teacher.parameters())
    assert not any(parameter is method.student.neck.bias for parameter in trained)


def test_losses_read_the_views_of_table_6_1(ice):
    """Prediction: student of view 1. Targets: teacher of view 2 (hard), teacher of the weak view (soft)."""
    from reid_ray.losses import hard_instance_loss, soft_consistency_loss

    method = ice("model.bn_group=null", "method.teacher_forwards=used")
    data = batch()
    with torch.no_grad():
        anchors = method.student(views_of(data)["strong_1"]).feature
        hard = method.teacher(views_of(data)["strong_2"]).feature
        soft = method.teacher(views_of(data)["weak"]).feature
    terms = only_update(method, data).terms
    torch.testing.assert_close(
        terms["hard"], hard_instance_loss(anchors, hard, data["train"].labels, temperature=0.1), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        terms["soft"], soft_consistency_loss(anchors, hard, soft, temperature=0.4), rtol=1e-4, atol=1e-6
    )


def test_the_teacher_sees_shuffled_groups_and_features_come_back_in_order(ice):
    whole, grouped = ice("model.bn_group=null"), ice("model.bn_group=4")
    images, order = views_of(batch())["weak"], torch.from_numpy(batch().rng().permutation(B))
    with torch.no_grad():
        in_order = whole.teacher(images).feature
        torch.testing.assert_close(whole._shuffled_forward(images, order), in_order, rtol=1e-4, atol=1e-4)
        shuffled = grouped._shuffled_forward(images, order)
        by_hand = grouped.teacher(images[order]).feature[torch.argsort(order)]
    torch.testing.assert_close(shuffled, by_hand)
    assert (shuffled - in_order).abs().max() > 1e-3


def test_the_shuffle_differs_from_step_to_step_and_not_from_call_to_call():
    assert (batch(step=3).rng().permutation(B) == batch(step=3).rng().permutation(B)).all()
    assert (batch(step=3).rng().permutation(B) != batch(step=4).rng().permutation(B)).any()


@pytest.mark.parametrize(("forwards", "expected"), [("all", 3), ("used", 2)])
def test_teacher_forwards(ice, forwards, expected):
    method = ice(f"method.teacher_forwards={forwards}")
    only_update(method)
    assert method.teacher.neck.num_batches_tracked == expected


def test_every_setting_reaches_its_loss(ice, monkeypatch):
    from reid_ray.methods import ice as module

    given = {}

    def record(name):
        loss = getattr(module, name)

        def recorded(*arguments, **settings):
            given[name] = settings
            return loss(*arguments, **settings)

        monkeypatch.setattr(module, name, recorded)

    for name in ("centroid_loss", "cross_camera_loss", "hard_instance_loss", "soft_consistency_loss"):
        record(name)
    only_update(ice())
    cross = given["cross_camera_loss"]
    assert (cross["own_camera_positive"], cross["reduction"]) == (True, "sum_over_cameras")
    method = ice(
        *("method.temperature_agnostic=0.3", "method.label_smoothing=0.2", "method.normalize_student=true"),
        *("method.temperature_cross=0.2", "method.n_negatives=2", "method.own_camera_positive=false"),
        *("method.cross_reduction=mean", "method.proxy_normalization=released"),
        *("method.temperature_hard=0.7", "method.temperature_soft=0.6"),
        *("method.weight_cross=0.25", "method.weight_hard=3", "method.weight_soft=7"),
    )
    update = only_update(method)
    assert given == {
        "centroid_loss": {"temperature": 0.3, "label_smoothing": 0.2, "normalize": True},
        "cross_camera_loss": {
            "temperature": 0.2,
            "n_negatives": 2,
            "own_camera_positive": False,
            "reduction": "mean",
            "normalization": "released",
        },
        "hard_instance_loss": {"temperature": 0.7},
        "soft_consistency_loss": {"temperature": 0.6},
    }
    terms = update.terms
    expected = terms["agnostic"] + 0.25 * terms["cross"] + 3 * terms["hard"] + 7 * terms["soft"]
    torch.testing.assert_close(update.loss, expected)


@pytest.mark.parametrize(("precision", "bf16"), [("bf16", True), ("float32", False), ("float64", False)])
def test_arithmetic_and_momentum_are_the_configured_ones(tiny, precision, bf16):
    method = build_method(tiny(f"training.precision={precision}", "model.ema=0.9"), DistributedContext())
    assert method.student.bf16 is method.teacher.bf16 is bf16
    assert list(method.ema_pairs("main")) == [(method.teacher, method.student)]
    assert method.ema_momentum(0) == method.ema_momentum(1000) == 0.9
