"""The aggregations behind clearance and `verify`: what the locks and bookings of some events add up to.

Everything is asked for a scope, a condition on the event's id: some events, or a range of them. Sold
seats, which are most of a past, are compared by digests without being read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from seatctl.domain.documents import Event, EventId, LockId, Unreadable
from seatctl.domain.settings import NOT_ADOPTED, DeletingIndex, Settings
from seatctl.domain.states import HOLDING, LIVE, BookingStatus, LockStatus
from seatctl.mongo import codec, schema
from seatctl.mongo.bookings import may_protect
from seatctl.mongo.collection import FIRST_ID, NO_OBJECT_ID, aggregate, is_guarded
from seatctl.mongo.document import Document
from seatctl.mongo.locks import may_hold

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection

    from seatctl.mongo.client import Deployment

Scope: TypeAlias = Document
HASH = "$toHashedIndexKey"
DIGEST_RANGE = 2**42
"""Four million of these fit into MongoDB's integers: an event has at most a million seats."""


class HeldSeats(NamedTuple):
    """What the locks of one event hold."""

    seats: int = 0
    unreadable: int = 0
    """Locks in a state that nobody knows, or whose `seats` is no number of seats."""
    sold_digest: int = 0
    """Stands for the set of its CONSUMED locks."""


class BookingCounts(NamedTuple):
    """What the bookings of one event add up to."""

    paid_digest: int = 0
    """Stands for the set of locks that its CONFIRMED bookings name."""
    unreadable: int = 0
    """Bookings in a state that nobody knows, or of several events."""
    malformed: int = 0
    """Bookings that name their lock by something that is no ObjectId."""


Sums = TypeVar("Sums", HeldSeats, BookingCounts)


def _sum(before: Sums | None, found: Sums) -> Sums:
    """Of one event, which comes in several groups only where documents name several events."""
    return found if before is None else type(found)(*map(sum, zip(before, found, strict=True)))


def _single(field: str) -> Document:
    """An expression: this reference is no list, so that it names one event."""
    return {"$not": {"$isArray": field}}


def _digest(event: str, status: str, lock: str) -> Document:
    """An accumulator: stands for the set of these locks, of the documents of one event in this state."""
    among = {"$and": [{"$eq": ["$status", status]}, _single(event)]}
    return {"$sum": {"$cond": [among, {"$mod": [{HASH: lock}, DIGEST_RANGE]}, 0]}}


class SharedKey(NamedTuple):
    """Locks of one event and user with the same key, and how many of them hold seats."""

    event: EventId
    key: str
    locks: list[LockId]
    holding: int


def scope_of(event_ids: Iterable[EventId]) -> Scope:
    """The scope of these events."""
    return {"$in": list(event_ids)}


class Aggregations:
    """Reads only. Bound to a snapshot, everything that it reads is of one point in time."""

    def __init__(
        self, deployment: Deployment, session: ClientSession | None, settings: Settings = NOT_ADOPTED
    ) -> None:
        self._session = session
        self._database = deployment.database
        self._names = schema.state(settings.locks)
        self._events, self._locks, self._bookings = (deployment.database[name] for name in self._names)

    # --- scopes ------------------------------------------------------------------------------------

    def ranges(self, events_each: int) -> Iterator[Scope]:
        """Ranges of ids with so many events each, that together leave nothing out: documents of events
        that do not exist lie in one of them, too."""
        lower: object = FIRST_ID
        while True:
            bound = self._bound(lower, events_each)
            if bound is None:
                yield {"$gte": lower}
                return
            yield {"$gte": lower, "$lt": bound}
            lower = bound

    def _bound(self, lower: object, skip: int) -> object | None:
        found = self._events.find({"_id": {"$gte": lower}}, {"_id": 1}).sort("_id", 1).skip(skip).limit(1)
        return next((event["_id"] for event in found), None)

    # --- what events add up to -----------------------------------------------------------------------

    def events(self, scope: Scope) -> dict[EventId, Event | Unreadable]:
        fields = dict.fromkeys(codec.EVENT_FIELDS, 1)
        found = self._events.find({"_id": scope}, fields, session=self._session)
        return {EventId(event["_id"]): codec.event(event) for event in found}

    def taken_seats(self, scope: Scope) -> dict[EventId, int]:
        """By event, its seats that are not available: of those that can be read and whose counter is not
        below zero. It says the same as `codec.event`, and an event costs a tenth of that."""
        readable = [codec.is_whole("$availableSeats"), codec.is_seat_count("$totalSeats")]
        where = {"$and": [*readable, codec.counts_the_whole(), {"$gte": ["$availableSeats", 0]}]}
        pipeline: list[Document] = [
            {"$match": {"_id": scope, "$expr": where}},
            {"$project": {"taken": {"$subtract": ["$totalSeats", "$availableSeats"]}}},
        ]
        found = aggregate(self._events, pipeline, self._session)
        return {EventId(event["_id"]): int(event["taken"]) for event in found}

    def held_seats(self, scope: Scope) -> dict[EventId, HeldSeats]:
        """By event, what its locks hold; none for an event without any.

        The index LOCKS_BY_STATUS has all that is needed. Locks that hold nothing are passed over on it.
        """
        holds = {"$in": ["$status", sorted(HOLDING)]}
        readable = {"$and": [holds, _single("$eventId"), codec.is_seat_count("$seats")]}
        sums = {
            "seats": {"$sum": {"$cond": [readable, "$seats", 0]}},
            "unreadable": {"$sum": {"$cond": [readable, 0, 1]}},
            "digest": _digest("$eventId", LockStatus.CONSUMED, "$_id"),
        }
        held: dict[EventId, HeldSeats] = {}
        where = {"eventId": scope, **may_hold(self._locks)}
        for event_id, group in self._by_event(self._locks, where, "eventId", sums):
            found = HeldSeats(int(group["seats"]), group["unreadable"], group["digest"])
            held[event_id] = _sum(held.get(event_id), found)
        return held

    def held_by(self, event_id: EventId) -> HeldSeats:
        return self.held_seats(scope_of([event_id])).get(event_id, HeldSeats())

    def booking_counts(self, scope: Scope) -> dict[EventId, BookingCounts]:
        """By event, what its CONFIRMED and its unreadable bookings add up to."""
        readable = {"$and": [{"$in": ["$status", sorted(LIVE)]}, _single("$event")]}
        sums = {
            "unreadable": {"$sum": {"$cond": [readable, 0, 1]}},
            "digest": _digest("$event", BookingStatus.CONFIRMED, "$seatLockId"),
            "malformed": {"$sum": {"$cond": [{"$eq": [{"$type": "$seatLockId"}, "objectId"]}, 0, 1]}},
        }
        counts: dict[EventId, BookingCounts] = {}
        where = {"event": scope, **may_protect(self._bookings)}
        for event_id, group in self._by_event(self._bookings, where, "event", sums):
            found = BookingCounts(group["digest"], group["unreadable"], group["malformed"])
            counts[event_id] = _sum(counts.get(event_id), found)
        return counts

    def _by_event(
        self, collection: Collection[Document], where: Document, event: str, sums: Document
    ) -> Iterator[tuple[EventId, Document]]:
        """The sums of each event; those of documents that name several events come with each of them."""
        pipeline: list[Document] = [{"$match": where}, {"$group": {"_id": f"${event}", **sums}}]
        for group in aggregate(collection, pipeline, self._session):
            named = group["_id"]
            for event_id in codec.ids_in(named) if isinstance(named, list) else (named,):
                yield EventId(event_id), group

    # --- documents that need a closer look -------------------------------------------------------------

    def booked_twice(self, scope: Scope) -> Iterator[LockId]:
        """Locks that several bookings name. Nothing is read where an index rules them out."""
        if is_guarded(self._bookings, schema.ONE_BOOKING_PER_LOCK):
            return
        pipeline: list[Document] = [
            {
                "$match": {
                    "event": scope,
                    "seatLockId": {"$type": "objectId"},
                    "status": {"$ne": BookingStatus.INITIATED},
                }
            },
            {"$group": {"_id": "$seatLockId", "times": {"$sum": 1}}},
            {"$match": {"times": {"$gt": 1}}},
        ]
        for group in aggregate(self._bookings, pipeline, self._session):
            if not isinstance(group["_id"], list):
                yield LockId(group["_id"])

    def shared_keys(self, scope: Scope) -> Iterator[SharedKey]:
        """Keys that several locks of one event and user have. Nothing is read where an index rules
        them out."""
        if is_guarded(self._locks, schema.ONE_LOCK_PER_KEY):
            return
        holds = {"$cond": [{"$in": ["$status", sorted(HOLDING)]}, 1, 0]}
        pipeline: list[Document] = [
            {"$match": {"eventId": {**scope, "$type": "objectId"}, "idempotencyKey": {"$gt": ""}}},
            {
                "$group": {
                    "_id": {"event": "$eventId", "user": "$userId", "key": "$idempotencyKey"},
                    "locks": {"$push": "$_id"},
                    "holding": {"$sum": holds},
                }
            },
            {"$match": {"locks.1": {"$exists": True}}},
        ]
        for group in aggregate(self._locks, pipeline, self._session):
            of, locks = group["_id"], sorted(map(LockId, group["locks"]), key=str)
            yield SharedKey(EventId(of["event"]), str(of["key"]), locks, int(group["holding"]))

    def malformed_events(self) -> Iterator[Unreadable]:
        """Events that no lock can name."""
        for event in self._events.find({"_id": NO_OBJECT_ID}, {"_id": 1}, session=self._session):
            read = codec.event(event)
            assert isinstance(read, Unreadable)
            yield read

    def collations(self) -> list[tuple[str, Document]]:
        """The collections of events, locks or bookings that do not compare texts exactly, and how they do."""
        return list(schema.collations(self._database, self._names))

    def deleting_indexes(self) -> list[DeletingIndex]:
        """TTL indexes on events, locks or bookings that do delete."""
        return list(schema.deleting_indexes(self._database, self._names))
