"""Taking seats off sale: some of them by a block, or all of them by closing the event.

What is not for sale is held by a lock of the kind BLOCK, so that every other program respects it.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from seatctl.domain.documents import (
    Event,
    EventId,
    LockId,
    Operation,
    SeatLock,
    StoredDocument,
)
from seatctl.domain.requests import seat_count, text
from seatctl.domain.rules import (
    check_no_booking,
    check_on_sale,
    check_reopenable,
    check_same_request,
    check_unblockable,
)
from seatctl.domain.states import LockStatus
from seatctl.errors import CountedByDay, DamagedDocument, StaleRead
from seatctl.mongo.ids import new_key, new_run_id
from seatctl.mongo.store import Store
from seatctl.services.blocks import add_to_block, set_block, take_off_sale
from seatctl.services.clearance import Cause, Clearance, Doubt
from seatctl.services.events import get_event, too_few_seats
from seatctl.services.expiry import return_overdue
from seatctl.services.found import not_found, readable
from seatctl.services.seats import doubt_about, end_lock, seats_of


class BlockRequest(NamedTuple):
    """Seats of an event to take off sale. With a `key`, the same request again returns the same block."""

    event: EventId
    seats: int
    key: str | None = None
    dry_run: bool = False


class BlockResult(NamedTuple):
    """The block; whether this call made it; and how many seats the event has left if so."""

    lock: SeatLock
    created: bool
    available: int | None = None


class UnblockResult(NamedTuple):
    """The block, which has ended; whether this call ended it; and whether its seats stay off sale, because
    the event is closed."""

    lock: SeatLock
    changed: bool
    closed: bool = False


class CloseResult(NamedTuple):
    """The event; whether this call changed it; and the seats that went off sale, or back to it."""

    event: StoredDocument
    changed: bool
    seats: int = 0


# --- blocks --------------------------------------------------------------------------------------------


def block(store: Store, request: BlockRequest) -> BlockResult:
    """Take seats off sale without a deadline. Where too few are left, what is overdue is returned first.
    Raises Usage, NotFound, SoldOut, Closed, KeyReused, DamagedDocument, CountedByDay."""
    key = None if request.key is None else text("key", request.key)
    request = request._replace(seats=seat_count(request.seats), key=key)
    if key is not None:
        store.locks.ensure_collection()
    if result := _block(store, request):
        return result
    check_on_sale(get_event(store, request.event))
    returned = seats_of(return_overdue(store, request.event, dry_run=request.dry_run).returning)
    if result := _block(store, request, returned if request.dry_run else Counter()):
        return result
    raise too_few_seats(store, request.event, request.seats)


def _block(
    store: Store, request: BlockRequest, returned: Counter[EventId] | None = None
) -> BlockResult | None:
    """None when there are too few seats. A dry run, which is rolled back, counts what is `returned`."""
    for attempt in store.transaction_attempts(dry_run=request.dry_run):
        with attempt as tx:
            if returned:
                tx.events.add_seats(returned, tx.now())
            result = _block_within(tx, request)
    return result


def _block_within(tx: Store, request: BlockRequest) -> BlockResult | None:
    if request.key is not None:
        earlier = tx.locks.by_key(request.event, tx.locks.block_user, request.key)
        if earlier is not None:
            check_same_request(readable(earlier), request.seats)
            return BlockResult(readable(earlier), created=False)
    event = tx.events.take_seats(request.event, request.seats)
    if event is None:
        return None
    assert event.updated_at is not None  # the server stamped it as it took the seats
    now = event.updated_at
    made = tx.locks.insert_block(event.id, request.seats, request.key or new_key(), now)
    tx.operations.record(
        new_run_id(),
        Operation("block", now, event=event.id, lock=made.id, after={"seats": request.seats}),
    )
    return BlockResult(made, created=True, available=event.available)


def unblock(store: Store, lock_id: LockId) -> UnblockResult:
    """Return the seats of a block. Again: once. Raises NotFound, WrongState, DamagedDocument."""
    for attempt in store.transaction_attempts():
        with attempt as tx:
            result = _unblock_within(tx, lock_id)
    return result


def _unblock_within(tx: Store, lock_id: LockId) -> UnblockResult:
    found = tx.locks.get(lock_id)
    if found is None:
        raise not_found(tx, "lock", lock_id)
    held, now, operation_id = readable(found), tx.now(), new_run_id()
    check_unblockable(held)
    event = tx.events.get(held.event)
    closed = isinstance(event, Event) and event.is_closed
    if held.status is not LockStatus.ACTIVE:
        return UnblockResult(held, changed=False, closed=closed)
    check_no_booking(held, next(tx.bookings.protecting([held.id]), None))
    if closed:
        tx.events.touch(held.event)
        add_to_block(tx, held.event, held.seats, now)
    elif doubt := doubt_about(tx, held):
        raise _no_clearance(f"the seats of block {held.id} cannot be returned", doubt)
    ended = end_lock(tx, held, now, with_seats=not closed, by_job=False, ended_by=operation_id)
    before, after = {"status": held.status.value}, {"status": ended.status.value}
    operation = Operation(
        "unblock", now, event=held.event, lock=held.id, before=before, after={**after, "seats": held.seats}
    )
    tx.operations.record(operation_id, operation)
    return UnblockResult(ended, changed=True, closed=closed)


def _no_clearance(what: str, doubt: Doubt) -> DamagedDocument | CountedByDay:
    error = CountedByDay if doubt.cause is Cause.COUNTED_BY_DAY else DamagedDocument
    return error(f"{what}: {doubt}")


# --- close and reopen ----------------------------------------------------------------------------------


def close(store: Store, event_id: EventId, *, dry_run: bool = False) -> CloseResult:
    """Stop the sales of an event. Again: once. Raises NotFound, DamagedDocument, CountedByDay."""
    for attempt in store.transaction_attempts(dry_run=dry_run):
        with attempt as tx:
            result = _close_within(tx, event_id)
    return result


def _close_within(tx: Store, event_id: EventId) -> CloseResult:
    event, now = get_event(tx, event_id), tx.now()
    if event.is_closed and event.available <= 0:
        return CloseResult(_stored(tx, event_id), changed=False)
    closed, seats = take_off_sale(tx, event, now)
    operation = Operation(
        "close",
        now,
        event=event_id,
        before={"closedAt": event.closed_at, "availableSeats": event.available},
        after={"closedAt": closed["closedAt"], "availableSeats": closed["availableSeats"]},
    )
    tx.operations.record(new_run_id(), operation)
    return CloseResult(closed, changed=True, seats=seats)


def reopen(store: Store, event_id: EventId, *, dry_run: bool = False) -> CloseResult:
    """Start the sales of a closed event again, with all that its block held. Again: once. Raises NotFound,
    Closed for a cancelled event, DamagedDocument, CountedByDay."""
    for attempt in store.transaction_attempts(dry_run=dry_run):
        with attempt as tx:
            result = _reopen_within(tx, event_id)
    return result


def _reopen_within(tx: Store, event_id: EventId) -> CloseResult:
    event, now, operation_id = get_event(tx, event_id), tx.now(), new_run_id()
    check_reopenable(event)
    if event.closed_at is None:
        return CloseResult(_stored(tx, event_id), changed=False)
    blocks = tx.locks.of_closing(event_id)
    seats = sum(block.seats for block in blocks)
    if seats and (doubt := Clearance(tx).doubts([event_id]).get(event_id)):
        raise _no_clearance(f"event {event_id} cannot be reopened", doubt)
    for each in blocks:
        check_no_booking(each, next(tx.bookings.protecting([each.id]), None))
    opened = tx.events.reopen(event, seats, now)
    if opened is None:
        raise StaleRead
    set_block(tx, event_id, blocks, 0, now, operation_id)
    operation = Operation(
        "reopen",
        now,
        event=event_id,
        others=tuple(block.id for block in blocks),
        before={"closedAt": event.closed_at, "availableSeats": event.available},
        after={"closedAt": None, "availableSeats": opened["availableSeats"]},
    )
    tx.operations.record(operation_id, operation)
    return CloseResult(opened, changed=True, seats=seats)


def _stored(tx: Store, event_id: EventId) -> StoredDocument:
    found = tx.events.stored(event_id)
    assert found is not None  # it was read at the same point in time
    return found
