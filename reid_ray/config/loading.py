"""Build a `Config` from a recipe, a file and `key=value` overrides, and write it back.

A recipe is a YAML mapping of the config tree. `base: NAME` names another recipe that it extends. Errors are one-line
messages with the key and, for an unknown key, the nearest existing one.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from reid_ray.config.base import Overrides, first_error, import_modules, overridden
from reid_ray.config.data import DataConfig
from reid_ray.config.methods import METHOD_CONFIGS, MethodConfig, parse_method_config
from reid_ray.config.tree import Config
from reid_ray.errors import ConfigError
from reid_ray.io.paths import Location, as_path

NOT_HASHED: dict[str, Any] = {
    "name": True,
    "output": True,
    "runtime": True,
    "data": {"cache_mb", "loader_threads", "max_megapixels"},
    "source": {"cache_mb", "loader_threads", "max_megapixels"},
    "target": {"cache_mb", "loader_threads", "max_megapixels"},
    "labels": {"constraints", "memory_mb", "objective"},
    "training": {"epochs", "checkpoint_every", "keep_checkpoints", "log_every"},
    "evaluation": {"every", "at_start", "overlap"},
}
"""Settings that do not change what a run computes up to a given step. They may change when a run is resumed.
(The file name in `labels.constraints` may change, because the run directory keeps the file's content.)"""


def recipe_names() -> list[str]:
    """Names of the recipes that come with the package."""
    folder = resources.files("reid_ray") / "recipes"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_config(recipe: str | Location = "ice", overrides: Sequence[str] = ()) -> Config:
    """Build the configuration of a run.

    Args:
        recipe: the name of a recipe of the package, or the path of a YAML file (a run's `config.yaml` is one).
        overrides: `section.key=value` strings, the value in YAML; later ones win.

    Raises:
        ConfigError: unknown recipe or key, a value of the wrong type, or values that do not fit together.
    """
    tree = _read_recipe(str(recipe), seen=())
    tree.setdefault("name", as_path(str(recipe)).stem)
    for override in overrides:
        _apply(tree, override)
    return validate(tree, source=f"recipe '{recipe}'")


def validate(tree: Mapping[str, Any], *, source: str) -> Config:
    """Check a nested mapping and freeze it; `source` is for the message."""
    import_modules(_named_modules(tree.get("imports")))
    _refuse_unknown_keys(tree, Config, prefix="", source=source)
    method = tree.get("method")
    where = ""
    try:
        if isinstance(method, Mapping):
            where = "method."
            tree = {**tree, "method": parse_method_config({"name": _default_method(), **method})}
            where = ""
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{first_error(error, where)}, in {source}.") from error


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML that `load_config` reads back to an equal one."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def config_hash(config: Config) -> str:
    """A short hash of what the run computes; settings in `NOT_HASHED` do not enter it."""
    return hashlib.sha256(json.dumps(hashed_settings(config), sort_keys=True).encode()).hexdigest()[:16]


def hashed_settings(config: Config) -> dict[str, Any]:
    """The settings that determine what a run computes, as a nested dict."""
    return config.model_dump(mode="json", exclude=NOT_HASHED)


RUN_PREFIX = "run:"
"""Prefix in `model.weights` before the path of a run, whose exported model is loaded."""


def with_absolute_paths(config: Config) -> Config:
    """The configuration with absolute paths, since Ray workers have other working folders."""

    def absolute(path: str | None) -> str | None:
        return path if path is None or "://" in path else str(Path(path).expanduser().absolute())

    def with_root(data: DataConfig) -> DataConfig:
        meshes = data.meshes
        paths = {name: absolute(getattr(meshes, name)) for name in ("rendered", "faces_file", "body_model")}
        return data.model_copy(
            update={
                "root": absolute(data.root),
                "attributes": absolute(data.attributes),
                "meshes": meshes.model_copy(update=paths),
            }
        )

    def weights_file(weights: str | None) -> str | None:
        if weights is not None and weights.startswith(RUN_PREFIX):
            return f"{RUN_PREFIX}{absolute(weights.removeprefix(RUN_PREFIX))}"
        return weights if weights == "torchvision" else absolute(weights)

    weights = config.model.weights
    files = tuple(map(weights_file, weights)) if isinstance(weights, tuple) else weights_file(weights)
    return config.model_copy(
        update={
            "output": absolute(config.output),
            "data": with_root(config.data),
            "source": config.source and with_root(config.source),
            "target": config.target and with_root(config.target),
            "model": config.model.model_copy(update={"weights": files}),
            "labels": config.labels.model_copy(update={"constraints": absolute(config.labels.constraints)}),
            "evaluation": config.evaluation.model_copy(
                update={"permutations": absolute(config.evaluation.permutations)}
            ),
        }
    )


def relative_paths(config: Config) -> dict[str, str]:
    """Settings, by dotted key, whose paths are relative to this folder or to the user's home."""
    here, anywhere = (dict(leaves(each.model_dump())) for each in (config, with_absolute_paths(config)))
    return {key: value for key, value in here.items() if value != anywhere[key]}


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of all leaves of a nested mapping."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def known_keys(model: type[BaseModel] = Config, prefix: str = "") -> Iterator[str]:
    """All dotted keys of leaves of the tree; keys that several methods share occur once."""
    seen: set[str] = set()
    for name, field in model.model_fields.items():
        overrides, sections = overrides_of(field), sections_of(field)
        keys = [key for section in sections for key in known_keys(section, f"{prefix}{name}.")]
        if overrides:
            sections = [overrides.section]
            keys = list(known_keys(overrides.section, f"{prefix}{name}.{overrides.placeholder}."))
        for key in keys if sections else [prefix + name]:
            if key not in seen:
                seen.add(key)
                yield key


def nearest_name(word: str, known: Sequence[str]) -> str | None:
    """The known name that was probably meant, if any. The last part of a dotted key is also compared separately."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    leaf = word.rpartition(".")[2]
    return next(iter(near or [key for key in known if key.rpartition(".")[2] == leaf]), None)


def sections_of(field: FieldInfo) -> list[type[BaseModel]]:
    """The sections that a field may hold: none for a value, several if a name selects one."""
    annotation = field.annotation
    if annotation is MethodConfig or (isinstance(annotation, type) and issubclass(annotation, MethodConfig)):
        return list(METHOD_CONFIGS.values())
    candidates = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return [part for part in candidates if isinstance(part, type) and issubclass(part, BaseModel)]


def overrides_of(field: FieldInfo) -> Overrides | None:
    """The section whose keys a field overrides by name; None for any other field."""
    return next((part for part in field.metadata if isinstance(part, Overrides)), None)


def _named_modules(value: Any) -> list[str]:
    """The modules in `imports`; values other than names are left to the validation of the whole configuration."""
    return [name for name in value if isinstance(name, str)] if isinstance(value, list | tuple) else []


def _default_method() -> str:
    return str(Config.model_fields["method"].default.name)


def _read_recipe(recipe: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if recipe in seen:
        raise ConfigError(f"Recipe '{recipe}' stands on itself ({' → '.join((*seen, recipe))}).")
    if recipe in recipe_names():
        text = (resources.files("reid_ray") / "recipes" / f"{recipe}.yaml").read_text(encoding="utf-8")
    elif as_path(recipe).is_file():
        text = as_path(recipe).read_text(encoding="utf-8")
    else:
        raise ConfigError(
            f"Unknown recipe '{recipe}'{_nearest(recipe, recipe_names())}; recipes are {', '.join(recipe_names())}, "
            f"or the path of a YAML file."
        )
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"Recipe '{recipe}' is not valid YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(tree, dict):
        raise ConfigError(f"Recipe '{recipe}' should be a mapping of settings, not a {type(tree).__name__}.")
    base = tree.pop("base", None)
    if not base:
        return tree
    below = _read_recipe(str(base), (*seen, recipe))
    if _method_name(below) != _method_name(tree, _method_name(below)):
        below.pop("method")  # the keys of another method
    return overridden(below, tree)


def _method_name(tree: Mapping[str, Any], otherwise: Any = None) -> Any:
    method = tree.get("method")
    return method.get("name", otherwise) if isinstance(method, Mapping) else otherwise


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"'{override}' is not an override; write key=value, for instance training.epochs=10.")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError as error:
        raise ConfigError(f"The value of '{override}' is not valid YAML.") from error
    *path, last = key.strip().split(".")
    for part in path:
        below = tree.setdefault(part, {})
        if not isinstance(below, dict):
            raise ConfigError(f"'{key}' goes below '{part}', which is a value and not a section.")
        tree = below
    tree[last] = value


def _refuse_unknown_keys(tree: Mapping[str, Any], model: type[BaseModel], *, prefix: str, source: str) -> None:
    for key, value in tree.items():
        if key not in model.model_fields:
            raise ConfigError(_unknown(f"{prefix}{key}", model, source))
        field = model.model_fields[key]
        overrides, sections = overrides_of(field), sections_of(field)
        if not (sections or overrides) or value is None:
            continue
        if not isinstance(value, Mapping):
            raise ConfigError(f"'{prefix}{key}' in {source} is a section; give its keys, as {prefix}{key}.KEY=VALUE.")
        if overrides:
            for name, below in value.items():
                if not isinstance(below, Mapping):
                    raise ConfigError(
                        f"'{prefix}{key}.{name}' in {source} is a section; give its keys, as "
                        f"{prefix}{key}.{name}.KEY=VALUE."
                    )
                _refuse_unknown_keys(below, overrides.section, prefix=f"{prefix}{key}.{name}.", source=source)
            continue
        section = sections[0]
        if len(sections) > 1:
            section = _named(sections, value, f"{prefix}{key}.name", source, default=field.default.name)
        _refuse_unknown_keys(value, section, prefix=f"{prefix}{key}.", source=source)


def _unknown(key: str, section: type[BaseModel], source: str) -> str:
    if ":" in key:
        return f"Unknown key '{key}' in {source}; YAML needs a space after a colon, as in {{epochs: 10}}."
    known = list(known_keys())
    if key in known:  # of another section of the same place, which a name selects
        name = section.model_fields["name"].default
        return (
            f"Unknown key '{key}' in {source}: not a setting of {name}. A value {{…}} replaces a whole section; if you "
            f"gave one, add the name, or set each key by itself, as {key}=VALUE."
        )
    return f"Unknown key '{key}' in {source}{_nearest(key, known)}."


def _named(
    sections: Sequence[type[BaseModel]], value: Mapping[str, Any], key: str, source: str, *, default: str
) -> type[BaseModel]:
    """The section that the name in `value` selects; the default's section without a name."""
    by_name = {section.model_fields["name"].default: section for section in sections}
    name = value.get("name", default)
    if name not in by_name:
        raise ConfigError(f"{key}: there is no '{name}' in {source}; choose one of {', '.join(by_name)}.")
    return by_name[name]


def _nearest(word: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?`, or nothing if no name is similar."""
    near = nearest_name(word, known)
    return f"; did you mean '{near}'?" if near else ""
