"""Events, locks and bookings by their ids: there and readable, or an error that says what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from seatctl.domain.documents import (
    Booking,
    BookingId,
    Event,
    EventId,
    Flaw,
    LockId,
    SeatLock,
    StoredDocument,
    Unreadable,
    mapping_in,
)
from seatctl.domain.states import LIVE, BookingStatus
from seatctl.errors import CountedByDay, DamagedDocument, NotFound
from seatctl.mongo.store import Store

T = TypeVar("T", Event, SeatLock, Booking)


def readable(found: T | Unreadable) -> T:
    """Raises DamagedDocument or CountedByDay for what a program must not change (invariant 11)."""
    if isinstance(found, Unreadable):
        raise (CountedByDay if found.flaw is Flaw.COUNTED_BY_DAY else DamagedDocument)(str(found))
    return found


def check_not_by_day(store: Store, event_id: EventId) -> None:
    """Raises CountedByDay for an event that is another program's business, with its locks and bookings."""
    event = store.events.get(event_id)
    if isinstance(event, Unreadable) and event.flaw is Flaw.COUNTED_BY_DAY:
        raise CountedByDay(str(event))


def get_event(store: Store, event_id: EventId) -> Event:
    """The event, if its counter can be used. Raises NotFound, DamagedDocument, CountedByDay."""
    return _there(store, "event", event_id, store.events.get(event_id))


def stored_event(tx: Store, event_id: EventId) -> StoredDocument:
    """An event that was read at the same point in time, with all its fields."""
    stored = tx.events.stored(event_id)
    assert stored is not None
    return stored


def get_lock(store: Store, lock_id: LockId) -> SeatLock:
    """The lock, if it can be read. Raises NotFound, DamagedDocument."""
    return _there(store, "lock", lock_id, store.locks.get(lock_id))


def get_booking(store: Store, booking_id: BookingId) -> Booking:
    """The booking, if it can be read. Raises NotFound, DamagedDocument."""
    return _there(store, "booking", booking_id, store.bookings.get(booking_id))


def booking_or_lock(store: Store, either: str, wanted: object) -> Booking | SeatLock:
    """Whichever has this id, if it can be read; `either` names the two. Raises NotFound, DamagedDocument."""
    booking = store.bookings.get(BookingId(wanted))
    if booking is not None:
        return readable(booking)
    return _there(store, either, wanted, store.locks.get(LockId(wanted)))


def _there(store: Store, kind: str, wanted: object, found: T | Unreadable | None) -> T:
    if found is None:
        raise not_found(store, kind, wanted)
    return readable(found)


def lock_of(store: Store, booking: Booking) -> SeatLock | None:
    """The lock that a booking names. Raises DamagedDocument where it cannot be read."""
    found = store.locks.get(booking.lock)
    return None if found is None else readable(found)


def bookings_of(store: Store, lock_id: LockId) -> list[Booking]:
    """The lock's booking, or, of several, the live ones first. Raises DamagedDocument where one cannot be
    read."""
    bookings = [readable(found) for found in store.bookings.of_lock(lock_id)]
    live = [booking for booking in bookings if booking.status in LIVE]
    return live + [booking for booking in bookings if booking.status not in LIVE]


def booking_of(store: Store, lock_id: LockId) -> Booking | None:
    """The booking that counts for a lock: not one that another program only INITIATED."""
    counts = (one for one in bookings_of(store, lock_id) if one.status is not BookingStatus.INITIATED)
    return next(counts, None)


def seats_of_booking(store: Store, booking: Booking, lock: SeatLock | None) -> int:
    """How many seats a booking has or had, also where its lock is gone; 0 where nothing says so."""
    return lock.seats if lock is not None else seats_without_lock(store, [booking])[booking.id]


def seats_without_lock(store: Store, bookings: Sequence[Booking]) -> dict[BookingId, int]:
    """How many seats bookings have or had, by what the newest command recorded of each, or by what it says
    itself; 0 where nothing says so."""
    seats: dict[BookingId, int] = {}
    for entry in store.operations.concerning([booking.id for booking in bookings], newest_first=True):
        recorded = mapping_in(entry.get("after")).get("seats")
        if isinstance(recorded, int):
            seats.setdefault(BookingId(entry.get("bookingId")), recorded)
    return {booking.id: seats.get(booking.id, booking.own_seats) for booking in bookings}


def not_found(store: Store, kind: str, wanted: object) -> NotFound:
    """There is no such document; the message says what the id is the id of."""
    found = store.find_anywhere(wanted)
    hint = f"; that is the id of {'an' if found[0][0] in 'aeiou' else 'a'} {found[0]}" if found else ""
    return NotFound(f"there is no {kind} {wanted}{hint}")
