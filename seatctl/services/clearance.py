"""Clearance: may this event's counter be raised? What seatctl cannot read is not free (invariant 11).

Checked once for each event before a run or command raises its counter for the first time, at one point
in time. An event without clearance is left alone and named; the rest of the run goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import Enum, auto
from functools import cached_property
from typing import NamedTuple

from seatctl.domain.documents import Event, EventId, Flaw, LockId, Unreadable
from seatctl.domain.states import BookingStatus
from seatctl.domain.words import count
from seatctl.mongo.audit import BookingCounts, HeldSeats, some
from seatctl.mongo.collection import CURSOR_BATCH, chunks
from seatctl.mongo.store import Store


class Cause(Enum):
    """Why an event's counter must not be raised."""

    DATABASE = auto()
    NO_EVENT = auto()
    UNREADABLE = auto()
    COUNTED_BY_DAY = auto()
    MISSING_LOCK = auto()
    TOO_HIGH = auto()
    """The counter promises seats that locks hold."""
    OVERBOOKED = auto()
    """Locks hold more seats than there are."""


class Doubt(NamedTuple):
    """Why one event has no clearance, as a cause and as a sentence."""

    cause: Cause
    reason: str

    def __str__(self) -> str:
        return self.reason


class Clearance:
    """The events that one run has looked at. `overdue_before` is the time of a sweep of bookings, which
    looks at the lock of each overdue one itself."""

    def __init__(self, store: Store, overdue_before: datetime | None = None) -> None:
        self.store = store
        self._overdue_before = overdue_before
        self._doubts: dict[EventId, Doubt | None] = {}
        self._protected: dict[LockId, Unreadable] = {}

    def doubts(self, event_ids: Iterable[EventId]) -> dict[EventId, Doubt]:
        """Those of these events whose counter must not be raised, and why."""
        wanted = set(event_ids)
        unknown = [event_id for event_id in wanted if event_id not in self._doubts]
        if unknown:
            self._doubts.update(self._look(unknown))
        return {event_id: doubt for event_id in wanted if (doubt := self._doubts[event_id])}

    def forget(self, event_ids: Iterable[EventId]) -> None:
        """Look at these events again when they are needed next."""
        for event_id in event_ids:
            self._doubts.pop(event_id, None)

    def protectors(
        self, lock_ids: Iterable[LockId], event_ids: Iterable[EventId]
    ) -> dict[LockId, Unreadable]:
        """Those of these locks, of these events, that a booking protects which names them by something that
        is no ObjectId, and those bookings."""
        self.doubts(event_ids)
        named = self._protected | self._of_odd_events
        return {lock_id: named[lock_id] for lock_id in lock_ids if lock_id in named} if named else {}

    @cached_property
    def database(self) -> Doubt | None:
        """What puts the counters of the whole database in doubt."""
        return doubt_of_database(self.store)

    @cached_property
    def _of_odd_events(self) -> dict[LockId, Unreadable]:
        found = self.store.bookings.of_odd_events()
        return {lock_id: booking for booking, lock_ids in found for lock_id in lock_ids}

    @cached_property
    def _owned_by_text(self) -> dict[EventId, Unreadable]:
        return {lock.event: lock for lock in self.store.locks.unreadable_owners() if lock.event is not None}

    def _look(self, event_ids: list[EventId]) -> dict[EventId, Doubt | None]:
        if self.database is not None:
            return dict.fromkeys(event_ids, self.database)
        return self.store.at_one_time(lambda at: self._look_at(at, event_ids))

    def _look_at(self, at: Store, event_ids: list[EventId]) -> dict[EventId, Doubt | None]:
        scope = some(event_ids)
        for booking, lock_ids in at.bookings.naming_oddly(scope):
            self._protected.update(dict.fromkeys(lock_ids, booking))
        events, held, booked = (
            at.audit.events(scope),
            at.audit.held_seats(scope),
            at.audit.booking_counts(scope),
        )
        without_locks = at.bookings.events_without_locks(scope, self._overdue_before)
        doubts: dict[EventId, Doubt | None] = {}
        for event_id in event_ids:
            holds = held.get(event_id, HeldSeats())
            doubt = doubt_of_event(event_id, events.get(event_id), holds)
            if doubt is None and (lock := self._owned_by_text.get(event_id)):
                doubt = Doubt(Cause.UNREADABLE, f"event {event_id}: {lock}")
            if doubt is None:
                paid_in_doubt = holds.sold_digest != booked.get(event_id, BookingCounts()).paid_digest
                if event_id in without_locks or (paid_in_doubt and has_paid_without_lock(at, event_id)):
                    reason = f"event {event_id}: a live booking names a lock that does not exist"
                    doubt = Doubt(Cause.MISSING_LOCK, reason)
            doubts[event_id] = doubt
        return doubts


def doubt_of_database(store: Store) -> Doubt | None:
    """Why no counter of this database may be raised, or None."""
    for index in store.audit.deleting_indexes():
        reason = f"{index.collection} has the TTL index {index.name}, by which MongoDB deletes documents"
        return Doubt(Cause.DATABASE, reason)
    locks = store.settings.locks
    if not store.has_collection(locks):
        return Doubt(Cause.DATABASE, f"there is no collection {locks}")
    if store.locks.is_empty() and store.bookings.has_live():
        return Doubt(Cause.DATABASE, f"{locks} is empty, but live bookings name locks")
    return None


def doubt_of_event(event_id: EventId, event: Event | Unreadable | None, held: HeldSeats) -> Doubt | None:
    """What the event itself and its locks say against raising its counter."""
    if event is None:
        return Doubt(Cause.NO_EVENT, f"event {event_id} does not exist")
    if isinstance(event, Unreadable):
        by_day = event.flaw is Flaw.COUNTED_BY_DAY
        return Doubt(Cause.COUNTED_BY_DAY if by_day else Cause.UNREADABLE, str(event))
    if held.unreadable:
        reason = f"event {event_id}: {count(held.unreadable, 'lock')} cannot be read; `seatctl verify` names"
        return Doubt(Cause.UNREADABLE, f"{reason} {'it' if held.unreadable == 1 else 'them'}")
    if held.seats > event.total:
        reason = (
            f"event {event_id}: locks hold {held.seats} of {count(event.total, 'seat')}; see `seatctl verify`"
        )
        return Doubt(Cause.OVERBOOKED, reason)
    if event.available + held.seats > event.total:
        reason = (
            f"event {event_id}: {event.available} available and {held.seats} held are more than its "
            f"{count(event.total, 'seat')}; run `seatctl recover`"
        )
        return Doubt(Cause.TOO_HIGH, reason)
    return None


def has_paid_without_lock(at: Store, event_id: EventId) -> bool:
    """Whether a CONFIRMED booking of this event names no lock that exists."""
    paid = at.bookings.of_events(some([event_id]), BookingStatus.CONFIRMED)
    for bookings in chunks(paid, CURSOR_BATCH):
        if any(isinstance(booking, Unreadable) for booking in bookings):
            return True
        named = {booking.lock for booking in bookings if not isinstance(booking, Unreadable)}
        if len(at.locks.by_id(named)) < len(named):
            return True
    return False
