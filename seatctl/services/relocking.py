"""`relock`: a lock of its own for a booking whose lock is missing, is shared with another booking, or holds
seats of another event. It is how a person carries out "this booking keeps its seats"."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from seatctl.domain.documents import Booking, BookingId, Event, SeatLock
from seatctl.domain.states import ENDED_LOCK, LIVE, BookingStatus, LockStatus
from seatctl.domain.timespec import format_time
from seatctl.domain.validation import seat_count
from seatctl.domain.words import count
from seatctl.errors import (
    DamagedDocument,
    DeadlinePassed,
    SoldOut,
    Usage,
    WrongState,
    ensure_changed,
)
from seatctl.mongo.store import Store
from seatctl.services.by_id import get_booking, get_event, lock_of, seats_without_lock
from seatctl.services.closing import take_unheld

LOCK_OF = {
    BookingStatus.CONFIRMED: LockStatus.CONSUMED,
    BookingStatus.PAYMENT_PENDING: LockStatus.ACTIVE,
    BookingStatus.FAILED: LockStatus.EXPIRED,
    BookingStatus.EXPIRED: LockStatus.EXPIRED,
    BookingStatus.CANCELLED: LockStatus.CANCELLED,
}
"""The state of the lock of a booking (invariant 5)."""


class RelockResult(NamedTuple):
    """The booking; its lock, or None where it needs none; whether this call made that lock; and the lock that
    it named before, if that still exists."""

    booking: Booking
    lock: SeatLock | None
    changed: bool
    left: SeatLock | None = None


def relock(
    store: Store, booking_id: BookingId, seats: int | None = None, *, dry_run: bool = False
) -> RelockResult:
    """Give a booking a lock of its own. A live one takes its seats again, if its event has seats that no lock
    holds; an ended one gets a lock that holds nothing. `seats` is needed only where nothing says how many it
    had. Again: once. Raises Usage, NotFound, WrongState, DeadlinePassed, SoldOut, DamagedDocument,
    CountedByDay.
    """
    wanted = None if seats is None else seat_count(seats)
    for attempt in store.transaction_attempts(dry_run=dry_run):
        with attempt as tx:
            result = _relock_within(tx, booking_id, wanted)
    return result


def _relock_within(tx: Store, booking_id: BookingId, wanted: int | None) -> RelockResult:
    booking = get_booking(tx, booking_id)
    old = lock_of(tx, booking)
    if _needs_no_lock(tx, booking, old):
        return RelockResult(booking, old, changed=False)
    status, now = LOCK_OF[booking.status], tx.now()
    if booking.status is BookingStatus.PAYMENT_PENDING and booking.deadline <= now:
        raise DeadlinePassed(
            f"booking {booking.id} had to be paid by {format_time(booking.deadline)}; "
            "`seatctl expire-bookings` ends it"
        )
    seats = _seats_of(tx, booking, old, wanted)
    if booking.status in LIVE:
        _take(tx, get_event(tx, booking.event), seats, now)
    if old is not None:  # two bookings must not both leave it
        ensure_changed(tx.locks.touch(old, now))
    lock = tx.locks.insert_for(booking, seats, status, now, under_its_id=old is None)
    moved = booking
    if lock.id != booking.lock:
        moved = ensure_changed(tx.bookings.move_to_lock(booking, lock.id, now))
    others = [] if old is None else [old.id]
    before = {"seatLockId": None if old is None else old.id}
    after = {"seatLockId": lock.id, "seats": seats, "status": status.value}
    ids = booking.event, lock.id, booking.id
    tx.operations.record("relock", now, *ids, others=others, before=before, after=after)
    return RelockResult(moved, lock, changed=True, left=old)


def _needs_no_lock(tx: Store, booking: Booking, lock: SeatLock | None) -> bool:
    """Whether a booking needs no other lock. Raises WrongState where `recover` is what it needs."""
    if booking.status is BookingStatus.INITIATED or (lock is None and booking.status not in LIVE):
        return True
    if lock is None:
        return False
    named = [other for other in tx.bookings.of_lock(lock.id) if other.id != booking.id]
    if any(not isinstance(one, Booking) or one.status is not BookingStatus.INITIATED for one in named):
        return False
    if booking.status in LIVE and lock.event != booking.event:
        return False
    if booking.status in LIVE and lock.status in ENDED_LOCK:
        raise WrongState(f"lock {lock.id} of booking {booking.id} is {lock.status}; run `seatctl recover`")
    return True


def _seats_of(tx: Store, booking: Booking, lock: SeatLock | None, wanted: int | None) -> int:
    """How many seats a booking had, by what commands recorded of it, what it says itself, or its lock.
    Raises Usage where nothing says so, WrongState where that is not what was `wanted`."""
    known = seats_without_lock(tx, [booking])[booking.id]
    if wanted is not None and known and wanted != known:
        raise WrongState(
            f"booking {booking.id} has {count(known, 'seat')}, not {wanted}; leave out --seats; `seatctl "
            f"history {booking.id}` shows where the others went"
        )
    seats = wanted or known or (0 if lock is None else lock.seats)
    if not seats:
        raise Usage(
            f"the number of seats of booking {booking.id} is unknown, because its lock is gone; give it with "
            "--seats N"
        )
    return seats


def _take(tx: Store, event: Event, seats: int, now: datetime) -> None:
    """Seats for a new lock. The counter may still be without those of a lock that was deleted."""
    held = tx.aggregations.held_by(event.id)
    if held.unreadable:
        raise DamagedDocument(
            f"event {event.id}: {count(held.unreadable, 'lock')} cannot be read; `seatctl verify` says why"
        )
    if not take_unheld(tx, event, held, seats, now):
        free = count(max(event.total - held.seats, 0), "seat")
        raise SoldOut(
            f"event {event.id} has {free} that no lock holds, but the booking needs {seats}; `seatctl resize "
            f"{event.id} --seats {held.seats + seats}` makes room"
        )
