"""The report of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from reid_ray.io.paths import Location
from reid_ray.reports.page import grid, header, picture, write_page
from reid_ray.reports.series import Event, Headline, headline, number, tabulate_epochs

_POSITION_KEYS = ("event", "time", "stage", "epoch", "step", "global_step")


def write_report(
    run_dir: Location,
    events: Sequence[Event],
    config_yaml: str,
    images: Mapping[str, Location],
    out: Location | None = None,
    *,
    hardest: str = "",
    style: str = "",
) -> Location:
    """Write `report.html` into a run directory, for a finished, running or empty run.

    Args:
        run_dir: the run's directory; its name is the headline.
        events: the lines of metrics.jsonl (see `reid_ray.reports.series`).
        config_yaml: the resolved configuration.
        images: heading → image (PNG, JPEG or SVG), in display order. A file that does
            not exist is left out: a running run may not have drawn it yet.
        out: folder to write to; default the run's.
        hardest: a section with the hardest queries.
        style: CSS of that section.

    Returns:
        The path of the report.
    """
    summary = headline(events)
    body = [
        header(run_dir.name, finished=summary.ended),
        _headline_cards(summary),
        _gallery_link(run_dir),
        *(picture(heading, path) for heading, path in images.items() if path.is_file()),
        hardest,
        _epochs(events),
        _attributes(summary.last),
        _facts(events),
        f"<section><h2>Configuration</h2><pre>{escape(config_yaml.strip())}</pre></section>",
    ]
    return write_page(out or run_dir, body, title=run_dir.name, style=style)


def _gallery_link(run_dir: Location) -> str:
    """A link to the cluster gallery of the run, if there is one."""
    if not (run_dir / "gallery" / "index.html").is_file():
        return ""
    return '<section><a href="gallery/index.html">Cluster gallery</a></section>'


def _headline_cards(summary: Headline) -> str:
    if summary.last is None:
        return (
            '<section><p class="note">This run has no evaluation'
            f"{'' if summary.ended else ' yet'}: its data has no query and gallery with identities, or none "
            "was due.</p></section>"
        )
    cards = [
        _card("Start", summary.start, "before training"),
        _card("Best", summary.best, "chosen by mAP on query and gallery"),
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


def _epochs(events: Sequence[Event]) -> str:
    table = tabulate_epochs(events)
    if not table.rows:
        return '<section><h2>Epochs</h2><p class="note">No epoch has been logged yet.</p></section>'
    marked = [i == table.best for i in range(len(table.rows))]
    note = "Labels are those of the epoch; metrics, in %, are after the epoch."
    return grid("Epochs", note, table.headings, table.rows, marked)


def _attributes(event: Event | None) -> str:
    """Accuracy of each predicted attribute in the last evaluation."""
    known = event.get("attributes") if event else None
    if not isinstance(known, Mapping):
        return ""
    rows, better = [], []
    for name, numbers in known.items():
        accuracy, baseline = float(numbers["accuracy"]), float(numbers["baseline"])
        rows.append([name, *(f"{100 * value:.1f}" for value in (accuracy, baseline, accuracy - baseline))])
        better.append(accuracy > baseline)
    note = "Accuracy on query and gallery, in %, next to always predicting the most frequent value. Marked: better."
    return grid("Attributes", note, ["attribute", "accuracy", "most frequent value", "difference"], rows, better)


def _facts(events: Sequence[Event]) -> str:
    """The scalar values of the first and last event: device, sizes, outcome."""
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
