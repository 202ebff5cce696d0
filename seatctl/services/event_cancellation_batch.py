"""One transaction of `cancel-event`: what it ends, what it skips because a person must look at it first, and
the writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from seatctl.domain.documents import Booking, BookingId, EventId, Kind, LockId, SeatLock, Unreadable
from seatctl.domain.states import LIVE, BookingStatus, LockStatus, RefundCause
from seatctl.errors import StaleRead, ensure_changed
from seatctl.mongo.store import Store
from seatctl.services.by_id import seats_without_lock
from seatctl.services.closing import add_to_block
from seatctl.services.sweeps import SkippedItem

ENDED_AS = {LockStatus.ACTIVE: LockStatus.EXPIRED, LockStatus.CONSUMED: LockStatus.CANCELLED}


@dataclass(slots=True)
class CancellationBatch:
    bookings: list[Booking] = field(default_factory=list)
    locks: list[SeatLock] = field(default_factory=list)
    seats_of: dict[BookingId, int] = field(default_factory=dict)
    """By booking, the seats of its lock, or, without one, those that it is known to have had."""
    skipped: list[SkippedItem] = field(default_factory=list)
    increased: int = 0
    """Refunds that were due before, for fewer seats."""
    kept: list[LockId] = field(default_factory=list)
    """Locks whose buyers confirmed them behind the pass over the bookings."""
    beside_others: list[BookingId] = field(default_factory=list)
    """Those of the bookings whose lock another one names, too."""

    @property
    def seats(self) -> int:
        return sum(lock.seats for lock in self.locks)

    @property
    def paid(self) -> list[Booking]:
        return [booking for booking in self.bookings if booking.status is BookingStatus.CONFIRMED]

    def skip(self, booking: Booking, reason: str) -> None:
        self.skipped.append(SkippedItem(Kind.BOOKING, booking.id, reason))


def plan_bookings(
    tx: Store,
    event_id: EventId,
    booking_ids: Sequence[BookingId],
    protected: dict[LockId, Unreadable],
    ended: set[BookingId],
) -> CancellationBatch:
    """Live bookings, each with its lock if only those of this batch, and those that `ended`, name that."""
    batch = CancellationBatch()
    bookings = list(tx.bookings.to_cancel(event_id, booking_ids))
    lock_ids = list({booking.lock for booking in bookings})
    locks = tx.locks.by_id(lock_ids)
    mine = {booking.id for booking in bookings}
    others: dict[LockId, Booking | Unreadable] = dict(protected)
    paid: set[LockId] = set()
    for lock_id, each in tx.bookings.protecting(lock_ids):
        if each.id not in mine and each.id not in ended and not _is_astray(event_id, others.get(lock_id)):
            others[lock_id] = each
        if isinstance(each, Booking) and each.status is BookingStatus.CONFIRMED:
            paid.add(lock_id)
    ending: dict[LockId, SeatLock] = {}
    for booking in bookings:
        lock, other = locks.get(booking.lock), others.get(booking.lock)
        if reason := _reason_to_skip(event_id, booking, lock, other, is_paid=booking.lock in paid):
            batch.skip(booking, reason)
            continue
        batch.bookings.append(booking)
        if other is not None:
            batch.beside_others.append(booking.id)
        if isinstance(lock, SeatLock):
            batch.seats_of[booking.id] = lock.seats
            if other is None and lock.status in ENDED_AS:
                ending[lock.id] = lock
    batch.locks = list(ending.values())
    without = [booking for booking in batch.paid if booking.id not in batch.seats_of]
    if without:
        batch.seats_of.update(seats_without_lock(tx, without))
    return batch


def _is_astray(event_id: EventId, booking: Booking | Unreadable | None) -> bool:
    return isinstance(booking, Unreadable) or (booking is not None and booking.event != event_id)


def _reason_to_skip(
    event_id: EventId,
    booking: Booking,
    lock: SeatLock | Unreadable | None,
    other: Booking | Unreadable | None,
    *,
    is_paid: bool,
) -> str | None:
    """Why a person has to look at a booking first: by its lock, and by another booking that names that."""
    if isinstance(lock, Unreadable):
        return f"its {lock}"
    if isinstance(other, Unreadable):
        return f"its lock {booking.lock} has another booking: {other}"
    if lock is not None and lock.event != event_id:
        return f"its lock {lock.id} is of event {lock.event}"
    if other is not None and other.event != event_id:
        return f"its lock {booking.lock} has booking {other.id} of another event"
    if lock is not None and lock.status is LockStatus.CONSUMED and not is_paid:
        return f"its lock {lock.id} is CONSUMED: `seatctl explain consumed_without_booking`"
    return None


def plan_locks(
    tx: Store, event_id: EventId, lock_ids: Sequence[LockId], protected: dict[LockId, Unreadable]
) -> CancellationBatch:
    """ACTIVE locks that no booking keeps. One whose buyer confirmed it just now ends in the next pass, with
    that booking."""
    batch = CancellationBatch()
    closing = {block.id for block in tx.locks.of_closing(event_id)}
    keeping: dict[LockId, Booking | Unreadable] = dict(protected)
    for lock_id, each in tx.bookings.protecting(lock_ids):
        if not _is_astray(event_id, keeping.get(lock_id)):
            keeping[lock_id] = each
    for lock in tx.locks.by_id(lock_ids).values():
        if isinstance(lock, Unreadable) or lock.status is not LockStatus.ACTIVE or lock.id in closing:
            continue
        booking = keeping.get(lock.id)
        if booking is None:
            batch.locks.append(lock)
        elif isinstance(booking, Unreadable) or booking.event != event_id:
            what = booking if isinstance(booking, Unreadable) else f"booking {booking.id} of another event"
            batch.skipped.append(SkippedItem(Kind.LOCK, lock.id, f"it has {what}"))
        else:
            batch.kept.append(lock.id)
    return batch


def end_batch(tx: Store, event_id: EventId, batch: CancellationBatch) -> None:
    """End all of it, and keep its seats off sale; or, by StaleRead, nothing."""
    ensure_changed(tx.events.touch(event_id))
    now, operation_id = tx.now(), tx.operations.id
    for old in LIVE:
        bookings = [booking.id for booking in batch.bookings if booking.status is old]
        if tx.bookings.end_all(bookings, old, BookingStatus.CANCELLED, now, operation_id) != len(bookings):
            raise StaleRead
    for state, ended in ENDED_AS.items():
        locks = [lock.id for lock in batch.locks if lock.status is state]
        if tx.locks.end_all(locks, state, ended, now, operation_id) != len(locks):
            raise StaleRead
    # After them: the event's block may be one of them, where another program sold it.
    add_to_block(tx, event_id, batch.seats, now)
    _owe(tx, batch, now)
    after = {
        "bookingsCancelled": len(batch.bookings),
        "locksEnded": len(batch.locks),
        "seatsBlocked": batch.seats,
        "refundsDue": len(batch.paid),
    }
    # Which ones those are, each of them says itself, by `endedBy`.
    tx.operations.record("cancel-event", now, event_id, after=after)


def _owe(tx: Store, batch: CancellationBatch, now: datetime) -> None:
    """Refunds for what was paid (invariant 12): of a booking that gave seats back before, for the others."""
    whole = [booking for booking in batch.paid if not booking.seats_cancelled]
    cause = RefundCause.CANCELLED
    if len(batch.bookings) > 1:
        tx.refunds.record_all([(booking, batch.seats_of.get(booking.id, 0)) for booking in whole], cause, now)
    for booking in batch.paid:
        # One at a time is how a batch ends that met a refund which nobody expected.
        if booking.seats_cancelled or len(batch.bookings) == 1:
            seats = batch.seats_of.get(booking.id, 0)
            refund = tx.refunds.owe(booking, seats, cause, booking.payment_ref, now)
            batch.increased += refund.seats > seats
