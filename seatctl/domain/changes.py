"""What `follow` calls a change of an event, a lock or a booking: a word that programs can branch on. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from seatctl.domain.documents import Kind, StoredDocument
from seatctl.domain.states import BookingStatus, LockStatus


class Write(StrEnum):
    CREATED = "insert"
    UPDATED = "update"
    REPLACED = "replace"
    DELETED = "delete"


class Change(NamedTuple):
    """One change of one document, by whichever program."""

    token: str
    """Where the stream goes on after it."""
    at: datetime
    """When it was written (UTC)."""
    kind: Kind
    id: object
    write: Write
    written: StoredDocument
    """What it wrote into the fields that matter here."""
    changed: frozenset[str] = frozenset()
    """All fields that an update set or removed."""
    removed: frozenset[str] = frozenset()
    """Those of them that it removed."""
    document: StoredDocument | None = None
    """The fields that matter here as they were when the change was read: after it, perhaps after others. None
    when the document was gone by then."""


class Meaning(NamedTuple):
    """What a change is called, and between which states it went; None where that is not known."""

    what: str
    before: str | None = None
    after: str | None = None


BOOKKEEPING = frozenset({"updatedAt", "__v"})
"""Fields that say nothing alone: `confirm` writes a lock to exclude other writers."""
COUNTERS = frozenset({"availableSeats", "dailySeats"})

BEGINNINGS = frozenset({LockStatus.ACTIVE, BookingStatus.INITIATED, BookingStatus.PAYMENT_PENDING})
"""States that documents begin in. A later change to one of them is only `changed`."""
KNOWN: Mapping[Kind, frozenset[str]] = {
    Kind.LOCK: frozenset(LockStatus),
    Kind.BOOKING: frozenset(BookingStatus),
}
ONLY_BEFORE: Mapping[tuple[Kind, str], str] = {
    (Kind.LOCK, LockStatus.CONSUMED): LockStatus.ACTIVE,
    (Kind.LOCK, LockStatus.EXPIRED): LockStatus.ACTIVE,
    (Kind.BOOKING, BookingStatus.CONFIRMED): BookingStatus.PAYMENT_PENDING,
    (Kind.BOOKING, BookingStatus.FAILED): BookingStatus.PAYMENT_PENDING,
    (Kind.BOOKING, BookingStatus.EXPIRED): BookingStatus.PAYMENT_PENDING,
}
"""States that have one state before them, unless a job writes another one into `oldStatus`. What was
cancelled may have been paid, or not."""


def meaning(change: Change) -> Meaning | None:
    """What a change is called; None for one that means nothing to anybody."""
    if change.write is Write.CREATED:
        return Meaning(f"{change.kind}_created", after=_text(change.written.get("status")))
    if change.write is Write.DELETED:
        return Meaning(f"{change.kind}_deleted")
    if change.write is Write.UPDATED and change.changed <= BOOKKEEPING:
        return None
    return _of_event(change) if change.kind is Kind.EVENT else _of_state(change)


def _of_event(change: Change) -> Meaning:
    fields = {name.partition(".")[0] for name in change.changed} - BOOKKEEPING
    if change.write is Write.UPDATED and fields <= COUNTERS:
        return Meaning("seats_changed")
    for field, word in (("cancelledAt", "cancelled"), ("closedAt", "closed")):
        if field in change.changed - change.removed:
            return Meaning(f"event_{word}")
    return Meaning("event_reopened" if "closedAt" in change.removed else "event_changed")


def _of_state(change: Change) -> Meaning:
    """A document that is written as a whole counts as one whose status was: a mail twice is better than
    none."""
    status, before = (_text(change.written.get(field)) for field in ("status", "oldStatus"))
    if status is None:
        return Meaning(f"{change.kind}_changed")
    is_named = status in KNOWN[change.kind] - BEGINNINGS
    what = f"{change.kind}_{status.lower() if is_named else 'changed'}"
    if change.write is Write.REPLACED:
        return Meaning(what, after=status)
    before = before or ONLY_BEFORE.get((change.kind, status))
    return Meaning(what, before, status)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
