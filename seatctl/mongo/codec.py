"""The door: what is stored becomes an `Event`, `SeatLock` or `Booking`, or an `Unreadable` that says why.

Other programs and hands in mongosh write these documents too, so any field may hold anything. The
server-side expressions at the end say the same as the Python above them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from bson import ObjectId

from seatctl.domain.documents import (
    CLOSING,
    Booking,
    BookingId,
    Event,
    EventId,
    Flaw,
    Kind,
    LockId,
    SeatLock,
    Unreadable,
    UserId,
)
from seatctl.domain.rules import LARGEST_NUMBER
from seatctl.domain.states import BLOCK, BookingStatus, LockStatus
from seatctl.domain.words import shorten
from seatctl.mongo.document import Document
from seatctl.mongo.ids import new_id

NEVER = datetime(9999, 12, 31, tzinfo=UTC)
"""The deadline of what has none: other programs need a date there."""
BLOCK_USER, NO_USER = "seatctl", ObjectId("0" * 24)
"""Whose lock a block is; the second where users must be ObjectIds."""

EVENT_FIELDS = (
    *("name", "eventDate", "totalSeats", "availableSeats", "eventType", "dailySeats", "updatedAt"),
    *("closedAt", "cancelledAt"),
)
"""What `event` needs: foreign documents may be of any size (8 MB were seen)."""


def event(document: Document) -> Event | Unreadable:
    """An event, if its counter can be used and counts the whole event."""
    event_id = document["_id"]

    def unreadable(field: str, reason: str, flaw: Flaw = Flaw.DAMAGED) -> Unreadable:
        readable_id = EventId(event_id) if isinstance(event_id, ObjectId) else None
        return Unreadable(Kind.EVENT, event_id, reason, readable_id, flaw, field, document.get(field))

    if not isinstance(event_id, ObjectId):
        return unreadable("_id", "its _id is not an ObjectId, so no lock can refer to it")
    if not _counts_the_whole(document):
        reason = "it counts its seats per day, and seatctl leaves it alone"
        return unreadable("dailySeats", reason, Flaw.COUNTED_BY_DAY)
    total, available = (whole_number(document.get(field)) for field in ("totalSeats", "availableSeats"))
    if total is None or total < 1:
        return unreadable(*_flaw(document, "totalSeats", "a positive whole number"))
    if available is None:
        return unreadable(*_flaw(document, "availableSeats", "a whole number"))
    dates = ("eventDate", "updatedAt", "closedAt", "cancelledAt")
    date, updated, closed, cancelled = (_date(document.get(field)) for field in dates)
    name = str(document.get("name", ""))
    return Event(EventId(event_id), name, date, total, available, updated, closed, cancelled)


def _counts_the_whole(document: Document) -> bool:
    """Whether an event has one counter, and not one for each day."""
    event_type = document.get("eventType")
    ordinary = event_type is None or (type(event_type) is str and event_type != "multi-day")
    return ordinary and any(document.get("dailySeats") == nothing for nothing in NO_DAYS)


NO_DAYS: tuple[object, ...] = (None, {}, [])
"""What an event without days has in `dailySeats`."""


def lock(document: Document) -> SeatLock | Unreadable:
    """A lock, if a program can say what it holds, of which event, and until when."""
    seats, status = whole_number(document.get("seats")), _lock_status(document.get("status"))
    expires_at = _date(document.get("expiresAt"))
    if flaw := _flaw_of_lock(document, seats, status, expires_at):
        return _unreadable(Kind.LOCK, document, "eventId", *flaw)
    assert seats is not None
    assert status is not None
    key = document.get("idempotencyKey")
    return SeatLock(
        id=LockId(document["_id"]),
        event=EventId(document["eventId"]),
        user=UserId(document.get("userId")),
        seats=seats,
        status=status,
        expires_at=expires_at,
        key=key if isinstance(key, str) and key else None,
        stored=document,
        is_block=document.get("kind") == BLOCK,
    )


def _flaw_of_lock(
    document: Document, seats: int | None, status: LockStatus | None, expires_at: datetime | None
) -> tuple[str, str] | None:
    """The field that cannot be read, and why."""
    if not isinstance(document["_id"], ObjectId):
        return "_id", "its _id is not an ObjectId"
    if status is None:
        return "status", f"its status is {describe(document.get('status'))}"
    if not isinstance(document.get("eventId"), ObjectId):
        return _flaw(document, "eventId", "an id")
    if seats is None or seats < 1:
        return _flaw(document, "seats", "a positive whole number")
    if status is LockStatus.ACTIVE and expires_at is None:
        return _flaw(document, "expiresAt", "a date")
    return None


def _flaw(document: Document, field: str, wanted: str) -> tuple[str, str]:
    return field, f"{field} is {describe(document.get(field))}, not {wanted}"


def _unreadable(kind: Kind, document: Document, event: str, field: str, reason: str) -> Unreadable:
    """A lock or a booking that names its event in the field `event`."""
    event_id, value = event_named_by(document.get(event)), document.get(field)
    return Unreadable(kind, document["_id"], reason, event_id, field=field, value=value)


def booking(document: Document) -> Booking | Unreadable:
    """A booking, if a program can say what state it is in and which lock it names."""
    status, deadline = _booking_status(document.get("status")), _date(document.get("paymentExpiresAt"))
    if flaw := _flaw_of_booking(document, status, deadline):
        return _unreadable(Kind.BOOKING, document, "event", *flaw)
    assert status is not None
    return Booking(
        id=BookingId(document["_id"]),
        event=EventId(document["event"]),
        user=UserId(document.get("user")),
        lock=LockId(document["seatLockId"]),
        status=status,
        payment_expires_at=deadline,
        stored=document,
        payment_ref=None if (ref := document.get("paymentRef")) is None else str(ref),
        seats_cancelled=whole_number(document.get("seatsCancelled")) or 0,
    )


def _flaw_of_booking(
    document: Document, status: BookingStatus | None, deadline: datetime | None
) -> tuple[str, str] | None:
    if not isinstance(document["_id"], ObjectId):
        return "_id", "its _id is not an ObjectId"
    if status is None:
        return "status", f"its status is {describe(document.get('status'))}"
    if not isinstance(document.get("event"), ObjectId):
        return _flaw(document, "event", "an id")
    if not isinstance(document.get("seatLockId"), ObjectId):
        return _flaw(document, "seatLockId", "an id")
    if status is BookingStatus.PAYMENT_PENDING and deadline is None:
        return _flaw(document, "paymentExpiresAt", "a date")
    return None


# --- new documents -----------------------------------------------------------------------------------


def new_event(
    name: str, date: datetime, seats: int, description: str | None, key: str | None, now: datetime
) -> Document:
    given = {"description": description, "idempotencyKey": key}
    document: Document = {
        "_id": new_id(now),
        "name": name,
        "eventDate": date,
        "totalSeats": seats,
        "availableSeats": seats,
        "createdAt": now,
        "updatedAt": now,
    }
    return document | {field: value for field, value in given.items() if value is not None}


def new_lock(
    event_id: EventId,
    user: UserId,
    seats: int,
    expires_at: datetime,
    key: str,
    now: datetime,
    status: LockStatus = LockStatus.ACTIVE,
) -> Document:
    return {
        "_id": new_id(now),
        "eventId": event_id,
        "userId": user,
        "seats": seats,
        "status": status.value,
        "expiresAt": expires_at,
        "idempotencyKey": key,
        "createdAt": now,
        "updatedAt": now,
    }


def new_block(
    event_id: EventId, seats: int, key: str | None, now: datetime, *, object_id_user: bool = False
) -> Document:
    """A lock for no buyer and without a deadline; without a key it is the block of a closed event."""
    user = UserId(NO_USER if object_id_user else BLOCK_USER)
    document = new_lock(event_id, user, seats, NEVER, key or "", now)
    return {**document, "idempotencyKey": key or f"{CLOSING}{document['_id']}", "kind": BLOCK}


def new_booking(
    lock: SeatLock,
    payment_expires_at: datetime,
    now: datetime,
    status: BookingStatus = BookingStatus.PAYMENT_PENDING,
    payment_ref: str | None = None,
    *,
    labels: bool = False,
) -> Document:
    """`labels` as a Mongoose backend writes them, which requires them: one for each seat, the same for every
    booking, since nobody chooses seats."""
    document: Document = {
        "_id": new_id(now),
        "event": lock.event,
        "user": lock.user,
        "seatLockId": lock.id,
        "status": status.value,
        "paymentExpiresAt": payment_expires_at,
        "createdAt": now,
        "updatedAt": now,
    }
    if payment_ref is not None:
        document["paymentRef"] = payment_ref
    if labels:
        document["seats"] = [f"SEAT-{number}" for number in range(1, lock.seats + 1)]
    return document


# --- values ------------------------------------------------------------------------------------------


def whole_number(value: object) -> int | None:
    """`value` as an int if it is a whole number (the old mongo shell stores 2 as 2.0). A Decimal128 is
    none: the server counts with it, the rules do not."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        return None
    return int(value) if abs(value) <= LARGEST_NUMBER else None


def event_named_by(value: object) -> EventId | None:
    """The event that a reference names, be it by text."""
    ids = ids_in(value)
    return EventId(ids[0]) if ids else None


def ids_in(value: object) -> list[ObjectId]:
    """The ids that a reference names: one, by text too, or several where another program stored a list."""
    values: Iterable[object] = value if isinstance(value, list) else [value]
    return [
        item if isinstance(item, ObjectId) else ObjectId(item)
        for item in values
        if isinstance(item, ObjectId) or (isinstance(item, str) and ObjectId.is_valid(item))
    ]


def describe(value: object) -> str:
    """A stored value as a person should read it in a message."""
    return "missing" if value is None else shorten(repr(value), 40)


def _date(value: object) -> datetime | None:
    return value if isinstance(value, datetime) else None


_LOCK_STATUS = {status.value: status for status in LockStatus}
_BOOKING_STATUS = {status.value: status for status in BookingStatus}


def _lock_status(value: object) -> LockStatus | None:
    return _LOCK_STATUS.get(value) if isinstance(value, str) else None


def _booking_status(value: object) -> BookingStatus | None:
    return _BOOKING_STATUS.get(value) if isinstance(value, str) else None


# --- the same for the server -------------------------------------------------------------------------


def is_whole(field: str) -> Document:
    """An expression: `whole_number` of this field is not None."""
    # Not $abs, which fails on the smallest of all numbers.
    inside = [{"$gte": [field, -LARGEST_NUMBER]}, {"$lte": [field, LARGEST_NUMBER]}]
    whole = {"$and": [*inside, {"$eq": [{"$mod": [field, 1]}, 0]}]}
    number = {"$and": [{"$isNumber": field}, {"$ne": [{"$type": field}, "decimal"]}]}
    return {"$cond": [number, whole, False]}


def counts_the_whole() -> Document:
    """An expression: `_counts_the_whole`."""
    ordinary = {"$in": [{"$type": "$eventType"}, ["missing", "null", "undefined", "string"]]}
    days = {"$in": [{"$ifNull": ["$dailySeats", None]}, {"$literal": list(NO_DAYS)}]}
    return {"$and": [ordinary, {"$ne": [{"$ifNull": ["$eventType", ""]}, "multi-day"]}, days]}


def is_open() -> Document:
    """An expression: the event is neither closed nor cancelled."""
    return {"$and": [{"$ne": [{"$type": field}, "date"]} for field in ("$closedAt", "$cancelledAt")]}


def is_seat_count(field: str) -> Document:
    """An expression: this field is a positive whole number, as seats of a lock must be."""
    return {"$cond": [is_whole(field), {"$gte": [field, 1]}, False]}


def number_or_zero(field: str) -> Document:
    """An expression: this field if it is a whole number, else 0."""
    return {"$cond": [is_whole(field), field, 0]}
