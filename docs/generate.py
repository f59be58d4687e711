"""Writes docs/configuration.md from the typed configuration, so that the page cannot differ from the code.

Run `make docs` after a change of `reid_ray/config` or of a recipe; a test compares the page with this script's output.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from reid_ray.config import Config, Search, recipe_names
from reid_ray.config.loading import NOT_HASHED, overrides_of, sections_of

PAGE = Path(__file__).parent / "configuration.md"

INTRODUCTION = """\
# Configuration

<!-- Written by docs/generate.py. Change the docstrings in reid_ray/config and run `make docs`. -->

A run is described by one tree of settings. A [recipe](#recipes) or a YAML file gives values, `key=value` on the command
line (or in the list given to `load_config`) changes them, and the rest are the defaults below. Values are YAML: `null`,
`true`, `3.5e-4`, `[0.1, 2.0]`. A key that does not exist is an error that names the nearest one that does.

```console
$ reid-ray train ice data.root=Market-1501-v15.09.15 training.epochs=10 runtime.n_workers=2
$ reid-ray train ice data.root=Market-1501-v15.09.15 --show-config
```

The second command prints the resolved tree and its hash, and stops. *Searched* is the range in which
[`reid-ray tune`](tuning.md) looks for a value, where it is told no other.
"""

HASH_SECTION = """\
## What may differ when a run is continued

A run directory belongs to one configuration, told by a hash of the tree. These settings are not part of the hash, as
they do not change what a run computes up to a given step; a run may be continued with others:
"""

RECIPES_SECTION = """\
## Recipes

A recipe is a YAML file of the package. `base` names another recipe that it stands on. A path of your own YAML file, or
of a run's `config.yaml`, works in place of a recipe's name.
"""

ALIKE = {"source": "data", "target": "data"}
"""Sections that have the keys of another one, and may be absent."""

BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def configuration_page() -> str:
    """The whole page, as it should stand in docs/configuration.md."""
    parts = [INTRODUCTION, *_sections(Config, ""), _hash_section(), _recipes()]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _sections(model: type[BaseModel], prefix: str) -> Iterator[str]:
    """A table for the leaves of a section, then its sub-sections."""
    leaves = {name: field for name, field in model.model_fields.items() if not sections_of(field)}
    name = f"method.name={model.model_fields['name'].default}" if prefix == "method." else prefix.rstrip(".")
    title = f"`{name}`" if name else "Top level"
    lines = [f"## {title}", "", _one_line(model.__doc__), ""]
    lines += ["| key | type | default | bounds | meaning |", "|---|---|---|---|---|"]
    lines += [_row(prefix + name, field) for name, field in leaves.items()]
    yield "\n".join(lines)
    for name, field in model.model_fields.items():
        if name in ALIKE:
            meaning = f"{_one_line(field.description)} Its keys are those of [`{ALIKE[name]}`](#{ALIKE[name]})."
            yield f"## `{prefix}{name}`\n\n{meaning}"
            continue
        for section in sections_of(field):
            yield from _sections(section, f"{prefix}{name}.")
        if overrides := overrides_of(field):
            key = f"{prefix}{name}.{overrides.placeholder}"
            yield f"## `{key}`\n\n{_one_line(field.description)} Its keys are those of [`training`](#training)."


def _row(key: str, field: FieldInfo) -> str:
    cells = [f"`{key}`", _type_name(field.annotation), _default(field), _bounds(field), _one_line(field.description)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type_name(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is dict:
        return "{name: {key: value}}"
    if origin is Literal:
        return " or ".join(f"`{_yaml(value)}`" for value in arguments)
    if origin in (Union, UnionType):
        return " or ".join(_type_name(argument) for argument in arguments)
    if origin is tuple:
        return f"[{', '.join('…' if argument is Ellipsis else _type_name(argument) for argument in arguments)}]"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"{{{', '.join(annotation.model_fields)}}}"
    if annotation is NoneType:
        return "null"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}[annotation.__name__]


def _default(field: FieldInfo) -> str:
    default = field.get_default(call_default_factory=True)
    default = list(default) if isinstance(default, tuple) else default
    return f"`{_yaml(default)}`"


def _bounds(field: FieldInfo) -> str:
    found = [
        f"{sign} {getattr(limit, name)}"
        for limit in field.metadata
        for name, sign in BOUNDS.items()
        if hasattr(limit, name)
    ]
    found += [f"at least {limit.min_length} character" for limit in field.metadata if hasattr(limit, "min_length")]
    found += [f"searched: {part}" for part in field.metadata if isinstance(part, Search)]
    return ", ".join(found)


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()


def _one_line(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").strip()


def _hash_section() -> str:
    keys = []
    for section, below in NOT_HASHED.items():
        keys += [section] if below is True else [f"{section}.{name}" for name in sorted(below)]
    return HASH_SECTION + "\n" + ", ".join(f"`{key}`" for key in keys) + ".\n"


def _recipes() -> str:
    folder = resources.files("reid_ray") / "recipes"
    blocks = [
        f"### {name}\n\n```yaml\n{(folder / f'{name}.yaml').read_text(encoding='utf-8').strip()}\n```\n"
        for name in recipe_names()
    ]
    return RECIPES_SECTION + "\n" + "\n".join(blocks)


if __name__ == "__main__":
    PAGE.write_text(configuration_page(), encoding="utf-8")
