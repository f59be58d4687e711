"""Self-contained HTML pages with embedded images, without network access or scripts; used by all reports."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from reid_ray.io.files import atomic_write
from reid_ray.io.paths import Location

REPORT_NAME = "report.html"
MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}


def write_page(
    folder: Location, body: Sequence[str], *, name: str = REPORT_NAME, title: str | None = None, style: str = ""
) -> Location:
    """Write a page atomically into a folder.

    Args:
        body: HTML sections, from the functions below.
        name: of the file.
        title: default the folder's name.
        style: CSS in addition to that of all pages.

    Returns:
        The path of the page.
    """
    out = folder / name
    write_html(out, title or folder.name, body, style=style)
    return out


def write_html(out: Location, title: str, body: Sequence[str], *, style: str = "") -> None:
    """Write a page atomically to a file of any name; `style` is CSS in addition to that of all pages."""
    with atomic_write(out) as file:
        file.write(_PAGE.format(title=escape(title), style=_STYLE + style, body="\n".join(body)).encode())


def header(name: str, *, finished: bool) -> str:
    """The headline of a page, with its state."""
    state, kind = ("finished", "done") if finished else ("in progress", "running")
    return f'<header><h1>{escape(name)}</h1><span class="state {kind}">{state}</span></header>'


def note(heading: str, text: str) -> str:
    """A section with a remark."""
    return f'<section><h2>{escape(heading)}</h2><p class="note">{escape(text)}</p></section>'


def picture(heading: str, path: Location) -> str:
    """A section with an embedded PNG, JPEG or SVG."""
    media_type = MEDIA_TYPES.get(path.suffix.lower(), "image/png")
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f"<section><h2>{escape(heading)}</h2><figure>"
        f'<img alt="{escape(heading)}" src="data:{media_type};base64,{data}"></figure></section>'
    )


def grid(
    heading: str, note: str, headings: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[bool]
) -> str:
    """A section with a table; `marked` rows are highlighted."""
    lines = []
    for cells, is_marked in zip(rows, marked, strict=True):
        columns = "".join(f"<td>{escape(cell) or '&ndash;'}</td>" for cell in cells)
        row_class = ' class="best"' if is_marked else ""
        lines.append(f"<tr{row_class}>{columns}</tr>")
    head = "".join(f"<th>{escape(name)}</th>" for name in headings)
    return (
        f'<section><h2>{escape(heading)}</h2><p class="note">{escape(note)}</p>'
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(heading)}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></section>"
    )


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} – reid_ray</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1f2430; --muted: #6b7280;
  --line: #e5e7eb; --accent: #0072b2; --good: #00795a; --wait: #9a5b00; --mark: #eaf4fb; }
@media (prefers-color-scheme: dark) { :root { --page: #14161b; --card: #1d2027; --ink: #e8eaee;
  --muted: #9aa2b1; --line: #30343d; --accent: #56b4e9; --good: #3fc79a; --wait: #e6a23c;
  --mark: #22303c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
header { display: flex; align-items: center; gap: .9rem; margin-bottom: 1.5rem; flex-wrap: wrap; }
h1 { margin: 0; font-size: 1.7rem; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { margin: 0 0 .8rem; font-size: 1.05rem; }
small { font-size: .8rem; font-weight: 400; color: var(--muted); }
section, article { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 1.2rem 1.4rem; }
section { margin-bottom: 1.1rem; }
.state { font-size: .8rem; padding: .15rem .7rem; border: 1px solid currentcolor; border-radius: 99px; }
.state.done { color: var(--good); }
.state.running { color: var(--wait); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(240px, 1fr)); gap: 1.1rem; padding: 0;
  background: none; border: 0; }
.figure { margin: 0 0 .6rem; font-size: 2.6rem; font-weight: 650; line-height: 1.1; color: var(--accent); }
.figure span { font-size: .95rem; font-weight: 400; color: var(--muted); margin-left: .35rem; }
dl { margin: 0; display: flex; flex-wrap: wrap; gap: .3rem 1.4rem; }
dt { font-size: .78rem; color: var(--muted); }
dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.facts { gap: .7rem 2rem; }
.note { margin: 0 0 .9rem; color: var(--muted); }
.note:only-child { margin: 0; }
figure { margin: 0; background: #fff; border-radius: 8px; padding: .5rem; }
img { display: block; width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .88rem;
  font-variant-numeric: tabular-nums; }
th, td { padding: .38rem .7rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { color: var(--muted); font-weight: 500; }
tr.best td { background: var(--mark); font-weight: 650; }
pre { margin: 0; overflow-x: auto; font: .85rem/1.5 ui-monospace, monospace; }
"""
