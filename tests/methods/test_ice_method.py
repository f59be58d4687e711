"""ICE as a method: which losses make up an update, what the teacher sees, what each mode changes."""

import numpy as np
import pytest
import torch

from reid_ray.methods import Batch, build_method
from reid_ray.training.world import World
from reid_ray.types import PseudoLabels

B, C, D = 16, 4, 512


@pytest.fixture
def ice(tiny):
    def make(*overrides):
        torch.manual_seed(0)
        method = build_method(tiny("training.precision=float32", *overrides), World())
        method.train()
        return method

    return make


def pseudo_labels(seed=0):
    rng = np.random.default_rng(seed)

    def unit(n):
        rows = rng.normal(size=(n, D))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    return PseudoLabels(0, np.arange(C).repeat(4), unit(C), unit(2 * C), np.tile(np.arange(C), 2), np.repeat([0, 1], C))


def batch(seed=0, step=0):
    generator = torch.Generator().manual_seed(seed)
    views = {name: torch.randn(B, 3, 32, 16, generator=generator) for name in ("strong_1", "strong_2", "weak")}
    labels = torch.arange(C).repeat_interleave(4)
    return Batch(views, labels, torch.tensor([0, 0, 1, 1] * C), torch.arange(B), (0, 0, step))


def only_update(method, data=None):
    method.begin_epoch(pseudo_labels())
    updates = list(method.updates(data or batch()))
    assert [update.optimizer for update in updates] == ["student"]
    return updates[0]


def test_the_loss_is_the_weighted_sum_of_its_parts(ice):
    method = ice()
    update = only_update(method)
    parts, settings = update.parts, method.config.method
    expected = (
        parts["agnostic"]
        + settings.weight_cross * parts["cross"]
        + settings.weight_hard * parts["hard"]
        + settings.weight_soft * parts["soft"]
    )
    torch.testing.assert_close(update.loss, expected)
    assert (settings.weight_cross, settings.weight_hard, settings.weight_soft) == (0.5, 1.0, 10.0)
    assert all(part > 0 for part in parts.values())


def test_agnostic_mode_has_no_camera_loss_and_neither_has_a_world_without_cameras(ice):
    assert "cross" not in only_update(ice("method.mode=agnostic")).parts
    method = ice()
    labels = pseudo_labels()
    empty = np.empty(0, dtype=np.int64)
    method.begin_epoch(PseudoLabels(0, labels.labels, labels.centroids, np.empty((0, D), np.float32), empty, empty))
    assert "cross" not in next(iter(method.updates(batch()))).parts


def test_labels_source(tiny):
    from reid_ray.methods.ice import ICE

    assert ICE.labels_source(tiny("method.mode=supervised")) == "truth"
    assert ICE.labels_source(tiny("method.mode=agnostic")) == "pseudo"


def test_only_the_student_learns(ice):
    method = ice()
    only_update(method).loss.backward()
    trained = method.parameters()["student"]
    assert all(parameter.grad is not None for parameter in trained)
    assert not any(parameter.requires_grad for parameter in method.teacher.parameters())
    assert not any(parameter is method.student.neck.bias for parameter in trained)


def test_losses_read_the_views_of_table_6_1(ice):
    """Prediction: student of view 1. Targets: teacher of view 2 (hard), teacher of the weak view (soft)."""
    from reid_ray.losses import hard_instance_loss, soft_consistency_loss

    method = ice("model.bn_group=null", "method.teacher_forwards=used")
    data = batch()
    with torch.no_grad():
        anchors = method.student(data.views["strong_1"]).feature
        hard = method.teacher(data.views["strong_2"]).feature
        soft = method.teacher(data.views["weak"]).feature
    parts = only_update(method, data).parts
    torch.testing.assert_close(
        parts["hard"], hard_instance_loss(anchors, hard, data.labels, temperature=0.1), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        parts["soft"], soft_consistency_loss(anchors, hard, soft, temperature=0.4), rtol=1e-4, atol=1e-6
    )


def test_the_teacher_sees_shuffled_groups_and_features_come_back_in_order(ice):
    whole, grouped = ice("model.bn_group=null"), ice("model.bn_group=4")
    images, order = batch().views["weak"], torch.from_numpy(batch().rng().permutation(B))
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
    parts = update.parts
    expected = parts["agnostic"] + 0.25 * parts["cross"] + 3 * parts["hard"] + 7 * parts["soft"]
    torch.testing.assert_close(update.loss, expected)


@pytest.mark.parametrize(("precision", "bf16"), [("bf16", True), ("float32", False), ("float64", False)])
def test_arithmetic_and_momentum_are_the_configured_ones(tiny, precision, bf16):
    method = build_method(tiny(f"training.precision={precision}", "model.ema=0.9"), World())
    assert method.student.bf16 is method.teacher.bf16 is bf16
    assert method.ema_momentum(0) == method.ema_momentum(1000) == 0.9
