"""What every section of the configuration shares: frozen, strict, a docstring per field."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from reid_ray.errors import ConfigError


class Section(BaseModel):
    """A frozen group of settings; an unknown key is an error, and each field's docstring is its description."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


@dataclass(frozen=True)
class Search:
    """Where a search looks for a field's value, as metadata of the field: `Annotated[float, Search(0.02, 0.5)]`.

    Either from `low` to `high`, both included, or among `choices`. It is narrower than the field's bounds: a place
    worth looking at, not one that is allowed.

    Attributes:
        log: draw the logarithm evenly; for quantities that are compared by their ratio.
        choices: values of YAML that are no lists or mappings.
    """

    low: float = 0
    high: float = 0
    log: bool = False
    choices: tuple[bool | int | float | str | None, ...] = ()

    def __contains__(self, value: object) -> bool:
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def __str__(self) -> str:
        if self.choices:
            return ", ".join(map(str, self.choices))
        return f"{self.low:g} … {self.high:g}{' (log)' if self.log else ''}"


@dataclass(frozen=True)
class Overrides:
    """Marks a field that maps names to some keys of a section, as metadata of the field.

    Attributes:
        section: the section that the keys belong to.
        placeholder: what stands for a name in documentation and messages.
    """

    section: type[BaseModel]
    placeholder: str = "NAME"


def overridden(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A nested mapping with the leaves of another in place of its own."""
    result = dict(base)
    for key, value in changes.items():
        below = result.get(key)
        result[key] = overridden(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def first_error(error: ValidationError, prefix: str = "") -> str:
    """The first mistake of a validation on one line: where, why, and what was given instead."""
    first, *others = error.errors()
    where = prefix + ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] == "value_error" else f", not {first['input']!r}"
    more = f" ({len(others)} more like this)" if others else ""
    return f"{where.rstrip('.') + ': ' if where else ''}{reason}{given}{more}"


def import_modules(names: Iterable[str]) -> None:
    """Import modules that register methods or views; `ConfigError` where one cannot be imported."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"imports: cannot import '{name}' ({error}); install it, or add its folder to PYTHONPATH."
            ) from error
