"""A live dashboard of one database: the fullest events, the last job runs, the newest locks and bookings.

Made for 80 columns and 24 lines. A wider window shows more columns, ids last. In a lower one sections
have fewer rows, and the last sections go first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

from seatctl.domain.states import BookingStatus, LockStatus
from seatctl.domain.timespec import format_duration, format_time
from seatctl.output import live, tables
from seatctl.services import lookup

if TYPE_CHECKING:
    from seatctl.domain.documents import StoredDocument
    from seatctl.mongo.store import Store
    from seatctl.output.console import Part

SMALLEST_SECTION = 4
"""Lines that a section needs: its headings, two rows, and an empty line."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one reading of the database found: documents by collection, and the names of their events."""

    database: str
    now: datetime
    documents: Mapping[str, Sequence[StoredDocument]]
    names: Mapping[object, str]


def watch(store: Store, interval: timedelta) -> None:
    """Redraw every `interval` until Ctrl-C."""
    try:
        with live.live_screen() as screen:
            while True:
                width, height = screen.size
                screen.draw(render(read(store, height), width, height, interval))
                time.sleep(interval.total_seconds())
    except KeyboardInterrupt:
        return


def read(store: Store, rows: int) -> Snapshot:
    """The first `rows` documents of each section."""
    locks = list(lookup.locks(store, None, None, None, rows))
    bookings = list(lookup.bookings(store, None, None, None, rows))
    documents = {
        "events": list(lookup.events(store, lookup.EventOrder.FULLEST, rows)),
        "jobLogs": list(lookup.job_runs(store, None, None, None, rows)),
        "seatLocks": locks,
        "bookings": bookings,
    }
    named = [lock.get("eventId") for lock in locks] + [booking.get("event") for booking in bookings]
    names = store.events.names({event for event in named if _is_hashable(event)})
    return Snapshot(store.name, store.now(), documents, names)


def render(snapshot: Snapshot, width: int, height: int, interval: timedelta) -> Part:
    """The whole screen: the sections, and a status line at the bottom."""
    parts = [
        _section(SECTIONS[name], snapshot, snapshot.documents[name][:rows], width)
        for name, rows in share_lines(height - 1, snapshot.documents).items()
    ]
    now = format_time(snapshot.now.replace(microsecond=0))
    status = f"Ctrl-C to quit, updated every {format_duration(interval)}  {now}  {snapshot.database}"
    return live.full_screen(parts, status)


def share_lines(lines: int, documents: Mapping[str, Sequence[object]]) -> dict[str, int]:
    """How many rows each section gets of a window with so many lines. What one section does not need
    the others get. The first section always has a row."""
    shown = list(SECTIONS)[: max(1, lines // SMALLEST_SECTION)]
    rows = dict.fromkeys(shown, 1)
    free = lines - len(shown) * (SMALLEST_SECTION - 1)
    while wanting := [name for name in shown if rows[name] < len(documents[name])][: max(0, free)]:
        for name in wanting:
            rows[name] += 1
        free -= len(wanting)
    return rows


# --- sections -----------------------------------------------------------------------------------------

Value: TypeAlias = Callable[["StoredDocument", Snapshot], object]


@dataclass(frozen=True, slots=True)
class Column:
    """A column, and the narrowest window that shows it."""

    name: str
    min_width: int
    value: Value


def _section(
    columns: Sequence[Column], snapshot: Snapshot, found: Iterable[StoredDocument], width: int
) -> Part:
    min_widths = {column.name: column.min_width for column in columns}
    rows = [[column.value(document, snapshot) for column in columns] for document in found]
    return live.glance_table(min_widths, rows, width)


def _field(name: str) -> Value:
    return lambda document, _: document.get(name)


def _detail(name: str) -> Value:
    return lambda run, _: tables.detail(run, name)


def _event_name(field: str) -> Value:
    def value(document: StoredDocument, snapshot: Snapshot) -> object:
        event = document.get(field)
        return snapshot.names.get(event, event) if _is_hashable(event) else event

    return value


def _time_left(status: str, field: str) -> Value:
    """Until the deadline, of documents in the state in which there is one."""

    def value(document: StoredDocument, snapshot: Snapshot) -> object:
        deadline, now = document.get(field), snapshot.now
        if document.get("status") != status:
            return None
        if not isinstance(deadline, datetime):
            return deadline
        left = format_duration(deadline - now)
        return left if deadline > now else f"overdue {left}"

    return value


def _age(field: str) -> Value:
    def value(document: StoredDocument, snapshot: Snapshot) -> object:
        moment = document.get(field)
        if not isinstance(moment, datetime):
            return moment
        return f"{format_duration(max(snapshot.now - moment, timedelta()))} ago"

    return value


def _is_hashable(value: object) -> bool:
    """Asked of the value, not of its type: a DBRef can hold a list."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


SECTIONS = {
    "events": (
        Column("id", 130, _field("_id")),
        Column("event", 0, _field("name")),
        Column("date", 100, _field("eventDate")),
        Column("filled", 60, lambda event, _: tables.occupancy(event)),
        Column("available #", 0, _field("availableSeats")),
        Column("locked #", 0, _field("locked")),
        Column("sold #", 0, _field("sold")),
        Column("total #", 100, _field("totalSeats")),
    ),
    "jobLogs": (
        Column("id", 130, _field("_id")),
        Column("job run", 0, _field("jobType")),
        Column("outcome", 0, _field("status")),
        Column("started", 0, _age("executedAt")),
        Column("processed #", 60, _detail("recordsProcessed")),
        Column("returned #", 60, _detail("seatsRestored")),
        Column("ms #", 100, _detail("duration")),
        Column("host", 100, _field("host")),
        Column("error", 72, _field("error")),
    ),
    "seatLocks": (
        Column("id", 130, _field("_id")),
        Column("lock", 0, _field("status")),
        Column("time left", 0, _time_left(LockStatus.ACTIVE, "expiresAt")),
        Column("seats #", 0, _field("seats")),
        Column("user", 60, _field("userId")),
        Column("of event", 0, _event_name("eventId")),
    ),
    "bookings": (
        Column("id", 130, _field("_id")),
        Column("booking", 0, _field("status")),
        Column("time left", 0, _time_left(BookingStatus.PAYMENT_PENDING, "paymentExpiresAt")),
        Column("user", 60, _field("user")),
        Column("of event", 0, _event_name("event")),
    ),
}
"""By collection, in the order on the screen."""
