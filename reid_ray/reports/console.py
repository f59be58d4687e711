"""The epochs of a run as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from reid_ray.reports.series import Event, headline, number, table


def epoch_table(events: Sequence[Event]) -> Table:
    """Metrics (in %), label quality, loss and seconds per epoch; the row of the highest mAP is bold.

    Columns that no epoch fills are left out; a run without any epoch gives a table without rows.
    """
    headings, rows = table(events)
    best = headline(events).best
    best_epoch = None if best is None else number(best, "epoch")
    result = Table(caption=None if best is None else "bold: best epoch, chosen by mAP on query and gallery")
    for heading in headings:
        result.add_column(heading, justify="right", no_wrap=True)
    for cells in rows:
        epoch = 0 if cells[0] == "start" else int(cells[0])
        result.add_row(*cells, style="bold" if epoch == best_epoch else None)
    return result
