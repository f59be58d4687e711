"""Search spaces: ranges declared with the fields of the configuration, or given by the user.

A space is a dict from a key such as `labels.eps` to its `Search`. Ranges do not depend on other keys, so a multivariate
sampler can learn their interactions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, get_args

import yaml
from optuna.trial import BaseTrial
from pydantic.fields import FieldInfo

from reid_ray.config import Config, Search
from reid_ray.config.base import Section
from reid_ray.config.loading import NOT_HASHED, known_keys, nearest_name, validate
from reid_ray.errors import ConfigError
from reid_ray.methods import stages_of

Value: TypeAlias = bool | int | float | str | None
Values: TypeAlias = dict[str, Value]
"""Values of one trial, by key."""

Space: TypeAlias = dict[str, Search]

DIGITS = 4
"""Significant digits of sampled numbers, so that recipes stay readable."""

FIXED = (
    *("seed", "source", "source_stage", "target", "stages", "data.holdout", "evaluation"),
    *(section for section, below in NOT_HASHED.items() if below is True),
    *(f"{section}.{name}" for section, below in NOT_HASHED.items() if below is not True for name in below),
)
"""Sections and keys that are not searched: shared by all trials, used to evaluate them, or without effect on a run."""


def search_space(config: Config, wanted: Sequence[str] = ()) -> Space:
    """The keys to vary and their ranges, in the order of the configuration.

    Args:
        config: of the trials; its values determine which keys are used.
        wanted: `KEY` for the range declared with the field, `KEY=LOW:HIGH`, `KEY=LOW:HIGH:log` or `KEY=A,B,C`;
            empty: `default_space`.

    Raises:
        ConfigError: an unknown or unsearchable key, an invalid range, or a value that the configuration refuses.
    """
    if not wanted:
        return default_space(config)
    space: Space = {}
    for text in wanted:
        key, equals, listed = text.partition("=")
        key = key.strip()
        if key in space:
            raise ConfigError(f"{key} is searched twice; use one --search for it.")
        field = _field(config, key)
        space[key] = (
            _parsed(key, listed, field, text) if equals else _own_range(key, field, own_values(config, [key])[key])
        )
        ends = space[key].choices or (space[key].low, space[key].high)
        for end in ends:
            with_values(config, {key: _as_whole(end, field)})
    return space


def default_space(config: Config) -> Space:
    """Every key of `method` and `labels` that has a range, is used by this run, and is not disabled (null).

    A range is extended to include the run's own value.
    """
    return {
        key: _widened(search, value)
        for section in ("method", "labels")
        for key, field, value in _leaves(getattr(config, section), f"{section}.")
        if (search := _range_of(field)) is not None and value is not None and is_read(key, config)
    }


def is_read(key: str, config: Config) -> bool:
    """Whether a run uses this key of `method` or `labels`."""
    labels, method = config.labels, config.method
    if key.startswith("labels."):
        if not any(stage.clusters for stage in stages_of(config)):
            return False
        density = labels.clusterer == "dbscan"
        return {
            "labels.k1": labels.clusterer != "kmeans",
            "labels.k2": labels.clusterer != "kmeans",
            "labels.k1_within": labels.clusterer != "kmeans" and labels.variant == "camera",
            "labels.k2_within": labels.clusterer != "kmeans" and labels.variant == "camera",
            "labels.eps": density and labels.rho is None,
            "labels.rho": density and labels.rho is not None,
            "labels.min_samples": labels.clusterer != "kmeans",
            "labels.n_clusters": labels.clusterer == "kmeans",
            "labels.source_weight": config.source is not None and labels.clusterer != "kmeans",
        }.get(key, True)
    return method.reads(key.removeprefix("method."))


def suggest(trial: BaseTrial, space: Space) -> Values:
    """Sample one value per key, rounded by `rounded`.

    A module-level function, so that Ray Tune can pickle a partial of it.
    """
    return {key: rounded(_draw(trial, key, search)) for key, search in space.items()}


def rounded(value: Value) -> Value:
    """Round a float to `DIGITS` significant digits; return other values unchanged."""
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def starting_point(config: Config, space: Space) -> Values:
    """The configuration's own values of the keys in `space` that are within their ranges."""
    return {key: value for key, value in own_values(config, space).items() if value in space[key]}


def own_values(config: Config, keys: Iterable[str]) -> Values:
    """The configuration's values of these keys."""
    found: Values = {}
    for key in keys:
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)
        found[key] = value
    return found


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The configuration with these values; `ConfigError` if they are invalid."""
    tree = config.model_dump()
    for key, value in values.items():
        *path, last = key.split(".")
        section = tree
        for part in path:
            section = section[part]
        section[last] = value
    return validate(tree, source="the search")


def _draw(trial: BaseTrial, key: str, search: Search) -> Value:
    if search.choices:
        chosen: Value = trial.suggest_categorical(key, search.choices)
        return chosen
    if isinstance(search.low, int) and isinstance(search.high, int):
        return trial.suggest_int(key, search.low, search.high, log=search.log)
    return trial.suggest_float(key, search.low, search.high, log=search.log)


def _leaves(section: Section, prefix: str) -> Iterator[tuple[str, FieldInfo, Any]]:
    """Key, field and value of every leaf of a section."""
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, field, value


def _range_of(field: FieldInfo) -> Search | None:
    """The range declared with a field, with integer ends for integer fields."""
    for part in field.metadata:
        if isinstance(part, Search):
            return _numeric(part.low, part.high, part.log, field) if not part.choices else part
    return None


def _widened(search: Search, value: Value) -> Search:
    """The range extended to include a value, if it is a number."""
    if search.choices or isinstance(value, bool) or not isinstance(value, int | float):
        return search
    return replace(search, low=min(search.low, value), high=max(search.high, value), log=search.log and value > 0)


def _field(config: Config, key: str) -> FieldInfo:
    """The field of a searchable key."""
    fields = {found: field for found, field, _ in _leaves(config, "")}
    if any(key == fixed or key.startswith(f"{fixed}.") for fixed in FIXED):
        raise ConfigError(f"{key} cannot be searched: all trials share it, or it does not change a run.")
    if key not in fields:
        near = nearest_name(key, [*fields, *known_keys()])
        hint = f"; did you mean '{near}'?" if near in fields else ""
        raise ConfigError(f"'{key}' is not a setting of this recipe that can be searched{hint or '.'}")
    return fields[key]


def _own_range(key: str, field: FieldInfo, value: Value) -> Search:
    search = _range_of(field)
    if search is None:
        raise ConfigError(f"{key} has no default range; write --search {key}=LOW:HIGH, or {key}=A,B,C.")
    return _widened(search, value)


def _parsed(key: str, listed: str, field: FieldInfo, text: str) -> Search:
    """The range or the choices of `--search KEY=…`."""
    low, colon, rest = listed.partition(":")
    if not colon:
        try:
            choices = tuple(yaml.safe_load(part) for part in listed.split(","))
        except yaml.YAMLError:
            choices = ([],)
        if not all(choice is None or isinstance(choice, bool | int | float | str) for choice in choices):
            raise ConfigError(f"'{text}' does not list plain values; write {key}=A,B,C or {key}=LOW:HIGH.")
        return Search(choices=tuple(dict.fromkeys(_as_whole(choice, field) for choice in choices)))
    high, _, scale = rest.partition(":")
    try:
        ends = float(low), float(high)
    except ValueError:
        ends = math.nan, math.nan
    log = scale == "log"
    is_range = ends[0] < ends[1] and math.isfinite(ends[1] - ends[0]) and not (log and ends[0] <= 0)
    if not is_range or scale not in ("", "log"):
        raise ConfigError(
            f"'{text}' is not a range; write {key}=LOW:HIGH with LOW < HIGH, or {key}=LOW:HIGH:log with both above 0."
        )
    if not {int, float} & {field.annotation, *get_args(field.annotation)}:
        raise ConfigError(f"{key} is not a number; write --search {key}=A,B,C.")
    return _numeric(*ends, log, field)


def _numeric(low: float, high: float, log: bool, field: FieldInfo) -> Search:
    return Search(_as_whole(low, field), _as_whole(high, field), log)


def _as_whole(value: Any, field: FieldInfo) -> Any:
    """Convert a number to the type of the field: int for integer fields, else float."""
    kinds = {field.annotation, *get_args(field.annotation)}
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if float in kinds:
        return float(value)
    return int(value) if int in kinds and value == int(value) else value
