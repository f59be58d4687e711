"""Hooks of mkdocs, which make pages of the repository pages of a site.

Links out of `docs/` lead to the repository, if `repo_url` names it, and are plain text otherwise. Fenced blocks lose
the word by which tests know which commands to run.
"""

from __future__ import annotations

import posixpath
import re
from typing import Any

FENCE = re.compile(r"^```(\w+) \w+$", re.MULTILINE)
LINK = re.compile(r"\[([^\]]+)\]\((\.\./[^)#\s]*)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """The page's Markdown with links and fences replaced."""
    folder = posixpath.join("docs", posixpath.dirname(page.file.src_uri))

    def replace(match: re.Match[str]) -> str:
        text, target, anchor = match.group(1), match.group(2), match.group(3) or ""
        path = posixpath.normpath(posixpath.join(folder, target))
        if path.startswith("docs/"):
            return match.group(0)
        return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{path}{anchor})" if config.repo_url else text

    return LINK.sub(replace, FENCE.sub(r"```\1", markdown))
