"""The two sweeps: expire what is overdue and return its seats.

A sweep reads what is overdue ordered by event, plans a batch, and carries the plan out in one
transaction. What changed in between is planned again; what is broken is skipped, named, and never stops
the rest. A dry run plans with the same code and carries nothing out.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import NamedTuple, Protocol, TypeAlias

from seatctl.domain.documents import Booking, EventId, Kind, LockId, RunId, SeatLock, Unreadable
from seatctl.domain.rules import BATCH
from seatctl.domain.states import BookingStatus, LockStatus
from seatctl.domain.timespec import format_time
from seatctl.domain.words import count
from seatctl.errors import CachePressure, Contention, CursorLost, SeatctlError, WriteRefused
from seatctl.mongo.locks import OverdueLock
from seatctl.mongo.store import Store
from seatctl.services.batches import in_portions, side_by_side
from seatctl.services.clearance import Cause, Clearance, Doubt
from seatctl.services.seats import Ending, doubt_about, end_lock, expire, seats_of

log = logging.getLogger(__name__)

CURSOR_RETRIES = 10
"""How often the list of what is overdue is read again, where the server drops it."""

PATIENCE, OF_PARTS, AT_END = 8.0, 0.5, 2.0
"""Seconds for which a batch starts over while another writer keeps changing one of its events; for which each
part of it does, to find that event; and for which that one does at the end of the run. The first must be
longer than it takes to end what a killed seatctl left open (`mongo/abandoned.py`)."""

Item: TypeAlias = OverdueLock | Booking | Unreadable


class Decision(Enum):
    """What a sweep does with the overdue items of an event that has no clearance."""

    SKIP = auto()
    LEAVE_ALONE = auto()
    """Known to be another program's, as an event that counts by day is on an adopted database."""
    RETURN_SEATS = auto()
    END_WITHOUT_SEATS = auto()


class SkippedItem(NamedTuple):
    """An item that a program must not change: which, and why."""

    kind: Kind
    id: object
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} {self.id}: {self.reason}"


@dataclass(slots=True)
class Batch:
    """What one batch does, or did: the endings, and the items that it skips."""

    returning: list[Ending] = field(default_factory=list)
    without_seats: list[Ending] = field(default_factory=list)
    skipped: list[SkippedItem] = field(default_factory=list)
    notes: list[SkippedItem] = field(default_factory=list)
    """Items that ended and that a person should hear of: their lock is missing."""
    left_alone: Counter[EventId] = field(default_factory=Counter)
    """By event that counts by day, on an adopted database, its overdue items: another program's business."""
    shared: list[LockId] = field(default_factory=list)
    """ACTIVE locks that several bookings name: returned at the end if all those have ended."""
    contested: list[Item] = field(default_factory=list)
    """Items of events that another writer kept changing: tried again at the end."""

    @property
    def endings(self) -> list[Ending]:
        return self.returning + self.without_seats

    @property
    def locks(self) -> int:
        return sum(ending.lock is not None for ending in self.endings)

    @property
    def bookings(self) -> int:
        return sum(ending.booking is not None for ending in self.endings)

    def add(self, other: Batch) -> None:
        self.returning += other.returning
        self.without_seats += other.without_seats
        self.skipped += other.skipped
        self.notes += other.notes
        self.left_alone += other.left_alone
        self.shared += other.shared
        self.contested += other.contested


class SweepClearance(Clearance):
    """Clearance for a sweep, which skips what has none. Recovery treats some doubts otherwise."""

    def on_doubt(self, event_id: EventId, doubt: Doubt) -> Decision:  # noqa: ARG002 - recovery needs both
        known = doubt.cause is Cause.COUNTED_BY_DAY and self.store.settings.adopted
        return Decision.LEAVE_ALONE if known else Decision.SKIP


class Sweep(Protocol):
    """What sets one sweep apart from the other: its items, and how each of them ends."""

    name: str

    def read(self, store: Store, before: datetime, event_id: EventId | None) -> Iterator[Item]:
        """What is overdue, ordered by event."""

    def read_again(self, store: Store, items: Sequence[Item], before: datetime) -> Iterator[Item]:
        """Those of these items that are overdue still."""

    def count(self, store: Store, before: datetime) -> int:
        """About how many there are."""

    def plan(self, store: Store, items: Sequence[Item], clearance: Clearance) -> Batch:
        """How these items end, before anybody asks whether their events can take the seats."""


class LockSweep:
    """ACTIVE locks past their deadline that no live booking keeps (invariant 4)."""

    name = "locks"

    def read(self, store: Store, before: datetime, event_id: EventId | None) -> Iterator[Item]:
        return store.locks.overdue(before, event_id)

    def read_again(self, store: Store, items: Sequence[Item], before: datetime) -> Iterator[Item]:
        ids = [item.id for item in items if isinstance(item, OverdueLock)]
        return store.locks.still_overdue(ids, before)

    def count(self, store: Store, before: datetime) -> int:
        return store.locks.count_overdue(before)

    def plan(self, store: Store, items: Sequence[Item], clearance: Clearance) -> Batch:
        batch = Batch(skipped=_unreadable(items))
        locks = {item.id: item for item in items if isinstance(item, OverdueLock)}
        in_doubt = clearance.protectors(locks, {lock.event for lock in locks.values()})
        for lock_id, booking in store.bookings.protecting(list(locks)):
            if isinstance(booking, Unreadable):
                in_doubt[lock_id] = booking
            else:
                locks.pop(lock_id, None)
        for lock_id, unreadable in in_doubt.items():
            if locks.pop(lock_id, None):
                batch.skipped.append(SkippedItem(Kind.LOCK, lock_id, f"its {unreadable}"))
        batch.returning = [Ending(lock.expires_at, lock) for lock in locks.values()]
        return batch


class BookingSweep:
    """PAYMENT_PENDING bookings past their deadline, with the locks that hold their seats."""

    name = "bookings"

    def read(self, store: Store, before: datetime, event_id: EventId | None) -> Iterator[Item]:
        return store.bookings.overdue(before, event_id)

    def read_again(self, store: Store, items: Sequence[Item], before: datetime) -> Iterator[Item]:
        ids = [item.id for item in items if isinstance(item, Booking)]
        return store.bookings.still_overdue(ids, before)

    def count(self, store: Store, before: datetime) -> int:
        return store.bookings.count_overdue(before)

    def plan(self, store: Store, items: Sequence[Item], clearance: Clearance) -> Batch:
        batch = Batch(skipped=_unreadable(items))
        bookings = [item for item in items if isinstance(item, Booking)]
        lock_ids = [booking.lock for booking in bookings]
        locks = store.locks.by_id(lock_ids)
        protectors = Counter(lock_id for lock_id, _ in store.bookings.protecting(lock_ids))
        protectors.update(list(clearance.protectors(lock_ids, {booking.event for booking in bookings})))
        perhaps_paid = []
        for booking in bookings:
            lock, deadline = locks.get(booking.lock), booking.payment_expires_at
            assert deadline is not None  # it is PAYMENT_PENDING
            if isinstance(lock, Unreadable):
                batch.skipped.append(SkippedItem(Kind.BOOKING, booking.id, f"its {lock}"))
            elif lock and lock.status is LockStatus.CONSUMED:
                perhaps_paid.append(booking)
            elif lock and lock.status is LockStatus.ACTIVE and protectors[lock.id] == 1:
                held = OverdueLock(lock.id, lock.event, lock.seats, deadline)
                batch.returning.append(Ending(deadline, held, booking.id))
            else:
                # Its lock holds nothing any more, or another booking keeps it.
                batch.returning.append(Ending(deadline, None, booking.id, booking.event))
                if lock and lock.status is LockStatus.ACTIVE:
                    batch.shared.append(lock.id)
            if lock is None:
                reason = f"its lock {booking.lock} does not exist, so no seats were returned"
                batch.notes.append(SkippedItem(Kind.BOOKING, booking.id, reason))
        batch.skipped += _still_pending(store, perhaps_paid)
        return batch


def _still_pending(store: Store, bookings: Sequence[Booking]) -> Iterator[SkippedItem]:
    """Those whose lock is CONSUMED although they wait for their payment: not those that were paid since they
    were read."""
    now_read = store.bookings.still_pending([booking.id for booking in bookings]) if bookings else set()
    for booking in bookings:
        if booking.id in now_read:
            reason = f"its lock {booking.lock} is CONSUMED: somebody may have paid"
            yield SkippedItem(Kind.BOOKING, booking.id, reason)


def _unreadable(items: Iterable[Item]) -> list[SkippedItem]:
    return [SkippedItem(item.kind, item.id, item.reason) for item in items if isinstance(item, Unreadable)]


class SweepRun(NamedTuple):
    """One run of a sweep: what is overdue `before` a time, at the server's `now`, in batches."""

    sweep: Sweep
    before: datetime
    now: datetime
    clearance: SweepClearance
    batch_size: int = BATCH
    dry_run: bool = False
    event: EventId | None = None
    """Only what is overdue on this event."""
    id: RunId | None = None
    """The run's entry in the job log, which what it ends names."""

    @classmethod
    def at(
        cls, store: Store, sweep: Sweep, moment: datetime, now: datetime, clearance: SweepClearance
    ) -> SweepRun:
        """A run as of a moment. Locks get the grace of an adopted database on top of their deadline: another
        program's `confirm` in flight may have read the lock in time, and does not write it."""
        grace = store.settings.grace if isinstance(sweep, LockSweep) else timedelta()
        return cls(sweep, moment - grace, now, clearance)


def run_sweep(store: Store, run: SweepRun, go_on: Callable[[], bool] = lambda: True) -> Iterator[Batch]:
    """Expire what is overdue; yields what each batch did, or, in a dry run, would do. Once `go_on()` is
    false no batch is begun, and those in flight are yielded. Each event's counter is cleared first.

    Raises CursorLost when the server keeps dropping the list of what is overdue.
    """
    shared: set[LockId] = set()
    contested: dict[EventId | None, list[Item]] = {}
    for _ in range(CURSOR_RETRIES):
        try:
            for batch in _batches(store, run, go_on):
                shared.update(batch.shared)
                contested.update(_by_event(batch.contested))
                yield batch
        except CursorLost:
            # What is done is overdue no more. A dry run has done nothing, and would count it twice.
            if run.dry_run:
                raise
        else:
            yield from (_try_again(store, run, items) for items in contested.values() if go_on())
            yield from (_return_shared(store, run, lock_id) for lock_id in shared if go_on())
            return
    raise CursorLost("the server kept dropping the list of what is overdue; try again")


def _batches(store: Store, run: SweepRun, go_on: Callable[[], bool]) -> Iterator[Batch]:
    items = run.sweep.read(store, run.before, run.event)
    portions = in_portions(items, run.batch_size, _event_of, go_on)
    if run.dry_run:
        return (_plan(store, run, portion) for portion, _ in portions)
    return side_by_side(portions, lambda portion: _carry_out(store, run, portion, go_on))


def _return_shared(store: Store, run: SweepRun, lock_id: LockId) -> Batch:
    """Return a lock that several bookings named, unless one of them keeps it still. It is done when all
    batches are: the bookings may be in two of them, and neither sees what the other one ends."""
    batch = Batch()
    try:
        for attempt in store.transaction_attempts(PATIENCE):
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
    deadline = booking.payment_expires_at
    return booking.status is BookingStatus.PAYMENT_PENDING and deadline is not None and deadline < before


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
    patience: float | None = None,
) -> Batch:
    """Plan and carry out, as one transaction. When a document or an event is in the way, the rest is done
    without it: the batch is halved, down to one item, or to one event that another writer keeps changing."""
    try:
        return _carry_out_at_once(store, run, items, PATIENCE if patience is None else patience)
    except (WriteRefused, CachePressure, Contention) as error:
        if isinstance(error, Contention):
            if run.event is not None:
                raise  # a buyer waits for this event, and is told to try again
            if len(_by_event(items)) == 1:
                return Batch(contested=list(items))
            patience = OF_PARTS
        if len(items) == 1:
            return Batch(skipped=[_skipped(item, error) for item in items])
        middle = len(items) // 2
        batch = Batch()
        for half in (items[:middle], items[middle:]):
            if go_on():
                batch.add(_carry_out(store, run, half, go_on, patience))
        return batch


def _by_event(items: Iterable[Item]) -> dict[EventId | None, list[Item]]:
    events: dict[EventId | None, list[Item]] = {}
    for item in items:
        events.setdefault(_event_of(item), []).append(item)
    return events


def _try_again(store: Store, run: SweepRun, items: Sequence[Item]) -> Batch:
    """Items of one event that another writer kept changing, once more; they are skipped if it still does."""
    try:
        return _carry_out_at_once(store, run, items, AT_END)
    except (WriteRefused, CachePressure, Contention) as error:
        return Batch(skipped=[_skipped(item, error) for item in items])


def _carry_out_at_once(store: Store, run: SweepRun, items: Sequence[Item], patience: float) -> Batch:
    batch = _plan(store, run, items)
    if not batch.endings:
        return batch
    first = True
    for attempt in store.transaction_attempts(patience):
        if not first:
            # Somebody changed something: read again what is overdue still, and look at its events again.
            run.clearance.forget(seats_of(batch.returning))
            broken = [item for item in items if isinstance(item, Unreadable)]
            items = [*broken, *run.sweep.read_again(store, items, run.before)]
            batch = _plan(store, run, items)
        first = False
        with attempt as tx:
            expire(tx, batch.returning, batch.without_seats, run.before, run.now, run.id)
    return batch


def _skipped(item: Item, error: SeatctlError) -> SkippedItem:
    kind = Kind.LOCK if isinstance(item, OverdueLock) else Kind.BOOKING
    return SkippedItem(item.kind if isinstance(item, Unreadable) else kind, item.id, str(error))


def return_overdue(store: Store, event_id: EventId, *, dry_run: bool = False) -> Batch:
    """Expire whatever is overdue on one event (invariant 6); a dry run only plans it."""
    now = store.now()
    done = Batch()
    for sweep, bookings_before in ((BookingSweep(), now), (LockSweep(), None)):
        run = SweepRun.at(store, sweep, now, now, SweepClearance(store, bookings_before))
        for batch in run_sweep(store, run._replace(event=event_id, dry_run=dry_run)):
            done.add(batch)
    return done
