"""Taking and returning seats: the only place where a counter moves by what a lock holds.

The event's counter is the first write of every transaction here. Counter last, a sweep beside four
buyers never finished (write conflicts for 120 s); counter first, it took 0.8 s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from seatctl.domain.documents import BookingId, Event, EventId, LockId
from seatctl.errors import StaleRead
from seatctl.mongo.locks import OverdueLock
from seatctl.mongo.store import Store


class Ending(NamedTuple):
    """One thing to expire: a lock, or a booking with the ACTIVE lock that holds its seats, if any."""

    deadline: datetime
    lock: OverdueLock | None
    booking: BookingId | None = None

    @property
    def id(self) -> LockId | BookingId:
        """The item that a sweep reports this under."""
        if self.booking is not None:
            return self.booking
        assert self.lock is not None
        return self.lock.id


def take(tx: Store, event_id: EventId, seats: int) -> Event | None:
    """Counter down, if the event has that many seats (invariant 2); returns it as it is then. The lock that
    holds them is inserted in the same transaction."""
    return tx.events.take_seats(event_id, seats)


def give(tx: Store, seats: dict[EventId, int], now: datetime) -> None:
    """Counters up. Raises StaleRead, and so rolls the transaction back, unless every event took its seats.
    The locks that held them end in the same transaction, by a compare-and-set each (invariant 3)."""
    if tx.events.add_seats(seats, now) != len(seats):
        raise StaleRead


def expire(
    tx: Store, returning: Sequence[Ending], without_seats: Sequence[Ending], before: datetime, now: datetime
) -> None:
    """End overdue locks and bookings: all of them, or, by StaleRead, none.

    The seats of `returning` go back to their events; those of `without_seats` go nowhere, because no
    counter went down for them. Each lock and booking must be overdue still at `before`.
    """
    give(tx, seats_of(returning), now)
    endings = [*returning, *without_seats]
    bookings = [ending.booking for ending in endings if ending.booking is not None]
    locks = [ending.lock.id for ending in endings if ending.lock is not None]
    if bookings and tx.bookings.expire_overdue(bookings, before, now) != len(bookings):
        raise StaleRead
    if not locks:
        return
    expired = tx.locks.expire_booked(locks, now) if bookings else tx.locks.expire_overdue(locks, before, now)
    if expired != len(locks):
        raise StaleRead
    # As of now, the deadline that `confirm` moved keeps a lock from being overdue. A sweep as of the
    # future (--force) may reach beyond that deadline, too.
    if not bookings and before > now and next(tx.bookings.protecting(locks), None) is not None:
        raise StaleRead


def seats_of(endings: Sequence[Ending]) -> Counter[EventId]:
    """By event, the seats that these hold."""
    seats: Counter[EventId] = Counter()
    for _, lock, _ in endings:
        if lock is not None:
            seats[lock.event] += lock.seats
    return seats
