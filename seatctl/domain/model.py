"""States and rules of seat inventory: what may happen, never how it is stored.

Standard library only. Every rule that depends on time takes `now` as an argument, and every
document is a plain mapping as the database returned it: other programs write these documents
too, so a rule reads only what spec section 1 promises and says so when that is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypeAlias

from seatctl.domain.timespec import format_time, shorten
from seatctl.errors import DamagedDocument, DeadlinePassed, KeyReused, WrongState

Document: TypeAlias = dict[str, Any]
Id: TypeAlias = Any  # an ObjectId; a document written by hand may carry anything

MAX_SEATS = 1_000_000
LARGEST_NUMBER = 2**31 - 1
"""No number of seats is larger: the sum over a whole batch must fit into MongoDB's integers."""
MAX_TEXT = 200
MAX_DESCRIPTION = 10_000
LOCK_TTL = timedelta(minutes=10)
PAYMENT_TTL = timedelta(minutes=15)
RETENTION = timedelta(days=30)
QUIET = timedelta(minutes=1)
"""How long nobody may have changed an event before a server without transactions lets recovery
correct its counter: a lock command takes the seats one write before the lock appears."""


class LockStatus(StrEnum):
    ACTIVE = "ACTIVE"
    CONSUMED = "CONSUMED"
    EXPIRED = "EXPIRED"


class BookingStatus(StrEnum):
    PAYMENT_PENDING = "PAYMENT_PENDING"
    CONFIRMED = "CONFIRMED"
    FAILED = "FAILED"
    EXPIRED = "EXPIRED"


class JobType(StrEnum):
    LOCK_EXPIRY = "LOCK_EXPIRY"
    BOOKING_EXPIRY = "BOOKING_EXPIRY"
    RECOVERY = "RECOVERY"


class JobStatus(StrEnum):
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"


HOLDING = (LockStatus.ACTIVE, LockStatus.CONSUMED)
"""A lock in one of these holds its seats (invariant 1)."""

LIVE = (BookingStatus.PAYMENT_PENDING, BookingStatus.CONFIRMED)
"""A booking in one of these keeps its lock from expiring (invariant 4)."""


def whole_number(value: object) -> int | None:
    """`value` as an int if it is a whole number (the old mongo shell stores 2 as 2.0)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value) if abs(value) <= LARGEST_NUMBER else None


def whole(value: Any) -> Any:
    """A stored number as a person writes it: 2 where it is 2.0. Anything else as it is."""
    number = whole_number(value)
    return value if number is None else number


def seats_of(lock: Mapping[str, Any]) -> int | None:
    """The seats that a lock holds, or None when its `seats` is not a positive whole number."""
    seats = whole_number(lock.get("seats"))
    return seats if seats is not None and seats >= 1 else None


def is_key(value: object) -> bool:
    """Whether a stored value can be the key of a dictionary. Asked of the value and not of its type: a
    DBRef can, unless what it holds is a list or a document."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


def reference_flaw(document: Mapping[str, Any], field: str) -> str | None:
    """Why a field cannot refer to another document, or None: a list or a document is nobody's id."""
    value = document.get(field)
    return None if is_key(value) else f"{field} is {describe(value)}, not an id"


def lock_flaw(lock: Mapping[str, Any]) -> str | None:
    """Why a lock cannot be given back by a program, or None when it can."""
    if flaw := reference_flaw(lock, "eventId"):
        return flaw
    if seats_of(lock) is None:
        return f"seats is {describe(lock.get('seats'))}, not a positive whole number"
    if not isinstance(lock.get("expiresAt"), datetime):
        return f"expiresAt is {describe(lock.get('expiresAt'))}, not a date"
    return None


def states_of(document: Mapping[str, Any]) -> list[Any]:
    """The state of a lock or booking; where a foreign hand stored a list, each in it, as in a query."""
    status = document.get("status")
    return status if isinstance(status, list) else [status]


def counter_flaw(event: Mapping[str, Any]) -> str | None:
    """Why an event's counter cannot be used, or None when it can."""
    total = whole_number(event.get("totalSeats"))
    if total is None or total < 1:
        return f"totalSeats is {describe(event.get('totalSeats'))}, not a positive whole number"
    if whole_number(event.get("availableSeats")) is None:
        return f"availableSeats is {describe(event.get('availableSeats'))}, not a whole number"
    return None


def describe(value: object) -> str:
    """A stored value as a person should read it in a message."""
    return "missing" if value is None else shorten(repr(value), 40)


def check_same_request(lock: Document, seats: int, key: str) -> None:
    """A key stands for one request: the same seats again, or KeyReused."""
    if lock.get("seats") != seats:
        raise KeyReused(
            f"key {shorten(key)!r} already locked {whole(lock.get('seats'))} seats for this user and "
            f"event (lock {lock['_id']}); use a new key to lock {seats}"
        )


def check_confirmable(lock: Document, now: datetime) -> None:
    """Only an ACTIVE lock before its deadline becomes a booking (invariant 6)."""
    if lock.get("status") != LockStatus.ACTIVE:
        raise WrongState(f"lock {lock['_id']} is {lock.get('status')}; only an ACTIVE lock can be confirmed")
    flaw = lock_flaw(lock)
    if flaw:
        raise DamagedDocument(f"lock {lock['_id']}: {flaw}")
    if lock["expiresAt"] <= now:
        raise DeadlinePassed(
            f"lock {lock['_id']} ran out at {format_time(lock['expiresAt'])}; lock the seats again"
        )


def check_releasable(lock: Document, booking: Document | None) -> None:
    """Only an ACTIVE lock without a booking is given back early."""
    if lock.get("status") != LockStatus.ACTIVE:
        raise WrongState(f"lock {lock['_id']} is {lock.get('status')}; only an ACTIVE lock can be released")
    if booking is not None:
        raise WrongState(
            f"lock {lock['_id']} has booking {booking['_id']} ({booking.get('status')}); "
            f"settle it with `seatctl pay {booking['_id']} --failed` or let it expire"
        )
    if seats_of(lock) is None:
        raise DamagedDocument(f"lock {lock['_id']}: {lock_flaw(lock)}")


def check_payable(booking: Document, lock: Document | None, now: datetime) -> None:
    """A payment settles a waiting booking before its deadline whose lock still holds the seats.
    One that comes too late is refused and due for refund (invariants 6 and 7)."""
    status = booking.get("status")
    if status in (BookingStatus.EXPIRED, BookingStatus.FAILED):
        raise WrongState(f"booking {booking['_id']} is {status}, its seats are given back; a refund is due")
    if status != BookingStatus.PAYMENT_PENDING:
        raise WrongState(f"booking {booking['_id']} is {status}, not PAYMENT_PENDING; a refund is due")
    deadline = booking.get("paymentExpiresAt")
    if not isinstance(deadline, datetime):
        raise DamagedDocument(
            f"booking {booking['_id']}: paymentExpiresAt is {describe(deadline)}, not a date; "
            "the payment was not recorded"
        )
    if deadline <= now:
        raise DeadlinePassed(
            f"booking {booking['_id']} had to be paid by {format_time(deadline)}; a refund is due"
        )
    if lock is None or lock.get("status") != LockStatus.ACTIVE:
        state = "missing" if lock is None else lock.get("status")
        raise WrongState(
            f"the lock of booking {booking['_id']} is {state}, so its seats are not held; a refund is due"
        )


def check_failable(booking: Document) -> None:
    """Only a booking that waits for its payment can fail, at any time."""
    if booking.get("status") != BookingStatus.PAYMENT_PENDING:
        raise WrongState(
            f"booking {booking['_id']} is {booking.get('status')}; only a PAYMENT_PENDING booking can fail"
        )
