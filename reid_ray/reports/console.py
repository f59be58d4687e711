"""The epochs of a run as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from reid_ray.reports.series import Event, tabulate_epochs


def epoch_table(events: Sequence[Event]) -> Table:
    """Metrics (in %), label quality, loss and seconds per epoch; the row of the highest mAP is bold.

    Columns without values are left out; a run without epochs gives a table without rows.
    """
    found = tabulate_epochs(events)
    result = Table(caption=None if found.best is None else "bold: best epoch, chosen by mAP on query and gallery")
    for heading in found.headings:
        result.add_column(heading, justify="right", no_wrap=True)
    for i, cells in enumerate(found.rows):
        result.add_row(*cells, style="bold" if i == found.best else None)
    return result
