"""Pages and sections from the templates of the package."""

from __future__ import annotations

import json
from typing import Any

from jinja2 import Environment, PackageLoader


def render(template: str, **values: Any) -> str:
    """A page from a template of the package; text is escaped, and `data` becomes JSON for a script element."""
    environment = Environment(loader=PackageLoader("reid_ray.reports"), autoescape=True, trim_blocks=True)
    environment.filters["script_json"] = script_json
    return environment.get_template(template).render(**values)


def script_json(data: Any) -> str:
    """JSON that is safe within a script element: no `<`, so neither an end tag nor a comment begins there."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
