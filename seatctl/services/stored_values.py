"""What stands in documents of any shape, in the words of a history. Never fails on a strange value."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from seatctl.domain.documents import StoredDocument
from seatctl.domain.timespec import format_time, shorten
from seatctl.domain.words import count
from seatctl.mongo.ids import creation_time

LONG_AGO = datetime(1, 1, 1, tzinfo=UTC)


def ids_of_lock(lock: StoredDocument) -> dict[str, object]:
    return {"lock": lock["_id"], "event": lock.get("eventId")}


def ids_of_booking(booking: StoredDocument) -> dict[str, object]:
    return {"booking": booking["_id"], "lock": booking.get("seatLockId"), "event": booking.get("event")}


def created(document: StoredDocument) -> datetime:
    """When a document was made; where nothing says so, the second in its id."""
    return time_in(document.get("createdAt")) or creation_time(document["_id"]) or LONG_AGO


def time_in(value: object) -> datetime | None:
    return value if isinstance(value, datetime) else None


def list_in(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def mapping_in(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def seats_in_words(number: object) -> str:
    return count(number, "seat") if isinstance(number, int) else f"{in_words(number)} seats"


def flat(value: object, name: str = "") -> dict[str, object]:
    """`{"event": {"seats": 1}}` as `{"event.seats": 1}`."""
    if not isinstance(value, Mapping):
        return {name: value} if name else {}
    found: dict[str, object] = {}
    for key, item in value.items():
        found |= flat(item, f"{name}.{key}" if name else str(key))
    return found


def in_words(value: object) -> str:
    if isinstance(value, datetime):
        return format_time(value.replace(microsecond=0))
    return "none" if value is None else shorten(str(value))
