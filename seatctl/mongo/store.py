"""Every query and every conditional update, named by why it exists.

Each write here is one statement with its condition in the filter; which of them belong together,
and in which order, is decided in `inventory.py`. A `session` is the transaction to take part in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING, Any, TypeVar

from bson import Decimal128, ObjectId, decode_all, encode
from bson.errors import InvalidId
from pymongo import ReturnDocument
from pymongo.errors import CursorNotFound, DuplicateKeyError, OperationFailure

from seatctl.domain.model import (
    HOLDING,
    LARGEST_NUMBER,
    LIVE,
    RETENTION,
    BookingStatus,
    Document,
    Id,
    LockStatus,
    is_key,
    seats_of,
    whole_number,
)
from seatctl.domain.timespec import shorten
from seatctl.errors import Usage
from seatctl.mongo import schema
from seatctl.mongo.client import DOCUMENT_VALIDATION_FAILED, explain

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession
    from pymongo.collection import Collection

    from seatctl.mongo.client import Deployment

    Session = ClientSession | None

T = TypeVar("T")
CURSOR_BATCH = 5_000
NO_SUCH_SNAPSHOT = (239, 246)
"""SnapshotTooOld; SnapshotUnavailable: somebody has just created an index or a collection."""
BAD_VALUE, INVALID_OPERATOR = 2, 168
KINDS = {
    "an event": schema.EVENTS,
    "a lock": schema.LOCKS,
    "a booking": schema.BOOKINGS,
    "a job run": schema.JOB_LOGS,
}


class ReadLost(Exception):
    """The server dropped a cursor or a point in time that was being read; read again from the start."""


class KeyTaken(Exception):
    """Another lock with this idempotency key appeared meanwhile."""


class BookingTaken(Exception):
    """Another booking for this lock appeared meanwhile."""


def object_id(value: Id) -> Id:
    """An id as typed by a person, or an id that is one already. Raises Usage for anything else."""
    if isinstance(value, ObjectId):
        return value
    try:
        return ObjectId(str(value).strip())
    except (InvalidId, TypeError):
        raise Usage(f"{shorten(str(value))!r} is not an id; an id has 24 hexadecimal digits") from None


def user_id(value: Id) -> Id:
    """A user as the contract stores it: an ObjectId when it has 24 hex digits, else a string."""
    return ObjectId(value) if isinstance(value, str) and ObjectId.is_valid(value) else value


def is_object_id(value: object) -> bool:
    return isinstance(value, ObjectId)


def lock_in(key: bytes) -> bytes:
    """The lock's part of a key of `Store.lock_keys` or `Store.booking_keys`."""
    return key[12:]


def lock_of_key(key: bytes) -> Id:
    """The lock's id in such a key."""
    return ObjectId(lock_in(key))


def ids_in(value: Any) -> list[Id]:
    """The ids that a reference holds: one, or several where a foreign hand stored a list."""
    return [item for item in (value if isinstance(value, list) else [value]) if is_object_id(item)]


def new_id() -> Id:
    return ObjectId()


class Store:
    """The four collections of one database."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self.transactions = deployment.transactions
        self.database = deployment.database
        self._events = self.database[schema.EVENTS]
        self._locks = self.database[schema.LOCKS]
        self._bookings = self.database[schema.BOOKINGS]
        self._job_logs = self.database[schema.JOB_LOGS]

    def now(self) -> datetime:
        """The database server's clock in UTC (invariant 10)."""
        return self.deployment.now()

    def transact(self, work: Callable[[Session], T], event: Id = None) -> T:
        """All that `work` writes, or nothing of it; see `Deployment.transact`. `event` is the one
        whose counter it writes first, if it is one."""
        return self.deployment.transact(work, turn=event)

    # --- events and their counters -------------------------------------------------------------

    def insert_event(self, event: Document) -> None:
        self._insert(self._events, event, None)

    def event(self, event_id: Id, session: Session = None) -> Document | None:
        return self._events.find_one(_is(event_id), session=session)

    def events_by_id(self, event_ids: Iterable[Id], session: Session = None) -> dict[Id, Document]:
        found = self._events.find({"_id": {"$in": list(event_ids)}}, session=session)
        return {event["_id"]: event for event in found}

    def take_seats(self, event_id: Id, seats: int, session: Session) -> Document | None:
        """Counter down, if that many seats are there; returns what the counter is then, and as
        `updatedAt` the server's time of this write, or None.

        No other stamp would do without transactions, where it tells recovery that a lock is about to
        appear: one asked for before the write can be old by then.
        """
        with _refusals():
            return self._events.find_one_and_update(
                _with_seats(event_id, seats),
                {"$inc": {"availableSeats": -seats}, **self.deployment.stamp("updatedAt")},
                {"availableSeats": 1, "updatedAt": 1},
                return_document=ReturnDocument.AFTER,
                session=session,
            )

    def retake_seats(self, event_id: Id, seats: int, now: datetime, session: Session) -> Document | None:
        """The same for a job that has its time; returns the event as it was before, or None."""
        with _refusals():
            return self._events.find_one_and_update(
                _with_seats(event_id, seats), _more(-seats, now), session=session
            )

    def add_seats(self, events_by_seats: Mapping[int, Sequence[Id]], now: datetime, session: Session) -> int:
        """Counters up, one statement for all events that get the same number of seats back.

        Returns how many events took them. One that is not there, whose counter is not a number,
        or that would have more seats available than it has, takes none (invariant 2: no clamp).
        """
        changed = 0
        for seats, event_ids in events_by_seats.items():
            fitting = {"_id": {"$in": list(event_ids)}, **_takes(seats)}
            with _refusals():
                update = self._events.update_many(fitting, _more(seats, now), session=session)
            changed += update.matched_count
        return changed

    def add_seats_to(self, event_id: Id, seats: int, now: datetime) -> Document | None:
        """Counter up for one event under the condition of `add_seats`; returns the event as it was
        before, or None."""
        with _refusals():
            return self._events.find_one_and_update({**_is(event_id), **_takes(seats)}, _more(seats, now))

    def swap_counter(self, seen: Document, available: int, now: datetime, session: Session = None) -> bool:
        """Set an event's counter, if the event is still as it was `seen`."""
        unchanged = _still(
            {field: seen.get(field) for field in ("_id", "availableSeats", "totalSeats", "updatedAt")}
        )
        return self._change(self._events, unchanged, {"availableSeats": available, "updatedAt": now}, session)

    def claim_event(self, event_id: Id, now: datetime, session: Session) -> Document | None:
        """Write to an event without changing its counter, so that within this transaction nobody
        else can; returns it, or None."""
        return self._events.find_one_and_update(
            _is(event_id),
            {"$set": {"updatedAt": now}},
            return_document=ReturnDocument.AFTER,
            session=session,
        )

    # --- locks ---------------------------------------------------------------------------------

    def ensure_one_lock_per_key(self) -> None:
        schema.ensure_guard(self.database, schema.ONE_LOCK_PER_KEY)

    def insert_lock(self, lock: Document, session: Session) -> None:
        """Raises KeyTaken when the database already has a lock with this key."""
        try:
            self._insert(self._locks, lock, session)
        except DuplicateKeyError as error:
            if "idempotencyKey" not in lock:
                raise
            raise KeyTaken from error

    def lock(self, lock_id: Id, session: Session = None) -> Document | None:
        return self._locks.find_one(_is(lock_id), session=session)

    def locks_by_id(self, lock_ids: Iterable[Id], session: Session = None) -> dict[Id, Document]:
        found = self._locks.find({"_id": {"$in": list(lock_ids)}}, session=session)
        return {lock["_id"]: lock for lock in found}

    def lock_by_key(self, event_id: Id, user: Id, key: str) -> Document | None:
        # The $type repeats the guard's partial filter; without it the planner scans the collection.
        same_key = {"$eq": key, "$type": "string"}
        return self._locks.find_one({"eventId": event_id, "userId": user, "idempotencyKey": same_key})

    def overdue_locks(self, now: datetime, event_id: Id | None = None) -> Iterator[Document]:
        """ACTIVE locks whose deadline has passed or is not a date at all, ordered by event."""
        return self._overdue(self._locks, LockStatus.ACTIVE, "eventId", "expiresAt", now, event_id)

    def expire_locks(
        self,
        lock_ids: Sequence[Id],
        now: datetime,
        *,
        overdue_at: datetime | None,
        by_job: bool,
        session: Session,
    ) -> int:
        """ACTIVE → EXPIRED, for those that are still ACTIVE (and still overdue at `overdue_at`)."""
        unchanged: Document = {"_id": {"$in": list(lock_ids)}, "status": LockStatus.ACTIVE}
        if overdue_at is not None:
            unchanged["expiresAt"] = {"$lt": overdue_at}
        changes = _to(LockStatus.EXPIRED, now, LockStatus.ACTIVE if by_job else None)
        with _refusals():
            return self._locks.update_many(unchanged, {"$set": changes}, session=session).modified_count

    def move_lock(
        self,
        lock_id: Id,
        old: LockStatus,
        new: LockStatus,
        now: datetime,
        *,
        by_job: bool = False,
        where: Mapping[str, Any] | None = None,
        session: Session = None,
    ) -> bool:
        """Compare-and-set of one lock's status, and of the fields in `where`. False: somebody was faster."""
        unchanged = {**_is(lock_id), "status": old, **_still(where or {})}
        return self._change(self._locks, unchanged, _to(new, now, old if by_job else None), session)

    def extend_lock(self, lock_id: Id, deadline: datetime, now: datetime, session: Session) -> bool:
        """Move an ACTIVE lock's deadline to its booking's, unless it has passed. It is this write
        that makes `confirm` and an expiry of the same lock exclude each other."""
        open_still = {"_id": lock_id, "status": LockStatus.ACTIVE, "expiresAt": {"$gt": now}}
        return self._change(self._locks, open_still, {"expiresAt": deadline, "updatedAt": now}, session)

    def held_seats(self, event_ids: Iterable[Id], session: Session = None) -> dict[tuple[Id, str], int]:
        """Seats by event and lock status, for locks that hold seats. `seats` that is not a number
        counts as none."""
        pipeline: list[Document] = [
            {"$match": {"eventId": {"$in": list(event_ids)}, "status": {"$in": list(HOLDING)}}},
            {"$group": {"_id": {"event": "$eventId", "status": "$status"}, "seats": {"$sum": "$seats"}}},
        ]
        groups = self._locks.aggregate(pipeline, session=session)
        return {
            (group["_id"]["event"], group["_id"]["status"]): whole_number(group["seats"]) or 0
            for group in groups
            if is_key(group["_id"].get("event")) and isinstance(group["_id"]["status"], str)
        }

    def lock_changed_since(self, event_id: Id, since: datetime, but: datetime) -> bool:
        """Whether a lock of this event was changed after `since`, changes stamped `but` apart."""
        recently = {"eventId": event_id, "updatedAt": {"$gt": since, "$ne": but}}
        return self._locks.find_one(recently, {"_id": 1}) is not None

    # --- bookings ------------------------------------------------------------------------------

    def ensure_one_booking_per_lock(self) -> None:
        schema.ensure_guard(self.database, schema.ONE_BOOKING_PER_LOCK)

    def has_one_booking_per_lock(self) -> bool:
        """Whether the database rules out that a lock has two bookings."""
        return schema.is_guarded(self.database, schema.ONE_BOOKING_PER_LOCK)

    def insert_booking(self, booking: Document, session: Session) -> None:
        """Raises BookingTaken when the lock already has a booking."""
        try:
            self._insert(self._bookings, booking, session)
        except DuplicateKeyError as error:
            raise BookingTaken from error

    def booking(self, booking_id: Id, session: Session = None) -> Document | None:
        return self._bookings.find_one(_is(booking_id), session=session)

    def booking_of_lock(self, lock_id: Id, session: Session = None) -> Document | None:
        """The lock's booking; of several (a foreign fault), a live one."""
        bookings = list(self._bookings.find(_of_locks([lock_id]), session=session))
        return min(bookings, key=lambda booking: booking.get("status") not in LIVE, default=None)

    def bookings_of_locks(self, lock_ids: Sequence[Id], session: Session = None) -> list[Document]:
        """Bookings that name one of these locks, be it in a list (a foreign fault)."""
        return list(self._bookings.find(_of_locks(lock_ids), session=session))

    def booked_twice(self, session: Session = None) -> Iterator[Id]:
        """Locks that several bookings name, of whatever events."""
        if self.has_one_booking_per_lock():
            return
        each: list[Document] = [
            {"$unwind": "$seatLockId"},
            {"$match": {"seatLockId": {"$type": "objectId"}}},
            {"$group": {"_id": "$seatLockId", "times": {"$sum": 1}}},
            {"$match": {"times": {"$gt": 1}}},
        ]
        for lock in self._bookings.aggregate(each, session=session, allowDiskUse=True):
            yield lock["_id"]

    def live_bookings_of(self, lock_ids: Sequence[Id], session: Session = None) -> list[Document]:
        """Bookings that keep these locks from expiring (invariant 4)."""
        return list(
            self._bookings.find(
                {**_of_locks(lock_ids), "status": {"$in": list(LIVE)}},
                {"seatLockId": 1, "status": 1},
                session=session,
            )
        )

    def overdue_bookings(self, now: datetime, event_id: Id | None = None) -> Iterator[Document]:
        """PAYMENT_PENDING bookings past their deadline, or with none that is a date, by event."""
        return self._overdue(
            self._bookings, BookingStatus.PAYMENT_PENDING, "event", "paymentExpiresAt", now, event_id
        )

    def bookings_by_id(self, booking_ids: Iterable[Id]) -> dict[Id, Document]:
        found = self._bookings.find({"_id": {"$in": list(booking_ids)}})
        return {booking["_id"]: booking for booking in found}

    def close_bookings(
        self,
        booking_ids: Sequence[Id],
        status: BookingStatus,
        now: datetime,
        *,
        overdue_at: datetime | None,
        session: Session,
    ) -> int:
        """PAYMENT_PENDING → `status`, for those still waiting (and still overdue at `overdue_at`)."""
        unchanged: Document = {"_id": {"$in": list(booking_ids)}, "status": BookingStatus.PAYMENT_PENDING}
        if overdue_at is not None:
            unchanged["paymentExpiresAt"] = {"$lt": overdue_at}
        with _refusals():
            closed = self._bookings.update_many(unchanged, {"$set": _to(status, now)}, session=session)
        return closed.modified_count

    def confirm_booking(self, booking_id: Id, now: datetime, session: Session) -> bool:
        """PAYMENT_PENDING → CONFIRMED before the deadline. False: too late, or somebody was faster."""
        in_time = {
            "_id": booking_id,
            "status": BookingStatus.PAYMENT_PENDING,
            "paymentExpiresAt": {"$gt": now},
        }
        return self._change(self._bookings, in_time, _to(BookingStatus.CONFIRMED, now), session)

    def move_booking(
        self, booking_id: Id, old: BookingStatus, new: BookingStatus, now: datetime, session: Session = None
    ) -> bool:
        """Compare-and-set of one booking's status. False: somebody was faster."""
        return self._change(self._bookings, {**_is(booking_id), "status": old}, _to(new, now), session)

    # --- job runs ------------------------------------------------------------------------------

    def insert_run(self, entry: Document) -> None:
        self._insert(self._job_logs, entry, None)

    def last_run(self, job_type: str, **where: Any) -> Document | None:
        return self._job_logs.find_one({"jobType": job_type, **where}, sort=[("executedAt", -1)])

    def count_runs(self, job_type: str, since: datetime) -> dict[str, int]:
        """Runs by status since a point in time."""
        pipeline: list[Document] = [
            {"$match": {"jobType": job_type, "executedAt": {"$gte": since}}},
            {"$group": {"_id": "$status", "runs": {"$sum": 1}}},
        ]
        return {str(group["_id"]): group["runs"] for group in self._job_logs.aggregate(pipeline)}

    # --- what is wrong ---------------------------------------------------------------------------

    @contextmanager
    def snapshot(self) -> Iterator[Session]:
        """Reads within see one point in time, where the deployment can do that."""
        if not self.transactions:
            yield None
            return
        try:
            with self.deployment.client.start_session(snapshot=True) as session:
                yield session
        except OperationFailure as error:
            if error.code not in NO_SUCH_SNAPSHOT:
                raise
            raise ReadLost from error

    def held_by_event(self, session: Session = None, event_id: Id | None = None) -> dict[Id, tuple[int, int]]:
        """For each event, of the locks that hold seats: their seats in all, and how many locks have
        a `seats` that is no seat count, or a list for a state. Of one event only, if given."""
        where: Document = {"status": {"$in": list(HOLDING)}}
        sound = _IS_SEAT_COUNT
        if event_id is not None:
            where["eventId"] = event_id
        # A tenth of the time for a million locks, where the index does not rule it out at once.
        if event_id is not None or self.may_hold_lists(schema.LOCKS_OF_EVENT, "status"):
            sound = {"$and": [sound, {"$not": {"$isArray": "$status"}}]}
        pipeline: list[Document] = [
            {"$match": where},
            {
                "$group": {
                    "_id": "$eventId",
                    "seats": {"$sum": "$seats"},
                    "damaged": {"$sum": {"$cond": [sound, 0, 1]}},
                }
            },
        ]
        groups = self._locks.aggregate(pipeline, session=session, allowDiskUse=True)
        held = {}
        for group in groups:
            seats = whole_number(group["seats"])  # none where a lock has a decimal
            # An event's id that is a list or a document cannot be any event's: an orphan's.
            if is_key(group["_id"]):
                held[group["_id"]] = (seats or 0, group["damaged"] + (seats is None))
        return held

    def has_paid_without_lock(self, event_id: Id, session: Session = None) -> bool:
        """Whether a CONFIRMED booking of this event names no lock that exists."""
        paid = {"event": event_id, "status": BookingStatus.CONFIRMED}
        found = self._bookings.find(paid, {"seatLockId": 1}, batch_size=CURSOR_BATCH, session=session)
        named = (booking.get("seatLockId") for booking in found)
        while chunk := list(islice(named, CURSOR_BATCH)):
            if not all(map(is_object_id, chunk)):
                return True
            wanted = set(chunk)
            known = self._locks.find({"_id": {"$in": list(wanted)}}, {"_id": 1}, session=session)
            if len(list(known)) < len(wanted):
                return True
        return False

    def all_counters(self, session: Session = None) -> Iterator[Document]:
        yield from self._events.find({}, {"availableSeats": 1, "totalSeats": 1}, session=session)

    def sold_digests(self) -> dict[Id, int] | None:
        """By event, what stands for the set of its CONSUMED locks; see `_digests`."""
        return self._digests(self._locks, "eventId", "_id", LockStatus.CONSUMED)

    def paid_digests(self) -> dict[Id, int] | None:
        """By event, what stands for the set of locks that CONFIRMED bookings name; see `_digests`."""
        return self._digests(self._bookings, "event", "seatLockId", BookingStatus.CONFIRMED)

    def _digests(
        self, collection: Collection[Document], event: str, lock: str, status: str
    ) -> dict[Id, int] | None:
        """By event, a number that stands for the set of locks: the sum of the ids' hashes. Sets that
        differ have the same one by chance alone, one in 2^42.

        The server adds up on an index and answers with one number for each event, so that sold seats,
        which are most of a past, are compared without being read. None where it cannot: it knows no
        such hash, or an event's id is a list.
        """
        where = {event: _ANY_ID, "status": status, lock: _ANY_ID}
        digest = {"$sum": {"$mod": [{_HASH: f"${lock}"}, _DIGEST_RANGE]}}
        pipeline: list[Document] = [
            {"$match": where},
            {"$sort": {event: 1}},  # or the planner would take the index on `_id` for this
            {"$group": {"_id": f"${event}", "digest": digest}},
        ]
        digests = {}
        try:
            with self.snapshot() as session:
                for group in collection.aggregate(pipeline, session=session, allowDiskUse=True):
                    if not is_object_id(group["_id"]):
                        return None
                    digests[group["_id"]] = group["digest"]
        except OperationFailure as error:
            if error.code != INVALID_OPERATOR:
                raise
            return None
        return digests

    def lock_keys(self, status: LockStatus, events: Iterable[Id] | None = None) -> Iterator[list[bytes]]:
        """Event and id of the locks in one state, of some events or of all; see `_keys`."""
        return self._keys(self._locks, "eventId", "_id", status, events)

    def booking_keys(
        self, status: BookingStatus, events: Iterable[Id] | None = None
    ) -> Iterator[list[bytes]]:
        """Event and lock of the bookings in one state, of some events or of all; see `_keys`."""
        return self._keys(self._bookings, "event", "seatLockId", status, events)

    def _keys(
        self,
        collection: Collection[Document],
        event: str,
        lock: str,
        status: str,
        events: Iterable[Id] | None,
    ) -> Iterator[list[bytes]]:
        """An event's id and a lock's id as one key of 24 bytes, in ascending order, in portions.

        An index holds just these, so no document is fetched; and they are cut out of the server's
        answer as it came, in a tenth of the time that decoding it takes.
        """
        if events is not None:
            ascending = iter(sorted(events))
            while some := list(islice(ascending, CURSOR_BATCH)):
                yield from self._keys_where(collection, event, lock, status, {"$in": some})
        else:
            yield from self._keys_where(collection, event, lock, status, _ANY_ID)

    def _keys_where(
        self, collection: Collection[Document], event: str, lock: str, status: str, of_event: Document
    ) -> Iterator[list[bytes]]:
        where = {event: of_event, "status": status, lock: _ANY_ID}
        fields = {"_id": False, event: True, lock: True}

        def read(where: Document, **order: Any) -> Iterator[list[bytes]]:
            with self.snapshot() as session:
                portions: Iterable[Any] = collection.find_raw_batches(
                    where, fields, batch_size=CURSOR_BATCH, session=session, **order
                )
                for portion in portions:
                    yield _cut(portion, event, lock)

        in_order = [(event, 1), (lock, 1)]
        try:
            yield from read(where, sort=in_order)
        except OperationFailure as error:
            # A document with two lists cannot be sorted by both; nor could it be on the index, so this
            # is the first answer.
            if error.code != BAD_VALUE:
                raise
            lists = {"$type": "array"}
            yield from read({**where, event: {**of_event, "$not": lists}}, sort=in_order)
            yield from read({**where, event: {**of_event, **lists}})

    def locks_of_odd_events(self, session: Session = None) -> Iterator[Id]:
        """Locks, and locks that bookings name, of an event whose id is no ObjectId: they have no key."""
        holding = {"eventId": _NO_ID, "status": {"$in": list(HOLDING)}}
        locks = self._locks.find(holding, {"_id": 1}, session=session)
        yield from (lock["_id"] for lock in locks if is_object_id(lock["_id"]))
        for booking in self._bookings.find({"event": _NO_ID}, {"seatLockId": 1}, session=session):
            yield from ids_in(booking.get("seatLockId"))[:1]

    def orphan_locks(self, session: Session = None) -> Iterator[Document]:
        """Locks that hold seats of an event that does not exist."""
        yield from self._orphans(self._locks, "eventId", HOLDING, session)

    def orphan_bookings(self, session: Session = None) -> Iterator[Document]:
        """Live bookings of an event that does not exist."""
        yield from self._orphans(self._bookings, "event", LIVE, session)

    def _orphans(
        self, collection: Collection[Document], field: str, statuses: Sequence[str], session: Session
    ) -> Iterator[Document]:
        # In the index's order, so that the planner goes from event to event on it (DISTINCT_SCAN).
        each: list[Document] = [{"$sort": {field: 1}}, {"$group": {"_id": f"${field}"}}]
        used = [group["_id"] for group in collection.aggregate(each, session=session, allowDiskUse=True)]
        ids = (event["_id"] for event in self._events.find({}, {"_id": 1}, session=session))
        known = {event_id for event_id in ids if is_key(event_id)}
        unknown = [event_id for event_id in used if not is_key(event_id) or event_id not in known]
        where = {"status": {"$in": list(statuses)}}
        plain = [event_id for event_id in unknown if is_key(event_id)]
        if plain:
            yield from collection.find({**where, field: {"$in": plain}}, session=session)
        for odd in unknown:
            if not is_key(odd):  # `$in` takes no document that looks like an operator
                yield from collection.find({**where, field: {"$eq": odd}}, session=session)

    def damaged_locks(self, session: Session = None) -> Iterator[Document]:
        """Locks in no known state, without an id of their own, or ACTIVE for ever."""
        unknown = {"eventId": _ON_INDEX, "status": {"$nin": list(LockStatus)}}
        yield from self._locks.find(unknown, session=session)
        yield from self._listed(schema.LOCKS_OF_EVENT, "status", session)
        yield from self._locks.find({"_id": _NO_ID, "status": {"$in": list(HOLDING)}}, session=session)
        active = LockStatus.ACTIVE
        yield from self._listed(schema.OPEN_LOCKS, "expiresAt", session, status=active)
        for lock in self._overdue(self._locks, active, "eventId", "expiresAt", _FIRST_DATE, None, session):
            if is_object_id(lock["_id"]) and seats_of(lock) is not None:
                yield {**lock, "status": active}

    def unreadable_locks(self, event_ids: Sequence[Id], session: Session = None) -> Iterator[Document]:
        """Locks of these events that hold something which is no number of seats, or that have a list
        for a state."""
        holding = {"eventId": {"$in": list(event_ids)}, "status": {"$in": list(HOLDING)}}
        for lock in self._locks.find(holding, session=session):
            unreadable = isinstance(lock.get("status"), list) or seats_of(lock) is None
            if unreadable and is_object_id(lock["_id"]):
                yield lock

    def damaged_bookings(self, session: Session = None) -> Iterator[Document]:
        """Bookings in no known state, live ones without an id or a lock's id, or waiting for ever."""
        unknown = {"event": _ON_INDEX, "status": {"$nin": list(BookingStatus)}}
        yield from self._bookings.find(unknown, session=session)
        yield from self._listed(schema.BOOKINGS_OF_EVENT, "status", session)
        live = {"status": {"$in": list(LIVE)}}
        yield from self._bookings.find({"event": _ON_INDEX, **live, "seatLockId": _NO_ID}, session=session)
        for booking in self._bookings.find({"_id": _NO_ID, **live}, session=session):
            if ids_in(booking.get("seatLockId")):
                yield booking
        pending = BookingStatus.PAYMENT_PENDING
        waiting = self._overdue(
            self._bookings, pending, "event", "paymentExpiresAt", _FIRST_DATE, None, session
        )
        for booking in waiting:
            if is_object_id(booking["_id"]) and is_object_id(booking.get("seatLockId")):
                yield {**booking, "status": pending}
        yield from self._listed(schema.OPEN_BOOKINGS, "paymentExpiresAt", session, status=pending)

    def _listed(self, index: schema.Index, field: str, session: Session, **where: Any) -> Iterator[Document]:
        """Documents with a list for a status or a deadline, which to a query counts as each item in it.
        To find them all documents must be read; so it is asked first whether the index ever saw one."""
        if self.may_hold_lists(index, field, **where):
            listed = {**where, field: {"$type": "array"}}
            yield from self.database[index.collection].find(listed, session=session)

    def may_hold_lists(self, index: schema.Index, field: str, **where: Any) -> bool:
        """Whether this field of an index ever was a list, or there is no such index to tell. `where` is
        what a partial index is restricted to."""
        every = {**where, **{name: _ON_INDEX for name, _ in index.keys}}
        query = {"find": index.collection, "filter": every, "hint": index.name}
        try:
            plan = self.database.command("explain", query, verbosity="queryPlanner")
        except OperationFailure as error:
            if error.code != BAD_VALUE:
                raise
            return True
        seen = [paths.get(field) for paths in _multikey_paths(plan["queryPlanner"]["winningPlan"])]
        return seen == [] or any(paths != [] for paths in seen)

    def deleting_indexes(self) -> Iterator[tuple[str, str]]:
        """TTL indexes on events, locks or bookings, as collection and name."""
        return schema.deleting(self.database)

    def seat_totals(self) -> dict[str, int]:
        """Over all events: how many there are, and their `total`, `available`, `locked` and `sold`
        seats. A value that is no number counts as none."""
        counters: list[Document] = [
            {
                "$group": {
                    "_id": None,
                    "events": {"$sum": 1},
                    "total": {"$sum": _number("$totalSeats")},
                    "available": {"$sum": _number("$availableSeats")},
                }
            }
        ]
        totals = {"events": 0, "total": 0, "available": 0, "locked": 0, "sold": 0}
        for group in self._events.aggregate(counters):
            totals |= {name: _integer(group[name]) for name in ("events", "total", "available")}
        for group in self._locks.aggregate(_held_by({"status": "$status"})):
            if name := _HOLDS_AS.get(str(group["_id"]["status"])):
                totals[name] = _integer(group["seats"])
        return totals

    def seats_by_event(self) -> Iterator[Document]:
        """Each event's counter, and the seats `locked` and `sold` of it."""
        held: dict[str, dict[str, int]] = {}
        pipeline = _held_by({"event": "$eventId", "status": "$status"})
        for group in self._locks.aggregate(pipeline, allowDiskUse=True):
            if name := _HOLDS_AS.get(str(group["_id"]["status"])):
                held.setdefault(str(group["_id"].get("event")), {})[name] = _integer(group["seats"])
        for event in self.all_counters():
            yield {**event, "locked": 0, "sold": 0, **held.get(str(event["_id"]), {})}

    # --- lists ---------------------------------------------------------------------------------

    def newest(
        self, collection: str, where: Mapping[str, Any], limit: int, by: str = "_id"
    ) -> list[Document]:
        """The newest documents that match. ObjectIds carry their second of creation, and every
        document has one, which cannot be said of `createdAt`; within a second that one decides."""
        return list(self.from_newest(collection, where, limit, by))

    def from_newest(
        self, collection: str, where: Mapping[str, Any], limit: int, by: str = "_id"
    ) -> Iterator[Document]:
        """The same, as they are read. Of one event's locks those in no known state come first."""
        if "eventId" in where and "status" not in where:
            # State by state the index has them in this order, and no more are read than asked for.
            states = list(LockStatus)
            odd = self.from_newest(collection, {**where, "status": {"$nin": states}}, limit)
            known = self.from_newest(collection, {**where, "status": {"$in": states}}, limit)
            yield from islice(chain(odd, known), limit or None)
            return
        found = self.database[collection].find(where, batch_size=CURSOR_BATCH).sort([(by, -1)]).limit(limit)
        if by != "_id":
            yield from found
            return
        for _, one_second in groupby(found, key=lambda document: _age(document)[0]):
            yield from sorted(one_second, key=_age, reverse=True)

    def fullest(self, limit: int) -> Iterator[Document]:
        """Events by the share of their seats that is available, smallest first."""
        total = {"$max": [{"$cond": [{"$isNumber": "$totalSeats"}, "$totalSeats", 1]}, 1]}
        available = {"$cond": [{"$isNumber": "$availableSeats"}, "$availableSeats", 0]}
        pipeline: list[Document] = [
            {"$addFields": {"free": {"$divide": [available, total]}}},
            {"$sort": {"free": 1, "_id": -1}},
            *([{"$limit": limit}] if limit else []),
            {"$project": {"free": 0}},
        ]
        yield from self._events.aggregate(pipeline, allowDiskUse=True)

    def runs_since(self, job_type: str, since: datetime) -> Iterator[Document]:
        """The runs of a job since then, those of one `status` and `duration` (ms) together: how many
        `runs`, and the `recordsProcessed` and `seatsRestored` of all of them."""
        key = {"status": "$status", "duration": "$details.duration"}
        sums = {name: {"$sum": f"$details.{name}"} for name in ("recordsProcessed", "seatsRestored")}
        pipeline: list[Document] = [
            {"$match": {"jobType": job_type, "executedAt": {"$gte": since}}},
            {"$group": {"_id": key, "runs": {"$sum": 1}, **sums}},
        ]
        for group in self._job_logs.aggregate(pipeline):
            yield {**group.pop("_id"), **group}

    def count_overdue(self, sweep: str, now: datetime) -> int:
        """How many candidates a sweep still has, for its progress bar; `sweep` is a status."""
        overdue = {"$lt": now}
        if sweep == LockStatus.ACTIVE:
            return self._locks.count_documents({"eventId": _ON_INDEX, "status": sweep, "expiresAt": overdue})
        return self._bookings.count_documents(
            {"event": _ON_INDEX, "status": sweep, "paymentExpiresAt": overdue}
        )

    def find_anywhere(self, document_id: Id) -> tuple[str, Document] | None:
        """The one document with this id, and what kind it is: an event, a lock, ..."""
        for kind, collection in KINDS.items():
            document = self.database[collection].find_one({"_id": document_id})
            if document is not None:
                return kind, document
        return None

    def exists(self) -> bool:
        """Whether anybody ever created an event or ran `init` here."""
        return schema.EVENTS in self.database.list_collection_names()

    @property
    def name(self) -> str:
        return self.database.name

    def sizes(self) -> dict[str, int]:
        """About how many events, locks and bookings there are, by collection, without counting them:
        exact unless the server crashed or is sharded."""
        collections = (schema.EVENTS, schema.LOCKS, schema.BOOKINGS)
        return {name: self.database[name].estimated_document_count() for name in collections}

    def missing(self) -> list[str]:
        """What `init` would create."""
        return schema.missing(self.database) + schema.unguarded(self.database)

    def init(self, retention: timedelta | None = None) -> list[str]:
        """Create what is missing; returns what was created or changed."""
        return schema.init(self.database, retention, RETENTION) + schema.guard(self.database)

    def retention(self) -> timedelta | None:
        return schema.retention_of(self.database)

    def drop(self) -> None:
        """Drop the whole database. Only for one that was made to be thrown away."""
        self.deployment.client.drop_database(self.database.name)

    # --- shared --------------------------------------------------------------------------------

    def _insert(self, collection: Collection[Document], document: Document, session: Session) -> None:
        with _refusals():
            collection.insert_one(document, session=session)

    def _change(
        self, collection: Collection[Document], where: Document, changes: Document, session: Session
    ) -> bool:
        """Whether the one document was still as `where` says, and so was changed."""
        with _refusals():
            return collection.update_one(where, {"$set": changes}, session=session).matched_count == 1

    @staticmethod
    def _overdue(
        collection: Collection[Document],
        status: str,
        event_field: str,
        deadline_field: str,
        now: datetime,
        event_id: Id | None,
        session: Session = None,
    ) -> Iterator[Document]:
        where: Document = {
            "status": status,
            # Not `$lt: now`: that passes over a deadline that is no date, and its seats are lost
            # without a word. On the partial index both forms examine the same keys.
            deadline_field: {"$not": {"$gte": now}},
            event_field: _ON_INDEX if event_id is None else event_id,
        }
        fields = {event_field: 1, deadline_field: 1, "seats": 1, "seatLockId": 1, "updatedAt": 1}
        try:
            found = collection.find(where, fields, batch_size=CURSOR_BATCH, session=session)
            yield from found.sort([(event_field, 1)])
        except CursorNotFound as error:
            raise ReadLost from error


def _multikey_paths(plan: Any) -> Iterator[Document]:
    """Of each index in a plan: by field, the parts of its path that are lists."""
    if isinstance(plan, dict):
        if "indexName" in plan:
            yield plan.get("multiKeyPaths", {})
        for part in plan.values():
            yield from _multikey_paths(part)
    elif isinstance(plan, list):
        for part in plan:
            yield from _multikey_paths(part)


def _cut(portion: bytes, event: str, lock: str) -> list[bytes]:
    """The keys in a portion of raw documents that consist of two ids."""
    any_id = b"." * 12
    # The encoder puts an `_id` first; an index does not.
    fields = b"".join(encode({name: ObjectId(any_id)})[4:-1] for name in (event, lock))
    layout = (len(fields) + 5).to_bytes(4, "little") + fields + b"\0"
    size, first, last = len(layout), layout.index(any_id), layout.rindex(any_id)
    fixed = {*range(size)} - {*range(first, first + 12)} - {*range(last, last + 12)}
    count, rest = divmod(len(portion), size)
    if rest == 0 and all(portion[byte::size] == layout[byte : byte + 1] * count for byte in fixed):
        starts = range(0, len(portion), size)
        return [portion[at + first : at + first + 12] + portion[at + last : at + last + 12] for at in starts]
    # Without the index the fields come in another order.
    return [key for document in decode_all(portion) for key in _keys_of(document, event, lock)]


def _keys_of(document: Document, event: str, lock: str) -> list[bytes]:
    """The key of one document, if it has one. With a list for an id (a foreign fault) it has its key
    twice, as if the lock had two bookings: nobody passes over that."""
    references = document.get(event), document.get(lock)
    ids = [ids_in(reference) for reference in references]
    if not all(ids):
        return []
    key = b"".join(min(named).binary for named in ids)
    return [key, key] if any(isinstance(reference, list) for reference in references) else [key]


_ON_INDEX: Document = {"$nin": []}
"""Excludes nothing. Names an index's first field, so that the planner skips through the events on it
(1,081 keys for 981 overdue of 50,004) and has them in its order."""
_FIRST_DATE = datetime.min.replace(tzinfo=UTC)
"""Before it lies no date. A list is compared by its items, and so has to be looked for separately."""
_SMALLEST_ID = ObjectId("0" * 24)
_ANY_ID: Document = {"$gte": _SMALLEST_ID}
_NO_ID = {"$not": _ANY_ID}
"""No ObjectId, or nothing; unlike `$type`, a range on an index."""
_HASH = "$toHashedIndexKey"
_DIGEST_RANGE = 2**42
"""Four million of these fit into MongoDB's integers: an event has at most a million seats."""

_IS_SEAT_COUNT: Document = {
    "$cond": [
        {"$isNumber": "$seats"},
        {
            "$and": [
                {"$gte": ["$seats", 1]},
                {"$lte": ["$seats", LARGEST_NUMBER]},
                {"$eq": [{"$mod": ["$seats", 1]}, 0]},
            ]
        },
        False,
    ]
}
"""An expression: `seats` is a positive whole number, as `model.seats_of` has it."""

_HOLDS_AS = {LockStatus.ACTIVE.value: "locked", LockStatus.CONSUMED.value: "sold"}


def _held_by(key: Document) -> list[Document]:
    """A pipeline over the locks: the seats that they hold, by `key`."""
    return [
        {"$match": {"status": {"$in": list(HOLDING)}}},
        {"$group": {"_id": key, "seats": {"$sum": {"$cond": [_IS_SEAT_COUNT, "$seats", 0]}}}},
    ]


def _is(wanted: Id) -> Document:
    """A condition: the document with this id, or none. An id may come out of another document, where it
    may be anything: `{"$ne": 1}` is nobody's id and must not match everybody's."""
    return {"_id": wanted} if isinstance(wanted, ObjectId) else _still({"_id": wanted})


def _still(fields: Mapping[str, Any]) -> Document:
    """A condition: these fields are as they were read, whatever that was."""
    return {field: {"$eq": value} for field, value in fields.items()}


def _number(field: str) -> Document:
    # NaN sorts below every number.
    inside = {"$and": [{"$gte": [field, -LARGEST_NUMBER]}, {"$lte": [field, LARGEST_NUMBER]}]}
    return {"$cond": [{"$and": [{"$isNumber": field}, inside]}, field, 0]}


def _with_seats(event_id: Id, seats: int) -> Document:
    return {**_is(event_id), "availableSeats": {"$gte": seats}, **_takes(0)}


def _takes(seats: int) -> Document:
    fits = {"$lte": [{"$add": ["$availableSeats", seats]}, "$totalSeats"]}
    numbers = {"$and": [_is_whole("$availableSeats"), _is_whole("$totalSeats")]}
    # The server counts with decimals, Python and the rules do not: a lock must not fail once it is made.
    decimals = [{field: {"$type": "decimal"}} for field in ("availableSeats", "totalSeats")]
    return {"$expr": {"$cond": [numbers, fits, False]}, "$nor": decimals}


def _is_whole(field: str) -> Document:
    inside = {"$lte": [{"$abs": field}, LARGEST_NUMBER]}
    return {"$cond": [{"$isNumber": field}, {"$and": [inside, {"$eq": [{"$mod": [field, 1]}, 0]}]}, False]}


def _integer(number: Any) -> int:
    """A sum by the server; it is a decimal where one document holds one."""
    return int(number.to_decimal() if isinstance(number, Decimal128) else number)


def _more(seats: int, now: datetime) -> Document:
    # Never backwards: a sweep that began long ago must not hide from recovery that a buyer is here.
    return {"$inc": {"availableSeats": seats}, "$max": {"updatedAt": now}}


def _age(document: Document) -> tuple[str, str]:
    """A key that sorts by creation: the second in the id, then `createdAt`."""
    second = str(document["_id"])[:8] if isinstance(document["_id"], ObjectId) else ""
    created = document.get("createdAt")
    return second, created.isoformat() if isinstance(created, datetime) else ""


def _to(status: str, now: datetime, old: str | None = None) -> Document:
    changes: Document = {"status": status, "updatedAt": now}
    if old is not None:
        changes["oldStatus"] = old
    return changes


def _of_locks(lock_ids: Sequence[Id]) -> Document:
    # The $type repeats the guard's partial filter, or the planner could not use its index.
    return {"seatLockId": {"$in": list(lock_ids), "$type": "objectId"}}


@contextmanager
def _refusals() -> Iterator[None]:
    """A validator's refusal as WriteRefused; everything else passes."""
    try:
        yield
    except OperationFailure as error:
        if error.code == DOCUMENT_VALIDATION_FAILED:
            raise explain(error) from error
        raise
