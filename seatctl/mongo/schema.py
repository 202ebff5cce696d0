"""Indexes and validators, and how they get into a database. Every index names its reader.

Two of them are guards: uniqueness that two processes could break between reading and writing.
Those exist before the first write that needs them, also where nobody ran `init`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from pymongo import IndexModel
from pymongo.errors import CollectionInvalid, DuplicateKeyError, OperationFailure

from seatctl.domain.states import BookingStatus, LockStatus
from seatctl.domain.timespec import shorten
from seatctl.errors import Unreachable, WriteRefused
from seatctl.mongo.failures import TIME_LIMIT_EXCEEDED, UNAUTHORIZED

if TYPE_CHECKING:
    from pymongo.database import Database

Document: TypeAlias = dict[str, Any]

EVENTS, LOCKS, BOOKINGS, JOB_LOGS = "events", "seatLocks", "bookings", "jobLogs"
STATE = (EVENTS, LOCKS, BOOKINGS)
COLLECTIONS = (*STATE, JOB_LOGS)

BUILD_SECONDS = 50
"""How long an index may take: a little less than the driver waits for an answer."""

INDEX_OPTIONS_CONFLICT, INDEX_KEY_SPECS_CONFLICT, NAMESPACE_EXISTS = 85, 86, 48


@dataclass(frozen=True, slots=True)
class Index:
    """One index: where, on what, and the driver's options for it."""

    collection: str
    name: str
    keys: tuple[tuple[str, int], ...]
    options: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.collection}.{self.name}"

    def is_met_by(self, found: Mapping[str, Any]) -> bool:
        """Whether an index that is there, by whatever name, does what this one is for.

        A guard may not leave out documents, such as those in other states, that ours has in it. An
        index that is read must be usable for the same queries.
        """
        if tuple(found["key"]) != self.keys:
            return False
        leaves_out, ours = found.get("partialFilterExpression"), self.options.get("partialFilterExpression")
        if self.options.get("unique"):
            return bool(found.get("unique")) and leaves_out in (None, ours)
        return leaves_out == ours and not any(map(found.get, ("sparse", "collation", "hidden")))

    def is_in(self, database: Database[Document]) -> bool:
        return any(map(self.is_met_by, database[self.collection].index_information().values()))

    def create(self, database: Database[Document]) -> None:
        """Create it, or do nothing if it is there. Waits for a majority of the members: the default
        waits for all of them, and one that is down would stop every writer."""
        database[self.collection].create_indexes(
            [IndexModel(list(self.keys), name=self.name, **self.options)],
            commitQuorum="majority",
            maxTimeMS=BUILD_SECONDS * 1000,
        )


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

# The sums of an event's seats by status, and the digests of its sold locks, are read from this index
# alone.
LOCKS_OF_EVENT = Index(LOCKS, "locks_of_event", (("eventId", 1), ("status", 1), ("seats", 1), ("_id", 1)), {})
BOOKINGS_OF_EVENT = Index(BOOKINGS, "bookings_of_event", (("event", 1), ("status", 1), ("seatLockId", 1)), {})

# As few as can be: within a transaction MongoDB 6.0 reads and parses the collection's catalog entry
# twice for each index of each document that it updates. Measured, for a lock that expires: 62 µs of
# the server with six indexes, 38 with four, and 24 outside of a transaction with either. So lists by
# user, or by status alone, have none and walk back along `_id`.
#
# Those on deadlines are partial, so that they stay as small as what is open. A full index that begins
# with the status would mislead the planner: it then scans that one for each compare-and-set on
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


def ensure_guard(database: Database[Document], guard: Index) -> None:
    """Create a guard unless it, or another program's unique index that rules out the same, is there.

    Each writer that relies on a guard asks for it. One of our name is created again even if it is
    listed, which waits for a build that is under way: the server lists an index before it is complete.
    A user who may not create indexes is fine where the guard exists.
    Raises WriteRefused where documents that are stored already, or another index, stand against it.
    """
    listed = {
        name
        for name, found in database[guard.collection].index_information().items()
        if guard.is_met_by(found)
    }
    if listed - {guard.name}:
        return
    try:
        _create(database, guard)
    except OperationFailure as error:
        if error.code != UNAUTHORIZED or not listed:
            raise


def _create(database: Database[Document], index: Index) -> None:
    """Create an index. Raises WriteRefused when it cannot be, Unreachable when it takes too long."""
    try:
        index.create(database)
    except DuplicateKeyError as error:
        same = (error.details or {}).get("keyValue", {})
        named = " and ".join(f"{field} {shorten(repr(value))}" for field, value in same.items())
        raise WriteRefused(
            f"{index.collection} has several documents with {named or 'the same keys'}, which the index "
            f"{index.name} must rule out; until somebody corrects that, nothing new can be guaranteed"
        ) from None
    except OperationFailure as error:
        if error.code in (INDEX_OPTIONS_CONFLICT, INDEX_KEY_SPECS_CONFLICT):
            raise WriteRefused(
                f"{index.collection} has another index by the name of {index.name}, which does not do what "
                f"that is for; drop it in mongosh: db.{index.collection}.dropIndex({json.dumps(index.name)})"
            ) from None
        if error.code == TIME_LIMIT_EXCEEDED:
            arguments = f"{json.dumps(dict(index.keys))}, {json.dumps({'name': index.name, **index.options})}"
            raise Unreachable(
                f"the index {index} was not complete after {BUILD_SECONDS} s: a majority of the members is "
                "missing, or there is much to index; then create it in mongosh: "
                f"db.{index.collection}.createIndex({arguments})"
            ) from error
        raise


def retention(database: Database[Document]) -> timedelta | None:
    """How long job log entries are kept now, or None when nothing limits it."""
    for index in database[JOB_LOGS].index_information().values():
        if list(index["key"]) == RETENTION_KEYS and "expireAfterSeconds" in index:
            return timedelta(seconds=int(index["expireAfterSeconds"]))
    return None


def deleting_indexes(database: Database[Document]) -> Iterator[tuple[str, str]]:
    """TTL indexes where no document may ever be deleted (invariant 9): collection and index. One that
    is hidden from the planner deletes all the same."""
    for collection in STATE:
        for name, index in database[collection].index_information().items():
            if "expireAfterSeconds" in index:
                yield collection, name


def missing(database: Database[Document]) -> list[str]:
    """What `create` would create, as `collection` or `collection.index`."""
    there = set(database.list_collection_names())
    wanted = [name for name in COLLECTIONS if name not in there]
    wanted += [
        str(index)
        for index in (*GUARDS, *READERS)
        if index.collection not in there or not index.is_in(database)
    ]
    if JOB_LOGS not in there or retention(database) is None:
        wanted.append(f"{JOB_LOGS}.{RETENTION_INDEX}")
    return wanted


def create(database: Database[Document], keep: timedelta | None, default: timedelta) -> list[str]:
    """Create the collections and indexes that are missing, and set the retention of `jobLogs`; returns
    what was created or changed. `keep=None` leaves a retention that is set as it is, and sets `default`
    where there is none."""
    created = missing(database)
    for name in COLLECTIONS:
        if name in created:
            _create_collection(database, name)
    for guard in GUARDS:
        ensure_guard(database, guard)
    for index in READERS:
        if str(index) in created:
            _create(database, index)
    current = retention(database)
    wanted = keep or current or default
    if current != wanted:
        _retain(database, int(wanted.total_seconds()))
    if current not in (None, wanted):
        created.append(f"{JOB_LOGS}.{RETENTION_INDEX}")
    return created


def _create_collection(database: Database[Document], name: str) -> None:
    """Create a collection, or do nothing when somebody else was faster."""
    try:
        database.create_collection(name)
    except CollectionInvalid:
        pass
    except OperationFailure as error:
        if error.code != NAMESPACE_EXISTS:
            raise


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
_OUR_TITLE = "seatctl: "


def _validator(title: str, properties: Document, *rules: Document) -> Document:
    shape = {"title": _OUR_TITLE + title, "required": sorted(properties), "properties": properties}
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
        "a lock has seats and is in a known state",
        {
            "seats": {"bsonType": _NUMBER, "minimum": 1},
            "status": {"enum": [status.value for status in LockStatus]},
        },
    ),
    BOOKINGS: _validator(
        "a booking is in a known state", {"status": {"enum": [status.value for status in BookingStatus]}}
    ),
}
"""Invariant 2 and the states, for every writer: another program, a person, a bug of ours. At level
`moderate`, so that a document that is wrong already can still be changed, and so repaired."""


def missing_validators(database: Database[Document]) -> list[str]:
    """Collections without a validator, or with an old one of ours, as `collection.validator`. One
    that somebody else installed is theirs."""
    there = {
        found["name"]: found.get("options", {}).get("validator") for found in database.list_collections()
    }
    return [
        f"{name}.validator"
        for name, validator in VALIDATORS.items()
        if not there.get(name) or (there[name] != validator and _OUR_TITLE in str(there[name]))
    ]


def create_validators(database: Database[Document]) -> list[str]:
    """Install the validators that `missing_validators` names; returns them. The collections must exist."""
    wanted = missing_validators(database)
    for name, validator in VALIDATORS.items():
        if f"{name}.validator" in wanted:
            database.command("collMod", name, validator=validator, validationLevel="moderate")
    return wanted
