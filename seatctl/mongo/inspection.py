"""What stands in a database that another program writes to: the facts that `adopt` judges. Reads only."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from seatctl.domain.documents import EventId, Unreadable
from seatctl.domain.settings import DeletingIndex
from seatctl.domain.states import HOLDING, LIVE
from seatctl.mongo import codec, schema
from seatctl.mongo.bookings import without_lock
from seatctl.mongo.collection import aggregate
from seatctl.mongo.document import Document
from seatctl.mongo.validators import validators

if TYPE_CHECKING:
    from pymongo.database import Database

SAMPLE = 100
FIELDS_OF_A_LOCK = ("eventId", "seats", "status", "expiresAt")
OBJECT_ID = "objectId"


class Keys(NamedTuple):
    missing: int
    """Locks without one."""
    unique: bool
    """An index allows each once."""


class Deletion(NamedTuple):
    """How many documents of a collection a TTL index deletes, and how many of those are in use: locks that
    hold seats, live bookings."""

    collection: str
    documents: int
    in_use: int


class Inspection:
    """Looks at one database whose locks are in a collection of this name."""

    def __init__(self, database: Database[Document], locks: str) -> None:
        self._database = database
        self._locks = locks

    def looks_like_locks(self, name: str) -> bool:
        """Whether the first document of a collection has what a lock has."""
        found = self._database[name].find_one() or {}
        return all(field in found for field in FIELDS_OF_A_LOCK)

    def unreadable_sample(self) -> Unreadable | None:
        """One of the newest locks, if not a single one of those can be read."""
        newest = self._database[self._locks].find().sort("_id", -1).limit(SAMPLE)
        found = [codec.lock(document) for document in newest]
        unreadable = [lock for lock in found if isinstance(lock, Unreadable)]
        return unreadable[0] if unreadable and len(unreadable) == len(found) else None

    def live_bookings(self) -> tuple[int, int]:
        """How many live bookings there are, and how many of them name a lock that does not exist."""
        live = self._database[schema.BOOKINGS].count_documents(
            {"status": {"$in": sorted(LIVE)}}, collation=schema.EXACT
        )
        pipeline = [*self._without_lock(), {"$count": "number"}]
        missing = aggregate(self._database[schema.BOOKINGS], pipeline)
        return live, sum(int(group["number"]) for group in missing)

    def seats_without_lock(self) -> dict[EventId, int]:
        """By event, the seats of its live bookings whose locks do not exist, where the bookings say how
        many they are."""
        labels = {"$cond": [{"$isArray": "$seats"}, {"$size": "$seats"}, 0]}
        pipeline = [*self._without_lock(), {"$group": {"_id": "$event", "seats": {"$sum": labels}}}]
        groups = aggregate(self._database[schema.BOOKINGS], pipeline)
        return {EventId(group["_id"]): int(group["seats"]) for group in groups if group["seats"]}

    def _without_lock(self) -> list[Document]:
        live = {"status": {"$in": sorted(LIVE)}}
        return without_lock(live, ("event", "seats", "seatLockId"), self._locks)

    def states(self, collection: str) -> dict[str, int]:
        """How many documents are in which state, the most frequent first."""
        pipeline: list[Document] = [
            {"$group": {"_id": "$status", "number": {"$sum": 1}}},
            {"$sort": {"number": -1, "_id": 1}},
        ]
        found: Counter[str] = Counter()
        for group in aggregate(self._database[collection], pipeline):
            status = group["_id"]
            found[status if isinstance(status, str) else codec.describe(status)] += group["number"]
        return dict(found)

    def users(self) -> tuple[int, int]:
        """How many locks and bookings name their user by an ObjectId, and how many by something else."""
        found: Counter[bool] = Counter()
        for collection, field in ((self._locks, "$userId"), (schema.BOOKINGS, "$user")):
            groups = aggregate(
                self._database[collection], [{"$group": {"_id": {"$type": field}, "number": {"$sum": 1}}}]
            )
            for group in groups:
                found[group["_id"] == OBJECT_ID] += group["number"]
        return found[True], found[False]

    def keys(self) -> Keys:
        locks = self._database[self._locks]
        missing = locks.count_documents({"idempotencyKey": {"$not": {"$gt": ""}}}, collation=schema.EXACT)
        indexes = locks.index_information().values()
        return Keys(
            missing, any(index.get("unique") and "idempotencyKey" in dict(index["key"]) for index in indexes)
        )

    def labelled_bookings(self) -> int:
        """How many bookings have a list of labels in `seats`."""
        return self._database[schema.BOOKINGS].count_documents({"seats": {"$type": "array"}})

    def events_by_day(self) -> list[tuple[EventId, str]]:
        """The events that count their seats by day: id and name."""
        by_day = {"$expr": {"$not": [codec.counts_the_whole()]}}
        found = self._database[schema.EVENTS].find(by_day, {"name": 1}, collation=schema.EXACT).sort("_id", 1)
        return [(EventId(event["_id"]), str(event.get("name", ""))) for event in found]

    def would_delete(self, index: DeletingIndex, now: datetime) -> Deletion:
        """What MongoDB deletes within a minute once this TTL index has its time back."""
        documents = self._database[index.collection]
        ((field, _),) = documents.index_information()[index.name]["key"]
        over: Document = {field: {"$lt": now - timedelta(seconds=index.seconds)}}
        in_use = {**over, "status": {"$in": sorted((*HOLDING, *LIVE))}}
        return Deletion(index.collection, documents.count_documents(over), documents.count_documents(in_use))

    def validated(self) -> list[str]:
        """The collections of events, locks and bookings that have a validator."""
        there = validators(self._database)
        return [name for name in schema.state(self._locks) if name in there]
