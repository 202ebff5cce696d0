"""One buyer's way: lock seats, confirm, pay or fail, or release. Each function is one command, and safe to
call again after a crash or a lost answer."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from time import sleep
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
    UserId,
)
from seatctl.domain.requests import idempotency_key, moment, seat_count, text, ttl
from seatctl.domain.states import BookingStatus, LockStatus, RefundCause
from seatctl.domain.timespec import format_duration, shorten, to_milliseconds
from seatctl.errors import DamagedDocument, RefundDue, Refused, StaleRead, Usage
from seatctl.mongo.ids import new_key
from seatctl.mongo.store import Store
from seatctl.services.by_id import (
    booking_of,
    bookings_of,
    check_not_by_day,
    get_booking,
    get_event,
    get_lock,
    lock_of,
    readable,
    seats_of_booking,
)
from seatctl.services.clearance import Doubt, protected_by_text
from seatctl.services.events import too_few_seats
from seatctl.services.expiry import before_and_after_return
from seatctl.services.refunds import Payment, refuse, withdraw_late
from seatctl.services.seats import doubt_to_ignore, end_by_decision, log_counter, log_returned

log = logging.getLogger(__name__)


class LockRequest(NamedTuple):
    """Seats of an event for a user. With a `key`, the same request again returns the same lock."""

    event: EventId
    user: UserId
    seats: int
    key: str | None = None
    ttl: timedelta = rules.LOCK_TTL


class LockResult(NamedTuple):
    """The lock; whether this call made it; and how many seats the event has left if so."""

    lock: SeatLock
    created: bool
    available: int | None = None


class ConfirmRequest(NamedTuple):
    """A lock to turn into a booking. Without a `payment_ttl` there are 15 minutes to pay, or as long as the
    lock runs if that is longer."""

    lock: LockId
    payment_ttl: timedelta | None = None


class ConfirmResult(NamedTuple):
    """The booking; whether this call made it, whether its deadline is earlier than the lock's was, of how
    many seats it is, and when it was made."""

    booking: Booking
    created: bool
    shortened: bool = False
    seats: int = 0
    at: datetime | None = None


class PayResult(NamedTuple):
    """The booking; whether this call changed it; the lock that ended with it, if any; why the payment cannot
    be honoured, if so; and why no seats of that lock came back, if so."""

    booking: Booking
    changed: bool
    ended: SeatLock | None = None
    refused: Refused | None = None
    doubt: Doubt | None = None


class ReleaseResult(NamedTuple):
    """The lock, and why none of its seats came back, if so."""

    lock: SeatLock
    doubt: Doubt | None = None


# --- lock ----------------------------------------------------------------------------------------------


def lock(store: Store, request: LockRequest) -> LockResult:
    """Take seats until now + `ttl`. On an event with too few seats left, what is overdue there is returned
    first (invariant 6). Raises Usage, NotFound, SoldOut, Closed, KeyReused, DamagedDocument, CountedByDay."""
    request = _checked(request)
    if store.settings.object_id_users and isinstance(request.user, str):
        raise Usage(
            f"user {shorten(request.user)!r} is not an id; this database is shared with a "
            "program whose users have ids of 24 hexadecimal digits"
        )
    if request.key is not None:
        store.locks.ensure_collection()
    for _ in before_and_after_return(store, request.event):
        if result := _take_seats(store, request):
            return result
    raise too_few_seats(store, request.event, request.seats)


def _checked(request: LockRequest) -> LockRequest:
    """The request, its key without surrounding space. Raises Usage."""
    key = None if request.key is None else idempotency_key(request.key)
    return request._replace(seats=seat_count(request.seats), key=key, ttl=ttl("ttl", request.ttl))


def _take_seats(store: Store, request: LockRequest) -> LockResult | None:
    """Seats and lock in one transaction, or what the key got before; None when there are too few seats."""
    for attempt in store.transaction_attempts():
        with attempt as tx:
            result = _take_seats_within(tx, request)
    if result and result.available is not None:
        log_counter(request.event, result.available, -request.seats)
    return result


def _take_seats_within(tx: Store, request: LockRequest) -> LockResult | None:
    if earlier := earlier_lock(tx, request.event, request.user, request.key, request.seats):
        return LockResult(earlier, created=False)
    event = tx.events.take_seats(request.event, request.seats)
    if event is None:
        return None
    assert event.updated_at is not None  # the server stamped it as it took the seats
    now, key = event.updated_at, request.key or new_key()
    deadline = to_milliseconds(now + request.ttl)
    made = tx.locks.insert(event.id, request.user, request.seats, deadline, key, now)
    return LockResult(made, created=True, available=event.available)


def earlier_lock(tx: Store, event: EventId, user: UserId, key: str | None, seats: int) -> SeatLock | None:
    """The lock that the same request got before. Raises KeyReused, DamagedDocument."""
    # In the transaction's snapshot: whoever inserts a lock with this key after it writes the event, too, and
    # one of the two starts over. So a key is unique without an index.
    found = None if key is None else tx.locks.by_key(event, user, key)
    if found is None:
        return None
    held = readable(found)
    returned = 0 if held.is_block else sum(one.seats_cancelled for one in bookings_of(tx, held.id))
    rules.check_same_request(held, seats, returned)
    return held


# --- confirm -------------------------------------------------------------------------------------------


def confirm(store: Store, request: ConfirmRequest) -> ConfirmResult:
    """Turn a lock into a booking that waits for its payment. Again: the same booking, while it is live.

    Writes the lock, so that an expiry of it and this exclude each other, and so do two of these
    (invariants 4 and 5). Raises Usage, NotFound, WrongState, DeadlinePassed, DamagedDocument.
    """
    if request.payment_ttl is not None:
        ttl("payment-ttl", request.payment_ttl)
    store.bookings.ensure_collection()
    for attempt in store.transaction_attempts():
        with attempt as tx:
            result = confirm_within(tx, request)
            if result.created:
                _record_confirmation(tx, result)
    booking = result.booking
    log.info("lock %s has booking %s, which is %s", request.lock, booking.id, booking.status)
    return result


def confirm_within(tx: Store, request: ConfirmRequest) -> ConfirmResult:
    """`confirm` within a transaction, without its entry in `operations`."""
    now = tx.now()
    found = get_lock(tx, request.lock)
    if earlier := next(iter(bookings_of(tx, found.id)), None):
        rules.check_confirmed_before(earlier, now)
        return ConfirmResult(earlier, created=False)
    rules.check_confirmable(found, now)
    rules.check_not_cancelled(get_event(tx, found.event))
    if unreadable := protected_by_text(tx, found.id, found.event):
        raise DamagedDocument(f"lock {found.id} may already have a booking: {unreadable}")
    deadline = moment("payment-ttl", rules.payment_deadline(found, request.payment_ttl, now), now)
    if not tx.locks.move_deadline(found.id, deadline, now):
        raise StaleRead
    booking = tx.bookings.insert(found, deadline, now)
    shortened = deadline < found.deadline
    return ConfirmResult(booking, created=True, shortened=shortened, seats=found.seats, at=now)


def _record_confirmation(tx: Store, result: ConfirmResult) -> None:
    booking, at = result.booking, result.at
    assert at is not None  # this call made it
    after = {
        "status": booking.status.value,
        "paymentExpiresAt": booking.payment_expires_at,
        "seats": result.seats,
    }
    tx.operations.record("confirm", at, booking.event, booking.lock, booking.id, after=after)


# --- pay and fail --------------------------------------------------------------------------------------


def pay(store: Store, booking_id: BookingId, ref: str | None = None) -> PayResult:
    """Record that a booking was paid: booking CONFIRMED, lock CONSUMED. Again, with the same reference or
    without one: one payment.

    Raises NotFound, DamagedDocument; RefundDue, once the refund is recorded, for a payment that comes too
    late or is a second one; WrongState where that refund is settled already (invariants 6, 7 and 12).
    """
    ref = None if ref is None else text("ref", ref)
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
    held = lock_of(tx, booking)
    try:
        rules.check_payable(booking, held, now, ref)
        assert held is not None
        _check_event_of(tx, booking, held)
    except RefundDue as late:
        seats = seats_of_booking(tx, booking, held)
        payment = Payment(booking, seats, RefundCause.LATE_PAYMENT, ref, _is_held(tx, held))
        return PayResult(booking, changed=False, refused=refuse(tx, payment, str(late), now))
    confirmed, withdrawn = complete_payment(tx, booking, held, ref, now)
    _record_payment(tx, booking, confirmed, held, now, withdrawn)
    return PayResult(confirmed, changed=True)


def complete_payment(
    tx: Store, booking: Booking, held: SeatLock, ref: str | None, now: datetime
) -> tuple[Booking, Refund | None]:
    """Within a transaction: a booking that is paid in time becomes CONFIRMED, its lock CONSUMED. Returns it
    with the refund that is not due any more, if this payment was refused as late before."""
    withdrawn = withdraw_late(tx, booking, ref, held.seats, now)
    if withdrawn is not None:
        ref = withdrawn.payment_ref
    confirmed = tx.bookings.confirm(booking.id, now, ref)
    if confirmed is None or not tx.locks.change(booking.lock, LockStatus.ACTIVE, LockStatus.CONSUMED, now):
        raise StaleRead
    return confirmed, withdrawn


def _is_held(tx: Store, lock: SeatLock | None) -> bool:
    """Whether a lock still holds its seats for a payment, and its event can sell them."""
    active = lock is not None and lock.status is LockStatus.ACTIVE
    return active and lock is not None and isinstance(tx.events.get(lock.event), Event)


def _check_event_of(tx: Store, booking: Booking, held: SeatLock) -> None:
    event = tx.events.get(held.event)
    if event is None:
        raise RefundDue(f"event {held.event} of booking {booking.id} does not exist")
    if isinstance(event, Unreadable) and event.flaw is Flaw.COUNTED_BY_DAY:
        which = f"it and its booking {booking.id}"
        raise RefundDue(f"event {held.event} counts its seats per day, so seatctl leaves {which} alone")


def _pay_again(tx: Store, booking: Booking, ref: str | None, now: datetime) -> PayResult:
    """A booking that is paid: the same payment, whose reference may only be known now, or a second one."""
    if ref is None or ref == booking.payment_ref:
        return PayResult(booking, changed=False)
    if booking.payment_ref is None:
        check_not_by_day(tx, booking.event)
        held = lock_of(tx, booking)
        withdrawn = withdraw_late(tx, booking, ref, seats_of_booking(tx, booking, held), now)
        named = tx.bookings.set_payment(booking, ref, now)
        if named is None:
            raise StaleRead
        _record_payment(tx, booking, named, tx.locks.get(booking.lock), now, withdrawn)
        return PayResult(named, changed=False)
    held = lock_of(tx, booking)
    payment = Payment(booking, seats_of_booking(tx, booking, held), RefundCause.DUPLICATE_PAYMENT, ref)
    reason = f"booking {booking.id} was paid before, as {shorten(booking.payment_ref)!r}"
    return PayResult(booking, changed=False, refused=refuse(tx, payment, reason, now))


def _record_payment(
    tx: Store,
    old: Booking,
    new: Booking,
    held: SeatLock | Unreadable | None,
    now: datetime,
    withdrawn: Refund | None,
) -> None:
    after: dict[str, object] = {"status": new.status.value}
    if isinstance(held, SeatLock):
        after["seats"] = held.seats
    if new.payment_ref is not None:
        after["paymentRef"] = new.payment_ref
    ids, before = (new.event, new.lock, new.id), {"status": old.status.value}
    tx.operations.record("pay", now, *ids, refund=withdrawn, before=before, after=after)


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
    if booking.status is BookingStatus.FAILED:
        return PayResult(booking, changed=False)
    check_not_by_day(tx, booking.event)
    found = lock_of(tx, booking)
    rules.check_failable(booking, found)
    protecting = list(tx.bookings.protecting([booking.lock]))
    # Another booking on the same lock that is alive, or that cannot be read, keeps the seats.
    lock, doubt = None, None
    if found is not None and found.status is LockStatus.ACTIVE:
        if len(protecting) == 1:
            lock, doubt = end_by_decision(tx, found, now, LockStatus.EXPIRED)
        # Of two bookings of one lock that end at once, the later one must see that it was the last.
        elif not tx.locks.touch(found, now):
            raise StaleRead
    pending, failed = BookingStatus.PAYMENT_PENDING, BookingStatus.FAILED
    ended = tx.bookings.change(booking_id, pending, failed, now, ended_by=tx.operations.id)
    if ended is None:
        raise StaleRead
    before, after = {"status": pending.value}, {"status": failed.value}
    ids = booking.event, booking.lock, booking_id
    tx.operations.record("pay --failed", now, *ids, before=before, after=after)
    return PayResult(ended, changed=True, ended=lock, doubt=doubt)


def release(store: Store, lock_id: LockId) -> ReleaseResult:
    """End an ACTIVE lock without a booking before its deadline, and return its seats, but where no counter
    went down for them. On an adopted database this takes the grace. Raises NotFound, WrongState,
    DamagedDocument."""
    if store.settings.grace:
        _wait_for_confirmations(store, lock_id)
    for attempt in store.transaction_attempts():
        with attempt as tx:
            found = get_lock(tx, lock_id)
            released, doubt = found, None
            if not (store.settings.grace and found.status is LockStatus.EXPIRED):  # a sweep was faster
                rules.check_releasable(found, booking_of(tx, lock_id))
                released, doubt = end_by_decision(tx, found, tx.now(), LockStatus.EXPIRED)
                before, after = {"status": found.status.value}, {"status": released.status.value}
                tx.operations.record("release", tx.now(), found.event, lock_id, before=before, after=after)
    if doubt is None:
        log_returned(store, released)
    return ReleaseResult(released, doubt)


def _wait_for_confirmations(store: Store, lock_id: LockId) -> None:
    """Another program's `confirm` may not write the lock, so that no transaction keeps the two apart. From a
    deadline that has passed it keeps away; what it had begun by then is there after the grace. Whatever
    happens meanwhile, the seats are not lost: the lock is overdue."""
    for attempt in store.transaction_attempts():
        with attempt as tx:
            found, now = get_lock(tx, lock_id), tx.now()
            rules.check_releasable(found, booking_of(tx, lock_id))
            doubt_to_ignore(tx, found)
            deadline = min(found.deadline, now)
            if deadline == now:
                if not tx.locks.bring_forward(found, now):
                    raise StaleRead
                before, after = {"expiresAt": found.deadline}, {"expiresAt": now}
                tx.operations.record("release", now, found.event, lock_id, before=before, after=after)
    if (left := deadline + store.settings.grace - now) > timedelta():
        log.info("lock %s: waiting %s for another program to finish", lock_id, format_duration(left))
        sleep(left.total_seconds())
