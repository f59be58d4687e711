"""AM0BH, SCR and HAVANA as methods: which output each loss reads, and with which weight it enters the sum."""

import pytest
import torch
import torch.nn.functional as F
from small_methods import in_training, inputs, make_batch
from small_runs import METHOD_RUNS, WIDTH

from reid_ray.losses import angular_margin_loss, attribute_loss, triplet_loss
from reid_ray.methods import build_method
from reid_ray.training.distributed import DistributedContext
from reid_ray.types import Labels

B, C, T = 16, 4, 2
LABELS = torch.arange(C).repeat_interleave(B // C)


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def make(tiny):
    def build(name, *overrides, stage="main"):
        torch.manual_seed(0)
        config = tiny(*METHOD_RUNS[name], "training.precision=float64", *overrides)
        method = build_method(config, DistributedContext())
        method.to(torch.device("cpu"), torch.float64)
        method.on_labels(stage, {"train": Labels(0, LABELS.numpy())})
        return in_training(method, stage)

    return build


def one_update(method, batch, stage="main"):
    (update,) = method.updates(stage, batch)
    assert update.optimizers == ("main",)
    return update


@pytest.mark.parametrize("triplet_on", ["bn", "pooled"])
def test_am0bh(make, triplet_on):
    weights = ("method.weight_softmax=0.9", "method.weight_triplet=0.4", "method.weight_attributes=0.25")
    numbers = ("method.scale=20", "method.margin=0.1", "method.triplet_margin=0.6")
    method = make("am0bh", *weights, *numbers, f"method.triplet_on={triplet_on}")
    images, attributes = random(B, 3, 32, 16), torch.arange(B * 30).reshape(B, 30) % 3 - 1
    found = method.student(images)
    assert found.identity.shape == (B, WIDTH - 30)
    update = one_update(method, make_batch(inputs({"image": images}, LABELS, attributes=attributes)))
    head, sphere = method.student.head, {"scale": 20, "margin": 0.1}
    expected = {
        "softmax": angular_margin_loss(found.identity, LABELS, method.identities.weights[0], **sphere),
        "triplet": triplet_loss(found.identity if triplet_on == "bn" else found.pooled, LABELS, margin=0.6),
        "attributes": attribute_loss(found.attributes, attributes, head.weight, n_values=head.n_values, **sphere),
        "norm": found.identity.norm(dim=1).mean(),
    }
    torch.testing.assert_close(dict(update.terms), expected)
    total = 0.9 * expected["softmax"] + 0.4 * expected["triplet"] + 0.25 * expected["attributes"]
    torch.testing.assert_close(update.loss, total)


def test_am0bh_without_attributes_is_about_the_whole_feature(make):
    method = make("am0bh", "method.weight_attributes=0", "method.weight_softmax=0", "method.weight_triplet=0.4")
    images = random(B, 3, 32, 16)
    update = one_update(method, make_batch(inputs({"image": images}, LABELS)))
    torch.testing.assert_close(update.loss, 0.4 * triplet_loss(method.student(images).feature, LABELS, margin=0.3))
    assert set(update.terms) == {"triplet", "norm"}


@pytest.mark.parametrize("triplet_on", ["reduced", "pooled"])
@pytest.mark.parametrize("frames", [1, T])
def test_scr(make, triplet_on, frames):
    numbers = ("method.weight_ce=1.5", "method.weight_triplet=0.7", "method.margin=0.9")
    method = make("scr", *numbers, f"method.triplet_on={triplet_on}")
    images = random(B, T, 3, 32, 16) if frames == T else random(B, 3, 32, 16)
    found = method.student(images.reshape(-1, 3, 32, 16))
    pooled, reduced, vectors = (part.reshape(B, frames, *part.shape[1:]).mean(dim=1) for part in found)
    logits = method.classifiers(vectors)
    assert logits.shape == (6, B, 8)  # whole map, and whole map, two stripes, two groups; 8 identities
    update = one_update(method, make_batch(inputs({"image": images}, LABELS)))
    compared = reduced if triplet_on == "reduced" else pooled
    expected = {
        "ce": sum(F.cross_entropy(one, LABELS) for one in logits) / 6,
        "triplet": sum(triplet_loss(compared[:, branch], LABELS, margin=0.9) for branch in (0, 1)) / 2,
    }
    torch.testing.assert_close(dict(update.terms), expected)
    torch.testing.assert_close(update.loss, 1.5 * expected["ce"] + 0.7 * expected["triplet"])


def gaussians_by_hand(method, x, batch):
    """z_μ, x̃, v and z̃_μ of Eq. 10 to 13 under the covariance constraint, in which z_σ is 1."""
    vnae, distiller = method.network_.vnae, method.distiller
    z = vnae.encoder.mean(x)
    z_sample = z + batch.noise("z", (B, WIDTH), like=x)
    identities = F.one_hot(LABELS, 8).double()
    v = distiller.encoder(torch.cat([z_sample, identities], dim=1))
    v_sample = v.mean + v.std * batch.noise("v", (B, 8), like=x)
    return z, vnae.decoder(z_sample), v, distiller.decoder.mean(torch.cat([v_sample, identities], dim=1))


@pytest.mark.parametrize("left_out", [None, "kl_v"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_havana(make, left_out, reduction):
    weights = ("method.weight_triplet=0.8", "method.weight_elbo=0.3", "method.weight_divergence=2")
    numbers = ("method.margin=0.6", "method.label_smoothing=0.2")
    without = () if left_out is None else (f"method.without=[{left_out}]",)
    sums = ("method.kl_reduction=sum", "method.divergence_reduction=sum") if reduction == "sum" else ()
    method = make("havana", *weights, *numbers, *without, *sums, stage="vnae")
    x = random(B, WIDTH)
    batch = make_batch(inputs({"feature": x}, LABELS), key=(0, 2, 3))
    update = one_update(method, batch, "vnae")
    z, x_decoded, v, z_decoded = gaussians_by_hand(method, x, batch)
    reduced = getattr(torch, reduction)
    squares = reduced((z[:, None] - z).square(), dim=2) / 8  # D_JS of two Gaussians of deviation 1
    same = LABELS[:, None] == LABELS
    farthest = squares.masked_fill(~same, 0).amax(dim=1)
    nearest = squares.masked_fill(same, torch.inf).amin(dim=1)
    (weight,) = method.classifier.weights
    expected = {
        "ce": F.cross_entropy(z @ weight.t(), LABELS, label_smoothing=0.2),
        "triplet": (farthest - nearest + 0.6).clamp(min=0).mean(),
        "reconstruction_x": (x - x_decoded).square().mean(),
        "kl_z": reduced(z.square(), dim=1).mean() / 2,
        "reconstruction_z": (z - z_decoded).square().mean(),
        "kl_v": reduced((v.std.square() + v.mean.square() - 1) / 2 - v.std.log(), dim=1).mean(),
    }
    if left_out:
        expected[left_out] = torch.zeros((), dtype=torch.float64)
    torch.testing.assert_close(dict(update.terms), expected)
    divergences = expected["kl_z"] + expected["reconstruction_z"] + expected["kl_v"]
    elbo = expected["reconstruction_x"] + 2 * divergences
    torch.testing.assert_close(update.loss, expected["ce"] + 0.8 * expected["triplet"] + 0.3 * elbo)


def test_havana_computes_features_with_its_extractor_in_evaluation_mode(make):
    method = make("havana", "method.features=augmented", stage="vnae")
    images, before = random(B, 3, 32, 16), {k: t.clone() for k, t in method.network_.extractor.state_dict().items()}
    x = method.network_.extractor.embed(images)
    update = one_update(method, make_batch(inputs({"image": images}, LABELS)), "vnae")
    cached = one_update(method, make_batch(inputs({"feature": x}, LABELS)), "vnae")
    torch.testing.assert_close(update.loss, cached.loss)
    torch.testing.assert_close(dict(method.network_.extractor.state_dict()), before, rtol=0, atol=0)
