"""A buyer's lock: taken (`lock`), turned into a booking (`confirm`), or returned early (`release`). Each
function is one command, and safe to call again after a crash or a lost answer."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from time import sleep
from typing import NamedTuple

from seatctl.domain import rules
from seatctl.domain.documents import Booking, EventId, LockId, SeatLock, UserId
from seatctl.domain.states import LockStatus
from seatctl.domain.timespec import format_duration, to_milliseconds
from seatctl.domain.validation import idempotency_key, moment, seat_count, ttl
from seatctl.domain.words import shorten
from seatctl.errors import DamagedDocument, Usage, ensure_changed
from seatctl.mongo.ids import new_key
from seatctl.mongo.store import Store
from seatctl.services.by_id import booking_of, bookings_of, get_event, get_lock, readable
from seatctl.services.clearance import Doubt, protected_by_text
from seatctl.services.events import too_few_seats
from seatctl.services.expiry import before_and_after_return
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
    """The lock, and how many seats the event has left; None: an earlier call has made it."""

    lock: SeatLock
    available: int | None = None

    @property
    def created(self) -> bool:
        return self.available is not None


class ConfirmRequest(NamedTuple):
    """A lock to turn into a booking. Without a `payment_ttl` there are 15 minutes to pay, or as long as the
    lock runs if that is longer."""

    lock: LockId
    payment_ttl: timedelta | None = None


class ConfirmResult(NamedTuple):
    """The booking; whether this call made it, and whether its deadline is earlier than the lock's was."""

    booking: Booking
    created: bool
    shortened: bool = False


class ReleaseResult(NamedTuple):
    """The lock, and why none of its seats came back, if so."""

    lock: SeatLock
    doubt: Doubt | None = None


# --- lock ----------------------------------------------------------------------------------------------


def lock(store: Store, request: LockRequest) -> LockResult:
    """Take seats until now + `ttl`. On an event with too few seats left, what is overdue there is returned
    first (invariant 6). Raises Usage, NotFound, SoldOut, Closed, KeyReused, DamagedDocument, CountedByDay."""
    request = request._replace(
        seats=seat_count(request.seats), key=idempotency_key(request.key), ttl=ttl("ttl", request.ttl)
    )
    if store.settings.object_id_users and isinstance(request.user, str):
        raise Usage(
            f"user {shorten(request.user)!r} is not an id; this database is shared with a "
            "program whose users have ids of 24 hexadecimal digits"
        )
    if request.key is not None:
        store.locks.ensure_collection()
    for _ in before_and_after_return(store, request.event):
        for attempt in store.transaction_attempts():
            with attempt as tx:
                result = _lock_within(tx, request)
        if result is not None:
            if result.available is not None:
                log_counter(request.event, result.available, -request.seats)
            return result
    raise too_few_seats(store, request.event, request.seats)


def _lock_within(tx: Store, request: LockRequest) -> LockResult | None:
    """Seats and their lock, or what the key got before; None when there are too few seats."""
    if earlier := earlier_lock(tx, request.event, request.user, request.key, request.seats):
        return LockResult(earlier)
    event = tx.events.take_seats(request.event, request.seats)
    if event is None:
        return None
    assert event.updated_at is not None  # the server stamped it as it took the seats
    now, key = event.updated_at, request.key or new_key()
    deadline = to_milliseconds(now + request.ttl)
    made = tx.locks.insert(event.id, request.user, request.seats, deadline, key, now)
    return LockResult(made, event.available)


def earlier_lock(tx: Store, event: EventId, user: UserId, key: str | None, seats: int) -> SeatLock | None:
    """The lock that the same request got before. Raises KeyReused, DamagedDocument."""
    # In the transaction's snapshot: whoever inserts a lock with this key after it writes the event, too, and
    # one of the two starts over. So a key is unique without an index.
    found = None if key is None else tx.locks.by_key(event, user, key)
    if found is None:
        return None
    earlier = readable(found)
    returned = 0 if earlier.is_block else sum(one.seats_cancelled for one in bookings_of(tx, earlier.id))
    rules.check_same_request(earlier, seats, returned)
    return earlier


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
            now, found = tx.now(), get_lock(tx, request.lock)
            result = confirm_within(tx, found, request.payment_ttl, now)
            booking = result.booking
            if result.created:
                after = {
                    "status": booking.status.value,
                    "paymentExpiresAt": booking.payment_expires_at,
                    "seats": found.seats,
                }
                tx.operations.record("confirm", now, found.event, found.id, booking.id, after=after)
    log.info("lock %s has booking %s, which is %s", request.lock, booking.id, booking.status)
    return result


def confirm_within(tx: Store, found: SeatLock, payment_ttl: timedelta | None, now: datetime) -> ConfirmResult:
    """`confirm` of a lock within a transaction, without its entry in `operations`."""
    if earlier := next(iter(bookings_of(tx, found.id)), None):
        rules.check_confirmed_before(earlier, now)
        return ConfirmResult(earlier, created=False)
    rules.check_confirmable(found, now)
    rules.check_not_cancelled(get_event(tx, found.event))
    if unreadable := protected_by_text(tx, found.id, found.event):
        raise DamagedDocument(f"lock {found.id} may already have a booking: {unreadable}")
    deadline = moment("payment-ttl", rules.payment_deadline(found, payment_ttl, now), now)
    ensure_changed(tx.locks.move_deadline(found.id, deadline, now))
    booking = tx.bookings.insert(found, deadline, now)
    return ConfirmResult(booking, created=True, shortened=deadline < found.deadline)


# --- release -------------------------------------------------------------------------------------------


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
                ensure_changed(tx.locks.bring_forward(found, now))
                before, after = {"expiresAt": found.deadline}, {"expiresAt": now}
                tx.operations.record("release", now, found.event, lock_id, before=before, after=after)
    if (left := deadline + store.settings.grace - now) > timedelta():
        log.info("lock %s: waiting %s for another program to finish", lock_id, format_duration(left))
        sleep(left.total_seconds())
