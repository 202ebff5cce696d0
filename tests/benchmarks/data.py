"""Data sets for the benchmarks, in the shapes that the rows of the table ask for.

A data set is made once, in a database of its own, and copied within the server before each
measurement: every program then meets the same documents, freshly written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

from bson import ObjectId
from pymongo import MongoClient, WriteConcern

from seatctl.domain.rules import RETENTION
from seatctl.mongo import schema
from seatctl.mongo.validators import create_validators

Document = dict[str, Any]

PRISTINE, BENCH = "pristine", "bench"
INVENTORY = (schema.EVENTS, schema.LOCKS, schema.BOOKINGS)
SPARE_SEATS = 100_000
"""Seats of each event beyond those that its locks hold, for the buyers."""
HOLDING = ("ACTIVE", "CONSUMED")


@dataclass(frozen=True)
class Kind:
    """A lock's state, and that of its booking if it has one. An `overdue` one waits for a sweep."""

    lock: str
    booking: str | None = None
    overdue: bool = False


OVERDUE_LOCK = Kind("ACTIVE", overdue=True)
OVERDUE_BOOKING = Kind("ACTIVE", "PAYMENT_PENDING", overdue=True)
SOLD = Kind("CONSUMED", "CONFIRMED")
RAN_OUT, FAILED = Kind("EXPIRED"), Kind("EXPIRED", "FAILED")
HEALTHY = (*[SOLD] * 42, *[FAILED] * 18, *[RAN_OUT] * 138, Kind("ACTIVE", "PAYMENT_PENDING"), Kind("ACTIVE"))
"""Two hundred locks of a system with a past, of which 1 % are open: most locks ran out, and what is open is
the work of minutes."""
BUSY = (*[SOLD] * 4, FAILED, *[RAN_OUT] * 12, Kind("ACTIVE", "PAYMENT_PENDING"), *[Kind("ACTIVE")] * 2)
"""The same with 15 % open."""


@dataclass(frozen=True)
class DataSet:
    """`locks` locks on `events` events: the kinds of `pattern` in turn, each kind spread evenly."""

    locks: int
    events: int
    pattern: tuple[Kind, ...]

    def documents(self, now: datetime) -> Iterator[tuple[Document, Document | None]]:
        """Each lock, with its booking where its kind has one."""
        event_ids = self.event_ids
        seen: Counter[Kind] = Counter()
        for number in range(self.locks):
            kind = self.pattern[number % len(self.pattern)]
            event = event_ids[seen[kind] % self.events]
            seen[kind] += 1
            deadline = now + timedelta(hours=-1 if kind.overdue else 24)
            lock = {
                "_id": ObjectId(f"{1:08x}{number:016x}"),
                "eventId": event,
                "userId": f"buyer-{number % 5000}",
                "seats": 1 + number % 4,
                "status": kind.lock,
                "expiresAt": deadline,
                "idempotencyKey": f"order-{number}",
                "createdAt": now,
                "updatedAt": now,
            }
            booking = None
            if kind.booking:
                booking = {
                    "_id": ObjectId(f"{2:08x}{number:016x}"),
                    "event": event,
                    "user": lock["userId"],
                    "seatLockId": lock["_id"],
                    "status": kind.booking,
                    "paymentExpiresAt": deadline,
                    "createdAt": now,
                    "updatedAt": now,
                }
            yield lock, booking

    @property
    def event_ids(self) -> list[ObjectId]:
        return [ObjectId(f"{3:08x}{number:016x}") for number in range(self.events)]


def overdue_locks(locks: int, events: int) -> DataSet:
    """`locks` overdue ones among a tenth of that number which are sold."""
    return DataSet(locks + locks // 10, events, (*[OVERDUE_LOCK] * 10, SOLD))


def overdue_bookings(bookings: int, events: int) -> DataSet:
    """`bookings` overdue ones among a tenth of that number which are paid."""
    return DataSet(bookings + bookings // 10, events, (*[OVERDUE_BOOKING] * 10, SOLD))


def healthy(locks: int, events: int, pattern: tuple[Kind, ...] = HEALTHY) -> DataSet:
    """Nothing to do for any job: `locks` locks, three bookings to ten of them."""
    return DataSet(locks, events, pattern)


def load(client: MongoClient[Document], data: DataSet) -> None:
    """Make the data set in the pristine database, then a first copy of it with seatctl's indexes."""
    client.drop_database(PRISTINE)
    client.drop_database(BENCH)
    pristine = client.get_database(PRISTINE, write_concern=WriteConcern(1, j=False))
    now = datetime.now(UTC)
    held: Counter[ObjectId] = Counter()
    pairs = data.documents(now)
    while batch := list(islice(pairs, 5_000)):
        for lock, _ in batch:
            held[lock["eventId"]] += lock["seats"] if lock["status"] in HOLDING else 0
        pristine[schema.LOCKS].insert_many([lock for lock, _ in batch], ordered=False)
        bookings = [booking for _, booking in batch if booking]
        if bookings:
            pristine[schema.BOOKINGS].insert_many(bookings, ordered=False)
    pristine[schema.EVENTS].insert_many(_event(event, held[event], now) for event in data.event_ids)
    schema.create(client[BENCH], None, RETENTION)
    create_validators(client[BENCH])
    copy(client)


def _event(event: ObjectId, held: int, now: datetime) -> Document:
    return {
        "_id": event,
        "name": f"Concert {event}",
        "eventDate": now + timedelta(days=30),
        "totalSeats": held + SPARE_SEATS,
        "availableSeats": SPARE_SEATS,
        "createdAt": now,
        "updatedAt": now,
    }


def copy(client: MongoClient[Document]) -> None:
    """The pristine data set once more, keeping the indexes, on disk before anybody measures."""
    for name in INVENTORY:
        client[PRISTINE][name].aggregate([{"$out": {"db": BENCH, "coll": name}}])
    client[BENCH][schema.JOB_LOGS].delete_many({})
    client.admin.command("fsync")


@dataclass(frozen=True)
class Result:
    """What a database says after a run, for the comparison with what the data set demands."""

    active: int
    pending: int
    wrong_counters: int


def look(client: MongoClient[Document]) -> Result:
    """Count what is open, and the events whose counter breaks invariant 1."""
    database = client[BENCH]
    held = database[schema.LOCKS].aggregate(
        [
            {"$match": {"status": {"$in": list(HOLDING)}}},
            {"$group": {"_id": "$eventId", "seats": {"$sum": "$seats"}}},
        ]
    )
    seats = {group["_id"]: group["seats"] for group in held}
    wrong = sum(
        event["availableSeats"] + seats.get(event["_id"], 0) != event["totalSeats"]
        for event in database[schema.EVENTS].find({}, {"availableSeats": 1, "totalSeats": 1})
    )
    return Result(
        active=database[schema.LOCKS].count_documents({"status": "ACTIVE"}),
        pending=database[schema.BOOKINGS].count_documents({"status": "PAYMENT_PENDING"}),
        wrong_counters=wrong,
    )
