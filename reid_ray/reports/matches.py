"""The page of a search: queries with their matches, without scripts and network access."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from torch import Tensor

from reid_ray.io.paths import Location
from reid_ray.reports.crops import embedded
from reid_ray.reports.page import write_html


@dataclass(frozen=True)
class Match:
    """One match of a query.

    Attributes:
        name: of the image, in full.
        image: uint8 RGB [3, h, w]; None if it cannot be read any more.
        similarity: cosine.
        remarks: what else is known, such as the camera.
        accepted: whether the similarity reaches the threshold; None without one.
    """

    name: str
    image: Tensor | None
    similarity: float
    remarks: tuple[str, ...] = ()
    accepted: bool | None = None


@dataclass(frozen=True)
class QueryMatches:
    """A query image uint8 RGB [3, h, w] with its matches, best first."""

    name: str
    image: Tensor
    matches: Sequence[Match]


def write_matches(out: Location, title: str, note: str, queries: Sequence[QueryMatches]) -> None:
    """Write the page; every name is shown as text, whatever markup it holds."""
    body = [
        f"<header><h1>{escape(title)}</h1></header>",
        f'<section><p class="note">{escape(note)}</p></section>',
        *map(_query, queries),
    ]
    write_html(out, title, body, style=_STYLE)


def _query(query: QueryMatches) -> str:
    cells = "".join(_match(rank, match) for rank, match in enumerate(query.matches, start=1))
    if not query.matches:
        cells = '<li><p class="note">No image passes the filters.</p></li>'
    return (
        f'<section class="query"><h2>{escape(query.name)}</h2><div class="row">'
        f'<figure class="crop own">{_image(query.image, "query")}<figcaption>query</figcaption></figure>'
        f'<ol class="crops">{cells}</ol></div></section>'
    )


def _match(rank: int, match: Match) -> str:
    kind = {True: " accepted", False: " refused", None: ""}[match.accepted]
    verdict = {True: "✓ above the threshold", False: "below", None: ""}[match.accepted]
    remarks = "".join(f"<span>{escape(text)}</span>" for text in (*match.remarks, verdict) if text)
    image = '<div class="lost">not readable</div>' if match.image is None else _image(match.image, f"match {rank}")
    short = match.name.replace("\\", "/").rpartition("/")[2]
    return (
        f'<li><figure class="crop{kind}" title="{escape(match.name)}">{image}<figcaption>'
        f"<strong>{rank}. {match.similarity:.3f}</strong>{remarks}<small>{escape(short)}</small>"
        f"</figcaption></figure></li>"
    )


def _image(image: Tensor, text: str) -> str:
    found = embedded(image)
    return f'<img alt="{escape(text)}" width="{found.width}" height="{found.height}" src="{found.uri}">'


_STYLE = """
.row { display: flex; gap: 1.4rem; align-items: flex-start; }
.crops { display: flex; flex-wrap: wrap; gap: .9rem; list-style: none; margin: 0; padding: 0; }
.crop { background: none; padding: 0; width: 108px; }
.crop img, .lost { width: 100%; height: auto; border-radius: 6px; border: 3px solid var(--line); }
.lost { aspect-ratio: 1 / 2; display: grid; place-items: center; font-size: .75rem; color: var(--muted); }
.own { flex: none; }
.own img { border-color: var(--accent); }
.accepted img { border-color: var(--good); }
.refused img { opacity: .6; border-style: dashed; }
figcaption { display: flex; flex-direction: column; font-size: .78rem; line-height: 1.35; margin-top: .25rem; }
figcaption span { color: var(--muted); }
figcaption small { overflow-wrap: anywhere; }
.accepted figcaption span:last-of-type { color: var(--good); }
"""
