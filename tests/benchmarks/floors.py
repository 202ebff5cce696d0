"""The floors: the least work that any program could do for the same result.

Nothing here is safe. Nothing is atomic, nothing checks what changed meanwhile, a crash loses
seats and a race gives them back twice; that is what the rest of seatctl costs its time for.
Run as a process of its own with the name of a floor and a URI; knows nothing of seatctl.
"""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pymongo import MongoClient, UpdateOne

if TYPE_CHECKING:
    from bson import ObjectId
    from pymongo.database import Database

Document = dict[str, Any]

ONE_BY_ONE = 5_000
"""So many locks are expired one by one where there are more: the time for each stays the same."""


def expire_locks(database: Database[Document]) -> None:
    """One aggregate, one `update_many`, one `$inc` for each event (sent together)."""
    now = datetime.now(UTC)
    _expire(database, {"status": "ACTIVE", "expiresAt": {"$lt": now}}, now)


def expire_bookings(database: Database[Document]) -> None:
    """The same with both collections; the locks are found through the bookings."""
    now = datetime.now(UTC)
    overdue = {"status": "PAYMENT_PENDING", "paymentExpiresAt": {"$lt": now}}
    locks = [
        booking["seatLockId"] for booking in database.bookings.find(overdue, {"_id": 0, "seatLockId": 1})
    ]
    database.bookings.update_many(overdue, {"$set": {"status": "EXPIRED", "updatedAt": now}})
    _expire(database, {"_id": {"$in": locks}, "status": "ACTIVE"}, now)


def _expire(database: Database[Document], overdue: Document, now: datetime) -> None:
    seats = list(
        database.seatLocks.aggregate(
            [{"$match": overdue}, {"$group": {"_id": "$eventId", "seats": {"$sum": "$seats"}}}]
        )
    )
    changes = {"status": "EXPIRED", "oldStatus": "ACTIVE", "updatedAt": now}
    database.seatLocks.update_many(overdue, {"$set": changes})
    database.events.bulk_write(
        [UpdateOne({"_id": group["_id"]}, {"$inc": {"availableSeats": group["seats"]}}) for group in seats],
        ordered=False,
    )


def groups(database: Database[Document]) -> None:
    """One group over the locks, one over the bookings: what any proof of the invariants must read."""
    held = {"status": {"$in": ["ACTIVE", "CONSUMED"]}}
    list(
        database.seatLocks.aggregate(
            [{"$match": held}, {"$group": {"_id": "$eventId", "seats": {"$sum": "$seats"}}}]
        )
    )
    list(database.bookings.aggregate([{"$group": {"_id": "$status", "bookings": {"$sum": 1}}}]))


def nothing_due(database: Database[Document]) -> None:
    """A job that looks and finds nothing: one find, one insert."""
    now = datetime.now(UTC)
    database.seatLocks.find_one({"status": "ACTIVE", "expiresAt": {"$lt": now}})
    database.jobLogs.insert_one({"jobType": "LOCK_EXPIRY", "executedAt": now, "status": "SUCCESS"})


def lock_bare(database: Database[Document], event: ObjectId, user: str) -> None:
    """Two bare writes: the counter if it has a seat, then the lock."""
    now = datetime.now(UTC)
    taken = database.events.update_one(
        {"_id": event, "availableSeats": {"$gte": 1}},
        {"$inc": {"availableSeats": -1}, "$set": {"updatedAt": now}},
    )
    if taken.modified_count:
        database.seatLocks.insert_one(
            {
                "eventId": event,
                "userId": user,
                "seats": 1,
                "status": "ACTIVE",
                "expiresAt": now + timedelta(minutes=10),
                "createdAt": now,
                "updatedAt": now,
            }
        )


def one_by_one(database: Database[Document]) -> None:
    """No floor but the other end: one transaction for each of the first `ONE_BY_ONE` locks, as a
    first draft would have it."""
    now = datetime.now(UTC)
    overdue = {"status": "ACTIVE", "expiresAt": {"$lt": now}}
    with database.client.start_session() as session:
        for lock in database.seatLocks.find(overdue).limit(ONE_BY_ONE):
            with session.start_transaction():
                changed = database.seatLocks.update_one(
                    {"_id": lock["_id"], "status": "ACTIVE"},
                    {"$set": {"status": "EXPIRED", "oldStatus": "ACTIVE", "updatedAt": now}},
                    session=session,
                )
                database.events.update_one(
                    {"_id": lock["eventId"]},
                    {"$inc": {"availableSeats": lock["seats"] * changed.modified_count}},
                    session=session,
                )


PROCESSES = {
    "expire-locks": expire_locks,
    "expire-bookings": expire_bookings,
    "groups": groups,
    "nothing-due": nothing_due,
    "one-by-one": one_by_one,
}


def main() -> None:
    name, uri = sys.argv[1:]
    client: MongoClient[Document] = MongoClient(uri)
    PROCESSES[name](client.get_default_database())
    if name != "nothing-due":  # the one whose goal is measured against a normal exit
        os._exit(0)  # like seatctl, without the half second in which the driver's threads end


if __name__ == "__main__":
    main()
