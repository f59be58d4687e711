"""DG-VAE as a method: every loss against loops over images, what stages leave alone, switches, grids."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_methods import in_training, inputs, stage_of
from small_runs import METHOD_RUNS, tiny_config

from reid_ray.data.table import ImageTable
from reid_ray.errors import ConfigError, DataError
from reid_ray.losses.dg_vae import SWAPS, draw_triplets
from reid_ray.methods import Batch, build_method
from reid_ray.methods.dg_vae.method import check_shared_identities, cpu_generator
from reid_ray.methods.dg_vae.networks import map_size
from reid_ray.models.is_gan import squash
from reid_ray.training.distributed import DistributedContext

LABELS = torch.tensor([0, 0, 1, 1])
B = 8


def make(tmp_path, *overrides, height=32, width=16):
    size = (f"data.height={height}", f"data.width={width}", "model.bn_group=null", "training.precision=float32")
    config = tiny_config(tmp_path, *METHOD_RUNS["dg_vae"], "method.idi_neck=none", *size, *overrides)
    torch.manual_seed(0)
    return build_method(config, DistributedContext())


def batch_of(seed=0, height=32, width=16, labels=LABELS):
    rng = torch.Generator().manual_seed(seed)
    streams = {
        name: inputs({"image": torch.randn(len(labels), 3, height, width, generator=rng)}, labels)
        for name in ("visible", "infrared")
    }
    return Batch(streams, (0, 0, seed))


def terms_of(method, stage, batch, optimizer="main"):
    """The terms of the update that steps `optimizer`, and its loss."""
    (update,) = (each for each in method.updates(stage, batch) if optimizer in each.optimizers)
    return update.terms, update.loss


def state(*modules):
    return [tensor.clone() for module in modules for tensor in module.state_dict().values()]


@pytest.fixture
def naive(tmp_path):
    """A method in evaluation mode without dropout and in float64, so that images can be taken one by one."""

    def build(*overrides):
        method = make(tmp_path, "method.dropout=0", *overrides)
        method.to(torch.device("cpu"), torch.float64)
        for module in method.modules.values():
            module.eval()
        torch.nn.init.normal_(method.retriever.identity_encoder.log_variance.weight, std=0.01)
        torch.nn.init.normal_(method.ambiguity_encoder.log_variance.weight, std=0.01)
        batch = batch_of()
        for name in ("visible", "infrared"):
            batch[name].views["image"] = batch[name].views["image"].double()
        return method, batch

    return build


class ByImage:
    """Codes of a batch, image after image: visible ones first."""

    def __init__(self, method, batch):
        self.method, self.labels = method, torch.cat([LABELS, LABELS]).tolist()
        trunks = method.retriever.trunks
        images = [(trunks.visible, image) for image in batch["visible"].views["image"]]
        images += [(trunks.infrared, image) for image in batch["infrared"].views["image"]]
        self.images = [image for _, image in images]
        self.maps = [trunk(image[None])[0] for trunk, image in images]
        self.identity = [method.retriever.identity_encoder(each[None]) for each in self.maps]
        self.ambiguity = [method.ambiguity_encoder(each[None]) for each in self.maps]
        self.d = self._samples(self.identity, "identity", batch, method.settings.identity_code)
        self.a = self._samples(self.ambiguity, "ambiguity", batch, method.settings.ambiguity_code)
        modality = torch.tensor([0] * 4 + [1] * 4)
        labels = torch.tensor(self.labels)
        drawn = draw_triplets(labels, modality, cpu_generator(batch, "triplets"))
        self.triplets = list(zip(range(B), drawn.positives.tolist(), drawn.negatives.tolist(), strict=True))

    def _samples(self, codes, name, batch, kind):
        noise = [batch.noise(f"{name}/{stream}", (4, codes[0].mean.shape[1]), like=codes[0].mean) for stream in STREAMS]
        noise = torch.cat(noise)
        return [
            (code.mean + code.std * noise[i] if kind == "sampled" else code.mean)[0] for i, code in enumerate(codes)
        ]


STREAMS = ("visible", "infrared")


def cross_entropy(logits, label):
    return float(-logits.log_softmax(-1)[label])


def test_the_losses_of_the_first_stage(naive):
    method, batch = naive()
    known, settings = ByImage(method, batch), method.settings
    classify, prior = method.classifier, method.prior
    identity = mixture = margin_loss = 0.0
    triplet = {0: 0.0, 1: 0.0}
    for i, label in enumerate(known.labels):
        mu, d = known.identity[i].mean[0], known.d[i]
        identity += cross_entropy(classify(mu[None])[0], label) + 0.1 * cross_entropy(classify(d[None])[0], label)
        own = 0.5 * float((d - prior.means[label]).square().sum())
        mixture += own - float(known.identity[i].std.log().sum())
        logits = torch.stack([-(d - mean).square().sum() for mean in prior.means])
        logits[label] = logits[label] - prior.margins[label]
        margin_loss += cross_entropy(logits, label)
    for a, p, n in known.triplets:
        for weight, codes in ((1.0, [code.mean[0] for code in known.identity]), (0.1, known.d)):
            u = [F.normalize(code, dim=0) for code in codes]
            excess = float((u[a] - u[p]).norm() - (u[a] - u[n]).norm()) + settings.margin
            triplet[a // 4] += weight * max(0.0, excess) / 4
    terms, loss = terms_of(method, "task", batch)
    expected = {
        "identity": identity / B,
        "triplet": triplet[0] + triplet[1],
        "mixture": mixture / B,
        "large_margin": margin_loss / B,
        "margin": -float(prior.margins.mean()),
    }
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(value, rel=1e-9), name
    total = expected["identity"] + expected["triplet"]
    total += 0.2 * (expected["mixture"] + 0.1 * (expected["large_margin"] + 0.01 * expected["margin"]))
    assert float(loss) == pytest.approx(total, rel=1e-9)


def swap_losses_by_image(method, batch):
    """L_rec, L_cyc, L_idc and L_ambi, one decoded map after the other."""
    known = ByImage(method, batch)
    found = {"reconstruction": 0.0, "cycle": 0.0, "decoded_identity": 0.0}
    for triplet in known.triplets:
        roles = dict(zip(("anchor", "positive", "negative"), triplet, strict=True))
        for swap in SWAPS:
            j, i = roles[swap.identity], roles[swap.ambiguity]
            decoded = method.decoder(known.d[j][None], known.a[i][None], None)
            again = decoded
            if method.settings.rec_space == "images":
                trunk = method.retriever.trunks.visible if i < 4 else method.retriever.trunks.infrared
                again = trunk(decoded.clamp(-0.99999, 0.99999).atanh())
            code = method.retriever.identity_encoder(again).mean[0]
            ambiguity = method.ambiguity_encoder(again).mean[0]
            cycle = float((known.a[i] - ambiguity).abs().mean() + (known.d[j] - code).abs().mean())
            found["cycle"] += cycle / 9
            target = squash(known.images[i]) if method.settings.rec_space == "images" else known.maps[i]
            error = float((target - decoded[0]).abs().mean())
            names = {swap.identity, swap.ambiguity}
            if swap.identity == swap.ambiguity:
                found["reconstruction"] += error / 3
            elif names == {"anchor", "positive"}:
                found["reconstruction"] += error / 2
            if names != {"positive", "negative"}:
                logits = method.classifier(code[None])[0]
                found["decoded_identity"] += cross_entropy(logits, known.labels[j]) / 7
    found = {name: value / B for name, value in found.items()}
    if method.settings.ambiguity_code == "sampled":
        variances = [(code.mean.square() + code.std.square() - 2 * code.std.log() - 1) for code in known.ambiguity]
        found["ambiguity"] = float(sum(each.sum() for each in variances)) / B
    return found


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("method.identity_code=mean", "method.identity_prior=none", "method.ambiguity_code=mean"),
        ("method.rec_space=images", "method.image_decoder_channels=[8,8,8]"),
    ],
    ids=["vae", "ae", "images"],
)
def test_the_losses_of_the_second_stage(naive, overrides):
    method, batch = naive(*overrides)
    terms, loss = terms_of(method, "generate", batch)
    expected = swap_losses_by_image(method, batch)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        assert float(terms[name]) == pytest.approx(value, rel=1e-6), name
    total = 0.5 * sum(expected[name] for name in ("reconstruction", "cycle", "decoded_identity"))
    assert float(loss) == pytest.approx(total + 0.001 * expected.get("ambiguity", 0.0), rel=1e-6)


def test_the_third_stage_has_the_losses_of_both(naive):
    method, batch = naive()
    task, generate = terms_of(method, "task", batch), terms_of(method, "generate", batch)
    terms, loss = terms_of(method, "joint", batch)
    assert terms.keys() == task[0].keys() | generate[0].keys()
    for name, value in (task[0] | generate[0]).items():
        assert float(terms[name]) == pytest.approx(float(value), rel=1e-9)
    expected = float(task[1] + generate[1] + 0.009 * terms["ambiguity"])
    assert float(loss) == pytest.approx(expected, rel=1e-9)


def test_the_second_stage_leaves_the_first_one_s_parts_alone(tmp_path):
    """Bit for bit, parameters and buffers: trunks, identity encoder, class means and margins."""
    method = in_training(make(tmp_path), "generate")
    kept, trained = (method.retriever, method.prior), (method.ambiguity_encoder, method.decoder, method.classifier)
    before, moved = state(*kept), state(*trained)
    spec = stage_of(method, "generate")
    parameters = [p for o in spec.optimizers.values() for path in o.modules for p in method.modules[path].parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    for seed in range(2):
        for update in method.updates("generate", batch_of(seed)):
            update.loss.backward()
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(before, state(*kept), strict=True))
    still = [a for a, b in zip(moved, state(*trained), strict=True) if a.is_floating_point() and torch.equal(a, b)]
    assert [a.shape for a in still] == [method.decoder.decoder.fc.bias.shape]  # the one that a norm takes out


def test_running_statistics_are_those_of_real_images(tmp_path):
    """What the third stage decodes is encoded again, and leaves the encoders' buffers as the images make them."""
    method = in_training(make(tmp_path), "joint")
    alone, batch = copy.deepcopy(method.retriever), batch_of()
    terms_of(method, "joint", batch)
    maps = [alone.trunks.visible(batch["visible"].views["image"])]
    maps.append(alone.trunks.infrared(batch["infrared"].views["image"]))
    alone.identity_encoder(torch.cat(maps))
    found, expected = (dict(module.named_buffers()) for module in (method.retriever, alone))
    for name, value in expected.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(found[name], value), name
    assert all(layer.momentum > 0 for layer in method.retriever.modules() if hasattr(layer, "momentum"))


def test_printed_equations_degenerate(tmp_path):
    """Printed, the variance that lowers L_gmm is 0, and descent raises the margins; the intended forms reverse both."""
    slopes = {}
    for form, logdet in (("intent", "minus"), ("printed", "plus")):
        method = make(tmp_path, f"method.lmc_form={form}", f"method.gmm_logdet={logdet}", "method.weight_margin=0")
        # The identities must be near each other for the softmax not to be saturated.
        torch.nn.init.normal_(method.prior.means, std=0.01)
        log_variance = method.retriever.identity_encoder.log_variance.bias
        with torch.no_grad():
            log_variance.fill_(-9.0)  # far below the prior's
        terms, _ = terms_of(in_training(method, "task"), "task", batch_of())
        (variance,) = torch.autograd.grad(terms["mixture"], log_variance, retain_graph=True)
        (margins,) = torch.autograd.grad(terms["large_margin"], method.prior.raw_margins)
        slopes[form] = float(variance.mean()), float(margins[:2].mean())
    assert slopes["intent"][0] < 0 < slopes["printed"][0]  # descent: larger variance, or ever smaller
    assert slopes["printed"][1] < 0 < slopes["intent"][1]  # descent: ever larger margins, or smaller


IMAGES = ("method.rec_space=images", "method.image_decoder_channels=[8,8,8]")


@pytest.mark.parametrize(
    "overrides",
    [
        ("method.triplets=hardest",),
        ("method.swap_modality=same",),
        ("method.swap_modality=same", *IMAGES),
        ("method.rec_target=live", "method.erasing_stages=first"),
        ("method.identity_prior=gaussian",),
        ("method.prior_margin=fixed", "method.gmm_form=closed", "method.latent_reduction=mean"),
        ("method.weight_large_margin=0",),
        ("method.swap=false", "method.identity_code=mean", "method.identity_prior=none"),
        ("method.split=conv4_end", "method.last_stride=2", "method.idi_neck=bn"),
        ("method.discriminator=true",),
        ("method.discriminator=true", *IMAGES),
        ("method.dropout=0.5", "method.weight_aux=0"),
    ],
    ids=lambda overrides: " ".join(override.removeprefix("method.") for override in overrides),
)
def test_switches(tmp_path, overrides):
    """Each stage trains all that it says it trains, and nothing else gets a gradient."""
    discriminated = "method.discriminator=true" in overrides
    method = make(tmp_path, *overrides, height=64 if discriminated else 32, width=32 if discriminated else 16)
    batch = batch_of(height=64, width=32) if discriminated else batch_of()
    for stage in method.stages(method.config):
        in_training(method, stage.name)
        for update in method.updates(stage.name, batch):
            assert torch.isfinite(update.loss)
            for name in update.optimizers:
                for path in stage.optimizers[name].modules:
                    module = method.modules[path]
                    parameters = [p for p in module.parameters() if p.requires_grad]
                    found = torch.autograd.grad(update.loss, parameters, retain_graph=True, allow_unused=True)
                    assert any(gradient is not None and gradient.abs().sum() > 0 for gradient in found), (name, path)
        for module in method.modules.values():
            module.requires_grad_(True)


def test_a_baseline_has_no_generator(tmp_path):
    method = make(tmp_path, "method.swap=false", "method.identity_code=mean", "method.identity_prior=none")
    assert [stage.name for stage in method.stages(method.config)] == ["task", "joint"]
    terms, loss = terms_of(in_training(method, "task"), "task", batch_of())
    assert terms.keys() == {"identity", "triplet"}
    assert float(loss) == pytest.approx(float(terms["identity"] + terms["triplet"]))


@pytest.mark.parametrize("overrides", [(), IMAGES], ids=["features", "images"])
def test_grids(tmp_path, overrides):
    method = make(tmp_path, *overrides)
    for module in method.modules.values():
        module.eval()
    labels = torch.arange(6) // 2
    batch = batch_of(labels=labels)
    before = state(*method.modules.values())
    with torch.no_grad():
        grids = method.render("joint", batch)
    assert {name: tuple(grid.shape) for name, grid in grids.items()} == {
        "swap-visible": (4, 4, 3, 32, 16),
        "swap-infrared": (4, 4, 3, 32, 16),
        "self": (4, 3, 3, 32, 16),
    }
    visible, infrared = (batch[name].views["image"][::2] for name in STREAMS)
    grid = grids["swap-infrared"]  # ambiguity of infrared images, identity of visible ones
    assert grid[0, 0].isnan().all()
    assert torch.equal(grid[0, 1:], infrared)
    assert torch.equal(grid[1:, 0], visible)
    assert not grid[1:, 1:].isnan().any()
    d = method.retriever.identity_encoder(method.retriever.trunks.visible(visible[1:2])).mean
    a = method.ambiguity_encoder(method.retriever.trunks.infrared(infrared[2:3])).mean
    decoded = method.decoder(d, a, None)
    if overrides:
        torch.testing.assert_close(grid[2, 3], decoded.clamp(-0.99999, 0.99999).atanh()[0], rtol=1e-3, atol=1e-3)
    else:
        activation = decoded.abs().mean(1)[0]  # 2×1
        top, bottom = grid[2, 3, 0, 0, 0], grid[2, 3, 0, -1, 0]
        assert (top > bottom) == (activation[0, 0] > activation[1, 0])
    assert torch.equal(grids["self"][2], infrared)
    assert all(torch.equal(a, b) for a, b in zip(before, state(*method.modules.values()), strict=True))


# What a user gets wrong


def test_decoders_that_miss_the_size(tmp_path):
    assert [map_size(*size) for size in ((384, 128), (256, 128), (32, 16), (40, 24))] == [
        (24, 8),
        (16, 8),
        (2, 1),
        (3, 2),
    ]
    with pytest.raises(ConfigError, match=r"method\.decoder_channels has 2 entries.* maps of 2×1 are no multiple of 2"):
        make(tmp_path, "method.decoder_channels=[8,8]")
    with pytest.raises(
        ConfigError, match=r"method\.image_decoder_channels has 6 .*images of 32×16 are no multiple of 32"
    ):
        make(tmp_path, "method.rec_space=images", "method.image_decoder_channels=[8,8,8,8,8,8]")


def test_branches_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"set model\.branches=\[\]"):
        make(tmp_path, "model.branches=[{pooling: avg}, {pooling: max}]")


def test_means_have_no_prior(tmp_path):
    with pytest.raises(ConfigError, match="identity_code=mean has no Gaussian for a prior; set identity_prior=none"):
        make(tmp_path, "method.identity_code=mean")


@pytest.mark.parametrize(
    ("pids", "modality", "message"),
    [
        ([0, 0, 1, 1], ["visible", "infrared"] * 2, None),
        ([0, 0, 1, 1], ["visible", "infrared", "visible", "visible"], "crops has 1 people with visible and with"),
        ([-1, -1, 1, 1], ["visible", "infrared"] * 2, "crops has 1 people"),
        ([0, 1], None, "modality"),
    ],
)
def test_people_in_both_modalities(pids, modality, message):
    extra = {} if modality is None else {"modality": modality}
    names = [f"{i}.jpg" for i in range(len(pids))]
    table = ImageTable.from_columns(path=names, pid=np.array(pids), name="crops", extra=extra)
    if message is None:
        check_shared_identities(table)
    else:
        with pytest.raises(DataError, match=message):
            check_shared_identities(table)
