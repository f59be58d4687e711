"""ABMT, MT-baseline, MMT and the source stage as methods: which branch or network teaches which, by which loss."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_methods import in_training, inputs, make_batch, parameters_of, stage_of
from small_runs import BRANCHES, WIDTH

from reid_ray.errors import ConfigError
from reid_ray.losses import soft_cross_entropy, soft_triplet_loss, triplet_loss
from reid_ray.methods import build_method, empty_network, stages_of
from reid_ray.methods.abmt import teacher_student_pairs
from reid_ray.training.distributed import DistributedContext
from reid_ray.types import Labels

B, C, D = 16, 4, WIDTH
THREE = "model.branches=[{pooling: avg}, {pooling: max, n_extra: 1}, {pooling: avg, n_extra: 2}]"
LABELS = torch.arange(C).repeat_interleave(4)


@pytest.fixture
def make(tiny):
    def build(name, *overrides):
        """A method whose teacher differs from its student."""
        torch.manual_seed(0)
        common = ("training.precision=float64", "model.bn_group=null")
        method = build_method(tiny(f"method={{name: {name}}}", *common, *overrides), DistributedContext())
        method.to(torch.device("cpu"), torch.float64)
        for parameter in method.teacher.parameters() if hasattr(method, "teacher") else ():
            parameter.add_(0.01 * torch.randn_like(parameter))
        return in_training(method)

    return build


def pseudo_labels(n_branches=1, n_clusters=C):
    rows = np.random.default_rng(0).normal(size=(n_clusters, n_branches * D)).astype(np.float32)
    nothing = np.empty(0, dtype=np.int64)
    return Labels(0, LABELS.numpy(), rows, np.empty((0, D), np.float32), nothing, nothing)


def batch(method, step=0):
    """A batch of the views that the method's main stage has."""
    generator = torch.Generator().manual_seed(1)
    shape = (B, 3, 32, 16)
    views = {
        name: torch.randn(shape, generator=generator, dtype=torch.float64)
        for name in ("strong", "strong_1", "strong_2")
    }
    views = {name: views[name] for name in stage_of(method).streams["train"].views}
    return make_batch(inputs(views, LABELS), key=(0, 0, step))


def views_of(data):
    return data["train"].views


def take(method, labels):
    method.on_labels("main", {"train": labels})


def only_update(method, data):
    (update,) = method.updates("main", data)
    assert update.optimizers == ("main",)
    return update


@torch.no_grad()
def branches_of(network, images):
    found = network(images)
    return list(found) if hasattr(network, "branches") else [found]


def test_who_teaches_whom():
    assert teacher_student_pairs(1, cross=True) == teacher_student_pairs(1, cross=False) == [(0, 0)]
    assert teacher_student_pairs(2, cross=True) == [(0, 1), (1, 0)]
    assert teacher_student_pairs(2, cross=False) == [(0, 0), (1, 1)]
    assert set(teacher_student_pairs(3, cross=True)) == {(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)}


@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("layout", ["model.branches=[]", BRANCHES, THREE], ids=["one", "two", "three"])
def test_abmt_s_losses_by_hand(make, layout, cross):
    weights = ("method.weight_ce=0.3", "method.weight_soft_ce=0.6", "method.weight_soft_triplet=0.9")
    method = make("abmt", layout, f"method.cross_branch={cross}", *weights)
    data = batch(method)
    students = branches_of(method.student, views_of(data)["strong_1"])
    teachers = branches_of(method.teacher, views_of(data)["strong_1"])
    n = len(students)
    labels = pseudo_labels(n)
    take(method, labels)
    heads = [F.normalize(torch.tensor(part).double()) for part in np.split(labels.centroids, n, axis=1)]
    logits, targets = ([b.feature @ h.t() for b, h in zip(side, heads, strict=True)] for side in (students, teachers))
    ce = sum(F.cross_entropy(one, LABELS, label_smoothing=0.1) for one in logits) / n
    pairs = [(i, j) for i in range(n) for j in range(n) if (i != j if cross and n > 1 else i == j)]
    soft_ce = sum(soft_cross_entropy(logits[i], targets[j]) for i, j in pairs) / len(pairs)
    soft_tri = sum(soft_triplet_loss(students[i].pooled, teachers[j].pooled, LABELS) for i, j in pairs) / len(pairs)
    update = only_update(method, data)
    torch.testing.assert_close(update.loss.detach(), 0.3 * ce + 0.6 * soft_ce + 0.9 * soft_tri)
    apart = torch.cat([s.pooled - t.pooled for s, t in zip(students, teachers, strict=True)], dim=1).norm(dim=1).mean()
    torch.testing.assert_close(update.terms["distance_teacher"], apart)
    if n > 1:
        peers = (teachers[0].pooled - teachers[1].pooled).norm(dim=1).mean()
        torch.testing.assert_close(update.terms["distance_peers"], peers)


def test_only_the_student_learns_and_the_teacher_follows_from_the_first_step(make):
    method = make("abmt", BRANCHES, "model.ema=0.9")
    before = {id(parameter) for parameter in parameters_of(method)}
    take(method, pseudo_labels(2))
    trained = parameters_of(method)
    assert len({id(parameter) for parameter in trained} - before) == 2, "the classifiers are new"
    only_update(method, batch(method)).loss.backward()
    assert all(parameter.grad is not None for parameter in trained)
    pairs = list(method.ema_pairs("main"))
    assert pairs == [(method.teacher, method.student), (method.teacher_classifiers, method.student_classifiers)]
    means = [parameter for mean, _ in pairs for parameter in mean.parameters()]
    assert len(means) == len([p for _, student in pairs for p in student.parameters()])
    assert not any(parameter.requires_grad for parameter in means)
    assert [method.ema_momentum(step) for step in (0, 1, 3, 100)] == [0, 0.5, 0.75, 0.9]


def test_another_view_for_the_teacher_and_drop_out(make):
    plain, own = make("abmt", BRANCHES), make("abmt", BRANCHES, "method.teacher_view=own")
    data = batch(own)
    assert dict(stage_of(plain).streams["train"].views) == {"strong_1": "strong"}
    assert dict(stage_of(own).streams["train"].views) == {"strong_1": "strong", "strong_2": "strong"}
    teachers = branches_of(own.teacher, views_of(data)["strong_2"])
    students = branches_of(own.student, views_of(data)["strong_1"])
    take(own, pseudo_labels(2))
    apart = torch.cat([s.pooled - t.pooled for s, t in zip(students, teachers, strict=True)], dim=1).norm(dim=1).mean()
    torch.testing.assert_close(only_update(own, data).terms["distance_teacher"], apart)
    dropping = make("abmt", BRANCHES, "method.dropout=0.25")
    features = branches_of(dropping.student, views_of(data)["strong_1"])
    first, again, later = (dropping._dropped(features, batch(dropping, step).rng()) for step in (0, 0, 1))
    for one, same, other, feature in zip(first, again, later, features, strict=True):
        assert torch.equal(one, same)
        assert not torch.equal(one, other)
        kept = one != 0
        assert 0.7 < kept.double().mean() < 0.8
        torch.testing.assert_close(one[kept], feature.feature[kept] / 0.75)


def test_mmt_s_losses_by_hand(make):
    method = make("mmt", "method.weight_soft_ce=0.3", "method.weight_soft_triplet=0.6")
    data = batch(method)
    views = views_of(data)["strong_1"], views_of(data)["strong_2"]
    with torch.no_grad():
        students, teachers = (
            [member(view) for member, view in zip(pair.members, views, strict=True)]
            for pair in (method.student, method.teacher)
        )
    labels = pseudo_labels()
    take(method, labels)
    head = F.normalize(torch.tensor(labels.centroids).double())
    expected = 0
    for i in (0, 1):
        logits, target = students[i].feature @ head.t(), teachers[1 - i].feature @ head.t()
        expected += 0.7 * F.cross_entropy(logits, LABELS, label_smoothing=0.1)
        expected += 0.3 * soft_cross_entropy(logits, target)
        expected += 0.4 * triplet_loss(students[i].pooled, LABELS, margin=None)
        expected += 0.6 * soft_triplet_loss(students[i].pooled, teachers[1 - i].pooled, LABELS)
    update = only_update(method, data)
    torch.testing.assert_close(update.loss.detach(), expected)
    peers = (teachers[0].pooled - teachers[1].pooled).norm(dim=1).mean()
    torch.testing.assert_close(update.terms["distance_peers"], peers)


@pytest.mark.parametrize("name", ["abmt", "mmt"])
def test_the_main_stage_of_a_mean_teacher(make, name):
    """Labels come from clusters, with their centroids; the teacher begins as the student and is what retrieves."""
    method = make(name)
    (stage,) = stages_of(method.config)
    labels = stage.streams["train"].labels
    assert (labels.origin, labels.needs, labels.compare_with) == ("clusters", {"centroids"}, None)
    assert (stage.retriever, dict(stage.init), stage.frozen) == ("teacher", {"teacher": "student"}, ())
    assert stage.optimizers["main"].modules == ("student", "student_classifiers")
    assert stage.optimizers["main"].config == method.config.training.optimizer_config("main")


def test_mmt_retrieves_by_both_means(make):
    method = make("mmt")
    images, teacher = views_of(batch(method))["strong_1"], method.teacher.eval()
    with torch.no_grad():
        first, second = (member.embed(images) for member in teacher.members)
        torch.testing.assert_close(teacher.embed(images), F.normalize(first + second))
    assert teacher.dim == D


def test_source_losses_by_hand(make):
    method = make("source", BRANCHES, "method.weight_triplet=0.7", "method.margin=0.5")
    data = batch(method)
    branches = branches_of(method.modules["student"], views_of(data)["strong"])
    take(method, pseudo_labels(2))
    classifiers = method.modules["classifiers"]
    heads = [weight.detach().clone() for weight in classifiers.weights]
    ce = sum(
        F.cross_entropy(b.feature @ h.t(), LABELS, label_smoothing=0.1) for b, h in zip(branches, heads, strict=True)
    )
    triplet = sum(triplet_loss(b.pooled, LABELS, margin=0.5) for b in branches)
    torch.testing.assert_close(only_update(method, data).loss.detach(), ce / 2 + 0.7 * triplet / 2)
    take(method, pseudo_labels(2))
    assert all(torch.equal(weight, head) for weight, head in zip(classifiers.weights, heads, strict=True))


@pytest.mark.parametrize("name", ["abmt", "mmt"])
@pytest.mark.parametrize("precision", ["float32", "bf16", "float64"])
def test_students_and_teachers_share_no_weights(tiny, name, precision):
    method = build_method(tiny(f"method={{name: {name}}}", f"training.precision={precision}"), DistributedContext())
    method.to(torch.device("cpu"), torch.float64 if precision == "float64" else torch.float32)
    take(method, pseudo_labels())
    places = [parameter.data_ptr() for module in method.modules.values() for parameter in module.parameters()]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("name", ["abmt", "mmt", "source"])
def test_a_batch_of_one_identity_trains(make, name):
    """Triplets do not exist; the loss is finite all the same."""
    method = make(name)
    data = batch(method)
    take(method, pseudo_labels())
    update = only_update(method, make_batch(inputs(views_of(data), torch.zeros_like(LABELS))))
    assert torch.isfinite(update.loss)
    update.loss.backward()
    grads = [p.grad for p in parameters_of(method) if p.grad is not None]
    assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize(("method", "sentence"), [("ice", "ICE has one branch"), ("mmt", "one branch each")])
def test_branches_where_there_can_be_none(make, method, sentence):
    with pytest.raises(ConfigError, match=sentence):
        make(method, BRANCHES)


@pytest.mark.parametrize("name", ["abmt", "mmt", "source"])
def test_the_exported_network_holds_no_classifier(make, name):
    method = make(name)
    take(method, pseudo_labels())
    network = empty_network(method.config).double()
    retriever = stage_of(method).retriever
    assert retriever == ("student" if name == "source" else "teacher")
    network.load_state_dict(method.modules[retriever].state_dict())
