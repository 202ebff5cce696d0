"""The two sweeps: expire what is overdue and return its seats.

A sweep reads what is overdue ordered by event, plans a batch, and carries the plan out in one
transaction. What changed in between is planned again; what is broken is skipped, named, and never stops
the rest. A dry run plans with the same code and carries nothing out.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

from seatctl.domain import rules
from seatctl.domain.documents import Booking, EventId, Kind, LockId, SeatLock, Unreadable
from seatctl.domain.states import BookingStatus, LockStatus
from seatctl.domain.timespec import format_time
from seatctl.domain.words import count
from seatctl.errors import CachePressure, Contention, CursorLost, SeatctlError, WriteRefused
from seatctl.mongo.locks import OverdueLock
from seatctl.mongo.store import Store
from seatctl.services.by_id import get_event
from seatctl.services.clearance import Cause, Doubt
from seatctl.services.parallel import Turn, at_once, in_portions, side_by_side
from seatctl.services.seats import Ending, doubt_about, end_lock, expire, seats_of
from seatctl.services.sweeps import (
    Batch,
    BookingSweep,
    Decision,
    Item,
    LockSweep,
    SkippedItem,
    SweepRun,
)

log = logging.getLogger(__name__)

CURSOR_RETRIES = 10
"""How often the list of what is overdue is read again, where the server drops it."""

BATCH_PATIENCE, PART_PATIENCE, LAST_PATIENCE = 8.0, 0.5, 2.0
"""Seconds for which a batch starts over while another writer keeps changing one of its events; for which each
part of it does, to find that event; and for which that one does at the end of the run. The first must be
longer than it takes to end what a killed seatctl left open (`mongo/abandoned.py`)."""


PLAN_SECONDS = 1.0
"""How long a plan may wait for its turn before it is made again: another program's booking may have become
live meanwhile without a write to its lock."""


def run_sweep(store: Store, run: SweepRun, go_on: Callable[[], bool] = lambda: True) -> Iterator[Batch]:
    """Expire what is overdue; yields what each batch did, or, in a dry run, would do. Once `go_on()` is
    false no batch is begun, and those in flight are yielded. Clearance is checked for each event first.

    Raises CursorLost when the server keeps dropping the list of what is overdue.
    """
    shared: set[LockId] = set()
    contested: dict[EventId | None, dict[object, Item]] = {}
    for _ in range(CURSOR_RETRIES):
        try:
            for batch in _batches(store, run, go_on):
                shared.update(batch.shared)
                for item in batch.contested:
                    contested.setdefault(item.event, {})[item.id] = item
                yield batch
        except CursorLost:
            # What is done is overdue no more. A dry run has done nothing, and would count it twice.
            if run.dry_run:
                raise
        else:
            yield from (
                _try_again(store, run, list(items.values()), go_on) for items in contested.values() if go_on()
            )
            yield from (_return_shared(store, run, lock_id) for lock_id in shared if go_on())
            return
    raise CursorLost("the server kept dropping the list of what is overdue; try again")


def _batches(store: Store, run: SweepRun, go_on: Callable[[], bool]) -> Iterator[Batch]:
    items = run.sweep.documents(store).overdue(run.before, run.event)
    portions = in_portions(items, run.batch_size, _event_of, go_on)
    if run.dry_run:
        return (_plan(store, run, portion) for portion, _ in portions)
    return side_by_side(portions, lambda portion, turn: _carry_out(store, run, portion, go_on, turn))


def _return_shared(store: Store, run: SweepRun, lock_id: LockId) -> Batch:
    """Return a lock that several bookings named, unless one of them keeps it still. It is done when all
    batches are: the bookings may be in two of them, and neither sees what the other one ends."""
    batch = Batch()
    try:
        for attempt in store.transaction_attempts(BATCH_PATIENCE):
            with attempt as tx:
                batch = _return_shared_within(tx, run, lock_id)
    except Contention as error:
        return Batch(skipped=[SkippedItem(Kind.LOCK, lock_id, str(error))])
    return batch


def _return_shared_within(tx: Store, run: SweepRun, lock_id: LockId) -> Batch:
    lock = tx.locks.get(lock_id)
    if not isinstance(lock, SeatLock) or lock.status is not LockStatus.ACTIVE:
        return Batch()
    for _, booking in tx.bookings.protecting([lock_id]):
        if not (run.dry_run and isinstance(booking, Booking) and _is_overdue(booking, run.before)):
            return Batch()
    if doubt := doubt_about(tx, lock, run.before if run.dry_run else None):
        return Batch(skipped=[SkippedItem(Kind.LOCK, lock_id, str(doubt))])
    if not run.dry_run:
        end_lock(tx, lock, run.now, with_seats=True, by_job=True, ended_by=run.id)
    held = OverdueLock(lock.id, lock.event, lock.seats, run.before)
    return Batch(returning=[Ending(run.before, held)])


def _is_overdue(booking: Booking, before: datetime) -> bool:
    return booking.status is BookingStatus.PAYMENT_PENDING and booking.deadline < before


def _event_of(item: Item) -> EventId | None:
    return item.event


def _plan(store: Store, run: SweepRun, items: Sequence[Item]) -> Batch:
    """What to do with these items: those whose events have no clearance are treated as the run says."""
    log.info("read %s overdue before %s", count(len(items), "item"), format_time(run.before))
    batch = run.sweep.plan(store, items, run.clearance)
    doubts = run.clearance.doubts(filter(None, map(_event_of_ending, batch.returning)))
    if not doubts:
        return batch
    needed = seats_of(batch.returning)
    decisions = {
        event_id: run.clearance.on_doubt(event_id, doubt)
        for event_id, doubt in doubts.items()
        if event_id in needed or doubt.cause is Cause.COUNTED_BY_DAY
    }
    cleared = []
    for ending in batch.returning:
        event_id = _event_of_ending(ending)
        doubt = None if event_id is None else doubts.get(event_id)
        if event_id is None or doubt is None or _needs_no_clearance(ending, doubt):
            cleared.append(ending)
            continue
        match decisions[event_id]:
            case Decision.SKIP:
                kind = Kind.LOCK if ending.booking is None else Kind.BOOKING
                batch.skipped.append(SkippedItem(kind, ending.id, str(doubt)))
            case Decision.LEAVE_ALONE:
                batch.left_alone[event_id] += 1
            case Decision.END_WITHOUT_SEATS:
                batch.without_seats.append(ending)
            case Decision.RETURN_SEATS:
                cleared.append(ending)
    batch.returning = cleared
    return batch


def _event_of_ending(ending: Ending) -> EventId | None:
    return ending.event if ending.lock is None else ending.lock.event


def _needs_no_clearance(ending: Ending, doubt: Doubt) -> bool:
    """Whether no seats come back with it, and its event is not another program's business as a whole."""
    return ending.lock is None and doubt.cause is not Cause.COUNTED_BY_DAY


def _carry_out(
    store: Store,
    run: SweepRun,
    items: Sequence[Item],
    go_on: Callable[[], bool],
    turn: Turn,
    patience: float | None = None,
) -> Batch:
    """Plan, and carry the plan out as one transaction. When a document or an event is in the way, the rest is
    done without it: the batch is halved, down to one item, or to one event that others keep changing."""
    try:
        return _carry_out_at_once(store, run, items, go_on, turn, patience or BATCH_PATIENCE)
    except (WriteRefused, CachePressure, Contention) as error:
        if isinstance(error, Contention):
            if run.event is not None:
                raise  # a buyer waits for this event, and is told to try again
            if len({item.event for item in items}) == 1:
                return Batch(contested=list(items))
            patience = PART_PATIENCE
        if len(items) == 1:
            return Batch(skipped=[_skipped(item, error) for item in items])
        middle = len(items) // 2
        batch = Batch()
        for half in (items[:middle], items[middle:]):
            if go_on():
                batch.add(_carry_out(store, run, half, go_on, turn, patience))
        return batch


def _try_again(store: Store, run: SweepRun, items: Sequence[Item], go_on: Callable[[], bool]) -> Batch:
    """Items of one event that another writer kept changing, once more; they are skipped if it still does."""
    try:
        return _carry_out_at_once(store, run, items, go_on, at_once, LAST_PATIENCE)
    except (WriteRefused, CachePressure, Contention) as error:
        return Batch(skipped=[_skipped(item, error) for item in items])


def _carry_out_at_once(
    store: Store,
    run: SweepRun,
    items: Sequence[Item],
    go_on: Callable[[], bool],
    turn: Turn,
    patience: float,
) -> Batch:
    batch = _plan(store, run, items)
    if not batch.endings:
        return batch
    planned = time.monotonic()
    turn()
    if not go_on():
        return Batch()
    outdated, lost = time.monotonic() - planned > PLAN_SECONDS, False
    for attempt in store.transaction_attempts(patience):
        if lost:  # somebody changed something: look at its events again
            run.clearance.forget(seats_of(batch.returning))
        if outdated or lost:
            broken = [item for item in items if isinstance(item, Unreadable)]
            ids = [item.id for item in items if not isinstance(item, Unreadable)]
            items = [*broken, *run.sweep.documents(store).still_overdue(ids, run.before)]
            batch = _plan(store, run, items)
        lost = True
        with attempt as tx:
            expire(tx, batch.returning, batch.without_seats, run.before, run.now, run.id)
    return batch


def _skipped(item: Item, error: SeatctlError) -> SkippedItem:
    kind = Kind.LOCK if isinstance(item, OverdueLock) else Kind.BOOKING
    return SkippedItem(item.kind if isinstance(item, Unreadable) else kind, item.id, str(error))


def before_and_after_return(
    store: Store, event_id: EventId, *, dry_run: bool = False
) -> Iterator[Counter[EventId]]:
    """For a command that takes seats: a first try, and one more once what is overdue there was returned
    (invariant 6). Yields the seats that a dry run must add itself. Raises Closed."""
    yield Counter()
    rules.check_on_sale(get_event(store, event_id))
    returned = seats_of(return_overdue(store, event_id, dry_run=dry_run).returning)
    log.info("too few seats left; returned %s that were overdue", count(returned.total(), "seat"))
    yield returned if dry_run else Counter()


def return_overdue(store: Store, event_id: EventId, *, dry_run: bool = False) -> Batch:
    """Expire whatever is overdue on one event (invariant 6); a dry run only plans it."""
    now = store.now()
    done = Batch()
    for sweep in (BookingSweep(), LockSweep()):
        run = SweepRun.at(store, sweep, now, now)
        for batch in run_sweep(store, run._replace(event=event_id, dry_run=dry_run)):
            done.add(batch)
    return done
