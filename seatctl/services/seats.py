"""Returning seats: of many locks that a sweep ends at once, or of one lock. Whether an event may take seats,
`clearance.py` decides.

The event's counter is the first write of every transaction here. Counter last, a sweep beside four
buyers never finished (write conflicts for 120 s); counter first, it took 0.8 s.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from seatctl.domain.documents import BookingId, Event, EventId, LockId, RunId, SeatLock
from seatctl.domain.states import LockStatus
from seatctl.errors import CountedByDay, DamagedDocument, SeatctlError, StaleRead
from seatctl.mongo.locks import OverdueLock
from seatctl.mongo.store import Store
from seatctl.services.clearance import Cause, Clearance, Doubt, protected_by_text

log = logging.getLogger(__name__)


class Ending(NamedTuple):
    """One thing to expire: a lock, or a booking with the ACTIVE lock that holds its seats, if any."""

    deadline: datetime
    lock: OverdueLock | None
    booking: BookingId | None = None
    event: EventId | None = None
    """The event of a booking without such a lock."""

    @property
    def id(self) -> LockId | BookingId:
        """The item that a sweep reports this under."""
        if self.booking is not None:
            return self.booking
        assert self.lock is not None
        return self.lock.id


def expire(
    tx: Store,
    returning: Sequence[Ending],
    without_seats: Sequence[Ending],
    before: datetime,
    now: datetime,
    run_id: RunId | None = None,
) -> None:
    """End overdue locks and bookings: all of them, or, by StaleRead, none.

    The seats of `returning` go back to their events; those of `without_seats` go nowhere, because no
    counter went down for them. Each lock and booking must be overdue still at `before`, and then names the
    run that ended it.
    """
    seats = seats_of(returning)
    if tx.events.add_seats(seats, now) != len(seats):
        raise StaleRead
    endings = [*returning, *without_seats]
    bookings = [ending.booking for ending in endings if ending.booking is not None]
    if bookings and tx.bookings.expire_overdue(bookings, before, now, run_id) != len(bookings):
        raise StaleRead
    locks = [ending.lock for ending in endings if ending.lock is not None]
    _expire_locks(tx, locks, None if bookings else before, now, run_id)
    # As of now, the deadline that `confirm` moved keeps a lock from being overdue. A sweep as of the
    # future (--force) may reach beyond that deadline, too.
    if not bookings and before > now and next(tx.bookings.protecting([lock.id for lock in locks]), None):
        raise StaleRead


def _expire_locks(
    tx: Store, locks: Sequence[OverdueLock], before: datetime | None, now: datetime, run_id: RunId | None
) -> None:
    """Those that hold as many seats as they did when this was planned: a buyer may have given some back.
    Without a time their bookings have ended, and their own deadline may be anything."""
    by_seats: dict[int, list[LockId]] = {}
    for lock in locks:
        by_seats.setdefault(lock.seats, []).append(lock.id)
    for seats, ids in by_seats.items():
        if before is None:
            expired = tx.locks.expire_booked(ids, now, run_id, seats)
        else:
            expired = tx.locks.expire_overdue(ids, before, now, run_id, seats)
        if expired != len(ids):
            raise StaleRead


def seats_of(endings: Sequence[Ending]) -> Counter[EventId]:
    """By event, the seats that these hold."""
    seats: Counter[EventId] = Counter()
    for ending in endings:
        if ending.lock is not None:
            seats[ending.lock.event] += ending.lock.seats
    return seats


# --- one lock ------------------------------------------------------------------------------------------

NO_COUNTER = frozenset({Cause.NO_EVENT, Cause.TOO_HIGH, Cause.OVERBOOKED})
"""Doubts that say that no counter went down for a lock: recovery may end it, and raises none."""


def doubt_about(tx: Store, lock: SeatLock, overdue_before: datetime | None = None) -> Doubt | None:
    """Why this lock's seats must not be returned (invariant 11), or None."""
    if booking := protected_by_text(tx, lock.id, lock.event):
        return Doubt(Cause.UNREADABLE, f"its {booking}")
    return Clearance(tx, overdue_before).doubt(lock.event)


def end_lock(
    tx: Store,
    lock: SeatLock,
    now: datetime,
    *,
    with_seats: bool,
    by_job: bool,
    ended_by: RunId | None = None,
    to: LockStatus = LockStatus.EXPIRED,
) -> SeatLock:
    """A lock ends, and the counter goes up first if the event takes the seats. Raises StaleRead, and so rolls
    back, when another writer was faster or the counter has no room (invariants 2 and 3)."""
    if with_seats and tx.events.add_seats({lock.event: lock.seats}, now) != 1:
        raise StaleRead
    ended = tx.locks.change(lock.id, lock.status, to, now, by_job=by_job, ended_by=ended_by)
    if ended is None:
        raise StaleRead
    return ended


def end_by_decision(
    tx: Store, lock: SeatLock, now: datetime, to: LockStatus
) -> tuple[SeatLock, Doubt | None]:
    """End a lock that an operator gives up, by whichever command. Where no counter went down for it, no
    seats go back, and the doubt says why; any other doubt is raised, as DamagedDocument or CountedByDay
    (invariant 11)."""
    doubt, by = doubt_to_ignore(tx, lock), tx.operations.id
    ended = end_lock(tx, lock, now, with_seats=doubt is None, by_job=False, ended_by=by, to=to)
    return ended, doubt


def doubt_to_ignore(tx: Store, lock: SeatLock) -> Doubt | None:
    """The doubt that says that no counter went down for this lock. Raises DamagedDocument or CountedByDay for
    any other."""
    doubt = doubt_about(tx, lock)
    if doubt is not None and doubt.cause not in NO_COUNTER:
        raise refusal(f"the seats of lock {lock.id} cannot be returned", doubt)
    return doubt


def refusal(what: str, doubt: Doubt) -> SeatctlError:
    """What a command does not do on an event without clearance, as DamagedDocument or CountedByDay."""
    error = CountedByDay if doubt.cause is Cause.COUNTED_BY_DAY else DamagedDocument
    return error(f"{what}: {doubt}")


# --- the story of a command ------------------------------------------------------------------------------


def log_returned(store: Store, lock: SeatLock, seats: int | None = None) -> None:
    """A counter that went up by the seats of this lock, or by so many of them."""
    if log.isEnabledFor(logging.INFO) and isinstance(event := store.events.get(lock.event), Event):
        log_counter(event.id, event.available, lock.seats if seats is None else seats)


def log_counter(event_id: EventId, available: int, change: int) -> None:
    """A counter in the command's story, as it is now and as that makes it before."""
    log.info("event %s: %d → %d seats available (%+d)", event_id, available - change, available, change)
