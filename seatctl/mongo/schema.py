"""Indexes and validators, and how they get into a database. Every index names its reader.

Two of them are guards: uniqueness that two processes could break between reading and writing.
Those exist before the first write that needs them, also where nobody ran `init`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from pymongo.errors import CollectionInvalid, DuplicateKeyError, OperationFailure

from seatctl.domain.model import BookingStatus, LockStatus
from seatctl.domain.timespec import shorten
from seatctl.errors import WriteRefused

if TYPE_CHECKING:
    from pymongo.database import Database

    from seatctl.domain.model import Document

EVENTS, LOCKS, BOOKINGS, JOB_LOGS = "events", "seatLocks", "bookings", "jobLogs"
STATE = (EVENTS, LOCKS, BOOKINGS)
COLLECTIONS = (*STATE, JOB_LOGS)


@dataclass(frozen=True, slots=True)
class Index:
    """One index: where, on what, and the driver's options for it."""

    collection: str
    name: str
    keys: tuple[tuple[str, int], ...]
    options: dict[str, Any]

    def is_met_by(self, index: Document) -> bool:
        """Whether another index rules out all that this guard does: it may not leave documents out, such
        as those in other states, that the guard has."""
        leaves_out = index.get("partialFilterExpression")
        whole = leaves_out in (None, self.options.get("partialFilterExpression"))
        return bool(index.get("unique")) and tuple(index["key"]) == self.keys and whole

    def create(self, database: Database[Document]) -> None:
        database[self.collection].create_index(list(self.keys), name=self.name, **self.options)


ONE_LOCK_PER_KEY = Index(
    LOCKS,
    "one_lock_per_key",
    (("eventId", 1), ("userId", 1), ("idempotencyKey", 1)),
    # Documents without a key, or with null, are not in the index and so never collide.
    {"unique": True, "partialFilterExpression": {"idempotencyKey": {"$type": "string"}}},
)
ONE_BOOKING_PER_LOCK = Index(
    BOOKINGS,
    "one_booking_per_lock",
    (("seatLockId", 1),),
    {"unique": True, "partialFilterExpression": {"seatLockId": {"$type": "objectId"}}},
)
GUARDS = (ONE_LOCK_PER_KEY, ONE_BOOKING_PER_LOCK)

LOCKS_OF_EVENT = Index(LOCKS, "locks_of_event", (("eventId", 1), ("status", 1), ("_id", 1)), {})
BOOKINGS_OF_EVENT = Index(BOOKINGS, "bookings_of_event", (("event", 1), ("status", 1), ("seatLockId", 1)), {})

# As few as can be: within a transaction MongoDB 6.0 reads and parses the collection's catalog entry
# twice for each index of each document that it updates. Measured, for a lock that expires: 62 µs of
# the server with six indexes, 38 with four, and 24 outside of a transaction with either. So lists by
# user, or by status alone, have none and walk back along `_id`.
#
# Those on deadlines are partial, so that they stay as small as what is open. A full index that begins
# with the status would lure the planner: it then scans that one for each compare-and-set on
# {_id: {$in: …}, status}.
OPEN_LOCKS = Index(
    LOCKS,
    "open_locks_by_event_and_deadline",
    (("eventId", 1), ("expiresAt", 1)),
    {"partialFilterExpression": {"status": LockStatus.ACTIVE.value}},
)
OPEN_BOOKINGS = Index(
    BOOKINGS,
    "open_bookings_by_event_and_deadline",
    (("event", 1), ("paymentExpiresAt", 1)),
    {"partialFilterExpression": {"status": BookingStatus.PAYMENT_PENDING.value}},
)
READERS = (
    OPEN_LOCKS,
    OPEN_BOOKINGS,
    LOCKS_OF_EVENT,
    BOOKINGS_OF_EVENT,
    Index(JOB_LOGS, "runs_of_outcome", (("jobType", 1), ("status", 1), ("executedAt", -1)), {}),
    Index(JOB_LOGS, "runs_of_status", (("status", 1), ("executedAt", -1)), {}),
    Index(JOB_LOGS, "runs_of_type", (("jobType", 1), ("executedAt", -1)), {}),
)
RETENTION_INDEX, RETENTION_KEYS = "retention", [("executedAt", 1)]

INDEX_OPTIONS_CONFLICT, INDEX_KEY_SPECS_CONFLICT, UNAUTHORIZED = 85, 86, 13
NAMESPACE_EXISTS = 48


def ensure_guard(database: Database[Document], guard: Index) -> None:
    """Create a guard unless it, or another program's unique index on the same keys, is there.

    Creating an index that exists costs one round trip (0.4 ms), so each writer that relies on
    a guard asks for it. A user who may not create indexes is fine where the guard exists.
    """
    try:
        guard.create(database)
    except DuplicateKeyError as error:
        same = (error.details or {}).get("keyValue", {})
        named = " and ".join(f"{field} {shorten(repr(value))}" for field, value in same.items())
        raise WriteRefused(
            f"{guard.collection} holds several documents with {named or 'the same keys'}, which the index "
            f"{guard.name} must rule out; until somebody mends that, nothing new can be made sure of"
        ) from None
    except OperationFailure as error:
        if error.code not in (INDEX_OPTIONS_CONFLICT, INDEX_KEY_SPECS_CONFLICT, UNAUTHORIZED):
            raise
        if is_guarded(database, guard):
            return
        if error.code == UNAUTHORIZED:
            raise
        raise WriteRefused(
            f"{guard.collection} has another index by the name of {guard.name}, which does not make sure of "
            f"what that is for; drop it in mongosh: db.{guard.collection}.dropIndex({json.dumps(guard.name)})"
        ) from None


def is_guarded(database: Database[Document], guard: Index) -> bool:
    """Whether a unique index on the guard's keys is there, by whatever name."""
    return any(map(guard.is_met_by, database[guard.collection].index_information().values()))


def retention_of(database: Database[Document]) -> timedelta | None:
    """How long job log entries are kept now, or None when nothing limits it."""
    for index in database[JOB_LOGS].index_information().values():
        if list(index["key"]) == RETENTION_KEYS and "expireAfterSeconds" in index:
            return timedelta(seconds=int(index["expireAfterSeconds"]))
    return None


def deleting(database: Database[Document]) -> Iterator[tuple[str, str]]:
    """TTL indexes where no document may ever be deleted (invariant 9): collection and index. One that
    is hidden from the planner deletes all the same."""
    for collection in STATE:
        for name, index in database[collection].index_information().items():
            if "expireAfterSeconds" in index:
                yield collection, name


def missing(database: Database[Document]) -> list[str]:
    """What `init` would create, as `collection` or `collection.index`."""
    there = set(database.list_collection_names())
    wanted = [name for name in COLLECTIONS if name not in there]
    names = {name: database[name].index_information() if name in there else {} for name in COLLECTIONS}
    wanted += [
        f"{index.collection}.{index.name}"
        for index in (*GUARDS, *READERS)
        if index.name not in names[index.collection]
        or (index in GUARDS and not index.is_met_by(names[index.collection][index.name]))
    ]
    if JOB_LOGS not in there or retention_of(database) is None:
        wanted.append(f"{JOB_LOGS}.{RETENTION_INDEX}")
    return wanted


def init(database: Database[Document], retention: timedelta | None, default: timedelta) -> list[str]:
    """Create what is missing and set the retention of `jobLogs`; returns what was created or
    changed. `retention=None` leaves a retention that is set as it is."""
    created = missing(database)
    for name in COLLECTIONS:
        if name in created:
            try:
                database.create_collection(name)
            except CollectionInvalid:
                pass  # somebody else was faster
            except OperationFailure as error:
                if error.code != NAMESPACE_EXISTS:
                    raise
    for guard in GUARDS:
        ensure_guard(database, guard)
    for index in READERS:
        index.create(database)
    current = retention_of(database)
    wanted = retention or current or default
    if current != wanted:
        _retain(database, int(wanted.total_seconds()))
    if current not in (None, wanted):
        created.append(f"{JOB_LOGS}.{RETENTION_INDEX}")
    return created


def _retain(database: Database[Document], seconds: int) -> None:
    """Limit the job log's age, by an index of our own or by whichever is on these keys already."""
    indexes = database[JOB_LOGS].index_information().values()
    if any(list(index["key"]) == RETENTION_KEYS for index in indexes):
        index = {"keyPattern": dict(RETENTION_KEYS), "expireAfterSeconds": seconds}
        database.command("collMod", JOB_LOGS, index=index)
    else:
        database[JOB_LOGS].create_index(RETENTION_KEYS, name=RETENTION_INDEX, expireAfterSeconds=seconds)


# --- validators: the database's own last word ------------------------------------------------------

_NUMBER = ["int", "long", "double"]


def _validator(title: str, properties: Document, *rules: Document) -> Document:
    shape = {"title": f"seatctl: {title}", "required": sorted(properties), "properties": properties}
    return {"$and": [{"$jsonSchema": shape}, *({"$expr": rule} for rule in rules)]}


VALIDATORS: dict[str, Document] = {
    EVENTS: _validator(
        "seats available are at least 0 and at most all",
        {
            "totalSeats": {"bsonType": _NUMBER, "minimum": 1},
            "availableSeats": {"bsonType": _NUMBER, "minimum": 0},
        },
        {"$lte": ["$availableSeats", "$totalSeats"]},
    ),
    LOCKS: _validator(
        "a lock holds seats and is in a known state",
        {
            "seats": {"bsonType": _NUMBER, "minimum": 1},
            "status": {"enum": [status.value for status in LockStatus]},
        },
    ),
    BOOKINGS: _validator(
        "a booking is in a known state", {"status": {"enum": [status.value for status in BookingStatus]}}
    ),
}
"""Invariant 2 and the states, for every writer: another program, a hand, a bug of ours. At level
`moderate`, so that a document that is wrong already can still be changed, and so mended."""


def unguarded(database: Database[Document]) -> list[str]:
    """Collections without a validator, or with an old one of ours, as `collection.validator`. One
    that somebody else installed is theirs."""
    there = {
        found["name"]: found.get("options", {}).get("validator") for found in database.list_collections()
    }
    return [
        f"{name}.validator"
        for name, validator in VALIDATORS.items()
        if not there.get(name) or (there[name] != validator and "seatctl: " in str(there[name]))
    ]


def guard(database: Database[Document]) -> list[str]:
    """Install the validators that `unguarded` names; returns them. The collections must exist."""
    wanted = unguarded(database)
    for name, validator in VALIDATORS.items():
        if f"{name}.validator" in wanted:
            database.command("collMod", name, validator=validator, validationLevel="moderate")
    return wanted
