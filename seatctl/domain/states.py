"""The states of locks and bookings, and which of them fit together.

`fault_of_pair` is the whole table: every state of a lock against every state of its booking.
"""

from __future__ import annotations

from enum import StrEnum


class LockStatus(StrEnum):
    ACTIVE = "ACTIVE"
    CONSUMED = "CONSUMED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"


class BookingStatus(StrEnum):
    INITIATED = "INITIATED"
    PAYMENT_PENDING = "PAYMENT_PENDING"
    CONFIRMED = "CONFIRMED"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"
    CANCELLED = "CANCELLED"


class JobType(StrEnum):
    LOCK_EXPIRY = "LOCK_EXPIRY"
    BOOKING_EXPIRY = "BOOKING_EXPIRY"
    RECOVERY = "RECOVERY"


class JobStatus(StrEnum):
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"


class RefundCause(StrEnum):
    LATE_PAYMENT = "LATE_PAYMENT"
    DUPLICATE_PAYMENT = "DUPLICATE_PAYMENT"
    CANCELLED = "CANCELLED"


class RefundStatus(StrEnum):
    DUE = "DUE"
    DONE = "DONE"
    WITHDRAWN = "WITHDRAWN"


BLOCK = "BLOCK"
"""The kind of a lock that takes seats off sale without a deadline, for no buyer."""

HOLDING = frozenset({LockStatus.ACTIVE, LockStatus.CONSUMED})
"""A lock in one of these holds its seats (invariant 1)."""

ENDED_LOCK = frozenset(LockStatus) - HOLDING
"""A lock in one of these holds nothing."""

LIVE = frozenset({BookingStatus.PAYMENT_PENDING, BookingStatus.CONFIRMED})
"""A booking in one of these keeps its lock from expiring (invariant 4)."""

ENDED_BOOKING = frozenset({BookingStatus.FAILED, BookingStatus.EXPIRED, BookingStatus.CANCELLED})
"""A booking in one of these is final. INITIATED is neither live nor ended: it holds and protects nothing."""


class Fault(StrEnum):
    """Each way in which documents can break an invariant; `faults.py` explains them."""

    COUNTER_DRIFT = "counter_drift"
    COUNTER_IN_DOUBT = "counter_in_doubt"
    OVERBOOKED = "overbooked"
    UNSETTLED_LOCK = "unsettled_lock"
    LOST_LOCK = "lost_lock"
    SEATS_NOT_RETURNED = "seats_not_returned"
    BOOKING_WITHOUT_SEATS = "booking_without_seats"
    BOOKING_WITHOUT_LOCK = "booking_without_lock"
    CONFIRMED_WITHOUT_LOCK = "confirmed_without_lock"
    CONSUMED_WITHOUT_BOOKING = "consumed_without_booking"
    SEVERAL_BOOKINGS = "several_bookings"
    OTHER_EVENT = "other_event"
    ORPHAN_LOCK = "orphan_lock"
    ORPHAN_BOOKING = "orphan_booking"
    ORPHAN_SOLD = "orphan_sold"
    DAMAGED_LOCK = "damaged_lock"
    DAMAGED_BOOKING = "damaged_booking"
    DAMAGED_EVENT = "damaged_event"
    UNKNOWN_COUNTING = "unknown_counting"
    TTL_INDEX = "ttl_index"
    DUPLICATE_KEY = "duplicate_key"
    CLOSED_WITH_SEATS = "closed_with_seats"
    COLLATION = "collation"
    FAR_DEADLINE = "far_deadline"


def fault_of_pair(lock: LockStatus | None, booking: BookingStatus) -> Fault | None:
    """What is wrong when a booking in this state names a lock in that one (None: there is no lock).

    A CONSUMED lock needs one CONFIRMED booking, whatever other bookings name it, so that is
    judged from the lock's side.
    """
    match lock, booking:
        case LockStatus.ACTIVE, BookingStatus.CONFIRMED:
            return Fault.UNSETTLED_LOCK
        case LockStatus.ACTIVE, (BookingStatus.FAILED | BookingStatus.EXPIRED | BookingStatus.CANCELLED):
            return Fault.SEATS_NOT_RETURNED
        case ((LockStatus.EXPIRED | LockStatus.CANCELLED), BookingStatus.CONFIRMED):
            return Fault.LOST_LOCK
        case ((LockStatus.EXPIRED | LockStatus.CANCELLED), BookingStatus.PAYMENT_PENDING):
            return Fault.BOOKING_WITHOUT_SEATS
        case None, BookingStatus.CONFIRMED:
            return Fault.CONFIRMED_WITHOUT_LOCK
        case None, BookingStatus.PAYMENT_PENDING:
            return Fault.BOOKING_WITHOUT_LOCK
    return None
