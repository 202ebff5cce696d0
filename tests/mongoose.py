"""Another program on the same database: a booking backend on Mongoose, in the shapes and with the habits of a
real one. Its locks are in `seatlocks`, under a TTL index; its `confirm` reads the lock and writes only the
booking; its transactions are tried once; its jobs end everything in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from bson import ObjectId

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.database import Database

Document = dict[str, Any]
LOCK_TTL, PAYMENT_TTL = timedelta(minutes=10), timedelta(minutes=10)
DAYS = ("2027-03-01", "2027-03-02")


class Backend:
    """Its models and its request handlers. Each handler is one transaction, without a second try."""

    def __init__(self, database: Database[Document], clock: Callable[[], datetime]) -> None:
        self.database = database
        self.events, self.locks, self.bookings = (
            database[name] for name in ("events", "seatlocks", "bookings")
        )
        self.clock = clock

    def start(self) -> None:
        """Mongoose creates its indexes at each start, and leaves one that has other options alone."""
        self.bookings.create_index("seatLockId", unique=True)
        self.bookings.create_index("idempotencyKey", unique=True, sparse=True)
        self.locks.create_index("idempotencyKey", unique=True)
        self.events.create_index("eventDate")
        there = self.locks.index_information().get("expiresAt_1", {})
        if "expireAfterSeconds" not in there:  # else MongoDB refuses, and Mongoose goes on
            self.locks.create_index("expiresAt", expireAfterSeconds=0)

    # --- documents -----------------------------------------------------------------------------------

    def event(self, seats: int = 10, **fields: Any) -> ObjectId:
        document = {
            "name": "Gala",
            "eventDate": self.clock() + timedelta(days=30),
            "eventType": "single-day",
            "passOptions": {"dailyPass": {"enabled": False}, "seasonPass": {"enabled": False}},
            "dailySeats": {},
            "totalSeats": seats,
            "availableSeats": seats,
            "type": "public",
            "category": [],
            "amount": 500,
            "currency": "INR",
            "isPublished": True,
            **self._stamps(),
            **fields,
        }
        return self.events.insert_one(document).inserted_id

    def event_by_day(self, seats: int = 10, **fields: Any) -> ObjectId:
        days = {day: {"total": seats, "available": seats} for day in DAYS}
        return self.event(seats, eventType="multi-day", dailySeats=days, **fields)

    def insert_lock(self, event: ObjectId, seats: int, session: Any = None, **fields: Any) -> ObjectId:
        document = {
            "eventId": event,
            "userId": ObjectId(),
            "seats": seats,
            "passType": "regular",
            "selectedDate": None,
            "status": "ACTIVE",
            "expiresAt": self.clock() + LOCK_TTL,
            "idempotencyKey": f"key-{ObjectId()}",
            **self._stamps(),
            **fields,
        }
        return self.locks.insert_one(document, session=session).inserted_id

    def insert_booking(self, lock: Document, session: Any = None, **fields: Any) -> ObjectId:
        document = {
            "user": lock["userId"],
            "event": lock["eventId"],
            "seats": [f"SEAT-{number}" for number in range(1, lock["seats"] + 1)],
            "passType": lock.get("passType", "regular"),
            "status": "PAYMENT_PENDING",
            "seatLockId": lock["_id"],
            "paymentExpiresAt": self.clock() + PAYMENT_TTL,
            "refundAmount": 0,
            **self._stamps(),
            **fields,
        }
        return self.bookings.insert_one(document, session=session).inserted_id

    def _stamps(self) -> Document:
        now = self.clock()
        return {"createdAt": now, "updatedAt": now, "__v": 0}

    # --- request handlers ----------------------------------------------------------------------------

    def lock(self, event: ObjectId, seats: int = 1, **fields: Any) -> ObjectId:
        with self._once() as session:
            taken = self.events.update_one(
                {"_id": event, "availableSeats": {"$gte": seats}},
                {"$inc": {"availableSeats": -seats}},
                session=session,
            )
            assert taken.matched_count, "not enough seats"
            return self.insert_lock(event, seats, session, **fields)

    def confirm(self, lock_id: ObjectId, before_insert: Callable[[], object] = lambda: None) -> ObjectId:
        """`before_insert` is what happens between its check of the deadline and its write."""
        with self._once() as session:
            lock = self.locks.find_one({"_id": lock_id}, session=session)
            assert lock, "no such lock"
            assert lock["expiresAt"] >= self.clock(), "too late"
            before_insert()
            return self.insert_booking(lock, session)

    def pay(self, booking_id: ObjectId) -> None:
        self._settle(booking_id, "CONFIRMED", "CONSUMED", returns_seats=False)

    def fail(self, booking_id: ObjectId) -> None:
        self._settle(booking_id, "FAILED", "EXPIRED", returns_seats=True)

    def cancel(self, booking_id: ObjectId) -> None:
        self._settle(booking_id, "CANCELLED", "CANCELLED", returns_seats=True, of="CONFIRMED")

    def _settle(
        self,
        booking_id: ObjectId,
        booking_status: str,
        lock_status: str,
        *,
        returns_seats: bool,
        of: str = "PAYMENT_PENDING",
    ) -> None:
        with self._once() as session:
            booking = self.bookings.find_one({"_id": booking_id}, session=session)
            assert booking
            assert booking["status"] == of, booking["status"]
            self._set(self.bookings, booking_id, booking_status, session)
            lock = self.locks.find_one({"_id": booking["seatLockId"]}, session=session)
            if lock is None:
                return
            if returns_seats:
                self._return_seats(lock, session)
            self._set(self.locks, lock["_id"], lock_status, session)

    def expire_locks(self) -> int:
        """Its job: every overdue ACTIVE lock in one transaction, whatever bookings wait for it."""
        with self._once() as session:
            overdue = {"status": "ACTIVE", "expiresAt": {"$lt": self.clock()}}
            locks = list(self.locks.find(overdue, session=session))
            for lock in locks:
                self._set(self.locks, lock["_id"], "EXPIRED", session)
                self._return_seats(lock, session)
            return len(locks)

    def _set(self, collection: Any, document_id: ObjectId, status: str, session: ClientSession) -> None:
        changes = {"$set": {"status": status, "updatedAt": self.clock()}}
        collection.update_one({"_id": document_id}, changes, session=session)

    def _return_seats(self, lock: Document, session: ClientSession) -> None:
        event = self.events.find_one({"_id": lock["eventId"]}, session=session)
        assert event
        seats = min(lock["seats"], event["totalSeats"] - event["availableSeats"])
        if seats > 0:
            self.events.update_one(
                {"_id": event["_id"]}, {"$inc": {"availableSeats": seats}}, session=session
            )

    @contextmanager
    def _once(self) -> Iterator[ClientSession]:
        with self.database.client.start_session() as session, session.start_transaction():
            yield session


def seats_in_order(backend: Backend, event: ObjectId) -> bool:
    """Whether total = available + the seats of its ACTIVE and CONSUMED locks, counted one by one."""
    found = backend.events.find_one({"_id": event})
    assert found
    held = sum(
        lock["seats"]
        for lock in backend.locks.find({"eventId": event, "status": {"$in": ["ACTIVE", "CONSUMED"]}})
    )
    return bool(found["availableSeats"] + held == found["totalSeats"])
