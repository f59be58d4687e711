"""The registry of method settings: found by name, checked by their own class, open to classes from elsewhere."""

import pytest

from reid_ray.config import Config, ICEConfig, MethodConfig, dump_config, load_config, register_method_config
from reid_ray.config.loading import known_keys
from reid_ray.config.methods import METHOD_CONFIGS, CAPConfig, parse_method_config
from reid_ray.errors import ConfigError


@pytest.fixture
def mine():
    """A settings class that is registered for one test."""

    @register_method_config
    class MineConfig(MethodConfig):
        """Settings of a method from elsewhere."""

        name: str = "mine"
        """The method."""
        weight: float = 0.5
        """A weight."""

    yield MineConfig
    del METHOD_CONFIGS["mine"]


def test_a_name_chooses_the_class():
    assert parse_method_config({"name": "cap", "momentum": 0.5}) == CAPConfig(momentum=0.5)
    assert {name: cls.model_fields["name"].default for name, cls in METHOD_CONFIGS.items()} == {
        name: name for name in METHOD_CONFIGS
    }
    settings = CAPConfig()
    assert parse_method_config(settings) is settings
    with pytest.raises(ValueError, match="there is no method 'capp'; choose one of abmt, am0bh, cap, cluster_contrast"):
        parse_method_config({"name": "capp"})


def test_a_class_from_elsewhere_is_loaded_checked_and_written(mine, tmp_path):
    config = load_config("demo", ["method={name: mine, weight: 0.25}"])
    assert type(config.method) is mine
    assert "method.weight" in set(known_keys())
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config))
    assert "weight: 0.25" in file.read_text()
    assert load_config(file) == config
    assert Config.model_validate(config.model_dump()) == config
    with pytest.raises(ConfigError, match=r"Unknown key 'method\.wait' in .*; did you mean 'method\.weight'"):
        load_config("demo", ["method={name: mine, wait: 1}"])
    with pytest.raises(ConfigError, match=r"method\.weight: .*valid number"):
        load_config("demo", ["method={name: mine, weight: heavy}"])


def test_a_class_that_is_not_registered_is_unknown():
    with pytest.raises(ConfigError, match=r"method\.name: there is no 'mine'"):
        load_config("demo", ["method={name: mine}"])


def test_settings_that_a_mode_does_not_read():
    assert all(MethodConfig(name="any").reads(key) for key in ("weight_cross", "anything"))
    read = {mode: ICEConfig(mode=mode).reads("weight_cross") for mode in ("aware", "agnostic", "supervised")}
    assert read == {"aware": True, "agnostic": False, "supervised": False}
    assert ICEConfig(mode="agnostic").reads("weight_hard")
