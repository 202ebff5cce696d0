"""What a buyer returns, or a person takes back: a booking, some of its seats, or a sold lock without a
paid booking."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from seatctl.domain import rules
from seatctl.domain.documents import Booking, BookingId, Event, LockId, Refund, SeatLock
from seatctl.domain.requests import seat_count
from seatctl.domain.states import HOLDING, BookingStatus, LockStatus, RefundCause
from seatctl.errors import StaleRead, Usage, WrongState
from seatctl.mongo.store import Store
from seatctl.services.by_id import (
    bookings_of,
    check_not_by_day,
    get_lock,
    lock_of,
    not_found,
    readable,
    seats_of_booking,
)
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
    doubt: str | None = None
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
    found = tx.bookings.get(BookingId(request.id))
    if found is not None:
        booking = readable(found)
        check_not_by_day(tx, booking.event)
        if request.seats is None:
            return _cancel_booking(tx, booking, request)
        return _return_some(tx, booking, request.seats, request)
    if tx.locks.get(LockId(request.id)) is None:
        raise not_found(tx, "booking or lock", request.id)
    if request.seats is not None:
        raise Usage("--seats is for a booking; a lock without one is cancelled as a whole")
    held = get_lock(tx, LockId(request.id))
    check_not_by_day(tx, held.event)
    return _cancel_lock(tx, held)


def _cancel_booking(tx: Store, booking: Booking, request: CancelRequest) -> CancelResult:
    held = lock_of(tx, booking)
    if booking.status is BookingStatus.CANCELLED:
        return CancelResult(held, booking, changed=False)
    rules.check_cancellable(booking)
    now, result = tx.now(), CancelResult(held, None, changed=True)
    if held is not None and _ends_with(tx, booking, held, now):
        result = _end_lock(tx, held, now)
    to, operation_id = BookingStatus.CANCELLED, tx.operations.id
    ended = tx.bookings.change(booking.id, booking.status, to, now, ended_by=operation_id)
    if ended is None:
        raise StaleRead
    refund = None
    if request.refund and booking.status is BookingStatus.CONFIRMED:
        refund = _owe(tx, booking, seats_of_booking(tx, booking, held), now)
    _record(tx, booking, ended, now, refund)
    return result._replace(booking=ended, refund=refund)


def is_kept_by_another(tx: Store, booking: Booking, lock: SeatLock, now: datetime) -> bool:
    """Whether the lock of a booking that ends stays, because another booking names it that is live or cannot
    be read. It is written then: of two that end at once, the later one must see that it was the last."""
    if all(other.id == booking.id for _, other in tx.bookings.protecting([lock.id])):
        return False
    if not tx.locks.touch(lock, now):
        raise StaleRead
    return True


def _ends_with(tx: Store, booking: Booking, held: SeatLock, now: datetime) -> bool:
    """Whether the lock ends with this booking. Raises WrongState where it is sold and the booking waits for
    its payment: someone may have paid."""
    if held.status not in HOLDING or is_kept_by_another(tx, booking, held, now):
        return False
    if held.status is LockStatus.CONSUMED and booking.status is BookingStatus.PAYMENT_PENDING:
        raise WrongState(
            f"lock {held.id} of booking {booking.id} is CONSUMED: someone may have paid. If so, `seatctl "
            f"confirm {held.id} --sold` records it; if not, `seatctl cancel {held.id}` returns the seats"
        )
    return True


def _end_lock(tx: Store, held: SeatLock, now: datetime) -> CancelResult:
    to = LockStatus.CANCELLED if held.status is LockStatus.CONSUMED else LockStatus.EXPIRED
    ended, doubt = end_by_decision(tx, held, now, to)
    if doubt is not None:
        return CancelResult(ended, None, changed=True, doubt=str(doubt))
    return CancelResult(ended, None, changed=True, seats=held.seats, available=_available(tx, held))


def _available(tx: Store, held: SeatLock) -> int | None:
    event = tx.events.get(held.event)
    return event.available if isinstance(event, Event) else None


def _owe(tx: Store, booking: Booking, seats: int, now: datetime) -> Refund:
    return tx.refunds.owe(booking, seats, RefundCause.CANCELLED, booking.payment_ref, now)


def _record(
    tx: Store,
    old: Booking,
    new: Booking,
    now: datetime,
    refund: Refund | None,
    seats: tuple[int, int] | None = None,
) -> None:
    """With the seats that its lock had and has, where the booking stays."""
    before: dict[str, object] = {"status": old.status.value}
    after: dict[str, object] = {"status": new.status.value}
    if seats is not None:
        before["seatsCancelled"], after["seatsCancelled"] = old.seats_cancelled, new.seats_cancelled
        before["seats"], after["seats"] = seats
    tx.operations.record(
        "cancel", now, new.event, new.lock, new.id, refund=refund, before=before, after=after
    )


def _return_some(tx: Store, booking: Booking, cancelled: int, request: CancelRequest) -> CancelResult:
    """So many of a live booking's seats in all: the booking stays, with the others."""
    held = lock_of(tx, booking)
    rules.check_seats_to_return(booking, held, cancelled)
    assert held is not None
    if len(list(tx.bookings.protecting([held.id]))) > 1:
        raise WrongState(
            f"lock {held.id} has several bookings; `seatctl relock {booking.id}` gives this one a "
            "lock of its own"
        )
    seats, now = cancelled - booking.seats_cancelled, tx.now()
    if not seats:
        return CancelResult(held, booking, changed=False)
    doubt = doubt_to_ignore(tx, held)
    if doubt is None and tx.events.add_seats({held.event: seats}, now) != 1:
        raise StaleRead
    smaller = tx.locks.set_seats(held, held.seats - seats, now)
    changed = tx.bookings.return_some_seats(booking, cancelled, held.seats - seats, now)
    if smaller is None or changed is None:
        raise StaleRead
    refund = None
    if request.refund and booking.status is BookingStatus.CONFIRMED:
        refund = _owe(tx, booking, seats, now)
    _record(tx, booking, changed, now, refund, (held.seats, smaller.seats))
    if doubt is not None:
        return CancelResult(smaller, changed, changed=True, doubt=str(doubt), refund=refund)
    return CancelResult(smaller, changed, True, seats, _available(tx, held), refund=refund)


def _cancel_lock(tx: Store, held: SeatLock) -> CancelResult:
    """The decision that nobody paid: the lock's seats come back, and a booking that waits ends with it."""
    if held.status is LockStatus.CANCELLED:
        return CancelResult(held, None, changed=False)
    bookings = bookings_of(tx, held.id)
    paid = (booking for booking in bookings if booking.status is BookingStatus.CONFIRMED)
    rules.check_sold_without_booking(held, next(paid, None))
    now = tx.now()
    result = _end_lock(tx, held, now)
    pending = [booking.id for booking in bookings if booking.status is BookingStatus.PAYMENT_PENDING]
    for booking_id in pending:
        was, cancelled = BookingStatus.PAYMENT_PENDING, BookingStatus.CANCELLED
        if tx.bookings.change(booking_id, was, cancelled, now, ended_by=tx.operations.id) is None:
            raise StaleRead
    before, after = {"status": held.status.value}, {"status": LockStatus.CANCELLED.value}
    tx.operations.record("cancel", now, held.event, held.id, others=pending, before=before, after=after)
    return result
