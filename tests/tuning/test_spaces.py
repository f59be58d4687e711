"""Search spaces: every recipe has one within the bounds of its fields; mistakes are one-line errors."""

import pickle
from functools import partial

import optuna
import pytest

from reid_ray.config import Config, Search, load_config, recipe_names
from reid_ray.config.loading import sections_of
from reid_ray.errors import ConfigError
from reid_ray.tuning.spaces import own_values, rounded, search_space, starting_point, suggest, with_values


def recipe(name, *overrides):
    synthetic = ["data.layout=synthetic", *(["source.layout=synthetic"] if name.endswith("-uda") else [])]
    return load_config(name, [*synthetic, *overrides])


def ranges(section=Config, prefix=""):
    """Key, field and range of every field that has one, of all methods."""
    for name, field in section.model_fields.items():
        for below in sections_of(field):
            yield from ranges(below, f"{prefix}{name}.")
        for part in field.metadata:
            if isinstance(part, Search):
                yield f"{section.__name__}.{name}", field, part


ALL = list(ranges())


@pytest.mark.parametrize(("field", "search"), [row[1:] for row in ALL], ids=[row[0] for row in ALL])
def test_range_is_within_the_bounds_of_its_field(field, search):
    assert search.choices or search.low < search.high
    for limit in field.metadata:
        for end in search.choices or (search.low, search.high):
            assert end >= getattr(limit, "ge", end)
            assert end <= getattr(limit, "le", end)
            assert not hasattr(limit, "gt") or end > limit.gt
            assert not hasattr(limit, "lt") or end < limit.lt
    assert not search.log or search.low > 0


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_has_a_search_space_that_contains_it(name):
    config = recipe(name)
    space = search_space(config)
    assert any(key.startswith("method.") for key in space)
    assert starting_point(config, space) == own_values(config, space), "the recipe's values lie outside of the ranges"
    for end in ("low", "high"):
        with_values(config, {key: getattr(search, end) for key, search in space.items()})


@pytest.mark.parametrize(
    ("name", "overrides", "there", "not_there"),
    [
        ("ice", (), {"labels.eps", "labels.k1", "method.temperature_cross"}, {"labels.rho", "labels.k1_within"}),
        ("ice", ("labels.variant=camera",), {"labels.k1_within", "labels.k2_within"}, {"labels.reliability"}),
        ("ice-agnostic", (), {"method.temperature_hard"}, {"method.weight_cross", "method.temperature_cross"}),
        ("ice-supervised", (), {"method.temperature_hard"}, {"labels.eps", "labels.k1"}),
        ("abmt", (), {"labels.rho"}, {"labels.eps", "labels.source_weight"}),
        ("abmt-uda", (), {"labels.source_weight"}, {"stages.source.lr", "training.lr"}),
        ("mmt-uda", (), {"labels.n_clusters"}, {"labels.k1", "labels.min_samples"}),
        ("spcl", (), {"labels.reliability"}, set()),
        ("cap", (), {"method.momentum"}, {"method.inter_from_epoch"}),
        ("source", (), {"method.weight_triplet"}, {"method.margin"}),
        ("source", ("method.margin=0.3",), {"method.margin"}, set()),
    ],
)
def test_unused_keys_are_left_out(name, overrides, there, not_there):
    space = set(search_space(recipe(name, *overrides)))
    assert there <= space
    assert not not_there & space


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("labels.eps", Search(0.3, 0.8)),
        ("labels.k1", Search(10, 50)),
        ("training.lr", Search(1e-4, 1e-3, log=True)),
        ("labels.k1=10:30", Search(10, 30)),
        ("method.temperature_hard=.05:.3:log", Search(0.05, 0.3, log=True)),
        ("method.label_smoothing=0:0.2", Search(0.0, 0.2)),
        ("model.pooling=avg,gem", Search(choices=("avg", "gem"))),
        ("labels.reliability=null,0.02", Search(choices=(None, 0.02))),
        ("method.own_camera_positive=true,false", Search(choices=(True, False))),
    ],
)
def test_requested_ranges(text, expected):
    (found,) = search_space(recipe("ice"), [text]).values()
    assert found == expected
    assert [type(end) for end in (found.low, found.high)] == [type(end) for end in (expected.low, expected.high)]


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        (["labels.ep"], "did you mean 'labels.eps'"),
        (["temperature_hard"], "did you mean 'method.temperature_hard'"),
        (["method.temperature"], "not a setting of this recipe"),
        (["labels"], "not a setting of this recipe"),
        (["training.epochs=1:3"], "cannot be searched"),
        (["seed=1,2"], "cannot be searched"),
        (["runtime.threads=1,2"], "cannot be searched"),
        (["data.holdout=0:0.5"], "cannot be searched"),
        (["source_stage=true,false"], "cannot be searched"),
        (["data.height"], "has no default range"),
        (["labels.k1=1.5:3"], "valid integer"),
        (["labels.eps=.9:.1"], "is not a range"),
        (["labels.eps=.1:.9:exp"], "is not a range"),
        (["labels.eps=0:.9:log"], "is not a range"),
        (["labels.eps=.1:inf"], "is not a range"),
        (["labels.eps=.5:2"], "less than 1"),
        (["labels.eps=.5,2"], "less than 1"),
        (["labels.eps=low,high"], "labels.eps"),
        (["labels.eps=[.5],.6"], "does not list plain values"),
        (["model.pooling=0:1"], "is not a number"),
        (["labels.eps", "labels.eps=.4:.5"], "searched twice"),
    ],
)
def test_mistakes_are_refused(wanted, part):
    with pytest.raises(ConfigError, match=part):
        search_space(recipe("ice"), wanted)


def test_settings_of_stages_cannot_be_searched():
    """They belong to the models that all trials start from."""
    config = recipe("abmt-uda")
    with pytest.raises(ConfigError, match="cannot be searched"):
        search_space(config, ["stages.source.lr=.001:.01"])
    assert not any(key.startswith("stages.") for key in search_space(config))


def test_samples_are_in_range_and_rounded():
    space = search_space(recipe("ice"), ["labels.k1", "labels.eps", "method.weight_soft", "model.pooling=avg,gem"])
    draw = pickle.loads(pickle.dumps(partial(suggest, space=space)))  # as Ray Tune does it
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [draw(study.ask()) for _ in range(40)]
    for values in drawn:
        assert all(value in space[key] for key, value in values.items())
        assert isinstance(values["labels.k1"], int)
        assert len(str(values["labels.eps"])) <= 6
        config = with_values(recipe("ice"), values)
        assert own_values(config, space) == values
    assert len({values["labels.eps"] for values in drawn}) > 30
    assert {values["model.pooling"] for values in drawn} == {"avg", "gem"}
    assert rounded(0.00123456) == 0.001235
    assert rounded(7) == 7


def test_default_range_is_extended_to_the_value_of_the_recipe():
    config = recipe("ice", "labels.k1=6", "method.weight_hard=0", "method.weight_soft=90")
    for space in (
        search_space(config),
        search_space(config, ["labels.k1", "method.weight_hard", "method.weight_soft"]),
    ):
        assert space["labels.k1"] == Search(6, 50)
        assert space["method.weight_hard"] == Search(0.0, 5.0)
        assert space["method.weight_soft"] == Search(1.0, 90.0, log=True)
        assert starting_point(config, space) == own_values(config, space)


def test_value_outside_its_range_is_not_a_starting_point():
    config = recipe("ice")
    space = search_space(config, ["labels.eps=.6:.7", "labels.k1"])
    assert starting_point(config, space) == {"labels.k1": 30}
