"""`create-event` and `edit-event`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from seatctl.domain import rules
from seatctl.domain.documents import EventId, RunId, StoredDocument, mapping_in
from seatctl.domain.validation import moment, seat_count, text
from seatctl.domain.words import count, shorten
from seatctl.errors import (
    DamagedDocument,
    KeyReused,
    NotFound,
    SeatctlError,
    SoldOut,
    Usage,
    ensure_changed,
)
from seatctl.mongo.ids import id_of_key
from seatctl.mongo.store import Store
from seatctl.services.by_id import get_event, stored_event


class CreateEventRequest(NamedTuple):
    """An event as a caller asks for it: `date` is UTC, or how long from now. With a `key`, the same request
    again returns the same event."""

    name: str
    seats: int
    date: datetime | timedelta
    description: str | None = None
    key: str | None = None


class CreateEventResult(NamedTuple):
    event: StoredDocument
    id: EventId
    date: datetime
    is_past: bool
    created: bool = True


class EditEventRequest(NamedTuple):
    """What people read of an event; None stays as it is."""

    event: EventId
    name: str | None = None
    date: datetime | timedelta | None = None
    description: str | None = None


class EditEventResult(NamedTuple):
    event: StoredDocument
    changed: tuple[str, ...]
    past: datetime | None = None
    """The new date, where that is past."""


def create_event(store: Store, request: CreateEventRequest) -> CreateEventResult:
    """A new event with all its seats available, or the one that the key made before. Raises Usage for a name
    or number that makes no sense, KeyReused."""
    request = _checked(request)
    if request.key is not None:
        store.operations.ensure_collection()
    for attempt in store.transaction_attempts():
        with attempt as tx:
            result = _create_within(tx, request)
    return result


def _checked(request: CreateEventRequest) -> CreateEventRequest:
    description = request.description
    if description is not None:
        description = text("description", description, rules.MAX_DESCRIPTION, lines=True)
    key = None if request.key is None else text("key", request.key)
    name, seats = text("name", request.name), seat_count(request.seats)
    return request._replace(name=name, seats=seats, description=description, key=key)


def _create_within(tx: Store, request: CreateEventRequest) -> CreateEventResult:
    now = tx.now()
    date = moment("date", request.date, now)
    operation_id = None
    if request.key is not None:
        # The operation's id is made of the key: of two that insert it one starts over, and finds it.
        operation_id = RunId(id_of_key("create-event", request.key))
        if (earlier := tx.operations.stored(operation_id)) is not None:
            return _created_before(tx, request, earlier, now)
    name, seats = request.name, request.seats
    event = tx.events.insert(name, date, seats, request.description, request.key, now)
    made = {"name": name, "eventDate": date, "totalSeats": seats}
    event_id = EventId(event["_id"])
    tx.operations.record("create-event", now, event_id, after=made, operation_id=operation_id)
    return CreateEventResult(event, event_id, date, date < now)


def _created_before(
    tx: Store, request: CreateEventRequest, earlier: StoredDocument, now: datetime
) -> CreateEventResult:
    """The event that a key made. A key stands for one request: the event may have changed since."""
    event_id, made = EventId(earlier["eventId"]), mapping_in(earlier["after"])
    key = shorten(request.key or "")
    wanted = {"name": request.name, "totalSeats": request.seats}
    if isinstance(request.date, datetime):
        wanted["eventDate"] = moment("date", request.date, now)
    if not wanted.items() <= made.items():
        raise KeyReused(
            f"key {key!r} already created event {event_id}, with a different name, date or capacity"
        )
    event = tx.events.stored(event_id)
    if event is None:
        raise NotFound(f"key {key!r} created event {event_id}, which no longer exists; use a new key")
    date = event.get("eventDate")
    date = date if isinstance(date, datetime) else now
    return CreateEventResult(event, event_id, date, date < now, created=False)


def edit_event(store: Store, request: EditEventRequest) -> EditEventResult:
    """Change an event's name, date or description. Raises Usage, NotFound, DamagedDocument, CountedByDay."""
    for attempt in store.transaction_attempts():
        with attempt as tx:
            result = _edit_within(tx, request)
    return result


def _edit_within(tx: Store, request: EditEventRequest) -> EditEventResult:
    now = tx.now()
    wanted = _wanted(request, now)
    get_event(tx, request.event)
    before = stored_event(tx, request.event)
    changes = {field: value for field, value in wanted.items() if before.get(field) != value}
    if not changes:
        return EditEventResult(before, ())
    edited = ensure_changed(tx.events.describe(request.event, changes, now))
    changed = {field: before.get(field) for field in changes}
    tx.operations.record("edit-event", now, request.event, before=changed, after=changes)
    date = changes.get("eventDate")
    return EditEventResult(
        edited, tuple(changes), date if isinstance(date, datetime) and date < now else None
    )


def _wanted(request: EditEventRequest, now: datetime) -> dict[str, object]:
    wanted: dict[str, object] = {}
    if request.name is not None:
        wanted["name"] = text("name", request.name)
    if request.date is not None:
        wanted["eventDate"] = moment("date", request.date, now)
    if request.description is not None:
        wanted["description"] = text("description", request.description, rules.MAX_DESCRIPTION, lines=True)
    if not wanted:
        raise Usage("nothing to change: give a --name, a --date or a --description")
    return wanted


def too_few_seats(store: Store, event_id: EventId, wanted: int) -> SeatctlError:
    """What says why so many seats of an event cannot be taken."""
    event = get_event(store, event_id)
    rules.check_on_sale(event)
    if event.available > event.total or event.available < 0:
        return DamagedDocument(
            f"event {event.id}: {event.available} of {count(event.total, 'seat')} available; "
            "run `seatctl recover`"
        )
    return SoldOut(f"event {event.id} has {count(event.available, 'seat')} left, {wanted} requested")
