"""Closing an event, so that nothing of it is sold, and reopening it. What is available goes into its block
(`closed_block.py`)."""

from __future__ import annotations

from typing import NamedTuple

from seatctl.domain.documents import EventId, StoredDocument
from seatctl.domain.rules import check_no_booking, check_reopenable
from seatctl.errors import StaleRead
from seatctl.mongo.store import Store
from seatctl.services.clearance import Clearance
from seatctl.services.closed_block import set_block, take_off_sale
from seatctl.services.events import get_event
from seatctl.services.seats import refusal


class CloseResult(NamedTuple):
    """The event; whether this call changed it; and the seats that went off sale, or back to it."""

    event: StoredDocument
    changed: bool
    seats: int = 0


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
    before = {"closedAt": event.closed_at, "availableSeats": event.available}
    after = {field: closed[field] for field in before}
    tx.operations.record("close", now, event_id, before=before, after=after)
    return CloseResult(closed, changed=True, seats=seats)


def reopen(store: Store, event_id: EventId, *, dry_run: bool = False) -> CloseResult:
    """Start the sales of a closed event again, with all that its block held. Again: once. Raises NotFound,
    Closed for a cancelled event, DamagedDocument, CountedByDay."""
    for attempt in store.transaction_attempts(dry_run=dry_run):
        with attempt as tx:
            result = _reopen_within(tx, event_id)
    return result


def _reopen_within(tx: Store, event_id: EventId) -> CloseResult:
    event, now = get_event(tx, event_id), tx.now()
    check_reopenable(event)
    if event.closed_at is None:
        return CloseResult(_stored(tx, event_id), changed=False)
    blocks = tx.locks.of_closing(event_id)
    seats = sum(block.seats for block in blocks)
    if seats and (doubt := Clearance(tx).doubt(event_id)):
        raise refusal(f"event {event_id} cannot be reopened", doubt)
    for each in blocks:
        check_no_booking(each, next(tx.bookings.protecting([each.id]), None))
    opened = tx.events.reopen(event, seats, now)
    if opened is None:
        raise StaleRead
    set_block(tx, event_id, blocks, 0, now, tx.operations.id)
    block_ids = [block.id for block in blocks]
    before = {"closedAt": event.closed_at, "availableSeats": event.available}
    after = {"closedAt": None, "availableSeats": opened["availableSeats"]}
    tx.operations.record("reopen", now, event_id, others=block_ids, before=before, after=after)
    return CloseResult(opened, changed=True, seats=seats)


def _stored(tx: Store, event_id: EventId) -> StoredDocument:
    found = tx.events.stored(event_id)
    assert found is not None  # it was read at the same point in time
    return found
