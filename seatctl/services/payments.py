"""A booking's payment: made (`pay`), failed (`pay --failed`), or recorded after all (`confirm --sold`). Each
function is one command, and safe to call again after a crash or a lost answer."""

from __future__ import annotations

import logging
from datetime import datetime
from typing import NamedTuple

from seatctl.domain import rules
from seatctl.domain.documents import (
    Booking,
    BookingId,
    Event,
    EventId,
    Flaw,
    LockId,
    Refund,
    SeatLock,
    Unreadable,
)
from seatctl.domain.states import BookingStatus, LockStatus, RefundCause
from seatctl.domain.validation import payment_ref
from seatctl.domain.words import shorten
from seatctl.errors import RefundDue, Refused, WrongState, ensure_changed
from seatctl.mongo.store import Store
from seatctl.services.by_id import (
    booking_of,
    bookings_of,
    check_not_by_day,
    get_booking,
    get_event,
    get_lock,
    lock_of,
    seats_of_booking,
)
from seatctl.services.cancellation import is_kept_by_another
from seatctl.services.clearance import Doubt
from seatctl.services.refunds import Payment, refuse, withdraw_late
from seatctl.services.sales import confirm_within
from seatctl.services.seats import end_by_decision, log_returned

log = logging.getLogger(__name__)


class PayResult(NamedTuple):
    """The booking; whether this call changed it; the lock that ended with it, if any; why the payment cannot
    be honoured, if so; and why no seats of that lock came back, if so."""

    booking: Booking
    changed: bool
    ended: SeatLock | None = None
    refused: Refused | None = None
    doubt: Doubt | None = None


class SaleResult(NamedTuple):
    """The paid booking and its lock, and whether this call recorded the payment."""

    booking: Booking
    lock: SeatLock
    created: bool


# --- pay -----------------------------------------------------------------------------------------------


def pay(store: Store, booking_id: BookingId, ref: str | None = None) -> PayResult:
    """Record that a booking was paid: booking CONFIRMED, lock CONSUMED. Again, with the same reference or
    without one: one payment.

    Raises NotFound, DamagedDocument; RefundDue, once the refund is recorded, for a payment that comes too
    late or is a second one; WrongState where that refund is settled already (invariants 6, 7 and 12).
    """
    ref = payment_ref(ref)
    for attempt in store.transaction_attempts():
        with attempt as tx:
            result = _pay_within(tx, booking_id, ref)
    if result.refused is not None:
        raise result.refused
    log.info("booking %s is CONFIRMED, its lock CONSUMED: the seats are sold", booking_id)
    return result


def _pay_within(tx: Store, booking_id: BookingId, ref: str | None) -> PayResult:
    now = tx.now()
    booking = get_booking(tx, booking_id)
    if booking.status is BookingStatus.CONFIRMED:
        return _pay_again(tx, booking, ref, now)
    lock = lock_of(tx, booking)
    try:
        rules.check_payable(booking, lock, now, ref)
        assert lock is not None
        _check_event_of(tx, booking, lock)
    except RefundDue as late:
        seats = seats_of_booking(tx, booking, lock)
        payment = Payment(booking, seats, RefundCause.LATE_PAYMENT, ref, _seats_are_held(tx, lock))
        return PayResult(booking, changed=False, refused=refuse(tx, payment, str(late), now))
    confirmed, withdrawn = _complete(tx, booking, lock, ref, now)
    _record(tx, "pay", booking.event, booking, confirmed, lock, now, withdrawn)
    return PayResult(confirmed, changed=True)


def _complete(
    tx: Store, booking: Booking, lock: SeatLock, ref: str | None, now: datetime
) -> tuple[Booking, Refund | None]:
    """A booking that is paid in time becomes CONFIRMED, its lock CONSUMED. Returns it with the refund that is
    not due any more, if this payment was refused as late before."""
    withdrawn = withdraw_late(tx, booking, ref, lock.seats, now)
    if withdrawn is not None:
        ref = withdrawn.payment_ref
    confirmed = ensure_changed(tx.bookings.confirm(booking.id, now, ref))
    ensure_changed(tx.locks.change(booking.lock, LockStatus.ACTIVE, LockStatus.CONSUMED, now))
    return confirmed, withdrawn


def _seats_are_held(tx: Store, lock: SeatLock | None) -> bool:
    """Whether a lock still holds its seats for a payment, and its event can sell them."""
    if lock is None or lock.status is not LockStatus.ACTIVE:
        return False
    return isinstance(tx.events.get(lock.event), Event)


def _check_event_of(tx: Store, booking: Booking, lock: SeatLock) -> None:
    event = tx.events.get(lock.event)
    if event is None:
        raise RefundDue(f"event {lock.event} of booking {booking.id} does not exist")
    if isinstance(event, Unreadable) and event.flaw is Flaw.COUNTED_BY_DAY:
        which = f"it and its booking {booking.id}"
        raise RefundDue(f"event {lock.event} counts its seats per day, so seatctl leaves {which} alone")


def _pay_again(tx: Store, booking: Booking, ref: str | None, now: datetime) -> PayResult:
    """A booking that is paid: the same payment, whose reference may only be known now, or a second one."""
    if ref is None or ref == booking.payment_ref:
        return PayResult(booking, changed=False)
    if booking.payment_ref is None:
        check_not_by_day(tx, booking.event)
    lock = lock_of(tx, booking)
    seats = seats_of_booking(tx, booking, lock)
    if booking.payment_ref is not None:
        payment = Payment(booking, seats, RefundCause.DUPLICATE_PAYMENT, ref)
        reason = f"booking {booking.id} was paid before, as {shorten(booking.payment_ref)!r}"
        return PayResult(booking, changed=False, refused=refuse(tx, payment, reason, now))
    withdrawn = withdraw_late(tx, booking, ref, seats, now)
    named = ensure_changed(tx.bookings.set_payment(booking, ref, now))
    _record(tx, "pay", booking.event, booking, named, lock, now, withdrawn)
    return PayResult(named, changed=False)


def _record(
    tx: Store,
    command: str,
    event: EventId,
    old: Booking | None,
    new: Booking,
    lock: SeatLock | None,
    now: datetime,
    withdrawn: Refund | None,
) -> None:
    """The operation of a payment that counts; `old` is the booking before it, if there was one."""
    before = {} if old is None else {"status": old.status.value}
    after: dict[str, object] = {"status": new.status.value}
    if lock is not None:
        after["seats"] = lock.seats
    if new.payment_ref is not None:
        after["paymentRef"] = new.payment_ref
    ids = event, new.lock, new.id
    tx.operations.record(command, now, *ids, refund=withdrawn, before=before, after=after)


# --- pay --failed --------------------------------------------------------------------------------------


def fail_payment(store: Store, booking_id: BookingId) -> PayResult:
    """Record that a payment failed: booking FAILED, lock EXPIRED, seats back, but where no counter went down
    for them. Again: once. Raises NotFound, WrongState, DamagedDocument."""
    for attempt in store.transaction_attempts():
        with attempt as tx:
            result = _fail_within(tx, booking_id)
    if result.ended is not None and result.doubt is None:
        log_returned(store, result.ended)
    return result


def _fail_within(tx: Store, booking_id: BookingId) -> PayResult:
    now = tx.now()
    booking = get_booking(tx, booking_id)
    pending, failed = BookingStatus.PAYMENT_PENDING, BookingStatus.FAILED
    if booking.status is failed:
        return PayResult(booking, changed=False)
    check_not_by_day(tx, booking.event)
    lock = lock_of(tx, booking)
    rules.check_failable(booking, lock)
    ended_lock, doubt = None, None
    is_active = lock is not None and lock.status is LockStatus.ACTIVE
    if lock is not None and is_active and not is_kept_by_another(tx, booking, lock, now):
        ended_lock, doubt = end_by_decision(tx, lock, now, LockStatus.EXPIRED)
    ended = ensure_changed(tx.bookings.change(booking_id, pending, failed, now, ended_by=tx.operations.id))
    before, after = {"status": pending.value}, {"status": failed.value}
    ids = booking.event, booking.lock, booking_id
    tx.operations.record("pay --failed", now, *ids, before=before, after=after)
    return PayResult(ended, changed=True, ended=ended_lock, doubt=doubt)


# --- confirm --sold ------------------------------------------------------------------------------------


def record_sale(store: Store, lock_id: LockId, ref: str | None = None) -> SaleResult:
    """A lock was paid for: its booking becomes CONFIRMED, or one is made. An ACTIVE lock before its deadline
    is CONSUMED with it; of a CONSUMED one it is a person's decision. Again: the same booking. Raises Usage,
    NotFound, WrongState, DeadlinePassed, Closed, DamagedDocument, CountedByDay (invariants 4, 5, 6 and 7)."""
    ref = payment_ref(ref)
    store.bookings.ensure_collection()
    for attempt in store.transaction_attempts():
        with attempt as tx:
            result = _record_sale_within(tx, lock_id, ref)
    return result


def _record_sale_within(tx: Store, lock_id: LockId, ref: str | None) -> SaleResult:
    lock, now = get_lock(tx, lock_id), tx.now()
    found = next(iter(bookings_of(tx, lock_id)), None)
    if found is not None and found.status is BookingStatus.CONFIRMED:
        return SaleResult(found, lock, created=False)
    if lock.status is LockStatus.ACTIVE:
        found = booking_of(tx, lock.id)
        booking, withdrawn = _sell_active(tx, lock, found, ref, now)
    else:
        booking, withdrawn = _sell_consumed(tx, lock, found, ref, now)
    _record(tx, "confirm --sold", lock.event, found, booking, lock, now, withdrawn)
    return SaleResult(booking, lock, created=True)


def _sell_active(
    tx: Store, lock: SeatLock, found: Booking | None, ref: str | None, now: datetime
) -> tuple[Booking, Refund | None]:
    """`confirm` and `pay` in one: whatever refuses either refuses both."""
    rules.check_sellable(lock, found, now, ref)
    rules.check_not_cancelled(get_event(tx, lock.event))
    booking = found or confirm_within(tx, lock, None, now).booking
    return _complete(tx, booking, lock, ref, now)


def _sell_consumed(
    tx: Store, lock: SeatLock, found: Booking | None, ref: str | None, now: datetime
) -> tuple[Booking, Refund | None]:
    rules.check_holds_seats(lock, found)
    rules.check_sold_without_booking(lock, found)
    get_event(tx, lock.event)
    # The write that makes this and a cancellation of the same lock exclude each other.
    ensure_changed(tx.locks.touch(lock, now))
    if found is None:
        return tx.bookings.insert(lock, now, now, BookingStatus.CONFIRMED, ref), None
    if found.status not in (BookingStatus.PAYMENT_PENDING, BookingStatus.INITIATED):
        raise WrongState(
            f"lock {lock.id} has booking {found.id}, which is {found.status}; `seatctl cancel {lock.id}` "
            f"returns the seats, then `seatctl rebook {found.id}` sells them"
        )
    withdrawn = withdraw_late(tx, found, ref, lock.seats, now)
    if withdrawn is not None:
        ref = withdrawn.payment_ref
    return ensure_changed(tx.bookings.set_payment(found, ref, now)), withdrawn
