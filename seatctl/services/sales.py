"""One buyer's way: lock seats, confirm, pay or fail, or release. Each function is one command, and safe to
call again after a crash or a lost answer."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import NamedTuple

from seatctl.domain.documents import (
    Booking,
    BookingId,
    Event,
    EventId,
    Flaw,
    LockId,
    SeatLock,
    Unreadable,
    UserId,
)
from seatctl.domain.requests import moment, seat_count, text, ttl
from seatctl.domain.rules import (
    LOCK_TTL,
    check_confirmable,
    check_confirmed_before,
    check_failable,
    check_on_sale,
    check_payable,
    check_releasable,
    check_same_request,
    payment_deadline,
)
from seatctl.domain.states import LIVE, BookingStatus, LockStatus
from seatctl.domain.timespec import shorten, to_milliseconds
from seatctl.domain.words import count
from seatctl.errors import CountedByDay, DamagedDocument, StaleRead, Usage, WrongState
from seatctl.mongo.ids import new_key
from seatctl.mongo.store import Store
from seatctl.services.clearance import Cause, protected_by_text
from seatctl.services.events import get_event, too_few_seats
from seatctl.services.expiry import return_overdue
from seatctl.services.found import not_found, readable
from seatctl.services.seats import doubt_about, end_lock, seats_of

log = logging.getLogger(__name__)


class LockRequest(NamedTuple):
    """Seats of an event for a user. With a `key`, the same request again returns the same lock."""

    event: EventId
    user: UserId
    seats: int
    key: str | None = None
    ttl: timedelta = LOCK_TTL


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
    """The booking; whether this call made it; and whether its deadline is earlier than the lock's was."""

    booking: Booking
    created: bool
    shortened: bool = False


class PayResult(NamedTuple):
    """The booking; whether this call changed it; and the lock whose seats were returned, if any."""

    booking: Booking
    changed: bool
    returned: SeatLock | None = None


# --- lock ----------------------------------------------------------------------------------------------


def lock(store: Store, request: LockRequest) -> LockResult:
    """Take seats until now + `ttl`. On an event with too few seats left, what is overdue there is returned
    first (invariant 6). Raises Usage, NotFound, SoldOut, Closed, KeyReused, DamagedDocument, CountedByDay."""
    request = _checked(request)
    if store.settings.object_id_users and isinstance(request.user, str):
        raise Usage(
            f"user {shorten(request.user)!r} is not an id; on this database, which another program uses, a "
            "user is the 24 hexadecimal digits of that program's id"
        )
    if request.key is not None:
        store.locks.ensure_collection()
    if result := _take_seats(store, request):
        return result
    check_on_sale(get_event(store, request.event))
    returned = return_overdue(store, request.event)
    log.info(
        "too few seats left; returned %s that were overdue",
        count(seats_of(returned.returning).total(), "seat"),
    )
    if result := _take_seats(store, request):
        return result
    raise too_few_seats(store, request.event, request.seats)


def _checked(request: LockRequest) -> LockRequest:
    """The request, its key without surrounding space. Raises Usage."""
    key = None if request.key is None else text("key", request.key)
    return request._replace(seats=seat_count(request.seats), key=key, ttl=ttl("ttl", request.ttl))


def _take_seats(store: Store, request: LockRequest) -> LockResult | None:
    """Seats and lock in one transaction, or what the key got before; None when there are too few seats."""
    for attempt in store.transaction_attempts():
        with attempt as tx:
            result = _take_seats_within(tx, request)
    if result and result.available is not None:
        _log_counter(request.event, result.available, -request.seats)
    return result


def _take_seats_within(tx: Store, request: LockRequest) -> LockResult | None:
    # Both are of the transaction's snapshot: whoever inserts a lock with this key after it writes the
    # event, too, and one of the two starts over. So a key is unique without an index.
    if request.key is not None:
        earlier = tx.locks.by_key(request.event, request.user, request.key)
        if earlier is not None:
            check_same_request(readable(earlier), request.seats)
            return LockResult(readable(earlier), created=False)
    event = tx.events.take_seats(request.event, request.seats)
    if event is None:
        return None
    assert event.updated_at is not None  # the server stamped it as it took the seats
    now, key = event.updated_at, request.key or new_key()
    deadline = to_milliseconds(now + request.ttl)
    made = tx.locks.insert(event.id, request.user, request.seats, deadline, key, now)
    return LockResult(made, created=True, available=event.available)


def _log_returned(store: Store, lock: SeatLock) -> None:
    if log.isEnabledFor(logging.INFO) and isinstance(event := store.events.get(lock.event), Event):
        _log_counter(event.id, event.available, lock.seats)


def _log_counter(event_id: EventId, available: int, change: int) -> None:
    """A counter in the command's story, as it is now and as that makes it before."""
    log.info("event %s: %d → %d seats available (%+d)", event_id, available - change, available, change)


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
            result = _confirm_within(tx, request)
    booking = result.booking
    log.info("lock %s has booking %s, which is %s", request.lock, booking.id, booking.status)
    return result


def _confirm_within(tx: Store, request: ConfirmRequest) -> ConfirmResult:
    now = tx.now()
    found = _lock(tx, request.lock)
    if earlier := next(iter(_bookings_of(tx, found.id)), None):
        check_confirmed_before(earlier, now)
        return ConfirmResult(earlier, created=False)
    check_confirmable(found, now)
    get_event(tx, found.event)
    if odd := protected_by_text(tx, found.id, found.event):
        raise DamagedDocument(f"lock {found.id} may have a booking already: {odd}")
    deadline = moment("payment-ttl", payment_deadline(found, request.payment_ttl, now), now)
    if not tx.locks.move_deadline(found.id, deadline, now):
        raise StaleRead
    booking = tx.bookings.insert(found, deadline, now)
    shortened = found.expires_at is not None and deadline < found.expires_at
    return ConfirmResult(booking, created=True, shortened=shortened)


def _bookings_of(tx: Store, lock_id: LockId) -> list[Booking]:
    """The lock's booking, or, of several, the live ones first. Raises DamagedDocument where one cannot be
    read."""
    bookings = [readable(found) for found in tx.bookings.of_lock(lock_id)]
    return sorted(bookings, key=_is_not_live)


def _is_not_live(booking: Booking) -> bool:
    return booking.status not in LIVE


# --- pay and fail --------------------------------------------------------------------------------------


def pay(store: Store, booking_id: BookingId) -> PayResult:
    """Record that a booking was paid: booking CONFIRMED, lock CONSUMED. Again: one payment.

    Raises NotFound, DamagedDocument, and WrongState or DeadlinePassed, saying that a refund is due, when
    the payment comes too late (invariants 6 and 7).
    """
    for attempt in store.transaction_attempts():
        with attempt as tx:
            result = _pay_within(tx, booking_id)
    log.info("booking %s is CONFIRMED, its lock CONSUMED: the seats are sold", booking_id)
    return result


def _pay_within(tx: Store, booking_id: BookingId) -> PayResult:
    now = tx.now()
    booking = _booking(tx, booking_id)
    if booking.status is BookingStatus.CONFIRMED:
        return PayResult(booking, changed=False)
    held = tx.locks.get(booking.lock)
    found = None if held is None else readable(held)
    check_payable(booking, found, now)
    assert found is not None
    event = tx.events.get(found.event)
    if event is None:
        raise WrongState(f"event {found.event} of booking {booking.id} does not exist; a refund is due")
    if isinstance(event, Unreadable) and event.flaw is Flaw.COUNTED_BY_DAY:
        raise CountedByDay(f"{event}, with booking {booking.id}; a refund is due")
    confirmed = tx.bookings.confirm(booking_id, now)
    if confirmed is None or not tx.locks.change(found.id, LockStatus.ACTIVE, LockStatus.CONSUMED, now):
        raise StaleRead
    return PayResult(confirmed, changed=True)


def fail_payment(store: Store, booking_id: BookingId) -> PayResult:
    """Record that a payment failed: booking FAILED, lock EXPIRED, seats back. Again: once.
    Raises NotFound, WrongState, DamagedDocument."""
    for attempt in store.transaction_attempts():
        with attempt as tx:
            result = _fail_within(tx, booking_id)
    if result.returned is not None:
        _log_returned(store, result.returned)
    return result


def _fail_within(tx: Store, booking_id: BookingId) -> PayResult:
    now = tx.now()
    booking = _booking(tx, booking_id)
    if booking.status is BookingStatus.FAILED:
        return PayResult(booking, changed=False)
    held = tx.locks.get(booking.lock)
    found = None if held is None else readable(held)
    check_failable(booking, found)
    protectors = list(tx.bookings.protecting([booking.lock]))
    # Another booking on the same lock that is alive, or that cannot be read, keeps the seats.
    returned = None
    if found is not None and found.status is LockStatus.ACTIVE and len(protectors) == 1:
        returned = _return_one(tx, found)
    failed = tx.bookings.change(booking_id, BookingStatus.PAYMENT_PENDING, BookingStatus.FAILED, now)
    if failed is None:
        raise StaleRead
    return PayResult(failed, changed=True, returned=returned)


# --- release -------------------------------------------------------------------------------------------


def release(store: Store, lock_id: LockId) -> SeatLock:
    """Return an ACTIVE lock without a booking before its deadline. Raises NotFound, WrongState,
    DamagedDocument."""
    for attempt in store.transaction_attempts():
        with attempt as tx:
            found = _lock(tx, lock_id)
            bookings = [one for one in _bookings_of(tx, lock_id) if one.status is not BookingStatus.INITIATED]
            check_releasable(found, next(iter(bookings), None))
            released = _return_one(tx, found)
    _log_returned(store, released)
    return released


def _return_one(tx: Store, held: SeatLock) -> SeatLock:
    """Return an ACTIVE lock's seats, if its event has clearance. Raises DamagedDocument where it has none."""
    if doubt := doubt_about(tx, held):
        error = CountedByDay if doubt.cause is Cause.COUNTED_BY_DAY else DamagedDocument
        raise error(f"the seats of lock {held.id} cannot be returned: {doubt}")
    return end_lock(tx, held, tx.now(), with_seats=True, by_job=False)


# --- shared --------------------------------------------------------------------------------------------


def _lock(tx: Store, lock_id: LockId) -> SeatLock:
    found = tx.locks.get(lock_id)
    if found is None:
        raise not_found(tx, "lock", lock_id)
    return readable(found)


def _booking(tx: Store, booking_id: BookingId) -> Booking:
    found = tx.bookings.get(booking_id)
    if found is None:
        raise not_found(tx, "booking", booking_id)
    return readable(found)
