"""Short words for what most tests do: events, locks and bookings, made by seatctl's own services or as
another program would, and read back as they are stored.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from bson import ObjectId

from seatctl.domain.rules import LOCK_TTL
from seatctl.mongo.bookings import Bookings
from seatctl.mongo.client import Deployment
from seatctl.mongo.ids import new_id
from seatctl.mongo.locks import SeatLocks
from seatctl.mongo.store import Store
from seatctl.services import events, payments, sales
from seatctl.services.events import CreateEventRequest
from seatctl.services.jobs import JobOptions, expire_bookings, expire_locks, recover
from seatctl.services.sales import ConfirmRequest, LockRequest

if TYPE_CHECKING:
    import pytest

Document = dict[str, Any]
Id = Any

NOWHERE = ObjectId("0" * 24)
"""The id of nothing."""
MONTH, HOUR = timedelta(days=30), timedelta(hours=1)
AT_ONCE = JobOptions(settle=timedelta(0))
"""Recovery that does not wait for a drift to last: nobody else writes here."""


PAIRS = {
    ("ACTIVE", "INITIATED"): None,
    ("ACTIVE", "PAYMENT_PENDING"): None,
    ("ACTIVE", "CONFIRMED"): "unsettled_lock",
    ("ACTIVE", "FAILED"): "seats_not_returned",
    ("ACTIVE", "EXPIRED"): "seats_not_returned",
    ("ACTIVE", "CANCELLED"): "seats_not_returned",
    # A CONSUMED lock is judged from its own side, by whether a CONFIRMED booking names it.
    ("CONSUMED", "INITIATED"): None,
    ("CONSUMED", "PAYMENT_PENDING"): None,
    ("CONSUMED", "CONFIRMED"): None,
    ("CONSUMED", "FAILED"): None,
    ("CONSUMED", "EXPIRED"): None,
    ("CONSUMED", "CANCELLED"): None,
    ("EXPIRED", "INITIATED"): None,
    ("EXPIRED", "PAYMENT_PENDING"): "booking_without_seats",
    ("EXPIRED", "CONFIRMED"): "lost_lock",
    ("EXPIRED", "FAILED"): None,
    ("EXPIRED", "EXPIRED"): None,
    ("EXPIRED", "CANCELLED"): None,
    ("CANCELLED", "INITIATED"): None,
    ("CANCELLED", "PAYMENT_PENDING"): "booking_without_seats",
    ("CANCELLED", "CONFIRMED"): "lost_lock",
    ("CANCELLED", "FAILED"): None,
    ("CANCELLED", "EXPIRED"): None,
    ("CANCELLED", "CANCELLED"): None,
    (None, "INITIATED"): None,
    (None, "PAYMENT_PENDING"): "booking_without_lock",
    (None, "CONFIRMED"): "confirmed_without_lock",
    (None, "FAILED"): None,
    (None, "EXPIRED"): None,
    (None, "CANCELLED"): None,
}
"""What is wrong with a booking in a state that names a lock in a state, or none: the whole table."""


# --- through seatctl -----------------------------------------------------------------------------------


def create(store: Store, seats: int = 100, name: str = "Concert") -> Id:
    return events.create_event(store, CreateEventRequest(name, seats, MONTH)).id


def lock(
    store: Store,
    event: Id,
    seats: int = 1,
    user: Any = "u",
    ttl: timedelta = LOCK_TTL,
    key: str | None = None,
) -> Id:
    return sales.lock(store, LockRequest(event, user, seats, key, ttl)).lock.id


def confirm(store: Store, lock_id: Id, payment_ttl: timedelta | None = None) -> Id:
    return sales.confirm(store, ConfirmRequest(lock_id, payment_ttl)).booking.id


def book(store: Store, event: Id, seats: int = 1, ttl: timedelta | None = None) -> tuple[Id, Id]:
    """A lock and its booking, which waits for its payment for `ttl`."""
    held = lock(store, event, seats, ttl=ttl or LOCK_TTL)
    return held, confirm(store, held, ttl)


def sell(store: Store, event: Id, seats: int = 1) -> tuple[Id, Id]:
    """A lock and its booking, which is paid."""
    held, booked = book(store, event, seats)
    payments.pay(store, booked)
    return held, booked


def run_expire_locks(store: Store, **options: Any) -> Any:
    return expire_locks(store, JobOptions(**options))


def run_expire_bookings(store: Store, **options: Any) -> Any:
    return expire_bookings(store, JobOptions(**options))


def run_recover(store: Store, **options: Any) -> Any:
    return recover(store, JobOptions(**{"settle": timedelta(0), **options}))


# --- as another program --------------------------------------------------------------------------------


def insert_lock(store: Store, event: Id, seats: int = 1, *, due: timedelta = -HOUR, **fields: Any) -> Id:
    """An ACTIVE lock straight into the database, without a key, its deadline `due` from now. No counter
    goes down for it."""
    document = {
        "_id": new_id(store.now()),
        "eventId": event,
        "userId": "u",
        "seats": seats,
        "status": "ACTIVE",
    }
    deadline = store.now() + due
    return store.database.seatLocks.insert_one({**document, "expiresAt": deadline, **fields}).inserted_id


def insert_booking(
    store: Store,
    event: Id,
    lock_id: Id,
    status: Any = "PAYMENT_PENDING",
    *,
    due: timedelta = HOUR,
    **fields: Any,
) -> Id:
    """A booking straight into the database; its lock is not touched."""
    document = {
        "_id": new_id(store.now()),
        "event": event,
        "user": "u",
        "seatLockId": lock_id,
        "status": status,
    }
    deadline = store.now() + due
    return store.database.bookings.insert_one(
        {**document, "paymentExpiresAt": deadline, **fields}
    ).inserted_id


def add(store: Store, event: Id, seats: int) -> None:
    """Move a counter by hand."""
    store.database.events.update_one({"_id": event}, {"$inc": {"availableSeats": seats}})


def delete(store: Store, collection: str, document_id: Id) -> None:
    store.database[collection].delete_one({"_id": document_id})


# --- read back -----------------------------------------------------------------------------------------


def event_of(store: Store, event: Id) -> Document:
    return store.database.events.find_one({"_id": event})


def lock_of(store: Store, lock_id: Id) -> Document:
    return store.database.seatLocks.find_one({"_id": lock_id})


def booking_of(store: Store, booking_id: Id) -> Document:
    return store.database.bookings.find_one({"_id": booking_id})


def states(store: Store, lock_id: Id, booking_id: Id) -> tuple[Any, Any]:
    """The states of a lock and of its booking."""
    return lock_of(store, lock_id)["status"], booking_of(store, booking_id)["status"]


def all_of_event(store: Store, event: Id) -> str:
    """An event with all its locks and bookings as a text, since a NaN is not equal to itself; but for when
    the event was last touched."""
    but = {"updatedAt": 0}
    return str(
        [
            list(store.database[name].find({field: {"$in": [event, str(event)]}}, but).sort("_id", 1))
            for name, field in (("events", "_id"), ("seatLocks", "eventId"), ("bookings", "event"))
        ]
    )


# --- meanwhile -----------------------------------------------------------------------------------------


def meanwhile(
    monkeypatch: pytest.MonkeyPatch,
    owner: type[SeatLocks | Bookings | Any],
    method: str,
    act: Callable[[], object],
    *,
    before: bool = False,
) -> list[object]:
    """Have something happen once, just after (or `before`) the first call of this query, as if another
    process did it there. Returns a list that is filled when it has happened, so that a test can tell."""
    original = getattr(owner, method)
    happened: list[object] = []

    def act_once() -> None:
        if not happened:
            happened.append(None)
            happened[0] = act()

    def patched(self: Any, *arguments: Any, **options: Any) -> Any:
        if before:
            act_once()
        found = original(self, *arguments, **options)
        if hasattr(found, "__next__"):
            found = iter(list(found))
        if not before:
            act_once()
        return found

    monkeypatch.setattr(owner, method, patched)
    return happened


def stale_clock_once(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The first time that a command asks for, is of an hour ago, as if it had slept since."""
    read = Deployment.now
    slept: list[bool] = []

    def now(self: Deployment) -> datetime:
        if not slept:
            slept.append(True)
            return read(self) - HOUR
        return read(self)

    monkeypatch.setattr(Deployment, "now", now)
    return slept
