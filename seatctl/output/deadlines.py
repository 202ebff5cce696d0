"""What is left until a deadline, beside it in a table. Only while it matters: of locks and bookings that are
open."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from seatctl.domain.states import BookingStatus, LockStatus
from seatctl.domain.timespec import format_duration
from seatctl.output.formats import text as shown_as

if TYPE_CHECKING:
    from rich.text import Text

    from seatctl.domain.documents import StoredDocument

DEADLINES = {
    "seatLocks": (LockStatus.ACTIVE, "expiresAt"),
    "bookings": (BookingStatus.PAYMENT_PENDING, "paymentExpiresAt"),
}
"""The status in which there is a deadline, and the field that has it."""
NEVER = 9999
"""The year of a deadline that never comes: a block's."""
OVERDUE = "overdue"


def with_time_left(name: str, document: StoredDocument, now: datetime | None) -> StoredDocument:
    """A document as a table shows it: with what is left until its deadline, an overdue one in red."""
    from rich.text import Text

    if name not in DEADLINES:
        return document
    field = DEADLINES[name][1]
    deadline = document.get(field)
    if isinstance(deadline, datetime) and deadline.year == NEVER:
        return {**document, field: None}
    left = None if now is None else time_left(name, document, now)
    if left is None:
        return document
    status = shown_as(document["status"])
    is_overdue = left.plain.startswith(OVERDUE)
    return {**document, "timeLeft": left, "status": Text(status, "bold red") if is_overdue else status}


def time_left(name: str, document: StoredDocument, now: datetime) -> Text | None:
    """`9m57s left` or `overdue 20s` of a lock or booking that is open; None of others."""
    from rich.text import Text

    status, field = DEADLINES[name]
    deadline = document.get(field)
    if document.get("status") != status or not isinstance(deadline, datetime) or deadline.year == NEVER:
        return None
    left = format_duration(deadline - now)
    return Text(f"{left} left") if deadline > now else Text(f"{OVERDUE} {left}", "bold red")
