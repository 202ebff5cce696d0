"""Collections and indexes, and how they get into a database.

Two of the indexes are guards: seatctl's own transactions need none, but another program's may.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from pymongo import IndexModel
from pymongo.errors import (
    DuplicateKeyError,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)

from seatctl.domain.settings import NOT_ADOPTED, DeletingIndex
from seatctl.domain.words import shorten
from seatctl.errors import OutcomeUnknown, Unreachable, WriteRefused
from seatctl.mongo.document import Document
from seatctl.mongo.transactions import time_limit

if TYPE_CHECKING:
    from pymongo.database import Database


EVENTS, LOCKS, BOOKINGS, JOB_LOGS = "events", NOT_ADOPTED.locks, "bookings", "jobLogs"
STATE = (EVENTS, LOCKS, BOOKINGS)
REFUNDS, OPERATIONS = "refunds", "operations"
OWN = (JOB_LOGS, REFUNDS, OPERATIONS)
"""The collections that only seatctl writes."""
EXACT: Document = {"locale": "simple"}
"""Compare texts by their bytes, whatever a collection's own collation says: where that ignores letter case,
the user `ann` with the key `ABC` would be given the lock of `Ann` with `abc`."""
TTL_OFF = 2**31 - 1
"""The longest time that a TTL index can have, 68 years: it deletes nothing."""


def state(locks: str) -> tuple[str, str, str]:
    """The collections of events, locks and bookings, where the locks are called so."""
    return EVENTS, locks, BOOKINGS


def collections_of(locks: str = LOCKS) -> tuple[str, ...]:
    """All collections, where the locks are called so."""
    return (*state(locks), *OWN)


BUILD_SECONDS = 35
"""How long an index may take: a little less than the driver waits for an answer."""

INDEX_OPTIONS_CONFLICT, INDEX_KEY_SPECS_CONFLICT = 85, 86


class Duplicates(WriteRefused):
    """Documents stand against a unique index."""


@dataclass(frozen=True, slots=True)
class Index:
    """One index: where, on what, and the driver's options for it."""

    collection: str
    name: str
    keys: tuple[tuple[str, int], ...]
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.collection}.{self.name}"

    def is_met_by(self, found: Mapping[str, Any]) -> bool:
        """Whether an index that is there, by whatever name, does what this one is for.

        A guard may not leave out documents, such as those in other states, that ours has in it; one on
        fewer keys (a Mongoose backend's on `idempotencyKey` alone) rules out more. An index that is read
        must be usable for the same queries.
        """
        leaves_out, ours = found.get("partialFilterExpression"), self.options.get("partialFilterExpression")
        if self.options.get("unique"):
            narrower = set(found["key"]) <= set(self.keys)
            as_old = leaves_out == ALL_KEYS and "idempotencyKey" in dict(self.keys)
            return narrower and bool(found.get("unique")) and (leaves_out in (None, ours) or as_old)
        if tuple(found["key"]) != self.keys:
            return False
        return leaves_out == ours and not any(map(found.get, ("sparse", "collation", "hidden")))

    def is_in(self, database: Database[Document]) -> bool:
        return any(map(self.is_met_by, database[self.collection].index_information().values()))

    def create(self, database: Database[Document]) -> None:
        """Create it. Raises Duplicates when documents stand against it, WriteRefused when another index does,
        Unreachable when it takes too long."""
        model = IndexModel(list(self.keys), name=self.name, collation=EXACT, **self.options)
        try:
            # The default is to wait for all members, and one that is down would stop every writer.
            with time_limit(BUILD_SECONDS):
                database[self.collection].create_indexes([model], commitQuorum="majority")
        except DuplicateKeyError as error:
            same = (error.details or {}).get("keyValue", {})
            named = " and ".join(f"{key} {shorten(repr(value))}" for key, value in same.items())
            raise Duplicates(
                f"{self.collection} has several documents with {named or 'the same keys'}, which the unique "
                f"index {self.name} does not allow, so it is not created. seatctl works without it, but "
                "other programs can create more such documents; `seatctl verify` names them"
            ) from None
        except OperationFailure as error:
            if error.code in (INDEX_OPTIONS_CONFLICT, INDEX_KEY_SPECS_CONFLICT):
                raise WriteRefused(
                    f"{self.collection} has a different index named {self.name}, which does not serve its "
                    f'purpose; drop it in mongosh: db.{self.collection}.dropIndex("{self.name}")'
                ) from None
            if error.timeout:
                raise self._took_too_long() from error
            raise
        except NetworkTimeout as error:
            raise self._took_too_long() from error

    def _took_too_long(self) -> Unreachable:
        arguments = f"{json.dumps(dict(self.keys))}, {json.dumps({'name': self.name, **self.options})}"
        return Unreachable(
            f"the index {self} was not complete after {BUILD_SECONDS} s: a majority of the members "
            "is missing, or there is a lot to index. In the second case create it in mongosh: "
            f"db.{self.collection}.createIndex({arguments})"
        )


ALL_KEYS: Document = {"idempotencyKey": {"$type": "string"}}
"""What is in a guard that takes the empty text for a key: that of version 0.1.0, or another program's."""
ONE_LOCK_PER_KEY = Index(
    LOCKS,
    "one_lock_per_key",
    (("eventId", 1), ("userId", 1), ("idempotencyKey", 1)),
    # Documents without a key, with null or with an empty text are not in the index and so never collide.
    {"unique": True, "partialFilterExpression": {"idempotencyKey": {"$gt": ""}}},
)
ONE_BOOKING_PER_LOCK = Index(
    BOOKINGS,
    "one_booking_per_lock",
    (("seatLockId", 1),),
    {"unique": True, "partialFilterExpression": {"seatLockId": {"$type": "objectId"}}},
)
# As few as can be: within a transaction MongoDB 6.0 reads and parses the collection's catalog entry
# twice for each index of each document that it updates. Measured, for a lock that expires: 62 µs of
# the server with six indexes, 33 with four, 28 with three, and 18 outside of a transaction. So one index
# lists what is overdue and has all that the sums by event need, and lists by user have none and walk
# back along `_id`.
#
# It misleads the planner for a compare-and-set on {_id: {$in: …}, status}: `collection.py` gives a hint.
LOCKS_BY_STATUS = Index(
    LOCKS, "locks_by_status", (("status", 1), ("eventId", 1), ("expiresAt", 1), ("seats", 1), ("_id", 1))
)
BOOKINGS_BY_STATUS = Index(
    BOOKINGS,
    "bookings_by_status",
    (("status", 1), ("event", 1), ("paymentExpiresAt", 1), ("seatLockId", 1)),
)
# Each run of a sweep looks for seats that came back to closed events. Of 100,000 events few are closed.
CLOSED_EVENTS = Index(
    EVENTS, "closed_events", (("closedAt", 1),), {"partialFilterExpression": {"closedAt": {"$type": "date"}}}
)
ONE_REFUND_PER_PAYMENT = Index(
    REFUNDS,
    "one_refund_per_payment",
    (("bookingId", 1), ("cause", 1), ("paymentRef", 1), ("part", 1)),
    {"unique": True},
)
INDEXES = (
    ONE_LOCK_PER_KEY,
    ONE_BOOKING_PER_LOCK,
    LOCKS_BY_STATUS,
    BOOKINGS_BY_STATUS,
    CLOSED_EVENTS,
    Index(JOB_LOGS, "runs_of_outcome", (("jobType", 1), ("status", 1), ("executedAt", -1))),
    Index(JOB_LOGS, "runs_of_status", (("status", 1), ("executedAt", -1))),
    Index(JOB_LOGS, "runs_of_type", (("jobType", 1), ("executedAt", -1))),
    ONE_REFUND_PER_PAYMENT,
    Index(REFUNDS, "refunds_due", (("status", 1), ("dueAt", 1))),
    Index(OPERATIONS, "operations_on", (("ids", 1), ("at", 1))),
)
OUTDATED = (
    Index(LOCKS, "locks_of_event", (("eventId", 1), ("status", 1), ("_id", 1))),
    Index(LOCKS, "locks_of_event", (("eventId", 1), ("status", 1), ("seats", 1), ("_id", 1))),
    Index(LOCKS, "open_locks_by_event_and_deadline", (("eventId", 1), ("expiresAt", 1))),
    Index(BOOKINGS, "bookings_of_event", (("event", 1), ("status", 1), ("seatLockId", 1))),
    Index(BOOKINGS, "open_bookings_by_event_and_deadline", (("event", 1), ("paymentExpiresAt", 1))),
)
"""What earlier versions made where LOCKS_BY_STATUS and BOOKINGS_BY_STATUS are now: they slow every write."""
RETENTION_INDEX, RETENTION_KEYS = "retention", [("executedAt", 1)]


def retention(database: Database[Document]) -> timedelta | None:
    """How long job log entries are kept now, or None when nothing limits it."""
    for index in database[JOB_LOGS].index_information().values():
        if list(index["key"]) == RETENTION_KEYS and "expireAfterSeconds" in index:
            return timedelta(seconds=int(index["expireAfterSeconds"]))
    return None


def deleting_indexes(
    database: Database[Document], collections: Sequence[str] = STATE
) -> Iterator[DeletingIndex]:
    """TTL indexes where no document may ever be deleted (invariant 9), but for those that `neutralise` made
    harmless. One that is hidden from the planner deletes all the same."""
    for collection in collections:
        for name, index in database[collection].index_information().items():
            seconds = index.get("expireAfterSeconds")
            if seconds is not None and seconds < TTL_OFF:
                yield DeletingIndex(collection, name, int(seconds))


def set_ttl(database: Database[Document], index: DeletingIndex, seconds: int = TTL_OFF) -> None:
    """Change after how many seconds an index deletes, by default so that it never does. Not by dropping it:
    Mongoose creates a missing index at each start, and leaves one alone that has other options."""
    change = {"name": index.name, "expireAfterSeconds": seconds}
    modify(database, index.collection, index=change)


def is_off(database: Database[Document], index: DeletingIndex) -> bool:
    """Whether this TTL index is there and deletes nothing."""
    found = database[index.collection].index_information().get(index.name, {})
    return bool(found.get("expireAfterSeconds") == TTL_OFF)


def collations(
    database: Database[Document], collections: Sequence[str] = STATE
) -> Iterator[tuple[str, Document]]:
    """The collections that compare texts otherwise than exactly, and how: the index on `_id` has the
    collection's collation, and is read with a privilege that every role has."""
    for name in sorted(collections):
        index: Mapping[str, Any] = database[name].index_information().get("_id_", {})
        if collation := index.get("collation"):
            yield name, collation


def indexes(locks: str = LOCKS, *, adopted: bool = False) -> list[Index]:
    """The indexes of a database whose locks are called so. An adopted one gets no guards of ours: a unique
    index could stop the other program, which has its own."""
    return [
        index
        for index in _placed(INDEXES, locks)
        if index.collection in OWN or not (adopted and index.options.get("unique"))
    ]


def _placed(indexes: Iterable[Index], locks: str) -> list[Index]:
    """These indexes where the locks are called so."""
    return [replace(index, collection=locks) if index.collection == LOCKS else index for index in indexes]


def missing(database: Database[Document], locks: str = LOCKS, *, adopted: bool = False) -> list[str]:
    """What `create` would create, as `collection` or `collection.index`."""
    there = set(database.list_collection_names())
    wanted = [name for name in collections_of(locks) if name not in there]
    wanted += [str(index) for index in indexes(locks, adopted=adopted) if not index.is_in(database)]
    if retention(database) is None:
        wanted.append(f"{JOB_LOGS}.{RETENTION_INDEX}")
    return wanted


class Setup(NamedTuple):
    """What was created or changed, and, each in a sentence, what could not be."""

    created: list[str]
    left_out: list[str]


def create(
    database: Database[Document],
    keep: timedelta | None,
    default: timedelta,
    locks: str = LOCKS,
    *,
    adopted: bool = False,
) -> Setup:
    """Create the collections and indexes that are missing, and set the retention of `jobLogs`. `keep=None`
    leaves a retention that is set as it is, and sets `default` where there is none. A guard that documents
    stand against is left out: seatctl's own transactions need none."""
    replaced = _drop_replaced(database, indexes(locks, adopted=adopted))
    done = Setup(missing(database, locks, adopted=adopted), [])
    for name in collections_of(locks):
        if name in done.created:
            ensure_collection(database, name)
    for index in indexes(locks, adopted=adopted):
        if str(index) in done.created:
            try:
                index.create(database)
            except Duplicates as error:
                done.created.remove(str(index))
                done.left_out.append(str(error))
    for outdated in _own(database, _placed(OUTDATED, locks)):
        database[outdated.collection].drop_index(outdated.name)
        replaced += map(str, _placed((LOCKS_BY_STATUS, BOOKINGS_BY_STATUS), locks))
    done.created[:] = [
        f"{name} in place of an outdated one" if name in replaced else name for name in done.created
    ]
    current = retention(database)
    wanted = keep or current or default
    if current != wanted:
        _retain(database, int(wanted.total_seconds()))
    if current not in (None, wanted):
        done.created.append(f"{JOB_LOGS}.{RETENTION_INDEX}")
    return done


def own_indexes(
    database: Database[Document], locks: str = LOCKS, only: Collection[str] | None = None
) -> list[Index]:
    """Those of our own indexes, or of `only`, that are there by name and keys."""
    retain = Index(JOB_LOGS, RETENTION_INDEX, tuple(RETENTION_KEYS))
    ours = _own(database, (*indexes(locks), *_placed(OUTDATED, locks), retain))
    if only is not None and any(str(index) in only for index in _placed(OUTDATED, locks)):
        only = {*only, *map(str, _placed((LOCKS_BY_STATUS, BOOKINGS_BY_STATUS), locks))}  # in place of those
    return [index for index in ours if only is None or str(index) in only]


def _own(database: Database[Document], indexes: Iterable[Index]) -> list[Index]:
    """Those of these indexes that are there by name and keys."""
    there = {index.collection: database[index.collection].index_information() for index in indexes}
    return [
        index
        for index in indexes
        if (found := there[index.collection].get(index.name)) and tuple(found["key"]) == index.keys
    ]


def remove(
    database: Database[Document], locks: str = LOCKS, only: Collection[str] | None = None
) -> list[str]:
    """Drop our own indexes, or those of `only`; returns them."""
    removed = own_indexes(database, locks, only)
    for index in removed:
        database[index.collection].drop_index(index.name)
    return list(map(str, removed))


def ensure_collection(database: Database[Document], name: str) -> None:
    """Create a collection, unless another writer is faster."""
    try:
        database.create_collection(name)
    except PyMongoError as error:
        # One that is there and that no majority has in time is not enough: what follows would wait as long.
        late = error.timeout or isinstance(error, WriteConcernError)
        if late or name not in database.list_collection_names():
            raise


def modify(database: Database[Document], collection: str, **change: Any) -> None:
    """`collMod`, waiting for a majority. Raises OutcomeUnknown, which the driver does not for a command."""
    concern = database.write_concern.document
    reply = database.command("collMod", collection, **change, writeConcern=concern)
    if "writeConcernError" in reply:
        raise OutcomeUnknown


def _drop_replaced(database: Database[Document], wanted: Sequence[Index]) -> list[str]:
    """Drop our own indexes that an earlier version made by the same name otherwise, or with the collection's
    collation, unless others do what they are for; returns them."""
    dropped = []
    for index in wanted:
        there = database[index.collection].index_information()
        found = there.pop(index.name, {})
        ours = tuple(found.get("key", ())) == index.keys
        all_keys = index.name == ONE_LOCK_PER_KEY.name and found.get("partialFilterExpression") == ALL_KEYS
        outdated = ours and (all_keys or "collation" in found)
        if outdated and not any(map(index.is_met_by, there.values())):
            database[index.collection].drop_index(index.name)
            dropped.append(str(index))
    return dropped


def _retain(database: Database[Document], seconds: int) -> None:
    """Limit the job log's age, by an index of our own or by whichever is on these keys already."""
    indexes = database[JOB_LOGS].index_information().values()
    if any(list(index["key"]) == RETENTION_KEYS for index in indexes):
        index = {"keyPattern": dict(RETENTION_KEYS), "expireAfterSeconds": seconds}
        modify(database, JOB_LOGS, index=index)
    else:
        Index(JOB_LOGS, RETENTION_INDEX, tuple(RETENTION_KEYS), {"expireAfterSeconds": seconds}).create(
            database
        )
