"""Stages and optimizers differ from `training` in what they override, and in nothing else."""

import pytest

from reid_ray.config import OptimizerConfig, StageConfig, TrainingConfig, dump_config, load_config
from reid_ray.errors import ConfigError


def load(*overrides):
    return load_config("demo", overrides)


def test_the_rate_warms_up_by_epoch_and_stays():
    training = OptimizerConfig(lr=1.0, warmup_epochs=10, warmup_factor=0.1)
    assert [round(training.learning_rate(epoch), 6) for epoch in (0, 1, 5, 9, 10, 39)] == [
        0.1,
        0.19,
        0.55,
        0.91,
        1.0,
        1.0,
    ]
    assert OptimizerConfig(lr=1.0, warmup_epochs=0).learning_rate(0) == 1.0


def test_the_rate_falls_at_each_step():
    training = OptimizerConfig(lr=1.0, warmup_epochs=2, warmup_factor=0.5, lr_steps=(1, 4), lr_gamma=0.1)
    rates = [training.learning_rate(epoch) for epoch in range(6)]
    assert rates == pytest.approx([0.5, 0.075, 0.1, 0.1, 0.01, 0.01])


def test_a_stage_inherits_what_it_does_not_override():
    config = load(
        "training.lr=0.5", "training.epochs=7", "training.n_pids=4", "stages.source={epochs: 3, lr_steps: [2]}"
    )
    stage = config.stage_config("source")
    assert type(stage) is StageConfig
    assert (stage.epochs, stage.lr_steps, stage.lr, stage.n_pids) == (3, (2,), 0.5, 4)
    assert stage.batch_size == 4 * config.training.n_instances
    same = config.training.model_dump(include=set(StageConfig.model_fields))
    assert config.stage_config("another").model_dump() == same
    assert stage.model_dump() == same | {"epochs": 3, "lr_steps": (2,)}


def test_an_optimizer_inherits_what_it_does_not_override():
    training = TrainingConfig(
        lr=0.5, weight_decay=0.25, optimizers={"discriminator": {"optimizer": "sgd", "lr": 0.1, "momentum": 0.5}}
    )
    own, other = training.optimizer_config("discriminator"), training.optimizer_config("generator")
    assert (own.optimizer, own.lr, own.momentum, own.weight_decay) == ("sgd", 0.1, 0.5, 0.25)
    assert (other.optimizer, other.lr, other.weight_decay) == ("adam", 0.5, 0.25)
    assert type(own) is type(other) is OptimizerConfig
    assert own.learning_rate(99) == 0.1


def test_the_optimizers_of_a_stage_inherit_from_the_stage_and_from_training_s_optimizer():
    config = load(
        *("training.lr=0.5", "training.optimizers.head.momentum=0.25", "training.optimizers.head.lr=0.125"),
        *("stages.first.lr=0.25", "stages.first.optimizers.head.optimizer=sgd", "stages.second.epochs=1"),
    )
    first, second = (config.stage_config(name).optimizer_config("head") for name in ("first", "second"))
    assert (first.optimizer, first.lr, first.momentum) == ("sgd", 0.125, 0.25)
    assert (second.optimizer, second.lr, second.momentum) == ("adam", 0.125, 0.25)
    assert config.stage_config("first").optimizer_config("main").lr == 0.25


def test_stages_and_optimizers_survive_a_round_trip(tmp_path):
    config = load(
        "stages.source={epochs: 3, lr_steps: [1]}", "training.optimizers.d={optimizer: sgd, betas: [0.5, 0.9]}"
    )
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config))
    again = load_config(file)
    assert again == config
    assert again.stage_config("source") == config.stage_config("source")


def test_a_recipe_overrides_keys_of_a_stage_of_its_base(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("base: abmt-uda\nstages: {source: {epochs: 3}}\n")
    stage = load_config(recipe, ["data.root=/data", "source.root=/source"]).stage_config("source")
    assert (stage.epochs, stage.iterations, stage.lr_steps) == (3, 200, (40, 70))


def test_the_batch_of_each_stage_must_fit_the_workers():
    two = ("runtime.n_workers=2", "model.bn_group=null")
    load(*two, "stages.source={n_pids: 3, n_instances: 2}")
    with pytest.raises(ConfigError, match=r"2 workers .* do not divide the global batch of 9"):
        load(*two, "stages.source={n_pids: 3, n_instances: 3}")


def test_an_epoch_may_be_one_pass():
    assert load("training.iterations=null").training.iterations is None
    with pytest.raises(ConfigError, match=r"training\.iterations"):
        load("training.iterations=0")
