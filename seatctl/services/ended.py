"""What a run of a job ended, one document after the other, as mailers and logs want to read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from seatctl.domain.documents import BookingId, LockId, StoredDocument
from seatctl.domain.states import BookingStatus, LockStatus
from seatctl.mongo.store import Store


class Ended(NamedTuple):
    """A booking with the lock that ended with it, or a lock alone; and the seats that went back."""

    lock: LockId | None
    booking: BookingId | None = None
    seats: int = 0


Listener: TypeAlias = Callable[[Sequence[Ended]], None]
"""Hears what has ended, once that is committed."""


def as_documents(store: Store, ended: Sequence[Ended], *, dry_run: bool = False) -> Iterator[StoredDocument]:
    """Each with the event, the user and the key that it was for."""
    bookings = store.bookings.buyers([item.booking for item in ended if item.booking is not None])
    named = [LockId(booking["seatLockId"]) for booking in bookings.values()]
    locks = store.locks.buyers([*named, *(item.lock for item in ended if item.lock is not None)])
    for item in ended:
        booking: StoredDocument = {} if item.booking is None else bookings.get(item.booking, {})
        lock_id = item.lock if item.lock is not None else LockId(booking.get("seatLockId"))
        lock = locks.get(lock_id, {})
        what: dict[str, object] = {"what": "lock", "lock": lock_id}
        if item.booking is not None:
            what = {"what": "booking", "booking": item.booking, "lock": lock_id}
        yield {
            **what,
            "event": booking.get("event", lock.get("eventId")),
            "user": booking.get("user", lock.get("userId")),
            "seats": item.seats,
            "key": lock.get("idempotencyKey"),
            "from": (LockStatus.ACTIVE if item.booking is None else BookingStatus.PAYMENT_PENDING).value,
            "to": LockStatus.EXPIRED.value,
            **({"dryRun": True} if dry_run else {}),
        }
