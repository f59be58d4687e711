"""A configuration says what a run is: mistakes are named with their key, and the tree survives a round trip."""

import pytest
import yaml

from reid_ray.config import Config, config_hash, dump_config, load_config, recipe_names, with_absolute_paths
from reid_ray.config.loading import known_keys, relative_paths
from reid_ray.errors import ConfigError


def load(recipe: str, *overrides: str) -> Config:
    roots = () if recipe == "demo" else ("data.root=/data",)
    roots += ("source.root=/source",) if recipe.endswith("-uda") else ()
    return load_config(recipe, (*roots, *overrides))


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_loads_and_survives_a_round_trip(recipe, tmp_path):
    config = load(recipe)
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config), encoding="utf-8")
    assert load_config(file) == config
    assert config.name == recipe


def test_ice_is_the_published_setting():
    config = load("ice")
    assert (config.training.epochs, config.training.iterations, config.training.batch_size) == (40, 400, 32)
    assert (config.labels.k1, config.labels.k2, config.labels.eps, config.labels.min_samples) == (30, 6, 0.55, 4)
    assert (config.model.bn_group, config.model.ema) == (8, 0.999)
    assert config.data.strong.erase == 0.6


def test_a_recipe_stands_on_its_base():
    aware, agnostic = load("ice"), load("ice-agnostic")
    assert agnostic.method.mode == "agnostic"
    assert agnostic.model_copy(update={"name": "ice", "method": aware.method}) == aware


def test_a_section_of_a_base_keeps_what_the_recipe_on_it_does_not_say(tmp_path):
    below, top = tmp_path / "below.yaml", tmp_path / "top.yaml"
    below.write_text("base: demo\ntraining: {epochs: 7, iterations: 3}\n")
    top.write_text(f"base: {below}\ntraining: {{epochs: 9}}\n")
    training = load_config(top).training
    assert (training.epochs, training.iterations, training.warmup_epochs) == (9, 3, 2)
    assert load_config(top).name == "demo"


def test_overrides_win_in_order_and_are_yaml():
    config = load("ice", "training.epochs=3", "training.epochs=5", "model.bn_group=null", "training.lr=1e-4")
    assert (config.training.epochs, config.model.bn_group, config.training.lr) == (5, None, 1e-4)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("training.epoch=3", ["training.epoch", "did you mean 'training.epochs'"]),
        ("epochs=3", ["Unknown key 'epochs'", "training.epochs"]),
        ("method.lambda_hard=1", ["Unknown key 'method.lambda_hard'"]),
        ("stages={source: {epochs:1}}", ["'stages.source.epochs:1'", "needs a space after a colon"]),
        ("method={augment: true}", ["'method.augment'", "not a setting of ice", "replaces a whole section"]),
        ("training.epochs=many", ["training.epochs", "integer", "many"]),
        ("labels.eps=1.5", ["labels.eps", "less than 1"]),
        ("labels.eps=.nan", ["labels.eps", "finite"]),
        ("training=3", ["'training'", "section"]),
        ("training.epochs.x=3", ["training.epochs"]),
        ("training.epochs", ["not an override"]),
        ("data.root=[", ["not valid YAML"]),
        ("name=a/b", ["name 'a/b'"]),
        ("runtime.n_workers=5", ["5 workers", "do not divide"]),
        ("runtime.min_workers=2", ["runtime.min_workers=2 is more than runtime.n_workers=1"]),
        ("model.bn_group=5", ["model.bn_group=5"]),
        ("model.bn_group=64", ["model.bn_group=64 does not divide the global batch of 32"]),
        ("stages.source.epoch=3", ["Unknown key 'stages.source.epoch'", "stages.NAME.epochs"]),
        ("stages.source=3", ["'stages.source'", "section", "stages.source.KEY=VALUE"]),
        ("stages=3", ["'stages'", "section"]),
        ("stages.source.epochs=0", ["stages.source.epochs", "greater than or equal to 1, not 0"]),
        ("stages.source.precision=bf16", ["Unknown key 'stages.source.precision'"]),
        ("stages.source.n_pids=5", ["model.bn_group=8 does not divide the global batch of 20"]),
        ("stages.source.optimizers.main.lr=-1", ["stages.source", "optimizers.main.lr", "greater than 0, not -1"]),
        ("stages.source.optimizers.main.epochs=1", ["Unknown key 'stages.source.optimizers.main.epochs'"]),
        ("training.optimizers.main.lr=-1", ["training", "optimizers.main.lr", "greater than 0, not -1"]),
        ("training.optimizers.main=3", ["'training.optimizers.main'", "section"]),
        ("training.optimizer=lion", ["training.optimizer", "'adam', 'amsgrad' or 'sgd'", "lion"]),
        ("training.sampler=pairs", ["training.sampler", "shared_identities", "pairs"]),
        ("source_stage=maybe", ["source_stage", "boolean", "maybe"]),
        ("method.name=icee", ["method.name: there is no 'icee'", "choose one of abmt, "]),
        ("method=3", ["'method'", "section"]),
        ("data.root=null", ["data.root"]),
    ],
)
def test_a_mistake_is_one_sentence_that_names_the_key(override, parts):
    with pytest.raises(ConfigError) as caught:
        load("ice", override)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message


def test_of_several_mistakes_the_first_is_told_and_the_others_are_counted():
    with pytest.raises(ConfigError, match=r"training\.epochs: .* \(1 more like this\)"):
        load("ice", "training.epochs=many", "training.iterations=few")


def test_a_camera_is_named_in_one_way():
    load("ice", "data.layout=folder", "data.camera_level=0")
    with pytest.raises(ConfigError, match="not both"):
        load("ice", "data.layout=folder", "data.camera_level=0", "data.camera_regex=x")


def test_bn_group_and_worker_share_must_divide_one_another():
    load("ice", "runtime.n_workers=2", "model.bn_group=32")  # a group over two workers
    with pytest.raises(ConfigError, match="one must divide the other"):
        load("ice", "training.n_pids=12", "runtime.n_workers=4", "model.bn_group=8")


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'ice-agnostic'"):
        load_config("ice-agnostik")


def test_a_recipe_file_that_is_not_a_mapping(tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_text("- 1\n- 2\n")
    with pytest.raises(ConfigError, match="mapping"):
        load_config(file)


def test_a_recipe_cannot_stand_on_itself(tmp_path):
    file = tmp_path / "loop.yaml"
    file.write_text(yaml.safe_dump({"base": str(file)}))
    with pytest.raises(ConfigError, match="stands on itself"):
        load_config(file)


def test_yaml_cannot_run_code(tmp_path):
    file = tmp_path / "evil.yaml"
    file.write_text("name: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(file)


def test_hash_names_what_is_computed_not_where():
    base = load("ice")
    for same in (
        *("name=x", "output=elsewhere", "runtime.n_workers=2", "training.epochs=99", "training.checkpoint_every=9"),
        *("training.keep_checkpoints=9", "training.log_every=9", "data.cache_mb=0", "data.loader_threads=9"),
        *("evaluation.every=9", "evaluation.at_start=true", "data.max_megapixels=500"),
    ):
        assert config_hash(load("ice", same)) == config_hash(base), same
    for other in (
        *("seed=1", "training.lr=1e-3", "training.iterations=9", "training.warmup_epochs=9", "labels.eps=0.5"),
        *("data.height=128", "data.use_cameras=false", "model.bn_group=16", "method.mode=agnostic"),
        *("stages.source.epochs=9", "training.optimizers.main.lr=1", "source_stage=false", "training.sampler=shuffle"),
        *("evaluation.ap=trapezoid", "evaluation.batch_size=9"),
    ):
        assert config_hash(load("ice", other)) != config_hash(base), other


def test_paths_become_absolute_once_and_urls_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = with_absolute_paths(load("ice", "data.root=crops", "output=runs", "model.weights=w.pth"))
    assert (config.data.root, config.output) == (str(tmp_path / "crops"), str(tmp_path / "runs"))
    assert config.model.weights == str(tmp_path / "w.pth")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert with_absolute_paths(load("ice", "output=~/runs")).output == str(tmp_path / "runs")
    monkeypatch.chdir("/")
    assert with_absolute_paths(config) == config
    assert with_absolute_paths(load("ice", "data.root=s3://bucket/crops")).data.root == "s3://bucket/crops"
    assert with_absolute_paths(load("ice")).model.weights == "torchvision"


def test_paths_of_several_weights_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load("ice", "model.weights=[first.pt, torchvision, s3://bucket/third.pt]")
    absolute = (str(tmp_path / "first.pt"), "torchvision", "s3://bucket/third.pt")
    assert with_absolute_paths(config).model.weights == absolute
    assert relative_paths(config)["model.weights"] == config.model.weights


@pytest.mark.parametrize("key", ["labels.constraints", "data.attributes", "evaluation.permutations", "source.root"])
def test_every_setting_that_is_a_path_becomes_absolute(key, tmp_path, monkeypatch):
    """Workers on Ray have working folders of their own."""
    monkeypatch.chdir(tmp_path)
    config = load("abmt-uda", f"{key}=here/file.csv")
    section, name = key.split(".")
    assert getattr(getattr(with_absolute_paths(config), section), name) == str(tmp_path / "here" / "file.csv")
    assert relative_paths(config)[key] == "here/file.csv"


def test_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load("ice").seed = 3  # type: ignore[misc]


def test_known_keys_are_those_of_all_methods_stages_and_optimizers():
    keys = list(known_keys())
    assert len(keys) == len(set(keys))
    assert {"labels.eps", "method.cross_branch", "method.temperature_hard", "source.root"} <= set(keys)
    assert {"stages.NAME.epochs", "training.optimizers.NAME.lr", "stages.NAME.optimizers.NAME.lr"} <= set(keys)
    assert not {"method", "stages", "stages.NAME", "stages.NAME.log_every"} & set(keys)


def test_a_method_has_its_own_keys(tmp_path):
    """Known keys are those of the method that is named, and a recipe of another method drops those of its base."""
    file = tmp_path / "other.yaml"
    file.write_text("base: ice-agnostic\nmethod: {name: abmt, cross_branch: false}\n")
    config = load_config(file, ["data.root=/data"])
    assert (config.method.name, config.method.cross_branch) == ("abmt", False)
    file.write_text("base: ice-agnostic\nmethod: {weight_hard: 0}\n")
    assert load_config(file, ["data.root=/data"]).method.mode == "agnostic"
    file.write_text("method: {mode: agnostic}\n")
    assert load_config(file).method.name == "ice"
    with pytest.raises(ConfigError, match=r"Unknown key 'method\.mode'"):
        load("ice", "method.name=abmt")
    with pytest.raises(ConfigError, match=r"method\.name: there is no 'abtm'.*abmt"):
        load("ice", "method.name=abtm")


def test_sections_that_may_be_absent_are_checked_all_the_same():
    assert load_config("demo", ["model.branches=[{pooling: max, n_extra: 1}]"]).model.branches[0].n_extra == 1
    with pytest.raises(ConfigError, match=r"labels\.reliability=0\.1 should lie"):
        load_config("demo", ["labels.reliability=0.1", "labels.eps=0.95"])
