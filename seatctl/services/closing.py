"""`close` and `reopen`: nothing of an event is sold in between.

What is available goes into the block of the event, and so does what comes back later: by the next sweep
or recovery. `resize` and `cancel-event` change the block, too.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from seatctl.domain import rules
from seatctl.domain.documents import Event, EventId, RunId, SeatLock, StoredDocument
from seatctl.errors import Contention, ensure_changed
from seatctl.mongo.aggregations import HeldSeats
from seatctl.mongo.store import Store
from seatctl.services.by_id import get_event, stored_event
from seatctl.services.clearance import Clearance
from seatctl.services.expiry import BATCH_PATIENCE
from seatctl.services.seats import end_lock, refusal

log = logging.getLogger(__name__)


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
        return CloseResult(stored_event(tx, event_id), changed=False)
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
    rules.check_reopenable(event)
    if event.closed_at is None:
        return CloseResult(stored_event(tx, event_id), changed=False)
    blocks = tx.locks.of_closing(event_id)
    seats = sum(block.seats for block in blocks)
    if seats and (doubt := Clearance(tx).doubt(event_id)):
        raise refusal(f"event {event_id} cannot be reopened", doubt)
    for each in blocks:
        rules.check_no_booking(each, next(tx.bookings.protecting([each.id]), None))
    opened = ensure_changed(tx.events.reopen(event, seats, now))
    set_block(tx, event_id, blocks, 0, now, tx.operations.id)
    block_ids = [block.id for block in blocks]
    before = {"closedAt": event.closed_at, "availableSeats": event.available}
    after = {"closedAt": None, "availableSeats": opened["availableSeats"]}
    tx.operations.record("reopen", now, event_id, others=block_ids, before=before, after=after)
    return CloseResult(opened, changed=True, seats=seats)


# --- the block of a closed event -----------------------------------------------------------------------


def add_to_block(tx: Store, event_id: EventId, seats: int, now: datetime) -> None:
    """Let the block of a closed event hold so many more seats."""
    if seats:
        blocks = tx.locks.of_closing(event_id)
        set_block(tx, event_id, blocks, sum(block.seats for block in blocks) + seats, now)


def set_block(
    tx: Store,
    event_id: EventId,
    blocks: Sequence[SeatLock],
    seats: int,
    now: datetime,
    ended_by: RunId | None = None,
) -> None:
    """Let the blocks of a closed event, as they were read, together hold so many seats. Raises StaleRead
    where another writer was faster."""
    if not blocks and seats:
        tx.locks.insert_block(event_id, seats, None, now)
    for number, each in enumerate(blocks):
        if number == 0 and seats:
            if each.seats != seats:
                ensure_changed(tx.locks.set_seats(each, seats, now))
        else:
            end_lock(tx, each, now, with_seats=False, by_job=False, ended_by=ended_by)


def take_unheld(
    tx: Store, event: Event, held: HeldSeats, seats: int, now: datetime, ended_by: RunId | None = None
) -> bool:
    """Take seats that no lock holds. The locks decide how many, not the counter, which may be wrong:
    it goes down to what is left of them, and never up. Of a closed event those in its block are free for
    this. False: there are too few. Raises StaleRead."""
    blocks = tx.locks.of_closing(event.id) if event.is_closed else []
    blocked = sum(block.seats for block in blocks)
    left = event.total - held.seats - seats
    if left + blocked < 0:
        return False
    ensure_changed(tx.events.set_counter(event, min(event.available, max(0, left)), now))
    if left < 0:
        set_block(tx, event.id, blocks, blocked + left, now, ended_by)
    return True


def take_off_sale(
    tx: Store, event: Event, now: datetime, *, cancel: bool = False
) -> tuple[StoredDocument, int]:
    """Close an event, or one that is closed already again: all that is available goes into its block.
    Returns the event as it is then, and how many seats that were.

    The locks decide how many there are: where the counter is too high, what it has too many is nobody's.
    """
    held = tx.aggregations.held_by(event.id)
    seats = max(0, min(event.available, event.total - held.seats))
    closed = ensure_changed(tx.events.close(event, now, cancel=cancel))
    add_to_block(tx, event.id, seats, now)
    return closed, seats


def block_what_came_back(store: Store, now: datetime) -> Counter[EventId]:
    """Seats that are available on closed events go into their blocks; returns them by event. An event that
    other writers keep changing is left for the next run."""
    blocked: Counter[EventId] = Counter()
    for event in store.events.closed_with_seats():
        try:
            for attempt in store.transaction_attempts(BATCH_PATIENCE):
                with attempt as tx:
                    seats = block_available(tx, event.id, now)
        except Contention as error:
            log.info("the seats of closed event %s are left for the next run: %s", event.id, error)
        else:
            blocked[event.id] += seats
    return +blocked


def would_block(store: Store, returned: Counter[EventId]) -> Counter[EventId]:
    """What `block_what_came_back` would do once these seats were `returned`."""
    blocked = Counter({event.id: event.available for event in store.events.closed_with_seats()})
    for event in store.events.by_id(returned).values():
        if isinstance(event, Event) and event.closed_at is not None:
            blocked[event.id] = max(0, event.available) + returned[event.id]
    return +blocked


def block_available(tx: Store, event_id: EventId, now: datetime) -> int:
    """Put what is available on a closed event into its block; returns the seats."""
    event = tx.events.get(event_id)
    if not isinstance(event, Event) or event.closed_at is None or event.available <= 0:
        return 0
    return take_off_sale(tx, event, now)[1]
