"""Events, locks and bookings as seatctl understands them: typed, frozen, without a database.

`mongo/codec.py` makes these from what is stored, or an `Unreadable` that says why it cannot.
Behind that door nobody asks again whether a number is a number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple, NewType, TypeAlias

from seatctl.domain.states import BookingStatus, JobStatus, JobType, LockStatus, RefundCause, RefundStatus

# Ids are opaque here: they compare, hash, and `str()` prints them as 24 hex digits. A user is what the caller
# gave, an id or a text.
EventId = NewType("EventId", object)
LockId = NewType("LockId", object)
BookingId = NewType("BookingId", object)
UserId = NewType("UserId", object)
RefundId = NewType("RefundId", object)
RunId = NewType("RunId", object)
"""The entry of a job's run, or of an operator's command: what `endedBy` names."""

CLOSING = "closed-"
"""How the key of the block begins that holds the seats of a closed event."""

StoredDocument: TypeAlias = Mapping[str, object]
"""A document as the database holds it, with all fields, for people and programs to read."""


def mapping_in(value: object) -> StoredDocument:
    """What stands in a field that should hold a document; empty where it holds none."""
    return value if isinstance(value, Mapping) else {}


class Kind(StrEnum):
    EVENT = "event"
    LOCK = "lock"
    BOOKING = "booking"
    JOB_RUN = "job run"
    REFUND = "refund"
    OPERATION = "operation"


class Flaw(StrEnum):
    DAMAGED = "damaged"
    COUNTED_BY_DAY = "counted_by_day"


class Event(NamedTuple):
    """An event and its counter: `available` of `total` seats can be locked now."""

    id: EventId
    name: str
    date: datetime | None
    total: int
    available: int
    updated_at: datetime | None
    closed_at: datetime | None = None
    """Since when nothing is sold any more."""
    cancelled_at: datetime | None = None

    @property
    def is_closed(self) -> bool:
        """Whether it sells nothing."""
        return self.closed_at is not None or self.cancelled_at is not None


class SeatLock(NamedTuple):
    """Seats of an event that are held for a user until `expires_at`, while it is ACTIVE."""

    id: LockId
    event: EventId
    user: UserId
    seats: int
    status: LockStatus
    expires_at: datetime | None
    """None only where it does not matter: an ACTIVE lock without a deadline is unreadable."""
    key: str | None
    stored: StoredDocument
    is_block: bool = False
    """Taken off sale by an operator, for no buyer and without a deadline."""

    @property
    def deadline(self) -> datetime:
        """When it ends, unless it is confirmed: of an ACTIVE lock, which has one."""
        assert self.expires_at is not None  # or it would be unreadable
        return self.expires_at

    @property
    def is_of_closing(self) -> bool:
        """Whether this block holds what was available when its event was closed, and what came back since."""
        return self.is_block and self.key is not None and self.key.startswith(CLOSING)


class Booking(NamedTuple):
    """A lock on its way to be paid."""

    id: BookingId
    event: EventId
    user: UserId
    lock: LockId
    status: BookingStatus
    payment_expires_at: datetime | None
    """None only where it does not matter: a PAYMENT_PENDING booking without a deadline is unreadable."""
    stored: StoredDocument
    payment_ref: str | None = None
    """What the payment is called where it was made."""
    seats_cancelled: int = 0
    """How many of its seats the buyer has returned, while the booking stayed."""

    @property
    def deadline(self) -> datetime:
        """By when it must be paid: of a PAYMENT_PENDING booking, which has a deadline."""
        assert self.payment_expires_at is not None  # or it would be unreadable
        return self.payment_expires_at

    @property
    def labels(self) -> list[object] | None:
        """Its seats as a Mongoose backend names them; None where it has none."""
        seats = self.stored.get("seats")
        return [*seats] if isinstance(seats, list) else None

    @property
    def own_seats(self) -> int:
        """How many seats it says that it has, by their labels or as a number; 0 where it does not."""
        seats = self.stored.get("seats")
        if isinstance(seats, list):
            return len(seats)
        return seats if isinstance(seats, int) and not isinstance(seats, bool) and seats > 0 else 0


class Refund(NamedTuple):
    """Money that has to go back for a booking, or went back."""

    id: RefundId
    booking: BookingId
    event: EventId
    user: UserId
    seats: int
    """0 where nobody knows how many: the booking's lock was gone."""
    cause: RefundCause
    payment_ref: str | None
    status: RefundStatus
    due_at: datetime
    stored: StoredDocument


class Operator(NamedTuple):
    """Who runs a command, on which host, and why."""

    system_user: str
    host: str
    sudo_user: str | None = None
    reason: str | None = None


class Unreadable(NamedTuple):
    """A document that seatctl must not change, and whose seats are not free (invariant 11)."""

    kind: Kind
    id: object
    reason: str
    event: EventId | None = None
    """The event that it seems to belong to."""
    flaw: Flaw = Flaw.DAMAGED
    field: str = ""
    """The field that is wrong, and what stands there."""
    value: object = dataclasses.field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.kind} {self.id}: {self.reason}"


class JobRun(NamedTuple):
    """An entry of the job log."""

    job: JobType
    executed_at: datetime
    status: JobStatus
    details: StoredDocument
    host: str
    error: str | None = None
    id: RunId | None = None


class PastRun(NamedTuple):
    """An entry of the job log as it was read; `status` is whatever stands there."""

    executed_at: datetime
    status: str
    host: str
    error: str | None
    details: StoredDocument
