"""Creating events."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

from seatctl.domain.documents import Event, EventId, StoredDocument
from seatctl.domain.requests import moment, seat_count, text
from seatctl.domain.rules import MAX_DESCRIPTION
from seatctl.mongo.store import Store
from seatctl.services.found import not_found, readable


class CreateEventRequest(NamedTuple):
    """An event as a caller asks for it: `date` is UTC, or how long from now."""

    name: str
    seats: int
    date: datetime | timedelta
    description: str | None = None


class CreateEventResult(NamedTuple):
    event: StoredDocument
    id: EventId
    date: datetime
    is_past: bool


def create_event(store: Store, request: CreateEventRequest) -> CreateEventResult:
    """A new event with all its seats available. Raises Usage for a name or number that makes no sense."""
    now = store.now()
    name, seats = text("name", request.name), seat_count(request.seats)
    date, description = moment("date", request.date, now), request.description
    if description is not None:
        description = text("description", description, MAX_DESCRIPTION, lines=True)
    stored = store.events.insert(name, date, seats, description, now)
    return CreateEventResult(stored, EventId(stored["_id"]), date, date < now)


def get_event(store: Store, event_id: EventId) -> Event:
    """The event, if its counter can be read. Raises NotFound, DamagedDocument, CountedByDay."""
    found = store.events.get(event_id)
    if found is None:
        raise not_found(store, "event", event_id)
    return readable(found)
