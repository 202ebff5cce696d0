"""`block` and `unblock`: seats that an operator takes off sale. A lock of the kind BLOCK holds them, so that
every other program respects that."""

from __future__ import annotations

from typing import NamedTuple

from seatctl.domain import rules
from seatctl.domain.documents import Event, EventId, LockId, SeatLock
from seatctl.domain.states import LockStatus
from seatctl.domain.validation import idempotency_key, seat_count
from seatctl.mongo.ids import new_key
from seatctl.mongo.store import Store
from seatctl.services.by_id import get_lock
from seatctl.services.clearance import Doubt
from seatctl.services.closing import add_to_block
from seatctl.services.events import too_few_seats
from seatctl.services.expiry import before_and_after_return
from seatctl.services.sales import LockResult, earlier_lock
from seatctl.services.seats import end_by_decision, end_lock


class BlockRequest(NamedTuple):
    """Seats of an event to take off sale. With a `key`, the same request again returns the same block."""

    event: EventId
    seats: int
    key: str | None = None
    dry_run: bool = False


class UnblockResult(NamedTuple):
    """The block, which has ended; whether this call ended it; whether its seats stay off sale, because the
    event is closed; and why none came back, if so."""

    lock: SeatLock
    changed: bool
    closed: bool = False
    doubt: Doubt | None = None


def block(store: Store, request: BlockRequest) -> LockResult:
    """Take seats off sale without a deadline. Where too few are left, what is overdue is returned first.
    Raises Usage, NotFound, SoldOut, Closed, KeyReused, DamagedDocument, CountedByDay."""
    request = request._replace(seats=seat_count(request.seats), key=idempotency_key(request.key))
    if request.key is not None:
        store.locks.ensure_collection()
    for returned in before_and_after_return(store, request.event, dry_run=request.dry_run):
        for attempt in store.transaction_attempts(dry_run=request.dry_run):
            with attempt as tx:
                if returned:
                    tx.events.add_seats(returned, tx.now())
                result = _block_within(tx, request)
        if result is not None:
            return result
    raise too_few_seats(store, request.event, request.seats)


def _block_within(tx: Store, request: BlockRequest) -> LockResult | None:
    """None when there are too few seats."""
    if earlier := earlier_lock(tx, request.event, tx.locks.block_user, request.key, request.seats):
        return LockResult(earlier)
    event = tx.events.take_seats(request.event, request.seats)
    if event is None:
        return None
    assert event.updated_at is not None  # the server stamped it as it took the seats
    now = event.updated_at
    made = tx.locks.insert_block(event.id, request.seats, request.key or new_key(), now)
    tx.operations.record("block", now, event.id, made.id, after={"seats": request.seats})
    return LockResult(made, event.available)


def unblock(store: Store, lock_id: LockId) -> UnblockResult:
    """End a block and return its seats, but where no counter went down for them. Again: once. Raises
    NotFound, WrongState, DamagedDocument."""
    for attempt in store.transaction_attempts():
        with attempt as tx:
            result = _unblock_within(tx, lock_id)
    return result


def _unblock_within(tx: Store, lock_id: LockId) -> UnblockResult:
    lock, now = get_lock(tx, lock_id), tx.now()
    rules.check_unblockable(lock)
    event = tx.events.get(lock.event)
    closed = isinstance(event, Event) and event.is_closed
    if lock.status is not LockStatus.ACTIVE:
        return UnblockResult(lock, changed=False, closed=closed)
    rules.check_no_booking(lock, next(tx.bookings.protecting([lock.id]), None))
    doubt = None
    if closed:
        tx.events.touch(lock.event)
        add_to_block(tx, lock.event, lock.seats, now)
        ended = end_lock(tx, lock, now, with_seats=False, by_job=False, ended_by=tx.operations.id)
    else:
        ended, doubt = end_by_decision(tx, lock, now, LockStatus.EXPIRED)
    before, after = {"status": lock.status.value}, {"status": ended.status.value, "seats": lock.seats}
    tx.operations.record("unblock", now, lock.event, lock.id, before=before, after=after)
    return UnblockResult(ended, changed=True, closed=closed, doubt=doubt)
