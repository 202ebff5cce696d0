"""A live screen of one database: the fullest events, the last runs, the newest locks and bookings.

Made for 80 columns and 24 lines. What a wider window has room for is added, ids last; in a lower one
sections have fewer rows, and those at the end go first.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from seatctl.domain.model import BookingStatus, Document, Id, LockStatus, is_key
from seatctl.domain.timespec import format_duration, format_time
from seatctl.output import tables as output
from seatctl.services import lookup as lists

if TYPE_CHECKING:
    from datetime import timedelta

    from rich.console import RenderableType

    from seatctl.mongo.store import Store

SECTIONS = ("events", "jobLogs", "seatLocks", "bookings")
LEAST_SECTION = 4
"""Lines that a section must have to be shown: its headings, two rows, and an empty line."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look at the database found, by section, and the names of the events in it."""

    database: str
    now: datetime
    documents: Mapping[str, list[Document]]
    names: Mapping[Id, str]


def watch(store: Store, interval: timedelta) -> None:
    """Redraw every `interval` until Ctrl-C."""
    with output.live() as (screen, size):
        try:
            while True:
                width, height = size()
                screen.update(picture(look(store, height), width, height, interval), refresh=True)
                time.sleep(interval.total_seconds())
        except KeyboardInterrupt:
            return


def look(store: Store, rows: int) -> Sight:
    """The first `rows` documents of each section."""
    documents = {
        name: list(lists.fullest(store, rows) if name == "events" else lists.newest(store, name, {}, rows))
        for name in SECTIONS
    }
    of = [lock.get("eventId") for lock in documents["seatLocks"]]
    of += [booking.get("event") for booking in documents["bookings"]]
    events = store.events_by_id({event for event in of if is_key(event)})
    names = {event_id: str(event.get("name", event_id)) for event_id, event in events.items()}
    return Sight(store.name, store.now(), documents, names)


def picture(sight: Sight, width: int, height: int, interval: timedelta) -> RenderableType:
    """The whole screen: the sections, and one line about the screen itself at the bottom."""
    parts = [
        output.glance_table(*TABLES[name](sight, sight.documents[name][:rows]), width)
        for name, rows in share(height - 1, sight.documents).items()
    ]
    now = format_time(sight.now.replace(microsecond=0))
    status = f"Ctrl-C ends, again every {format_duration(interval)}  {now}  {sight.database}"
    return output.full_screen(parts, status)


def share(lines: int, documents: Mapping[str, list[Document]]) -> dict[str, int]:
    """How many rows each section gets of a window with so many lines. What one does not need
    falls to the others; the first always has a row."""
    shown = SECTIONS[: max(1, lines // LEAST_SECTION)]
    rows = dict.fromkeys(shown, 1)
    room = lines - len(shown) * (LEAST_SECTION - 1)
    while hungry := [name for name in shown if rows[name] < len(documents[name])][: max(0, room)]:
        for name in hungry:
            rows[name] += 1
        room -= len(hungry)
    return rows


# --- sections: columns with the least width of a window that shows them, and rows ---------------------

Section = tuple[dict[str, int], list[tuple[Any, ...]]]


def _events(_: Sight, events: list[Document]) -> Section:
    columns = {"id": 130, "event": 0, "date": 100, "filled": 60}
    columns |= {"available #": 0, "locked #": 0, "sold #": 0, "total #": 100}
    return columns, [
        (
            event["_id"],
            event.get("name"),
            event.get("eventDate"),
            output.bar(event),
            *(event.get(field) for field in ("availableSeats", "locked", "sold", "totalSeats")),
        )
        for event in events
    ]


def _runs(sight: Sight, runs: list[Document]) -> Section:
    columns = {"id": 130, "job run": 0, "outcome": 0, "started": 0, "processed #": 60, "seats back #": 60}
    columns |= {"ms #": 100, "host": 100, "error": 72}
    return columns, [
        (
            run["_id"],
            run.get("jobType"),
            run.get("status"),
            _since(run.get("executedAt"), sight.now),
            *(output.detail(run, name) for name in ("recordsProcessed", "seatsRestored", "duration")),
            run.get("host"),
            run.get("error"),
        )
        for run in runs
    ]


def _locks(sight: Sight, locks: list[Document]) -> Section:
    columns = {"id": 130, "lock": 0, "time left": 0, "seats #": 0, "user": 60, "of event": 0}
    return columns, [
        (
            lock["_id"],
            lock.get("status"),
            _left(lock.get("expiresAt"), sight.now) if lock.get("status") == LockStatus.ACTIVE else "",
            lock.get("seats"),
            lock.get("userId"),
            _name(sight, lock.get("eventId")),
        )
        for lock in locks
    ]


def _bookings(sight: Sight, bookings: list[Document]) -> Section:
    columns = {"id": 130, "booking": 0, "time left": 0, "user": 60, "of event": 0}
    waiting = BookingStatus.PAYMENT_PENDING
    return columns, [
        (
            booking["_id"],
            booking.get("status"),
            _left(booking.get("paymentExpiresAt"), sight.now) if booking.get("status") == waiting else "",
            booking.get("user"),
            _name(sight, booking.get("event")),
        )
        for booking in bookings
    ]


TABLES = {"events": _events, "jobLogs": _runs, "seatLocks": _locks, "bookings": _bookings}


def _name(sight: Sight, event_id: Id) -> Any:
    return sight.names.get(event_id, event_id) if is_key(event_id) else event_id


def _left(deadline: Any, now: datetime) -> Any:
    if not isinstance(deadline, datetime):
        return deadline
    return format_duration(deadline - now) if deadline > now else f"overdue {format_duration(now - deadline)}"


def _since(moment: Any, now: datetime) -> Any:
    if not isinstance(moment, datetime):
        return moment
    return f"{format_duration(max(now, moment) - moment)} ago"
