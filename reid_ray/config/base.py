"""What every section of the configuration shares: frozen, strict, a docstring per field."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


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
