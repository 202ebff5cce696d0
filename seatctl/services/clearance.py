"""Clearance: may this event's counter be raised? What seatctl cannot read is not free (invariant 11).

Checked once for each event before a run or command raises its counter for the first time, at one point
in time. An event without clearance is left alone and named; the rest of the run goes on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from enum import Enum, auto
from functools import cached_property
from threading import RLock
from typing import NamedTuple

from seatctl.domain.documents import Booking, Event, EventId, Flaw, LockId, SeatLock, Unreadable
from seatctl.domain.states import ENDED_LOCK, BookingStatus
from seatctl.domain.words import count
from seatctl.mongo.aggregations import BookingCounts, HeldSeats, scope_of
from seatctl.mongo.collection import CURSOR_BATCH, chunks
from seatctl.mongo.store import Store


class Cause(Enum):
    DATABASE = auto()
    NO_EVENT = auto()
    UNREADABLE = auto()
    COUNTED_BY_DAY = auto()
    MISSING_LOCK = auto()
    TOO_HIGH = auto()
    """The counter promises seats that locks hold."""
    OVERBOOKED = auto()
    """Locks hold more seats than there are."""


NOTHING_HELD, NOTHING_BOOKED = HeldSeats(), BookingCounts()


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
        self._assessed: set[EventId] = set()
        self._doubts: dict[EventId, Doubt] = {}
        self._protected: dict[LockId, Unreadable] = {}
        self._one_at_a_time = RLock()
        """Two batches of a run share what it has looked at."""

    def doubts(self, event_ids: Iterable[EventId]) -> dict[EventId, Doubt]:
        """Those of these events whose counter must not be raised, and why."""
        wanted = set(event_ids)
        with self._one_at_a_time:
            if new := wanted - self._assessed:
                self._doubts.update(self._assess(new))
                self._assessed |= new
            return {event_id: self._doubts[event_id] for event_id in self._doubts.keys() & wanted}

    def doubt(self, event_id: EventId) -> Doubt | None:
        """Why this event's counter must not be raised, or None."""
        return self.doubts([event_id]).get(event_id)

    def forget(self, event_ids: Iterable[EventId]) -> None:
        """Look at these events again when they are needed next."""
        with self._one_at_a_time:
            for event_id in event_ids:
                self._assessed.discard(event_id)
                self._doubts.pop(event_id, None)

    def protecting_by_text(
        self, lock_ids: Iterable[LockId], event_ids: Iterable[EventId]
    ) -> dict[LockId, Unreadable]:
        """By lock, of these locks of these events: a booking that names it by something that is no ObjectId,
        and may keep it from expiring."""
        self.doubts(event_ids)
        named = self._protected | self._with_malformed_event
        return {lock_id: named[lock_id] for lock_id in lock_ids if lock_id in named} if named else {}

    @cached_property
    def database(self) -> Doubt | None:
        """What puts the counters of the whole database in doubt."""
        return doubt_of_database(self.store)

    @cached_property
    def _malformed_bookings(self) -> list[tuple[Unreadable, list[LockId]]]:
        """Those that name their event by something that is no ObjectId, and the locks that they name."""
        return list(self.store.bookings.with_malformed_event_id())

    @cached_property
    def _with_malformed_event(self) -> dict[LockId, Unreadable]:
        return {lock_id: booking for booking, lock_ids in self._malformed_bookings for lock_id in lock_ids}

    @cached_property
    def _naming_event_by_text(self) -> dict[EventId, Unreadable]:
        """By event: a lock that names it by something that is no ObjectId, or a booking that does and whose
        lock cannot be found."""
        found = [
            *_without_lock(self.store, self._malformed_bookings),
            *self.store.locks.with_unreadable_event(),
        ]
        return {each.event: each for each in found if each.event is not None}

    def _assess(self, event_ids: set[EventId]) -> dict[EventId, Doubt]:
        if self.database is not None:
            return dict.fromkeys(event_ids, self.database)
        return self.store.read_snapshot(
            lambda at: self._assess_at(at, event_ids), f"the locks of {count(len(event_ids), 'event')}"
        )

    def _assess_at(self, at: Store, event_ids: set[EventId]) -> dict[EventId, Doubt]:
        """Sums tell of nearly all events that nothing is wrong. Only the others are read themselves."""
        scope = scope_of(event_ids)
        taken, held, booked = (
            at.aggregations.taken_seats(scope),
            at.aggregations.held_seats(scope),
            at.aggregations.booking_counts(scope),
        )
        if malformed := [event_id for event_id, books in booked.items() if books.malformed]:
            for booking, lock_ids in at.bookings.with_malformed_lock_id(scope_of(malformed)):
                self._protected.update(dict.fromkeys(lock_ids, booking))
        without_locks = at.bookings.events_without_locks(scope, self._overdue_before)
        suspects = event_ids & (without_locks | self._naming_event_by_text.keys())
        for event_id in event_ids:
            holds, books = held.get(event_id, NOTHING_HELD), booked.get(event_id, NOTHING_BOOKED)
            fits = not holds.unreadable and holds.seats <= taken.get(event_id, -1) and not books.unreadable
            if not fits or holds.sold_digest != books.paid_digest:
                suspects.add(event_id)
        events = at.events.by_id(suspects)
        doubts: dict[EventId, Doubt] = {}
        for event_id in suspects:
            holds, books = held.get(event_id, NOTHING_HELD), booked.get(event_id, NOTHING_BOOKED)
            doubt = _doubt_of_documents(event_id, events.get(event_id), holds)
            if not doubt and books.unreadable:
                doubt = _doubt_of_unreadable(at, event_id)
            differs = holds.sold_digest != books.paid_digest
            doubt = doubt or self._doubt_of_references(at, event_id, without_locks, differs=differs)
            if doubt := doubt or _doubt_of_counter(events.get(event_id), holds.seats):
                doubts[event_id] = doubt
        return doubts

    def _doubt_of_references(
        self, at: Store, event_id: EventId, without_locks: set[EventId], *, differs: bool
    ) -> Doubt | None:
        """What other documents say of an event; `differs` if its sold locks are not those that were paid."""
        if named_by := self._naming_event_by_text.get(event_id):
            return Doubt(Cause.UNREADABLE, f"event {event_id}: {named_by}")
        if event_id in without_locks or (
            differs and None in booked_locks(at, event_id, BookingStatus.CONFIRMED)
        ):
            reason = f"event {event_id}: it has a live booking whose lock cannot be found"
            return Doubt(Cause.MISSING_LOCK, reason)
        return None


def _doubt_of_unreadable(at: Store, event_id: EventId) -> Doubt | None:
    """A booking that may be live may be all that is left of a sale."""
    booking = next(_without_lock(at, at.bookings.unreadable_of(event_id)), None)
    return None if booking is None else Doubt(Cause.UNREADABLE, f"event {event_id}: {booking}")


def _without_lock(at: Store, bookings: Iterable[tuple[Unreadable, list[LockId]]]) -> Iterator[Unreadable]:
    """Those of which no lock can be found."""
    return (booking for booking, lock_ids in bookings if not at.locks.by_id(lock_ids))


def doubt_of_database(store: Store) -> Doubt | None:
    """Why no counter of this database may be raised, or None."""
    for index in store.aggregations.deleting_indexes():
        reason = f"{index.collection} has the TTL index {index.name}, so MongoDB deletes documents"
        return Doubt(Cause.DATABASE, reason)
    locks = store.settings.locks
    if not store.has_collection(locks):
        return Doubt(Cause.DATABASE, f"there is no collection {locks}")
    if store.locks.is_empty() and store.bookings.has_live():
        return Doubt(Cause.DATABASE, f"{locks} is empty, but live bookings name locks")
    return None


def _doubt_of_documents(event_id: EventId, event: Event | Unreadable | None, held: HeldSeats) -> Doubt | None:
    """What cannot be read of an event and its locks."""
    if event is None:
        return Doubt(Cause.NO_EVENT, f"event {event_id} does not exist")
    if isinstance(event, Unreadable):
        by_day = event.flaw is Flaw.COUNTED_BY_DAY
        return Doubt(Cause.COUNTED_BY_DAY if by_day else Cause.UNREADABLE, str(event))
    if held.unreadable:
        reason = f"event {event_id}: {count(held.unreadable, 'lock')} cannot be read; `seatctl verify` names"
        return Doubt(Cause.UNREADABLE, f"{reason} {'it' if held.unreadable == 1 else 'them'}")
    return None


def _doubt_of_counter(event: Event | Unreadable | None, held: int) -> Doubt | None:
    """What the numbers say. Asked last: what this finds is all that is wrong."""
    assert isinstance(event, Event)  # or there would be a doubt of the documents
    if held > event.total:
        reason = f"event {event.id}: locks hold {held} of {count(event.total, 'seat')}; see `seatctl verify`"
        return Doubt(Cause.OVERBOOKED, reason)
    if event.available + held > event.total:
        reason = (
            f"event {event.id}: {event.available} available and {held} held are more than its "
            f"{count(event.total, 'seat')}; run `seatctl recover`"
        )
        return Doubt(Cause.TOO_HIGH, reason)
    return None


def booked_locks(
    at: Store, event_id: EventId, status: BookingStatus
) -> Iterator[SeatLock | Unreadable | None]:
    """The locks that the bookings of this event in one state name; None for one that does not exist, or that
    no id names."""
    for bookings in chunks(at.bookings.of_events(scope_of([event_id]), status), CURSOR_BATCH):
        named = [None if isinstance(booking, Unreadable) else booking.lock for booking in bookings]
        locks = at.locks.by_id(lock_id for lock_id in named if lock_id is not None)
        yield from (None if lock_id is None else locks.get(lock_id) for lock_id in named)


def has_ended_paid_lock(at: Store, event_id: EventId) -> bool:
    """Whether a lock of this event has ended although a CONFIRMED booking, of whatever event, names it."""
    for status in ENDED_LOCK:
        for locks in chunks(at.locks.of_events(scope_of([event_id]), status), CURSOR_BATCH):
            ids = [lock.id for lock in locks if isinstance(lock, SeatLock)]
            for _, booking in at.bookings.naming(ids):
                if isinstance(booking, Booking) and booking.status is BookingStatus.CONFIRMED:
                    return True
    return False


def protected_by_text(at: Store, lock_id: LockId, event_id: EventId) -> Unreadable | None:
    """A booking that may be live and names this lock by something that is no ObjectId."""
    return at.bookings.protecting_by_text(scope_of([event_id])).get(lock_id)
