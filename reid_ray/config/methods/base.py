"""Base class of the settings of all methods, and their registry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from reid_ray.config.base import Section


class MethodConfig(Section):
    """Settings of one method, identified by `name`."""

    name: str

    def reads(self, key: str) -> bool:
        """Whether the method uses its setting `key`, given its other settings."""
        return True


METHOD_CONFIGS: dict[str, type[MethodConfig]] = {}
"""Name → settings class of every registered method, filled by `register_method_config`."""

Settings = TypeVar("Settings", bound=MethodConfig)


def register_method_config(cls: type[Settings]) -> type[Settings]:
    """Class decorator: register the settings under the default of their field `name`."""
    METHOD_CONFIGS[cls.model_fields["name"].default] = cls
    return cls


def parse_method_config(value: Any) -> Any:
    """Build settings of the class that `name` selects in a mapping; other values are returned unchanged."""
    if not isinstance(value, Mapping):
        return value
    cls = METHOD_CONFIGS.get(value.get("name", ""))
    if cls is None:
        raise ValueError(f"there is no method '{value.get('name')}'; choose one of {', '.join(sorted(METHOD_CONFIGS))}")
    return cls.model_validate(value)
