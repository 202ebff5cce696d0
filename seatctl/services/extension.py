"""`extend`: more time for a lock or a booking, or for all of an event. The target is a point in time, so that
repeating is safe, and no deadline becomes earlier."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from seatctl.domain import rules
from seatctl.domain.documents import Booking, BookingId, EventId, Kind, LockId, SeatLock, Unreadable
from seatctl.domain.states import BookingStatus, LockStatus
from seatctl.domain.timespec import format_time
from seatctl.domain.validation import moment, ttl
from seatctl.errors import StaleRead, Usage, ensure_changed
from seatctl.mongo.collection import chunks
from seatctl.mongo.store import Store
from seatctl.services.by_id import booking_of, booking_or_lock, check_not_by_day, get_event, get_lock
from seatctl.services.sweeps import SkippedItem

log = logging.getLogger(__name__)

EXTENSION_BATCH = 1_000
"""Locks or bookings in one transaction, and in one entry of `operations`."""


class ExtendRequest(NamedTuple):
    """A lock or a booking to give time `until` a moment, or so long from now. One that is overdue only with
    `overdue`."""

    id: object
    until: datetime | timedelta
    overdue: bool = False
    dry_run: bool = False


class ExtendResult(NamedTuple):
    """What has the deadline now: the booking, if it waits for a payment, and its lock; whether this call
    moved it; the deadline; what was left until then where that is later than what was asked for; and what it
    was before."""

    lock: SeatLock
    booking: Booking | None
    changed: bool
    deadline: datetime
    left: timedelta | None = None
    before: datetime | None = None


class ExtendAllRequest(NamedTuple):
    """All locks or bookings of an event that wait, to give time `until` a moment, or so long from now."""

    event: EventId
    status: LockStatus | BookingStatus
    until: datetime | timedelta
    overdue: bool = False
    dry_run: bool = False


class ExtendAllResult(NamedTuple):
    """The deadline, whose it is now, and what cannot be read; and the latest deadline of any, where some have
    a later one."""

    deadline: datetime
    extended: list[LockId | BookingId]
    skipped: list[SkippedItem]
    latest: datetime | None = None


def extend(store: Store, request: ExtendRequest) -> ExtendResult:
    """Move the deadline of an ACTIVE lock, or of a booking that waits for its payment and of its lock. A
    later one stays. Raises Usage, NotFound, WrongState, DeadlinePassed, DamagedDocument (invariant 6)."""
    deadline = _deadline(request.until, store.now())
    for attempt in store.transaction_attempts(dry_run=request.dry_run):
        with attempt as tx:
            result = _extend_within(tx, request, deadline)
    return result


def _deadline(until: datetime | timedelta, now: datetime) -> datetime:
    deadline = moment("the deadline", until, now)
    if deadline <= now:
        raise Usage(
            f"the new deadline {format_time(deadline)} has already passed; it is now {format_time(now)}"
        )
    ttl("the time until the new deadline", deadline - now)
    return deadline


def _extend_within(tx: Store, request: ExtendRequest, deadline: datetime) -> ExtendResult:
    lock, booking = _find(tx, request.id)
    check_not_by_day(tx, lock.event)
    now = tx.now()
    rules.check_extendable(lock, booking, now, overdue=request.overdue)
    old = (booking or lock).deadline
    if old >= deadline:
        return ExtendResult(lock, booking, False, old, left=old - now if old > deadline else None)
    if booking is not None:
        booking = ensure_changed(tx.bookings.extend(booking.id, old, deadline, now, overdue=request.overdue))
    # A booking's deadline rules: its lock's own may be anything.
    overdue = request.overdue or booking is not None
    later = max(lock.deadline, deadline)
    extended = ensure_changed(tx.locks.extend(lock.id, lock.deadline, later, now, overdue=overdue))
    ids = lock.event, lock.id, None if booking is None else booking.id
    tx.operations.record("extend", now, *ids, before={"deadline": old}, after={"deadline": deadline})
    return ExtendResult(extended, booking, changed=True, deadline=deadline, before=old)


def _find(tx: Store, wanted: object) -> tuple[SeatLock, Booking | None]:
    """The lock, and the booking that counts for it, by the id of either."""
    found = booking_or_lock(tx, "lock or booking", wanted)
    if isinstance(found, SeatLock):
        return found, booking_of(tx, found.id)
    return get_lock(tx, found.lock), found


def extend_all(store: Store, request: ExtendAllRequest) -> ExtendAllResult:
    """The same for all bookings of an event that wait for their payment, or all its ACTIVE locks without a
    booking, in batches; stopped, it is completed by repeating. Raises Usage, NotFound, DamagedDocument."""
    get_event(store, request.event)
    now = store.now()
    deadline = _deadline(request.until, now)
    of_bookings = request.status is BookingStatus.PAYMENT_PENDING
    if not of_bookings and request.status is not LockStatus.ACTIVE:
        raise Usage("only ACTIVE locks and PAYMENT_PENDING bookings have a deadline")
    documents, extend_some = (
        (store.bookings, _extend_bookings) if of_bookings else (store.locks, _extend_locks)
    )
    # All at once: what is extended while it is read could be read again.
    found = list(documents.ending_before(request.event, deadline))
    waiting = [one for one in found if not isinstance(one, Unreadable)]
    ids = [one.id for one in waiting if request.overdue or one.deadline > now]
    extended: list[LockId | BookingId] = []
    skipped = [SkippedItem(one.kind, one.id, one.reason) for one in found if isinstance(one, Unreadable)]
    for some in chunks(ids, EXTENSION_BATCH):
        for attempt in store.transaction_attempts(dry_run=request.dry_run):
            with attempt as tx:
                done, left = extend_some(tx, request, some, deadline)
        extended += done
        skipped += left
        log.info("%d of %d extended in this batch", len(done), len(some))
    latest = documents.latest_deadline(request.event)
    return ExtendAllResult(deadline, extended, skipped, latest if latest and latest > deadline else None)


Extended = tuple[Sequence[LockId | BookingId], list[SkippedItem]]


def _extend_bookings(
    tx: Store, request: ExtendAllRequest, ids: Sequence[object], deadline: datetime
) -> Extended:
    now, skipped = tx.now(), []
    pending = tx.bookings.pending_before([BookingId(one) for one in ids], deadline)
    if not request.overdue:
        pending = [booking for booking in pending if booking.deadline > now]
    locks = tx.locks.by_id([booking.lock for booking in pending])
    extended: dict[BookingId, LockId] = {}
    for booking in pending:
        lock = locks.get(booking.lock)
        if isinstance(lock, SeatLock) and lock.status is LockStatus.ACTIVE:
            extended[booking.id] = lock.id
        else:
            state = lock.status if isinstance(lock, SeatLock) else lock or "missing"
            reason = f"its lock {booking.lock} is {state}, so it has no seats to pay for"
            skipped.append(SkippedItem(Kind.BOOKING, booking.id, reason))
    booking_ids, lock_ids = [*extended], [*{*extended.values()}]
    if not extended:
        return [], skipped
    if tx.bookings.extend_all(booking_ids, deadline, now, overdue=request.overdue) != len(booking_ids):
        raise StaleRead
    if tx.locks.extend_all(lock_ids, deadline, now, overdue=True) != len(lock_ids):
        raise StaleRead
    _record(tx, request, [*booking_ids, *lock_ids], deadline)
    return booking_ids, skipped


def _extend_locks(
    tx: Store, request: ExtendAllRequest, ids: Sequence[object], deadline: datetime
) -> Extended:
    now = tx.now()
    # A lock with a booking waits as long as that; with one that nobody can read, a person must see it.
    booked = {lock_id for lock_id, _ in tx.bookings.protecting([LockId(one) for one in ids])}
    locks = tx.locks.by_id(LockId(one) for one in ids if one not in booked)
    lock_ids = [
        lock.id
        for lock in locks.values()
        if isinstance(lock, SeatLock) and lock.status is LockStatus.ACTIVE
        if lock.deadline < deadline and (request.overdue or lock.deadline > now)
    ]
    if not lock_ids:
        return [], []
    if tx.locks.extend_all(lock_ids, deadline, now, overdue=request.overdue) != len(lock_ids):
        raise StaleRead
    _record(tx, request, lock_ids, deadline)
    return lock_ids, []


def _record(tx: Store, request: ExtendAllRequest, ids: Sequence[object], deadline: datetime) -> None:
    tx.operations.record("extend", tx.now(), request.event, others=ids, after={"deadline": deadline})
