"""A live dashboard of one database: the fullest events, the last job runs, and locks and
bookings, the overdue ones first.

Made for 80 columns and 24 lines. A wider window shows more columns, ids last. In a lower one sections
have fewer rows, and the last sections go first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from time import sleep
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from seatctl.domain.timespec import format_duration, format_time
from seatctl.domain.validation import ListRequest
from seatctl.domain.words import count
from seatctl.errors import Unreachable
from seatctl.mongo.failures import translate
from seatctl.output import console, tables
from seatctl.output.deadlines import DEADLINES, time_left
from seatctl.services import health, lists

if TYPE_CHECKING:
    from seatctl.domain.documents import StoredDocument
    from seatctl.mongo.store import Store
    from seatctl.output.console import Drawing
    from seatctl.services.health import Glance

LOST = "connection lost, retrying"
ANSWER, READING = 3.0, 15.0
"""Seconds within which the server says that it is there, and within which a screen is read."""
SMALLEST_SECTION = 4
"""Lines that a section needs: its headings, two rows, and an empty line."""


class Snapshot(NamedTuple):
    """What one reading of the database found: documents by collection, and the names of their events."""

    database: str
    now: datetime
    documents: Mapping[str, Sequence[StoredDocument]]
    names: Mapping[object, str]
    glance: Glance


def watch(store: Store, interval: timedelta) -> None:
    """Redraw every `interval` until Ctrl-C. When the database cannot be reached any more, the last reading
    stays, and the status line says so. Raises Unreachable when there is none yet."""
    with contextlib.suppress(KeyboardInterrupt), console.live_screen() as screen:
        snapshot, updated = None, f"every {format_duration(interval)}"
        while True:
            try:
                snapshot, state = read(store, screen.console.height), updated
            except Exception as error:
                state = LOST
                if snapshot is None or not isinstance(translate(error), Unreachable):
                    raise
            width, height = screen.console.size
            screen.update(render(snapshot, width, height, state), refresh=True)
            sleep(interval.total_seconds())


def read(store: Store, rows: int) -> Snapshot:
    """The first `rows` documents of each section; of locks and bookings those that are overdue come first.

    Raises soon, whatever the driver raises, when the server does not answer: old numbers must not seem new.
    """
    with store.deployment.time_limit(ANSWER):
        now = store.now()
    with store.deployment.time_limit(READING):
        return _read(store, rows, now)


def _read(store: Store, rows: int, now: datetime) -> Snapshot:
    shown = {name: ListRequest(rows, fields=tables.columns_of(name)) for name in SECTIONS}
    documents = {
        "events": list(lists.events(store, lists.Order.FULLEST, shown["events"])),
        "jobLogs": list(lists.job_runs(store, request=shown["jobLogs"])),
        "seatLocks": _overdue_first(lists.locks, store, shown["seatLocks"]),
        "bookings": _overdue_first(lists.bookings, store, shown["bookings"]),
    }
    named = [lock.get("eventId") for lock in documents["seatLocks"]]
    named += [booking.get("event") for booking in documents["bookings"]]
    names = store.events.names({event for event in named if _is_hashable(event)})
    return Snapshot(store.name, now, documents, names, health.glance(store, now))


def _overdue_first(
    listed: Callable[..., Iterator[StoredDocument]], store: Store, request: ListRequest
) -> list[StoredDocument]:
    """Overdue ones by their deadline, then the newest."""
    overdue = list(listed(store, request=request, order=lists.Order.DEADLINE, overdue=True))
    known = {str(document["_id"]) for document in overdue}
    newest = [document for document in listed(store, request=request) if str(document["_id"]) not in known]
    return [*overdue, *newest][: request.limit]


def render(snapshot: Snapshot, width: int, height: int, state: str) -> Drawing:
    """The whole screen: the sections, and at the bottom `state`, the verdict, when it was read, and from
    where. Without a connection the numbers are dim, and there is no verdict."""
    parts = []
    for name, rows in share_lines(height - 1, snapshot.documents).items():
        columns = {column: cell for column, (least, cell) in SECTIONS[name].items() if width >= least}
        cells = [
            [
                cell(found, snapshot) if callable(cell) else tables.value(found, cell)
                for cell in columns.values()
            ]
            for found in snapshot.documents[name][:rows]
        ]
        parts.append(tables.live_table(tuple(columns), cells))
    now = format_time(snapshot.now.replace(microsecond=0))
    verdict = "numbers of" if state == LOST else f"{_verdict(snapshot.glance)} "
    line = f"Ctrl-C to quit  {state}  {verdict} {now}  {snapshot.database}"
    return console.full_screen(parts, line, stale=state == LOST)


def _verdict(glance: Glance) -> str:
    """Of the jobs and the backlog; the inventory takes too long to check it every other second."""
    overdue = {"lock": glance.overdue_locks, "booking": glance.overdue_bookings}
    backlog = ", ".join(count(number, what) for what, number in overdue.items() if number) or "nothing"
    if glance.jobs_are_fresh:
        return f"jobs ok, overdue: {backlog}"
    return f"jobs NOT ok, overdue: {backlog} (see seatctl health)"


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

Cell: TypeAlias = "str | Callable[[StoredDocument, Snapshot], object]"
"""A field, as in `tables.Field`, or what is made of the document."""


def _event_name(field: str) -> Cell:
    def cell(document: StoredDocument, snapshot: Snapshot) -> object:
        event = document.get(field)
        return snapshot.names.get(event, event) if _is_hashable(event) else event

    return cell


def _time_left(name: str) -> Cell:
    """What is left until a deadline; one that is no time is shown as it is."""
    status, field = DEADLINES[name]

    def cell(document: StoredDocument, snapshot: Snapshot) -> object:
        deadline = document.get(field)
        is_malformed = document.get("status") == status and not isinstance(deadline, datetime)
        return deadline if is_malformed else time_left(name, document, snapshot.now)

    return cell


def _started(run: StoredDocument, snapshot: Snapshot) -> object:
    moment = run.get("executedAt")
    if not isinstance(moment, datetime):
        return moment
    return f"{format_duration(max(snapshot.now - moment, timedelta()))} ago"


def _is_hashable(value: object) -> bool:
    """Asked of the value, not of its type: a DBRef can hold a list."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


SECTIONS: dict[str, dict[str, tuple[int, Cell]]] = {
    "events": {
        "id": (130, "_id"),
        "event": (0, "name"),
        "date": (100, "eventDate"),
        "filled": (60, lambda event, _: tables.occupancy(event, tables.WIDE_BAR)),
        "available #": (0, "availableSeats"),
        "locked #": (0, "locked"),
        "sold #": (0, "sold"),
        "total #": (100, "totalSeats"),
    },
    "jobLogs": {
        "id": (130, "_id"),
        "job run": (0, "jobType"),
        "outcome": (0, "status"),
        "started": (0, _started),
        "processed #": (60, "details.recordsProcessed"),
        "returned #": (60, "details.seatsRestored"),
        "ms #": (100, "details.duration"),
        "host": (100, "host"),
        "error": (72, "error"),
    },
    "seatLocks": {
        "id": (130, "_id"),
        "lock": (0, "status"),
        "time left": (0, _time_left("seatLocks")),
        "seats #": (0, "seats"),
        "user": (60, "userId"),
        "of event": (0, _event_name("eventId")),
    },
    "bookings": {
        "id": (130, "_id"),
        "booking": (0, "status"),
        "time left": (0, _time_left("bookings")),
        "user": (60, "user"),
        "of event": (0, _event_name("event")),
    },
}
"""By collection, in the order on the screen: each column with the narrowest window that shows it, since
an id is left out where it has no room, never cut."""
