"""IS-GAN as a method: stages and optimizers, the losses of an update, what each switch changes."""

import pytest
import torch
import torch.nn.functional as F
from small_methods import in_training, inputs, make_batch
from small_runs import METHOD_RUNS, assert_bit_equal, tiny_config

from reid_ray.api import train
from reid_ray.config import load_config
from reid_ray.errors import ConfigError
from reid_ray.losses.is_gan import draw_part_mask, draw_positives
from reid_ray.methods import build_method, stages_of
from reid_ray.training.checks import check_method
from reid_ray.training.distributed import DistributedContext
from reid_ray.training.modules import trainable_parameters

B, C, K = 16, 8, 3


@pytest.fixture
def make(tiny):
    def built(*overrides):
        torch.manual_seed(0)
        config = tiny(*METHOD_RUNS["is_gan"], "training.precision=float64", *overrides)
        method = build_method(config, DistributedContext())
        method.to(torch.device("cpu"), torch.float64)
        check_method(method)
        return method

    return built


def batch(step=0):
    images = torch.randn(B, 3, 32, 16, generator=torch.Generator().manual_seed(step)).double()
    return make_batch(inputs({"image": images}, torch.arange(4).repeat_interleave(4)), key=(0, 0, step))


def terms_of(method, stage="joint", data=None):
    """Optimizers → (loss, terms) of one batch, without a step."""
    updates = in_training(method, stage).updates(stage, data or batch())
    return {"+".join(update.optimizers): (update.loss, update.terms) for update in updates}


def test_the_paper_s_schedule_is_the_recipe_s():
    config = load_config("is-gan", ["data.root=/data"])
    stages = {stage.name: stage for stage in stages_of(config)}
    assert [(name, stage.config.epochs) for name, stage in stages.items()] == [
        *(("identity", 300), ("disentangle", 200), ("joint", 100)),
    ]
    of = {name: {key: spec.config for key, spec in stage.optimizers.items()} for name, stage in stages.items()}
    assert {name: list(specs) for name, specs in of.items()} == {
        "identity": ["networks"],
        "disentangle": ["networks", "discriminator"],
        "joint": ["networks", "discriminator"],
    }
    kinds = {(key, spec.optimizer, spec.weight_decay) for specs in of.values() for key, spec in specs.items()}
    assert kinds == {("networks", "amsgrad", 5e-4), ("discriminator", "sgd", 1e-4)}
    rates = [of["identity"]["networks"].learning_rate(epoch) for epoch in (0, 298, 299)]
    assert rates == pytest.approx([2e-4, 2e-4, 2e-5])  # the last epoch of the stage has the rate of the milestone
    assert {spec.learning_rate(0) for spec in of["disentangle"].values()} == {2e-4}
    assert {spec.learning_rate(0) for spec in of["joint"].values()} == {2e-5}
    assert stages["joint"].resumes == ("discriminator",)
    assert stages["disentangle"].frozen == ("retriever", "classifiers")
    assert stages["identity"].streams["train"].views == {"image": "strong"}  # erasing in this stage alone
    assert {stages[name].streams["train"].views["image"] for name in ("disentangle", "joint")} == {"flip"}


def test_the_baseline_is_the_first_stage_alone():
    (stage,) = stages_of(load_config("is-gan-baseline", ["data.root=/data"]))
    (first, *_) = stages_of(load_config("is-gan", ["data.root=/data"]))
    assert (stage.name, stage.optimizers, stage.config.epochs) == (first.name, first.optimizers, first.config.epochs)


def test_losses_are_weighted_sums_of_terms_computed_apart(make):
    """All terms of the joint stage from the networks by hand, the discriminator as it was before its step."""
    method, data = make("method.label_noise=false", "method.dropout=0"), batch()
    found = terms_of(method, data=data)
    images, labels = data["train"].views["image"], data["train"].labels
    shared = method.retriever.backbone(images)
    own, unrelated = method.retriever.identity_encoder(shared), method.unrelated(shared)
    assert own.shape == (B, K, 8)

    def generator(name):
        return torch.Generator().manual_seed(int(data.rng(name).integers(2**63)))

    positives = draw_positives(labels, generator("positives"))
    mask = draw_part_mask(K, generator("parts"))
    assert (labels[positives] == labels).all()
    assert (positives != torch.arange(B)).all()
    sample = unrelated.mean + (unrelated.log_variance / 2).exp() * data.noise("unrelated", (B, K, 4), like=own)
    codes = {"auto": own, "swap": own[positives], "part": torch.where(mask[:, None], own[positives], own)}
    one_hot, made = F.one_hot(labels, C).double(), {}
    for name, code in codes.items():
        noise = data.noise(f"generator/{name}", (B, 4), like=own)
        ones = [torch.ones(shape) for shape in method.generator.mask_shapes(B)]
        made[name] = method.generator(code, sample, noise, one_hot, ones)
    target = images.tanh()
    l1 = {name: (image - target).abs().mean() for name, image in made.items()}
    ce = [F.cross_entropy(layer(own[:, k]), labels) for k, layer in enumerate(method.classifiers.classifiers)]
    divergence = (unrelated.mean**2 + unrelated.log_variance.exp() - unrelated.log_variance - 1).sum() / 2 / K
    judged = {name: method.discriminator(image, generated=True) for name, image in made.items()}
    real = method.discriminator(images, generated=False)
    bce = F.binary_cross_entropy
    expected = {
        "shuffling": l1["auto"] + l1["swap"],
        "part_shuffling": l1["part"],
        "kl": divergence,
        "identity": sum(ce) / K,
        "domain": sum(bce(each.domain.sigmoid(), torch.ones_like(each.domain)) for each in judged.values()),
        "classes": sum(F.cross_entropy(each.classes, labels) for each in judged.values()),
    }
    loss, terms = found["networks"]
    torch.testing.assert_close(dict(terms), expected, rtol=1e-9, atol=1e-12)
    weights = {"shuffling": 10, "part_shuffling": 10, "kl": 0.01, "identity": 20, "domain": 1, "classes": 2}
    torch.testing.assert_close(loss, sum(weights[name] * term for name, term in expected.items()))
    loss, terms = found["discriminator"]
    fakes = sum(bce(each.domain.sigmoid(), torch.zeros_like(each.domain)) for each in judged.values())
    domain = bce(real.domain.sigmoid(), torch.ones_like(real.domain)) + fakes
    classes = F.cross_entropy(real.classes, labels) + expected["classes"]
    torch.testing.assert_close(dict(terms), {"domain": domain, "classes": classes}, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(loss, domain + classes / 2)


def test_the_generator_answers_the_discriminator_after_its_step(make):
    """The losses of the generator are those of the discriminator as it is then; its gradient is not touched."""
    method = make()
    updates = in_training(method, "joint").updates("joint", batch())
    before = terms_of(method)["networks"][1]["domain"].item()
    first = next(updates)
    assert first.optimizers == ("discriminator",)
    encoders = trainable_parameters(method.modules, ("retriever", "generator", "unrelated"))
    grads = torch.autograd.grad(first.loss, encoders, allow_unused=True, retain_graph=True)
    assert all(grad is None for grad in grads), "generated images are detached for the discriminator"
    with torch.no_grad():
        for parameter in method.discriminator.parameters():
            parameter.mul_(3)
    second = next(updates)
    assert second.terms["domain"].item() != pytest.approx(before)


def test_reconstruction_reaches_the_identity_encoder_in_the_joint_stage_only(make):
    method = make()
    for stage, reached in (("disentangle", False), ("joint", True)):
        terms = terms_of(method, stage)["networks"][1]
        parameters = list(method.retriever.parameters())
        if not reached:
            assert not any(parameter.requires_grad for parameter in parameters)
            assert "identity" not in terms
            for parameter in parameters:
                parameter.requires_grad_(True)
            continue
        (grad,) = torch.autograd.grad(terms["shuffling"], [parameters[0]])
        assert grad.abs().sum() > 0


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """All three stages, of which the last has one step."""
    folder = tmp_path_factory.mktemp("is-gan")
    return train(tiny_config(folder, *METHOD_RUNS["is_gan"], "training.epochs=1", "training.iterations=1"))


def exported(run, which):
    return torch.load(run.directory.model_file(which), weights_only=True)["model"]


def test_the_second_stage_leaves_the_first_one_s_networks_as_they_are(run):
    """Parameters and BN statistics, to the last bit; the third stage moves them."""
    identity = exported(run, "identity")
    assert_bit_equal(identity, exported(run, "disentangle"))
    joint = exported(run, "last")
    assert any(not torch.equal(joint[name], identity[name]) for name in identity)


def test_what_is_exported_is_what_retrieves(run):
    assert {name.split(".")[0] for name in exported(run, "last")} == {"backbone", "identity_encoder"}
    images = torch.randint(0, 256, (3, 3, 32, 16), dtype=torch.uint8)
    features = run.embed(images)
    assert features.shape == (3, K * 8)
    assert abs(features - run.embed(images.flip(3))).max() < 1e-5  # the mirrored image has the same feature
    assert set(run.load_method().modules) == {"retriever", "classifiers", "unrelated", "generator", "discriminator"}


def test_pictures_of_both_stages_that_generate(run):
    assert {path.name for path in (run.path / "generated").iterdir()} == {
        f"{stage}-epoch-001-{name}.png"
        for stage in ("disentangle", "joint")
        for name in ("interpolation", "part-swap", "swap")
    }


def test_switches_change_what_they_say(make):
    """Each switch against the default, on the same weights and draws."""
    method = make()
    default, terms = method.settings, terms_of(method)["networks"][1]
    noisy = terms_of(method)["discriminator"][1]
    for setting, value, changed in (
        ("part_shuffle", "none", {"part_shuffling", "domain", "classes"}),
        ("ce_reduction", "sum", {"identity"}),
        ("kl_reduction", "paper", {"kl"}),
        ("auto_in_class_loss", False, {"classes"}),
        ("domain_loss", "log", {"domain"}),
        ("pairs", "disjoint", {"shuffling", "part_shuffling", "domain", "classes"}),
    ):
        method.settings = default.model_copy(update={setting: value})
        other = terms_of(method)["networks"][1]
        assert {name for name in terms if not torch.allclose(terms[name], other[name])} == changed, setting
    method.settings = default.model_copy(update={"label_noise": False})
    plain = terms_of(method)["discriminator"][1]
    assert not torch.allclose(plain["domain"], noisy["domain"])
    assert torch.allclose(plain["classes"], noisy["classes"])


def test_settings_reach_the_networks(make):
    method = make(
        *("method.discriminator_tanh=real_only", "method.flip_test=false", "method.unrelated_pooling=max"),
        *("method.identity_dim=6", "method.dropout=0.5"),
    )
    assert (method.discriminator.input_tanh, method.retriever.flip_test) == ("real_only", False)
    assert (method.retriever.dim, method.generator.decoder.dropout_rate) == (6 * K, 0.5)
    assert type(method.unrelated.parts.branches[0].pooling).__name__ == "MaxPooling"


def test_without_a_shuffled_part_the_images_are_a_second_autoencoder_s(make):
    """The released form: without noise and dropout, `part` is `auto`."""
    method = make("method.part_shuffle=none", "method.dropout=0")
    first_of_noise = method.retriever.dim + method.unrelated.dim
    with torch.no_grad():
        method.generator.decoder.fc.weight[:, first_of_noise : first_of_noise + 4] = 0
    seen = []
    generate = method._generate
    method._generate = lambda *given: seen.append(generate(*given)) or seen[-1]
    terms_of(method)
    auto, swap, part = seen
    torch.testing.assert_close(part, auto)
    assert not torch.allclose(swap, auto)


@pytest.mark.parametrize(
    ("without", "networks", "discriminator"),
    [
        (("part_shuffling", "domain", "classes"), {"kl", "shuffling", "identity"}, None),
        (("domain",), {"kl", "shuffling", "part_shuffling", "identity", "classes"}, {"classes"}),
        (("classes",), {"kl", "shuffling", "part_shuffling", "identity", "domain"}, {"domain"}),
    ],
)
def test_the_rows_of_table_2(make, without, networks, discriminator):
    method = make(*(f"method.weight_{name}=0" for name in without))
    found = terms_of(method)
    assert set(found["networks"][1]) == networks
    assert (set(found["discriminator"][1]) if "discriminator" in found else None) == discriminator


def test_settings_that_a_row_does_not_read():
    config = load_config("is-gan", ["data.root=/data"]).method
    assert all(config.reads(key) for key in type(config).model_fields)
    baseline = config.model_copy(update={"generate": False})
    assert [key for key in ("stripes", "heads", "weight_kl", "flip_test") if baseline.reads(key)] == [
        *("stripes", "flip_test"),
    ]
    alone = config.model_copy(update={"weight_domain": 0.0, "weight_classes": 0.0, "weight_part_shuffling": 0.0})
    assert not any(alone.reads(key) for key in ("heads", "label_noise", "auto_in_class_loss", "part_shuffle"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.height=36", "multiples of 8, not 36×16; change data.height"),
        ("method.discriminator_channels=[4, 4, 4, 4]", "leaves a map of 2×1"),
        ("method.heads=kernel4", "leaves a map of 8×4"),
        ("model.branches=[{pooling: avg}]", r"set model\.branches=\[\]"),
    ],
)
def test_networks_that_do_not_fit_are_refused(make, override, message):
    if "kernel4" in override:
        assert make(override)  # 8×4 is large enough
        return
    if "2×1" in message:
        make(override)  # two patches are enough, too
        with pytest.raises(ConfigError, match="leaves a map of 1×0"):
            make("method.discriminator_channels=[4, 4, 4, 4, 4]")
        return
    with pytest.raises(ConfigError, match=message):
        make(override)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("stripes: []", "stripes"),
        ("stripes: [1, 0]", "stripes"),
        ("generator_channels: [8, 8, 4]", "generator_channels"),
        ("discriminator_channels: []", "discriminator_channels"),
    ],
)
def test_settings_that_make_no_network(settings, message):
    with pytest.raises(ConfigError, match=f"method.*{message}"):
        load_config("is-gan", ["data.root=/data", f"method={{{settings}}}"])
