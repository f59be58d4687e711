"""GCL's updates against the equations, written down again on its modules; memory, stages and sheets."""

import copy

import numpy as np
import pytest
import torch
from small_methods import in_training, inputs, make_batch, stage_of
from small_runs import GCL, SOURCE

from reid_ray.api import prepare, train
from reid_ray.config import load_config
from reid_ray.errors import ConfigError, WeightsError
from reid_ray.losses import draw_contrast, memory_groups, most_negatives, scaled_negatives
from reid_ray.methods import build_method, stages_of
from reid_ray.methods.gcl import sheets
from reid_ray.models import GroupBatchNorm
from reid_ray.run import load_run
from reid_ray.training.distributed import DistributedContext
from reid_ray.types import Labels

N_ROWS, SIZE = 40, (32, 16)
ANGLES = ("45", "180")


@pytest.fixture
def make(tiny):
    """`make("key=value", …, stage=…)`: the method on small networks in float64, in the modes of a stage."""

    def method(*overrides, stage="joint"):
        common = (f"method={{name: gcl, {GCL}, warmup: false}}", "training.precision=float64", "model.bn_group=null")
        torch.manual_seed(0)
        config = tiny(*common, "training.sampler=shuffle", "training.n_instances=1", *overrides)
        made = build_method(config, DistributedContext())
        made.to(torch.device("cpu"), torch.float64)
        return in_training(made, stage)

    return method


@pytest.fixture
def batch():
    """Four images, their meshes at 0° and at a novel angle, and rows of the memory out of order."""
    generator = torch.Generator().manual_seed(1)
    views = {
        name: torch.randn(4, channels, *SIZE, generator=generator, dtype=torch.float64)
        for name, channels in (("image", 3), ("structure", 1), ("novel", 1))
    }
    rows = torch.tensor([7, 0, 31, 12])
    return make_batch(inputs(views, LABELS[rows], rows=rows), key=(3, 1, 2))


LABELS = torch.arange(N_ROWS) % 6 - 1


def with_memory(method):
    features = np.random.default_rng(0).standard_normal((N_ROWS, method.identity.dim)).astype(np.float32)
    method.on_labels("joint", {"train": Labels(0, LABELS.numpy(), features=features)})
    return method


def mean_of(total, maps, function):
    return total + sum(function(scores).mean() for scores in maps)


def by_hand(method, batch, draws=None, views="ori+cycle"):
    """Every term of Eq. 5.1-5.8 for a batch, each image generated on its own."""
    x, structure, novel = (batch["train"].views[name] for name in ("image", "structure", "novel"))
    identity, generator, discriminator = method.identity, method.generator, method.discriminator
    code, feature = identity(x)
    original = torch.cat([generator(structure[i : i + 1], code[i : i + 1]) for i in range(len(x))])
    turned = torch.cat([generator(novel[i : i + 1], code[i : i + 1]) for i in range(len(x))])
    of_original = identity(original).code if views == "ori+cycle" else None
    of_turned, turned_feature = identity(turned)
    cycled = generator(structure, of_turned)
    first = of_original if views == "ori+cycle" else of_turned
    terms = {
        "image": (original - x).abs().mean() + (cycled - x).abs().mean(),
        "feature": (first - code).abs().mean() + (identity(cycled).code - code).abs().mean(),
    }
    real, fakes = discriminator(x), [discriminator(view) for view in (original, turned, cycled)]
    terms["generator"] = 2 * sum(((score - 1) ** 2).mean() for scores in fakes for score in scores)
    terms["discriminator"] = sum(
        (score**2).mean() + ((true - 1) ** 2).mean()
        for scores in fakes
        for score, true in zip(scores, real, strict=True)
    )
    leaf = x.clone().requires_grad_()
    gradients = [torch.autograd.grad(score.sum(), leaf, retain_graph=True)[0] for score in discriminator(leaf)]
    terms["r1"] = sum((gradient**2).flatten(1).sum(1).mean() for gradient in gradients)
    if draws is not None:
        rows = method.memory["rows"]
        unit, turned_unit = (each / each.norm(dim=1, keepdim=True) for each in (feature, turned_feature))
        losses = {"original": 0.0, "instance": 0.0, "generated": 0.0}
        for i, row in enumerate(batch["train"].rows.tolist()):
            negatives = sum(torch.exp(turned_unit[i] @ rows[k] / 0.04) for k in draws.negatives[i])
            positives = {
                "original": unit[i] @ rows[draws.positives[i]],
                "instance": turned_unit[i] @ rows[row],
                "generated": turned_unit[i] @ rows[draws.generated_positives[i]],
            }
            for name, similarity in positives.items():
                losses[name] = losses[name] + torch.log(1 + negatives / torch.exp(similarity / 0.04)) / len(x)
        terms |= losses
    return terms, feature


def draws_of(method, batch):
    groups, sizes = memory_groups(LABELS.numpy())
    keys = torch.from_numpy(batch.rng("contrast").random((2, 4, N_ROWS), dtype=np.float32))
    n_negatives = min(scaled_negatives(N_ROWS), most_negatives(sizes))
    return draw_contrast(batch["train"].rows, torch.tensor(groups), keys, n_negatives=n_negatives)


@pytest.mark.parametrize("views", ["ori+cycle", "new+cycle"])
def test_losses_of_the_stage_generate(make, batch, views):
    method = make(f"method.feature_views={views}", stage="generate")
    discriminator, generator = method.updates("generate", batch)
    expected, _ = by_hand(method, batch, views=views)
    assert (discriminator.optimizers, generator.optimizers) == (("discriminator",), ("generator",))
    loss = expected["discriminator"] + 3 * 0.01 * expected["r1"]
    torch.testing.assert_close(discriminator.loss, loss)
    loss = 5 * expected["image"] + 5 * expected["feature"] + expected["generator"]
    torch.testing.assert_close(generator.loss, loss)
    for term in ("image", "feature"):
        torch.testing.assert_close(generator.terms[term], expected[term])


def test_losses_of_the_stage_joint(make, batch):
    method = with_memory(make())
    updates = list(method.updates("joint", batch))
    expected, _ = by_hand(with_memory(method), batch, draws_of(method, batch))
    assert [update.optimizers for update in updates] == [("discriminator",), ("identity", "generator")]
    terms = ("image", "feature", "original", "instance", "generated")
    for term in terms:
        torch.testing.assert_close(updates[1].terms[term], expected[term])
    weights = dict.fromkeys(terms, 1) | {"image": 5, "feature": 5}
    loss = sum(weights[term] * expected[term] for term in terms) + expected["generator"]
    torch.testing.assert_close(updates[1].loss, loss)


def test_the_generator_meets_the_discriminator_after_its_step(make, batch):
    method = make(stage="generate")
    updates = method.updates("generate", batch)
    next(updates)
    with torch.no_grad():
        for parameter in method.discriminator.parameters():
            parameter.mul_(1.5)
    torch.testing.assert_close(next(updates).terms["adversarial"], by_hand(method, batch)[0]["generator"])


def test_a_frozen_encoder_stays_as_it_is(tiny):
    """Every parameter and buffer, to the last bit, through the stage `generate`."""
    common = (f"method={{name: gcl, {GCL}, warmup: false}}", "training.sampler=shuffle", "training.precision=float32")

    def listen(event):
        if event["stage"] == "joint" and event["event"] == "start":
            raise KeyboardInterrupt

    config = tiny(*common, "stages.generate={epochs: 1, iterations: 2}")
    torch.manual_seed(config.seed)
    before = build_method(prepare(config)[0], DistributedContext()).identity.state_dict()
    with pytest.raises(KeyboardInterrupt):
        train(config, listener=listen)
    kept = load_run(f"{config.output}/{config.name}").load_method().identity.state_dict()
    assert before.keys() == kept.keys()
    assert all(torch.equal(before[key], kept[key]) for key in before)


@pytest.mark.parametrize("renormalise", [True, False])
def test_memory_rows_move_after_the_step(make, batch, renormalise):
    method = with_memory(make(f"method.renormalise={str(renormalise).lower()}"))
    before = method.memory["rows"].clone()
    torch.testing.assert_close(before.norm(dim=1), torch.ones(N_ROWS, dtype=torch.float64))
    with torch.no_grad():
        features = copy.deepcopy(method.identity)(batch["train"].views["image"]).feature
    updates = method.updates("joint", batch)
    next(updates), next(updates)
    assert torch.equal(method.memory["rows"], before), "the loss is that of the memory before the batch"
    assert next(updates, None) is None
    rows = batch["train"].rows
    expected = 0.2 * before[rows] + 0.8 * torch.nn.functional.normalize(features)
    expected = torch.nn.functional.normalize(expected) if renormalise else expected
    torch.testing.assert_close(method.memory["rows"][rows], expected)
    others = [row for row in range(N_ROWS) if row not in rows.tolist()]
    assert torch.equal(method.memory["rows"][others], before[others])


def test_the_memory_is_what_is_clustered(make):
    method = make()
    assert method.memory_features("joint") is None, "the first labels come from extracted features"
    with_memory(method)
    rows = method.memory_features("joint")
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, method.memory["rows"].numpy(), rtol=1e-6)
    method.on_labels("joint", {"train": Labels(1, np.zeros(N_ROWS, np.int64))})
    np.testing.assert_array_equal(method.memory_features("joint"), rows)
    assert method.memory_features("generate") is None


def test_a_resumed_run_draws_the_same(make, batch):
    method, resumed = with_memory(make()), make()
    for name, module in resumed.modules.items():
        module.load_state_dict(method.modules[name].state_dict())
    (_, first), (_, second) = (list(each.updates("joint", batch)) for each in (method, resumed))
    assert torch.equal(first.loss, second.loss)


@pytest.mark.parametrize("views", ["all", "real"])
def test_whose_statistics_the_batch_norms_keep(make, batch, views):
    method = with_memory(make(f"method.bn_views={views}"))
    own = copy.deepcopy(method.identity)
    list(method.updates("joint", batch))
    own(batch["train"].views["image"])
    same = [
        torch.equal(first.running_mean, second.running_mean)
        for first, second in zip(method.identity.modules(), own.modules(), strict=True)
        if isinstance(first, GroupBatchNorm)
    ]
    assert all(same) if views == "real" else not any(same)
    assert {layer.momentum for layer in method.identity.modules() if isinstance(layer, GroupBatchNorm)} == {0.1}


def test_without_generation_there_is_a_contrast_only(make, batch):
    method = with_memory(make("method.generation=false", "method.augment=true"))
    assert method.modules.keys() == {"identity", "memory"}
    (stage,) = stages_of(method.config)
    assert stage.streams["train"].views == {"image": "strong"}
    (update,) = method.updates("joint", batch)
    draws, rows = draws_of(method, batch), method.memory["rows"]
    # The memory has moved by now: the same again for the loss.
    method = with_memory(method)
    features = torch.nn.functional.normalize(method.identity(batch["train"].views["image"]).feature)
    rows, losses = method.memory["rows"], []
    for i, f in enumerate(features):
        negatives = sum(torch.exp(f @ rows[k] / 0.04) for k in draws.negatives[i])
        losses.append(torch.log(1 + negatives / torch.exp(f @ rows[draws.positives[i]] / 0.04)))
    torch.testing.assert_close(update.loss, torch.stack(losses).mean())


def test_a_warm_up_by_another_run(tiny):
    shared = ("model.pooling=gem", "training.precision=float32", "training.epochs=1", "training.iterations=1")
    run = train(tiny("name=warm", "method={name: cluster_contrast}", "training.sampler=other_cameras", *shared))
    weights = f"model.weights={run.directory.model_file('last')}"
    options = (f"method={{name: gcl, {GCL}}}", "training.sampler=shuffle", weights, *shared)
    config, _ = prepare(tiny("name=gcl", *options))
    assert config.method.warmup is False
    assert [stage.name for stage in stages_of(config)] == ["generate", "joint"]
    images = torch.rand(2, 3, *SIZE)
    encoder = build_method(config, DistributedContext()).identity.eval()
    torch.testing.assert_close(encoder.embed(images), run.model.embed(images))
    with pytest.raises(WeightsError, match="do not fit the network"):
        build_method(tiny("name=other", *options, "method.embedding_dim=16"), DistributedContext())


def test_stages(tiny):
    def names(*overrides):
        return [stage.name for stage in stages_of(prepare(tiny(f"method={{name: gcl, {GCL}}}", *overrides))[0])]

    assert names() == ["warmup", "generate", "joint"]
    assert names(*SOURCE) == ["source", "generate", "joint"]
    assert names("method.warmup=false") == ["generate", "joint"]
    assert names("method.generation=false") == ["warmup", "joint"]
    six = tiny("method={name: gcl, angles: six, warmup: false}")
    assert stages_of(six)[0].streams["train"].views["novel"] == "projection@six"


def test_the_recipe_is_the_paper_s():
    config = load_config("gcl", ["data.root=crops"])
    warmup, generate, joint = stages_of(config)
    assert (generate.config.epochs, joint.config.epochs, joint.config.batch_size) == (40, 20, 16)
    identity, adam = joint.optimizers["identity"].config, joint.optimizers["generator"].config
    assert (identity.optimizer, identity.nesterov, identity.lr, identity.weight_decay) == ("sgd", True, 3.5e-4, 5e-4)
    assert [identity.learning_rate(epoch) for epoch in (0, 9, 10, 19)] == pytest.approx(
        [3.5e-4, 3.5e-4, 3.5e-5, 3.5e-5]
    )
    assert (adam.betas, adam.lr) == ((0.0, 0.999), 1e-4)
    assert generate.optimizers["discriminator"].config.learning_rate(39) == pytest.approx(1e-4)
    assert warmup.config.sampler == "other_cameras"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("labels.staleness=1", "set labels.staleness=0"),
        ("model.branches=[{pooling: avg}]", "one branch"),
    ],
)
def test_what_does_not_go_together(tiny, override, message):
    with pytest.raises(ConfigError, match=message):
        build_method(tiny(f"method={{name: gcl, {GCL}}}", override), DistributedContext())


def test_augmentation_goes_without_generation(tiny):
    with pytest.raises(ConfigError, match="set generation=false"):
        tiny("method={name: gcl, augment: true}")


# Sheets


@pytest.fixture
def rendered(make, batch):
    method = make()
    for module in method.modules.values():
        module.eval()
    views = dict(batch["train"].views)
    generator = torch.Generator().manual_seed(2)
    for angle in ANGLES:
        views[f"projection@{angle}"] = torch.rand(4, 1, *SIZE, generator=generator, dtype=torch.float64) * 2 - 1
    shown = make_batch(inputs(views, -torch.ones(4, dtype=torch.int64)))
    with torch.no_grad():
        return method, views, method.render("joint", shown)


def test_a_rotation_sheet(rendered):
    method, views, grids = rendered
    sheet = grids["rotation"]
    assert sheet.shape == (8, 3, 3, *SIZE)
    assert torch.equal(sheet[1::2, 0], views["image"])
    torch.testing.assert_close(sheet[::2, 0], sheets.grey(views["structure"]))
    torch.testing.assert_close(sheet[::2, 2], sheets.grey(views["projection@180"]))
    with torch.no_grad():
        code = method.identity(views["image"]).code
        torch.testing.assert_close(sheet[3, 1], method.generator(views["projection@45"][1:2], code[1:2])[0])


def test_meshes_are_white_where_there_is_no_body():
    pixels = sheets.grey(torch.tensor([-1.0, 1.0]).reshape(1, 1, 1, 2))
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close((pixels[0] * std + mean)[:, 0], torch.tensor([[0.0, 1.0]] * 3), rtol=0, atol=1e-6)


def test_an_interpolation_goes_from_one_person_to_another(rendered):
    method, views, grids = rendered
    sheet = grids["interpolation"]
    assert sheet.shape == (4, 13, 3, *SIZE)
    assert torch.equal(sheet[0, 0], views["image"][0])
    assert torch.equal(sheet[1, -1], views["image"][2])
    with torch.no_grad():
        codes = method.identity(views["image"]).code
        own = method.generator(views["structure"][:1], codes[:1])[0]
        half = method.generator(views["structure"][2:3], (codes[:1] + codes[2:3]) / 2)[0]
    torch.testing.assert_close(sheet[0, 1], own)
    torch.testing.assert_close(sheet[1, 6], half)


def test_a_swap_matrix(rendered):
    method, views, grids = rendered
    sheet = grids["swap"]
    assert sheet.shape == (5, 5, 3, *SIZE)
    assert sheet[0, 0].isnan().all()
    assert torch.equal(sheet[0, 1:], views["image"])
    assert torch.equal(sheet[1:, 0], views["image"])
    with torch.no_grad():
        code = method.identity(views["image"]).code[1:2]
        torch.testing.assert_close(sheet[2, 4], method.generator(views["structure"][3:4], code)[0])


def test_a_panel_of_a_training_step(rendered):
    _, views, grids = rendered
    assert grids["panel"].shape == (4, 6, 3, *SIZE)
    assert torch.equal(grids["panel"][:, 0], views["image"])


def test_only_what_has_a_generator_is_rendered(make):
    assert stage_of(make(), "joint").renders
    assert stage_of(make(), "generate").renders
    assert not stage_of(make("method.generation=false"), "joint").renders
