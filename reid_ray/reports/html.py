"""The report of a run: one HTML file that holds everything, pictures too, without network or script."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

from reid_ray.locations import Location
from reid_ray.reports.series import Event, Headline, headline, number, table
from reid_ray.training.storage import replacing

REPORT_NAME = "report.html"
_POSITION_KEYS = ("event", "time", "epoch", "step")
MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".svg": "image/svg+xml"}


def write_report(
    run_dir: Location, events: Sequence[Event], config_yaml: str, images: Mapping[str, Location]
) -> Location:
    """Write `report.html` into a run directory, be the run finished, running, or without anything to show.

    Args:
        run_dir: the run's directory; its name is the headline.
        events: the lines of metrics.jsonl (see `reid_ray.reports.series`).
        config_yaml: the resolved configuration.
        images: heading → picture (PNG, JPEG or SVG), in the order in which they are shown. A file that does
            not exist is left out: a running run may not have drawn it yet.

    Returns:
        The path of the report.
    """
    summary = headline(events)
    body = [
        _header(run_dir.name, summary),
        _headline_cards(summary),
        *(_picture(heading, path) for heading, path in images.items() if path.is_file()),
        _epochs(events, summary),
        _facts(events),
        f"<section><h2>Configuration</h2><pre>{escape(config_yaml.strip())}</pre></section>",
    ]
    out = run_dir / REPORT_NAME
    with replacing(out) as file:
        file.write(_PAGE.format(title=escape(run_dir.name), style=_STYLE, body="\n".join(body)).encode())
    return out


def _header(name: str, summary: Headline) -> str:
    state = "finished" if summary.ended else "in progress"
    kind = "done" if summary.ended else "running"
    return f'<header><h1>{escape(name)}</h1><span class="state {kind}">{state}</span></header>'


def _headline_cards(summary: Headline) -> str:
    if summary.last is None:
        return (
            '<section><p class="note">This run has no evaluation'
            f"{'' if summary.ended else ' yet'}: its data has no query and gallery with identities, or none "
            "was due.</p></section>"
        )
    cards = [
        _card("Start", summary.start, "before training"),
        _card("Best", summary.best, "chosen by test mAP"),
        _card("Last", summary.last, ""),
    ]
    return f'<section class="cards">{"".join(cards)}</section>'


def _card(name: str, event: Event | None, remark: str) -> str:
    if event is None:
        return ""
    epoch = number(event, "epoch")
    when = f"after epoch {epoch:.0f}" if epoch else ""
    about = ", ".join(part for part in (remark, when) if part)
    rates = "".join(
        f"<div><dt>{key}</dt><dd>{100 * value:.1f}</dd></div>"
        for key in ("R1", "R5", "R10", "mINP")
        if (value := number(event, key)) is not None
    )
    return (
        f'<article><h2>{name} <small>{escape(about)}</small></h2><p class="figure">'
        f"{100 * (number(event, 'mAP') or 0):.1f}<span>% mAP</span></p><dl>{rates}</dl></article>"
    )


def _picture(heading: str, path: Location) -> str:
    media_type = MEDIA_TYPES.get(path.suffix.lower(), "image/png")
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f"<section><h2>{escape(heading)}</h2><figure>"
        f'<img alt="{escape(heading)}" src="data:{media_type};base64,{data}"></figure></section>'
    )


def _epochs(events: Sequence[Event], summary: Headline) -> str:
    headings, rows = table(events)
    if not rows:
        return '<section><h2>Epochs</h2><p class="note">No epoch has been logged yet.</p></section>'
    best_epoch = None if summary.best is None else number(summary.best, "epoch")
    lines = []
    for cells in rows:
        is_best = best_epoch == (0 if cells[0] == "start" else int(cells[0]))
        columns = "".join(f"<td>{escape(cell) or '&ndash;'}</td>" for cell in cells)
        row_class = ' class="best"' if is_best else ""
        lines.append(f"<tr{row_class}>{columns}</tr>")
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    return (
        '<section><h2>Epochs</h2><p class="note">Labels are those an epoch trained on; metrics, in %, are '
        'those after it.</p><div class="wide"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _facts(events: Sequence[Event]) -> str:
    """The plain values of the run's first and last event: where it ran, what it ran, how it ended."""
    facts: dict[str, str] = {}
    for event in events:
        if event.get("event") in ("start", "end"):
            facts |= {
                key.replace("_", " "): f"{value:,.1f}" if isinstance(value, float) else str(value)
                for key, value in event.items()
                if isinstance(value, str | int | float) and key not in _POSITION_KEYS
            }
    if not facts:
        return ""
    items = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
    return f'<section><h2>Run</h2><dl class="facts">{items}</dl></section>'


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
