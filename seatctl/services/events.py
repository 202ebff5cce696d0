"""Creating events."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from seatctl.domain.documents import Event, EventId, NewEvent, StoredDocument
from seatctl.domain.requests import moment, seat_count, text
from seatctl.domain.rules import MAX_DESCRIPTION
from seatctl.mongo.store import Store
from seatctl.services.found import not_found, readable


@dataclass(frozen=True, slots=True)
class CreateEventRequest:
    """An event as a caller asks for it: `date` is UTC, or how long from now."""

    name: str
    seats: int
    date: datetime | timedelta
    description: str | None = None


@dataclass(frozen=True, slots=True)
class CreateEventResult:
    event: StoredDocument
    id: EventId
    date: datetime
    is_past: bool


def create_event(store: Store, request: CreateEventRequest) -> CreateEventResult:
    """A new event with all its seats available. Raises Usage for a name or number that makes no sense."""
    now = store.now()
    new = NewEvent(
        name=text("name", request.name),
        date=moment("date", request.date, now),
        seats=seat_count(request.seats),
        description=None
        if request.description is None
        else text("description", request.description, MAX_DESCRIPTION, lines=True),
        now=now,
    )
    stored = store.events.insert(new)
    return CreateEventResult(stored, EventId(stored["_id"]), new.date, new.date < now)


def get_event(store: Store, event_id: EventId) -> Event:
    """The event, if its counter can be read. Raises NotFound, DamagedDocument, CountedByDay."""
    found = store.events.get(event_id)
    if found is None:
        raise not_found(store, "event", event_id)
    return readable(found)
