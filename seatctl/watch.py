"""A live screen of one database: the fullest events, the newest locks and bookings, the last runs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from seatctl import lists, output

if TYPE_CHECKING:
    from datetime import timedelta

    from rich.console import RenderableType

    from seatctl.store import Store

PARTS = {
    "events": "events, fullest first",
    "seatLocks": "locks",
    "bookings": "bookings",
    "jobLogs": "job runs",
}
FRAME = 5
"""Lines that a table needs beside its rows."""


def watch(store: Store, interval: timedelta) -> None:
    """Redraw every `interval` until Ctrl-C."""
    with output.live() as (screen, height):
        try:
            while True:
                screen.update(picture(store, height() // len(PARTS) - FRAME), refresh=True)
                time.sleep(interval.total_seconds())
        except KeyboardInterrupt:
            return


def picture(store: Store, rows: int) -> RenderableType:
    """What the screen shows now, with at most `rows` (at least one) rows in each table."""
    rows = max(1, rows)
    shown = {
        name: lists.fullest(store, rows) if name == "events" else lists.newest(store, name, {}, rows)
        for name in PARTS
    }
    return output.stack(output.TABLES[name](documents, PARTS[name]) for name, documents in shown.items())
