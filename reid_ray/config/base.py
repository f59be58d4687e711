"""Base class of all sections of the configuration: frozen, strict, a docstring per field."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from reid_ray.errors import ConfigError


class Section(BaseModel):
    """A frozen group of settings; an unknown key is an error, and each field has a docstring."""

    # Not use_attribute_docstrings: each process would parse the source of all sections when it starts.
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Search:
    """Search space of a field, as metadata of the field: `Annotated[float, Search(0.02, 0.5)]`.

    Either the interval from `low` to `high`, both included, or the list `choices`. It is narrower than the field's
    bounds: values worth trying, not all that are allowed.

    Attributes:
        log: sample the logarithm uniformly; for quantities that are compared by their ratio.
        choices: scalar values of YAML.
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
        placeholder: stands for a name in documentation and messages.
    """

    section: type[BaseModel]
    placeholder: str = "NAME"


def overridden(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested mappings; leaves of the second replace those of the first."""
    result = dict(base)
    for key, value in changes.items():
        below = result.get(key)
        result[key] = overridden(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def first_error(error: ValidationError, prefix: str = "") -> str:
    """The first validation error on one line: key, reason and the given value."""
    first, *others = error.errors()
    where = prefix + ".".join(str(part) for part in first["loc"])
    reason = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] == "value_error" else f", not {first['input']!r}"
    more = f" ({len(others)} more like this)" if others else ""
    return f"{where.rstrip('.') + ': ' if where else ''}{reason}{given}{more}"


def import_modules(names: Iterable[str]) -> None:
    """Import modules that register methods or views; `ConfigError` if one cannot be imported."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"imports: cannot import '{name}' ({error}); install it, or add its folder to PYTHONPATH."
            ) from error
