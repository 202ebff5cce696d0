"""The collection `seatLocks`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from pymongo.errors import DuplicateKeyError

from seatctl.domain.documents import CLOSING, Booking, EventId, LockId, RunId, SeatLock, Unreadable, UserId
from seatctl.domain.settings import NOT_ADOPTED, Settings
from seatctl.domain.states import BLOCK, ENDED_LOCK, HOLDING, LockStatus
from seatctl.domain.words import shorten
from seatctl.errors import KeyReused, StaleRead
from seatctl.mongo import codec, schema
from seatctl.mongo.collection import NO_OBJECT_ID, id_is, none_of
from seatctl.mongo.document import Document
from seatctl.mongo.expiring import ExpiringDocuments
from seatctl.mongo.ids import new_key

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection

    from seatctl.mongo.client import Deployment

CANDIDATE_FIELDS = ("eventId", "seats", "status", "expiresAt")


class OverdueLock(NamedTuple):
    """An ACTIVE lock past its deadline: what a sweep needs of it."""

    id: LockId
    event: EventId
    seats: int
    expires_at: datetime


def may_hold(locks: Collection[Document]) -> Document:
    """A condition: the lock holds its seats, or is in a state that nobody knows."""
    return none_of(locks, schema.LOCKS_BY_STATUS, ENDED_LOCK)


class SeatLocks(ExpiringDocuments[LockId, LockStatus, SeatLock, OverdueLock]):
    event_field, deadline_field = "eventId", "expiresAt"
    fields = CANDIDATE_FIELDS
    buyer_fields = ("eventId", "userId", "idempotencyKey")
    open_status, expired_status = LockStatus.ACTIVE, LockStatus.EXPIRED
    keeps_old_status = True
    has_deadline: ClassVar[Document] = {"kind": {"$ne": BLOCK}}

    def __init__(
        self, deployment: Deployment, session: ClientSession | None, settings: Settings = NOT_ADOPTED
    ) -> None:
        self.name = settings.locks
        super().__init__(deployment, session, settings)

    def _read(self, document: Document) -> SeatLock | Unreadable:
        return codec.lock(document)

    def _overdue(self, document: Document) -> OverdueLock | Unreadable:
        lock = codec.lock(document)
        if isinstance(lock, Unreadable):
            return lock
        return OverdueLock(lock.id, lock.event, lock.seats, lock.deadline)

    def _may_count(self) -> Document:
        return may_hold(self._documents)

    def _at_end(self, status: LockStatus, now: datetime) -> Document:
        """A lock that an operator ends before its deadline gets this moment for one: another program's
        `confirm` may look at nothing else, and would sell its seats a second time."""
        return {"$min": {"expiresAt": now}} if status in ENDED_LOCK else {}

    def insert(
        self,
        event_id: EventId,
        user: UserId,
        seats: int,
        expires_at: datetime,
        key: str,
        now: datetime,
        status: LockStatus = LockStatus.ACTIVE,
    ) -> SeatLock:
        """A new lock. Raises StaleRead, KeyReused."""
        return self._insert_keyed(codec.new_lock(event_id, user, seats, expires_at, key, now, status))

    def _insert_keyed(self, document: Document) -> SeatLock:
        """Where an index has the key by now, raises StaleRead if it is of this request, which then finds it,
        and KeyReused if it is of another user or event."""
        try:
            self._insert(document)
        except DuplicateKeyError as error:
            if "idempotencyKey" not in (error.details or {}).get("keyPattern", {}):
                raise
            same = {field: document[field] for field in ("eventId", "userId", "idempotencyKey")}
            # Outside of the transaction, which is over.
            if self._documents.find_one(same, {"_id": 1}, collation=schema.EXACT):
                raise StaleRead from error
            raise KeyReused(
                f"key {shorten(document['idempotencyKey'])!r} belongs to a lock of another user or event, "
                "and another program's index allows each key only once; use another key"
            ) from error
        return self._own(document)

    def insert_block(self, event_id: EventId, seats: int, key: str | None, now: datetime) -> SeatLock:
        """Seats off sale for no buyer; without a key they are those of a closed event. Raises StaleRead,
        KeyReused."""
        ids_only = self._settings.object_id_users
        return self._insert_keyed(codec.new_block(event_id, seats, key, now, object_id_user=ids_only))

    @property
    def block_user(self) -> UserId:
        """Whose locks blocks are."""
        return UserId(codec.NO_USER if self._settings.object_id_users else codec.BLOCK_USER)

    def of_closing(self, event_id: EventId) -> list[SeatLock]:
        """The ACTIVE blocks that hold what is not for sale on a closed event: one, unless another program
        made more."""
        key = {"$gte": CLOSING, "$lt": f"{CLOSING[:-1]}.", "$type": "string"}
        # Of whatever user: it is another one once the database was adopted.
        where = {"eventId": event_id, "idempotencyKey": key, "status": LockStatus.ACTIVE, "kind": BLOCK}
        found = map(codec.lock, self._find(where))
        return [lock for lock in found if isinstance(lock, SeatLock)]

    def set_seats(self, lock: SeatLock, seats: int, now: datetime) -> SeatLock | None:
        """Change how many seats a lock holds, if it is still as it was read; None otherwise."""
        unchanged = {**id_is(lock.id), "status": lock.status, "seats": lock.seats}
        return self._changed(unchanged, {"$set": {"seats": seats, "updatedAt": now}})

    def insert_for(
        self, booking: Booking, seats: int, status: LockStatus, now: datetime, *, under_its_id: bool
    ) -> SeatLock:
        """A lock for a booking that has none of its own; under the id that the booking names if there is no
        such lock. Raises StaleRead where there is one by now."""
        deadline = booking.payment_expires_at or now
        document = codec.new_lock(booking.event, booking.user, seats, deadline, new_key(), now)
        document["status"] = status.value
        if under_its_id:
            document["_id"] = booking.lock
        self._insert_new(document)
        return self._own(document)

    def by_id(self, lock_ids: Iterable[LockId]) -> dict[LockId, SeatLock | Unreadable]:
        """Those of these locks that exist, without their users and keys."""
        found = self._find({"_id": {"$in": list(lock_ids)}}, CANDIDATE_FIELDS)
        return {LockId(lock["_id"]): codec.lock(lock) for lock in found}

    def seats_of(self, lock_id: object) -> object:
        """What stands in this lock's `seats`; None where there is no such lock."""
        found = self._one(id_is(lock_id), ("seats",))
        return None if found is None else found.get("seats")

    def seats_of_all(self, references: Sequence[object]) -> list[object]:
        """For each of these references to a lock, the `seats` of the first one that it names; None where
        there is no such lock."""
        named = [next(iter(codec.ids_in(reference)), None) for reference in references]
        wanted = [each for each in named if each is not None]
        found = {lock["_id"]: lock.get("seats") for lock in self._find({"_id": {"$in": wanted}}, ("seats",))}
        return [found.get(each) for each in named]

    def by_key(self, event_id: EventId, user: UserId, key: str) -> SeatLock | Unreadable | None:
        """The lock that this request got before."""
        # The $type repeats the guard's partial filter; without it the planner scans the collection.
        same_key = {"$eq": key, "$type": "string"}
        found = self._one({"eventId": {"$eq": event_id}, "userId": {"$eq": user}, "idempotencyKey": same_key})
        return None if found is None else codec.lock(found)

    def expire_booked(
        self, lock_ids: Sequence[LockId], now: datetime, ended_by: RunId | None, seats: int
    ) -> int:
        """ACTIVE → EXPIRED by a job, for locks that hold so many seats and whose bookings ended: a booking's
        deadline rules, and its lock's own may be anything."""
        change = self._by_job(LockStatus.ACTIVE, LockStatus.EXPIRED, now, ended_by)
        return self._compare_and_set_many({**self._open_among(lock_ids), "seats": seats}, change)

    def touch(self, lock: SeatLock, now: datetime) -> bool:
        """Write a lock that stays as it is, so that two changes of what belongs to it exclude each other."""
        where = {**id_is(lock.id), "status": lock.status}
        return self._compare_and_set(where, {"$set": {"updatedAt": now}}) is not None

    def move_deadline(self, lock_id: LockId, deadline: datetime, now: datetime) -> bool:
        """Move an ACTIVE lock's deadline to its booking's, unless it has passed by the server's own clock.
        It is this write that makes `confirm` and an expiry of the same lock exclude each other."""
        where = {**id_is(lock_id), "status": LockStatus.ACTIVE, **self._in_time()}
        changes = {"$set": {"expiresAt": deadline, "updatedAt": now}}
        return self._compare_and_set(where, changes) is not None

    def bring_forward(self, lock: SeatLock, now: datetime) -> bool:
        """Let the deadline of a lock be now, if it is still as it was read."""
        where = {**id_is(lock.id), "status": LockStatus.ACTIVE, "expiresAt": lock.expires_at}
        changes = {"$set": {"expiresAt": now, "updatedAt": now}}
        return self._compare_and_set(where, changes) is not None

    def extend_all(
        self, lock_ids: Sequence[LockId], deadline: datetime, now: datetime, *, overdue: bool
    ) -> int:
        """Move the deadline of several, none of which gets an earlier one; returns how many are ACTIVE."""
        where = {**self._open_among(lock_ids), **({} if overdue else self._in_time())}
        change = {"$max": {"expiresAt": deadline}, "$set": {"updatedAt": now}}
        return self._compare_and_set_many(where, change)

    def held_by_status(self, event_ids: Iterable[object]) -> dict[tuple[str, str], int]:
        """By event and status, both as texts, the seats that locks hold."""
        pipeline: list[Document] = [
            {"$match": {"eventId": {"$in": list(event_ids)}, "status": {"$in": sorted(HOLDING)}}},
            {
                "$group": {
                    "_id": {"event": "$eventId", "status": "$status"},
                    "seats": {"$sum": {"$cond": [codec.is_seat_count("$seats"), "$seats", 0]}},
                }
            },
        ]
        return {
            (str(group["_id"]["event"]), str(group["_id"]["status"])): int(group["seats"])
            for group in self._aggregate(pipeline)
        }

    def with_unreadable_event(self) -> Iterator[Unreadable]:
        """Locks that may hold seats of an event whose id is no ObjectId: by text, or none at all."""
        return self.unreadable(NO_OBJECT_ID)

    def seats_by_status(self) -> dict[LockStatus, int]:
        """Over all events, the seats that locks hold."""
        held = {"status": {"$in": sorted(HOLDING)}}
        seats = {"$sum": {"$cond": [codec.is_seat_count("$seats"), "$seats", 0]}}
        groups = self._aggregate([{"$match": held}, {"$group": {"_id": "$status", "seats": seats}}])
        seats_of = {str(group["_id"]): int(group["seats"]) for group in groups}
        return {status: seats_of.get(status, 0) for status in HOLDING}

    def is_empty(self) -> bool:
        return self._one({}, ("_id",)) is None
