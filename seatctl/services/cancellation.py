"""`cancel`: the end of a booking, of some of its seats, or of a sold lock without a paid booking."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from seatctl.domain import rules
from seatctl.domain.documents import Booking, Refund, SeatLock
from seatctl.domain.states import HOLDING, BookingStatus, LockStatus, RefundCause
from seatctl.domain.validation import seat_count
from seatctl.errors import StaleRead, Usage, WrongState, ensure_changed
from seatctl.mongo.store import Store
from seatctl.services.by_id import (
    booking_or_lock,
    bookings_of,
    check_not_by_day,
    get_event,
    lock_of,
    seats_of_booking,
)
from seatctl.services.clearance import Doubt
from seatctl.services.seats import doubt_to_ignore, end_by_decision, log_returned


class CancelRequest(NamedTuple):
    """A booking to cancel, or `seats` of its seats in all; or a CONSUMED lock without a paid booking. With
    `refund`, what was paid has to go back."""

    id: object
    seats: int | None = None
    refund: bool = True
    dry_run: bool = False


class CancelResult(NamedTuple):
    """The booking, or the lock if that was asked for; whether this call changed it; how many seats came back,
    how many the event has then, and why none came back although a lock ended; and the refund that is due."""

    lock: SeatLock | None
    booking: Booking | None
    changed: bool
    seats: int = 0
    available: int | None = None
    doubt: Doubt | None = None
    refund: Refund | None = None


def cancel(store: Store, request: CancelRequest) -> CancelResult:
    """End a live booking and its lock, return the seats, and record a refund if it was paid. Again: once.

    Needs clearance, but where no counter went down for the lock: then no seats come back. Raises Usage,
    NotFound, WrongState, DamagedDocument, CountedByDay (invariants 3, 5, 11 and 12).
    """
    if request.seats is not None:
        seat_count(request.seats)
    for attempt in store.transaction_attempts(dry_run=request.dry_run):
        with attempt as tx:
            result = _cancel_within(tx, request)
    if result.seats and result.lock is not None and not request.dry_run:
        log_returned(store, result.lock, result.seats)
    return result


def _cancel_within(tx: Store, request: CancelRequest) -> CancelResult:
    found = booking_or_lock(tx, "booking or lock", request.id)
    check_not_by_day(tx, found.event)
    if isinstance(found, Booking):
        if request.seats is None:
            return _cancel_booking(tx, found, request)
        return _return_some(tx, found, request.seats, request)
    if request.seats is not None:
        raise Usage("--seats is for a booking; a lock without one is cancelled as a whole")
    return _cancel_lock(tx, found)


def _cancel_booking(tx: Store, booking: Booking, request: CancelRequest) -> CancelResult:
    lock = lock_of(tx, booking)
    if booking.status is BookingStatus.CANCELLED:
        return CancelResult(lock, booking, changed=False)
    rules.check_cancellable(booking)
    now, result = tx.now(), CancelResult(lock, None, changed=True)
    if lock is not None and _ends_with(tx, booking, lock, now):
        result = _end_lock(tx, lock, now)
    cancelled, by = BookingStatus.CANCELLED, tx.operations.id
    ended = ensure_changed(tx.bookings.change(booking.id, booking.status, cancelled, now, ended_by=by))
    refund = _owe(tx, booking, seats_of_booking(tx, booking, lock), request, now)
    before, after = {"status": booking.status.value}, {"status": ended.status.value}
    ids = booking.event, booking.lock, booking.id
    tx.operations.record("cancel", now, *ids, refund=refund, before=before, after=after)
    return result._replace(booking=ended, refund=refund)


def is_kept_by_another(tx: Store, booking: Booking, lock: SeatLock, now: datetime) -> bool:
    """Whether the lock of a booking that ends stays, because another booking names it that is live or cannot
    be read. It is written then: of two that end at once, the later one must see that it was the last."""
    if all(other.id == booking.id for _, other in tx.bookings.protecting([lock.id])):
        return False
    ensure_changed(tx.locks.touch(lock, now))
    return True


def _ends_with(tx: Store, booking: Booking, lock: SeatLock, now: datetime) -> bool:
    """Whether the lock ends with this booking. Raises WrongState where it is sold and the booking waits for
    its payment: someone may have paid."""
    if lock.status not in HOLDING or is_kept_by_another(tx, booking, lock, now):
        return False
    if lock.status is LockStatus.CONSUMED and booking.status is BookingStatus.PAYMENT_PENDING:
        raise WrongState(
            f"lock {lock.id} of booking {booking.id} is CONSUMED: someone may have paid. If so, `seatctl "
            f"confirm {lock.id} --sold` records it; if not, `seatctl cancel {lock.id}` returns the seats"
        )
    return True


def _end_lock(tx: Store, lock: SeatLock, now: datetime) -> CancelResult:
    to = LockStatus.CANCELLED if lock.status is LockStatus.CONSUMED else LockStatus.EXPIRED
    ended, doubt = end_by_decision(tx, lock, now, to)
    return _returned(tx, ended, lock.seats, doubt)


def _returned(tx: Store, lock: SeatLock, seats: int, doubt: Doubt | None) -> CancelResult:
    """So many seats of a lock are back, unless there is a doubt."""
    if doubt is not None:
        return CancelResult(lock, None, changed=True, doubt=doubt)
    return CancelResult(lock, None, True, seats, get_event(tx, lock.event).available)


def _owe(tx: Store, booking: Booking, seats: int, request: CancelRequest, now: datetime) -> Refund | None:
    """The refund of so many seats of a booking, if it was paid and the request asks for one."""
    if not request.refund or booking.status is not BookingStatus.CONFIRMED:
        return None
    return tx.refunds.owe(booking, seats, RefundCause.CANCELLED, booking.payment_ref, now)


def _return_some(tx: Store, booking: Booking, cancelled: int, request: CancelRequest) -> CancelResult:
    """So many of a live booking's seats in all: the booking stays, with the others."""
    lock = lock_of(tx, booking)
    rules.check_seats_to_return(booking, lock, cancelled)
    assert lock is not None
    if len(list(tx.bookings.protecting([lock.id]))) > 1:
        raise WrongState(
            f"lock {lock.id} has several bookings; `seatctl relock {booking.id}` gives this one a "
            "lock of its own"
        )
    seats, now = cancelled - booking.seats_cancelled, tx.now()
    if not seats:
        return CancelResult(lock, booking, changed=False)
    doubt = doubt_to_ignore(tx, lock)
    if doubt is None and tx.events.add_seats({lock.event: seats}, now) != 1:
        raise StaleRead
    smaller = ensure_changed(tx.locks.set_seats(lock, lock.seats - seats, now))
    changed = ensure_changed(tx.bookings.return_some_seats(booking, cancelled, smaller.seats, now))
    refund = _owe(tx, booking, seats, request, now)
    status = booking.status.value
    before = {"status": status, "seatsCancelled": booking.seats_cancelled, "seats": lock.seats}
    after = {"status": status, "seatsCancelled": cancelled, "seats": smaller.seats}
    ids = booking.event, booking.lock, booking.id
    tx.operations.record("cancel", now, *ids, refund=refund, before=before, after=after)
    return _returned(tx, smaller, seats, doubt)._replace(booking=changed, refund=refund)


def _cancel_lock(tx: Store, lock: SeatLock) -> CancelResult:
    """The decision that nobody paid: the lock's seats come back, and a booking that waits ends with it."""
    if lock.status is LockStatus.CANCELLED:
        return CancelResult(lock, None, changed=False)
    bookings = bookings_of(tx, lock.id)
    paid = (booking for booking in bookings if booking.status is BookingStatus.CONFIRMED)
    rules.check_sold_without_booking(lock, next(paid, None))
    now = tx.now()
    result = _end_lock(tx, lock, now)
    pending = [booking.id for booking in bookings if booking.status is BookingStatus.PAYMENT_PENDING]
    for booking_id in pending:
        was, cancelled = BookingStatus.PAYMENT_PENDING, BookingStatus.CANCELLED
        ensure_changed(tx.bookings.change(booking_id, was, cancelled, now, ended_by=tx.operations.id))
    before, after = {"status": lock.status.value}, {"status": LockStatus.CANCELLED.value}
    tx.operations.record("cancel", now, lock.event, lock.id, others=pending, before=before, after=after)
    return result
