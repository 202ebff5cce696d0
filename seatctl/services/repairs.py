"""The repairs of locks and bookings that disagree. Each is the body of one transaction: it looks again, and
changes only what is still as `verify` found it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple, TypeAlias

from seatctl.domain.documents import Booking, BookingId, Event, EventId, LockId, RunId, SeatLock, Unreadable
from seatctl.domain.states import ENDED_LOCK, HOLDING, BookingStatus, Fault, LockStatus
from seatctl.domain.words import count
from seatctl.errors import ensure_changed
from seatctl.mongo.store import Store
from seatctl.services.clearance import Clearance, Doubt
from seatctl.services.closing import block_available, take_unheld
from seatctl.services.job_report import Ended, Outcome
from seatctl.services.seats import NO_COUNTER, doubt_about, end_lock
from seatctl.services.violations import Violation


class Run(NamedTuple):
    """The run of recovery that repairs: its time, and the id of its entry in the job log."""

    now: datetime
    id: RunId | None = None


class Repair(NamedTuple):
    """What a transaction did about one violation; `words` say it, empty where nothing was wrong any more."""

    words: str = ""
    outcome: Outcome = Outcome.REPAIRED
    repairs: int = 0
    """Documents that it changed beside what ended."""
    seats: tuple[EventId, int] | None = None
    """The seats that went back to an event."""
    ended: tuple[Ended, ...] = ()


NOTHING = Repair()
NEEDS_PERSON = Repair(Outcome.NEEDS_PERSON.value, Outcome.NEEDS_PERSON)
OVERSOLD = Repair(Outcome.OVERSOLD.value, Outcome.OVERSOLD)


def _left_alone(doubt: Doubt) -> Repair:
    return Repair(f"{Outcome.NEEDS_PERSON.value}: {doubt}", Outcome.NEEDS_PERSON)


def consume_lock(tx: Store, violation: Violation, run: Run) -> Repair:
    """CONFIRMED x ACTIVE: the lock becomes CONSUMED."""
    booking = tx.bookings.get(BookingId(violation.booking))
    if not isinstance(booking, Booking) or booking.status is not BookingStatus.CONFIRMED:
        return NOTHING
    lock = tx.locks.get(booking.lock)
    if not isinstance(lock, SeatLock) or lock.status is not LockStatus.ACTIVE:
        return NOTHING
    if isinstance(tx.events.get(lock.event), Unreadable):
        return NEEDS_PERSON
    ensure_changed(tx.locks.change(lock.id, LockStatus.ACTIVE, LockStatus.CONSUMED, run.now, by_job=True))
    return Repair("lock CONSUMED", repairs=1)


def take_again(tx: Store, violation: Violation, run: Run) -> Repair:
    """CONFIRMED x EXPIRED or CANCELLED: the seats are taken again, if the event still has them."""
    booking = tx.bookings.get(BookingId(violation.booking))
    lock = tx.locks.get(LockId(violation.lock))
    if not isinstance(booking, Booking) or booking.status is not BookingStatus.CONFIRMED:
        return NOTHING
    if isinstance(lock, Unreadable):
        return NEEDS_PERSON
    if lock is None or lock.status not in ENDED_LOCK:
        return NOTHING
    event = tx.events.get(lock.event)
    held = tx.aggregations.held_by(lock.event)
    if not isinstance(event, Event) or held.unreadable:
        return NEEDS_PERSON
    if not take_unheld(tx, event, held, lock.seats, run.now, run.id):
        return OVERSOLD
    ensure_changed(tx.locks.change(lock.id, lock.status, LockStatus.CONSUMED, run.now, by_job=True))
    ensure_changed(tx.bookings.stamp(booking, "updatedAt", run.now))  # `cancel` writes no lock that has ended
    return Repair(f"{count(lock.seats, 'seat')} taken again, lock CONSUMED", repairs=1)


def return_seats(tx: Store, violation: Violation, run: Run) -> Repair:
    """An ended booking x ACTIVE: the lock ends, and its seats go back."""
    lock = tx.locks.get(LockId(violation.lock))
    if isinstance(lock, Unreadable):
        return NEEDS_PERSON
    if lock is None or lock.status is not LockStatus.ACTIVE:
        return NOTHING
    if next(tx.bookings.protecting([lock.id]), None) is not None:
        return NOTHING
    return _end_lock(tx, lock, run)


def _end_lock(tx: Store, lock: SeatLock, run: Run) -> Repair:
    """End an ACTIVE lock that nothing protects, in the way that the clearance of its event allows."""
    doubt = doubt_about(tx, lock)
    if doubt is not None and doubt.cause not in NO_COUNTER:
        return _left_alone(doubt)
    end_lock(tx, lock, run.now, with_seats=doubt is None, by_job=True, ended_by=run.id)
    if doubt is not None:
        return Repair("lock EXPIRED, no counter raised", ended=(Ended(lock.id),))
    words = f"lock EXPIRED, {count(lock.seats, 'seat')} returned"
    ended = Ended(lock.id, seats=lock.seats)
    return Repair(words, seats=(lock.event, lock.seats), ended=(ended,))


def end_booking(tx: Store, violation: Violation, run: Run) -> Repair:
    """PAYMENT_PENDING that has no seats, or no event: the booking expires, and an ACTIVE lock that no other
    booking protects with it."""
    booking = tx.bookings.get(BookingId(violation.booking))
    lock = tx.locks.get(LockId(violation.lock))
    if not isinstance(booking, Booking) or booking.status is not BookingStatus.PAYMENT_PENDING:
        return NOTHING
    if tx.events.get(booking.event) is not None and isinstance(lock, SeatLock) and lock.status in HOLDING:
        return NOTHING
    doubt = Clearance(tx).doubt(booking.event)
    if doubt is not None and doubt.cause not in NO_COUNTER:  # it keeps its time to pay
        return _left_alone(doubt)
    protecting = [booking.id for _, booking in tx.bookings.protecting([booking.lock])]
    ended = NOTHING
    if isinstance(lock, SeatLock) and lock.status is LockStatus.ACTIVE and protecting == [booking.id]:
        ended = _end_lock(tx, lock, run)
    _expire_booking(tx, booking.id, run)
    if not ended.ended:
        return Repair("booking EXPIRED", ended=(Ended(None, booking.id),))
    together = ended.ended[0]._replace(booking=booking.id)
    words = f"booking EXPIRED, {ended.words}"
    return Repair(words, seats=ended.seats, ended=(together,))


def _expire_booking(tx: Store, booking_id: BookingId, run: Run) -> None:
    pending, expired = BookingStatus.PAYMENT_PENDING, BookingStatus.EXPIRED
    ensure_changed(tx.bookings.change(booking_id, pending, expired, run.now, ended_by=run.id))


def end_orphan(tx: Store, violation: Violation, run: Run) -> Repair:
    """A lock of no event, with the bookings that wait for it: of whatever event those are, no payment could
    be for seats."""
    lock = tx.locks.get(LockId(violation.lock))
    if not isinstance(lock, SeatLock) or lock.status is not LockStatus.ACTIVE:
        return NOTHING
    if tx.events.get(lock.event) is not None:
        return NOTHING
    waiting: list[BookingId] = []
    for _, booking in tx.bookings.protecting([lock.id]):
        if isinstance(booking, Unreadable) or booking.status is not BookingStatus.PAYMENT_PENDING:
            return NEEDS_PERSON
        waiting.append(booking.id)
    for booking_id in waiting:
        _expire_booking(tx, booking_id, run)
    end_lock(tx, lock, run.now, with_seats=False, by_job=True, ended_by=run.id)
    with_bookings = f" with booking {', '.join(map(str, waiting))}" if waiting else ""
    words = f"lock EXPIRED{with_bookings}, its event does not exist"
    ended = (*(Ended(None, booking_id) for booking_id in waiting), Ended(lock.id))
    return Repair(words, ended=ended)


def block_seats(tx: Store, violation: Violation, run: Run) -> Repair:
    """Seats that are available on a closed event go into its block."""
    seats = block_available(tx, EventId(violation.event), run.now)
    return Repair(f"{count(seats, 'seat')} blocked", repairs=1) if seats else NOTHING


Repairer: TypeAlias = Callable[[Store, Violation, Run], Repair]

REPAIRS: dict[Fault, Repairer] = {
    Fault.UNSETTLED_LOCK: consume_lock,
    Fault.LOST_LOCK: take_again,
    Fault.SEATS_NOT_RETURNED: return_seats,
    Fault.BOOKING_WITHOUT_SEATS: end_booking,
    Fault.ORPHAN_LOCK: end_orphan,
    Fault.ORPHAN_BOOKING: end_booking,
    Fault.CLOSED_WITH_SEATS: block_seats,
}
"""By fault, what recovery does about it. Counters are corrected after them, in `counters.py`."""
