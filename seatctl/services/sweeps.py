"""What a sweep is: which items it reads, how each of them ends, and what becomes of those whose event has no
clearance. `expiry.py` carries it out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import NamedTuple, TypeAlias

from seatctl.domain.documents import Booking, EventId, Kind, LockId, RunId, Unreadable
from seatctl.domain.rules import BATCH
from seatctl.domain.states import LockStatus
from seatctl.mongo.bookings import Bookings
from seatctl.mongo.locks import OverdueLock, SeatLocks
from seatctl.mongo.store import Store
from seatctl.services.clearance import Cause, Clearance, Doubt
from seatctl.services.seats import Ending

Item: TypeAlias = OverdueLock | Booking | Unreadable


class Decision(Enum):
    """What a sweep does with the overdue items of an event that has no clearance."""

    SKIP = auto()
    LEAVE_ALONE = auto()
    """Known to be another program's, as an event that counts per day is on an adopted database."""
    RETURN_SEATS = auto()
    END_WITHOUT_SEATS = auto()


class SkippedItem(NamedTuple):
    """An item that a program must not change: which, and why."""

    kind: Kind
    id: object
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} {self.id}: {self.reason}"

    def as_document(self) -> dict[str, object]:
        return {"kind": self.kind.value, "id": self.id, "reason": self.reason}


@dataclass(slots=True)
class Batch:
    """What one batch does, or did: the endings, and the items that it skips."""

    returning: list[Ending] = field(default_factory=list)
    without_seats: list[Ending] = field(default_factory=list)
    skipped: list[SkippedItem] = field(default_factory=list)
    notes: list[SkippedItem] = field(default_factory=list)
    """Items that ended and that a person should hear of: their lock is missing."""
    left_alone: Counter[EventId] = field(default_factory=Counter)
    """By event that counts per day, on an adopted database, its overdue items: another program's business."""
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


class Sweep(ABC):
    """What sets one sweep apart from the other: its items, and how each of them ends."""

    name: str

    @abstractmethod
    def documents(self, store: Store) -> SeatLocks | Bookings:
        """What it sweeps."""

    @abstractmethod
    def plan(self, store: Store, items: Sequence[Item], clearance: Clearance) -> Batch:
        """How these items end, before anybody asks whether their events can take the seats."""


class LockSweep(Sweep):
    """ACTIVE locks past their deadline that no live booking keeps (invariant 4)."""

    name = "locks"

    def documents(self, store: Store) -> SeatLocks:
        return store.locks

    def plan(self, store: Store, items: Sequence[Item], clearance: Clearance) -> Batch:
        batch = Batch(skipped=_unreadable(items))
        locks = {item.id: item for item in items if isinstance(item, OverdueLock)}
        unreadable_bookings = clearance.protecting_by_text(locks, {lock.event for lock in locks.values()})
        for lock_id, booking in store.bookings.protecting(list(locks)):
            if isinstance(booking, Unreadable):
                unreadable_bookings[lock_id] = booking
            else:
                locks.pop(lock_id, None)
        for lock_id, unreadable in unreadable_bookings.items():
            if locks.pop(lock_id, None):
                batch.skipped.append(SkippedItem(Kind.LOCK, lock_id, f"its {unreadable}"))
        batch.returning = [Ending(lock.expires_at, lock) for lock in locks.values()]
        return batch


class BookingSweep(Sweep):
    """PAYMENT_PENDING bookings past their deadline, with the locks that hold their seats."""

    name = "bookings"

    def documents(self, store: Store) -> Bookings:
        return store.bookings

    def plan(self, store: Store, items: Sequence[Item], clearance: Clearance) -> Batch:
        batch = Batch(skipped=_unreadable(items))
        bookings = [item for item in items if isinstance(item, Booking)]
        lock_ids = [booking.lock for booking in bookings]
        locks = store.locks.by_id(lock_ids)
        kept = store.bookings.named_twice(lock_ids).union(
            clearance.protecting_by_text(lock_ids, {booking.event for booking in bookings})
        )
        perhaps_paid = []
        for booking in bookings:
            lock, deadline = locks.get(booking.lock), booking.deadline
            if isinstance(lock, Unreadable):
                batch.skipped.append(SkippedItem(Kind.BOOKING, booking.id, f"its {lock}"))
            elif lock and lock.status is LockStatus.CONSUMED:
                perhaps_paid.append(booking)
            elif lock and lock.status is LockStatus.ACTIVE and lock.id not in kept:
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
            reason = f"its lock {booking.lock} is CONSUMED: someone may have paid"
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
        cls,
        store: Store,
        sweep: Sweep,
        moment: datetime,
        now: datetime,
        clearance: Callable[[Store, datetime | None], SweepClearance] = SweepClearance,
    ) -> SweepRun:
        """A run as of a moment. Locks get the grace of an adopted database on top of their deadline: another
        program's `confirm` in flight may have read the lock in time, and does not write it."""
        grace = store.settings.grace if isinstance(sweep, LockSweep) else timedelta()
        bookings_before = moment if isinstance(sweep, BookingSweep) else None
        return cls(sweep, moment - grace, now, clearance(store, bookings_before))
