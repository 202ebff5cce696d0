"""The collection `bookings`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from pymongo.errors import DuplicateKeyError

from seatctl.domain.documents import (
    Booking,
    BookingId,
    EventId,
    LockId,
    RunId,
    SeatLock,
    StoredDocument,
    Unreadable,
)
from seatctl.domain.states import ENDED_BOOKING, LIVE, BookingStatus
from seatctl.errors import StaleRead
from seatctl.mongo import codec, schema
from seatctl.mongo.collection import EVERY, NO_OBJECT_ID, Documents, id_is, none_of, status_change
from seatctl.mongo.document import Document

if TYPE_CHECKING:
    from pymongo.collection import Collection

FIELDS = ("event", "user", "seatLockId", "status", "paymentExpiresAt")


def may_protect(bookings: Collection[Document]) -> Document:
    """A condition: the booking is live, or is in a state that nobody knows."""
    return none_of(bookings, schema.BOOKINGS_OF_EVENT, {*ENDED_BOOKING, BookingStatus.INITIATED})


class Bookings(Documents):
    name = schema.BOOKINGS

    def insert(
        self,
        lock: SeatLock,
        payment_expires_at: datetime,
        now: datetime,
        status: BookingStatus = BookingStatus.PAYMENT_PENDING,
        payment_ref: str | None = None,
    ) -> Booking:
        """A new booking. Raises StaleRead where a unique index has one of the lock by now."""
        labels = self._settings.seat_labels
        document = codec.new_booking(lock, payment_expires_at, now, status, payment_ref, labels=labels)
        try:
            self._insert(document)
        except DuplicateKeyError as error:
            raise StaleRead from error
        return _own(document)

    def get(self, booking_id: BookingId) -> Booking | Unreadable | None:
        found = self._one(id_is(booking_id))
        return None if found is None else codec.booking(found)

    def owners(self, booking_ids: Iterable[BookingId]) -> dict[BookingId, StoredDocument]:
        """Whom those of these bookings that exist are for: event, user and lock."""
        found = self._find({"_id": {"$in": list(booking_ids)}}, ("event", "user", "seatLockId"))
        return {BookingId(booking["_id"]): booking for booking in found}

    def of_lock(self, lock_id: LockId) -> list[Booking | Unreadable]:
        """The bookings that name this lock: one, or several where another program made them."""
        return [codec.booking(found) for found in self._find(_of_locks([lock_id]))]

    def naming(self, lock_ids: Sequence[LockId]) -> Iterator[tuple[LockId, Booking | Unreadable]]:
        """The bookings of these locks, in whatever state, each with the lock that it names."""
        for document in self._find(_of_locks(lock_ids), FIELDS):
            for named in codec.ids_in(document["seatLockId"]):
                yield LockId(named), codec.booking(document)

    def protecting(self, lock_ids: Sequence[LockId]) -> Iterator[tuple[LockId, Booking | Unreadable]]:
        """The bookings that keep these locks from expiring (invariant 4), each with the lock that it names:
        live ones, and those that cannot be read (invariant 11)."""
        for lock_id, booking in self.naming(lock_ids):
            if isinstance(booking, Unreadable) or booking.status in LIVE:
                yield lock_id, booking

    def with_malformed_lock_id(self, events: Document) -> Iterator[tuple[Unreadable, list[LockId]]]:
        """Bookings of these events that may be live and name their lock by something that is no ObjectId,
        and the locks that they do name, by text for example."""
        yield from self._odd({"event": events, "seatLockId": NO_OBJECT_ID})

    def with_malformed_event_id(self) -> Iterator[tuple[Unreadable, list[LockId]]]:
        """The same for bookings whose event is no ObjectId."""
        yield from self._odd({"event": NO_OBJECT_ID})

    def _odd(self, where: Document) -> Iterator[tuple[Unreadable, list[LockId]]]:
        for document in self._find({**where, **may_protect(self._documents)}, FIELDS):
            booking = codec.booking(document)
            if isinstance(booking, Unreadable):
                yield booking, [LockId(named) for named in codec.ids_in(document.get("seatLockId"))]

    def events_without_locks(self, events: Document, overdue_before: datetime | None) -> set[EventId]:
        """Those of these events that have a PAYMENT_PENDING booking whose lock does not exist. Overdue ones
        are passed over if their time is given: whoever ends those looks at each lock."""
        where: Document = {"event": events, "status": BookingStatus.PAYMENT_PENDING}
        if overdue_before is not None:
            where["paymentExpiresAt"] = {"$gte": overdue_before}
        found = {
            "from": self._settings.locks,
            "localField": "seatLockId",
            "foreignField": "_id",
            "as": "locks",
        }
        pipeline: list[Document] = [
            {"$match": where},
            {"$project": {"event": 1, "seatLockId": 1}},
            {"$lookup": {**found, "pipeline": [{"$project": {"_id": 1}}]}},
            {"$match": {"locks": []}},
            {"$group": {"_id": "$event"}},
        ]
        return {EventId(group["_id"]) for group in self._aggregate(pipeline)}

    def of_events(self, events: Document, status: BookingStatus) -> Iterator[Booking | Unreadable]:
        """The bookings of some events, or of a range of them, that are in one state."""
        yield from map(codec.booking, self._find({"event": events, "status": status}, FIELDS))

    def due_after(self, events: Document, deadline: datetime) -> Iterator[Booking | Unreadable]:
        """The PAYMENT_PENDING bookings of these events whose deadline is after this time."""
        pending = {"event": events, "status": BookingStatus.PAYMENT_PENDING}
        yield from map(codec.booking, self._find({**pending, "paymentExpiresAt": {"$gt": deadline}}, FIELDS))

    def unreadable(self, events: Document) -> Iterator[Unreadable]:
        """Bookings of these events that may be live and cannot be read."""
        for document in self._find({"event": events, **may_protect(self._documents)}, FIELDS):
            booking = codec.booking(document)
            if isinstance(booking, Unreadable):
                yield booking

    def overdue(self, before: datetime, event_id: EventId | None = None) -> Iterator[Booking | Unreadable]:
        """PAYMENT_PENDING bookings whose deadline is before this time, or is no date, ordered by event."""
        where: Document = {
            "status": BookingStatus.PAYMENT_PENDING,
            "paymentExpiresAt": {"$not": {"$gte": before}},  # as for locks
            "event": EVERY if event_id is None else {"$eq": event_id},
        }
        yield from map(codec.booking, self._find(where, FIELDS, sort=[("event", 1)]))

    def still_overdue(
        self, booking_ids: Sequence[BookingId], before: datetime
    ) -> Iterator[Booking | Unreadable]:
        where: Document = {
            "_id": {"$in": booking_ids},
            "status": BookingStatus.PAYMENT_PENDING,
            "paymentExpiresAt": {"$not": {"$gte": before}},
        }
        yield from map(codec.booking, self._find(where, FIELDS))

    def still_pending(self, booking_ids: Sequence[BookingId]) -> set[BookingId]:
        """Those of these bookings that wait for their payment."""
        where = {"_id": {"$in": booking_ids}, "status": BookingStatus.PAYMENT_PENDING}
        return {BookingId(booking["_id"]) for booking in self._find(where, ("_id",))}

    def count_overdue(self, before: datetime) -> int:
        where = {
            "event": EVERY,
            "status": BookingStatus.PAYMENT_PENDING,
            "paymentExpiresAt": {"$lt": before},
        }
        return self._count(where)

    def expire_overdue(
        self, booking_ids: Sequence[BookingId], before: datetime, now: datetime, ended_by: RunId | None = None
    ) -> int:
        """PAYMENT_PENDING → EXPIRED, for those that wait and are overdue still; returns how many."""
        where = {
            "_id": {"$in": booking_ids},
            "status": BookingStatus.PAYMENT_PENDING,
            "paymentExpiresAt": {"$lt": before},
        }
        return self._compare_and_set_many(where, status_change(BookingStatus.EXPIRED, now, ended_by=ended_by))

    def confirm(self, booking_id: BookingId, now: datetime, payment_ref: str | None = None) -> Booking | None:
        """PAYMENT_PENDING → CONFIRMED before the deadline by the server's own clock; None: too late, or
        somebody was faster."""
        in_time = {"$gt": ["$paymentExpiresAt", self._deployment.now_expression]}
        where = {**id_is(booking_id), "status": BookingStatus.PAYMENT_PENDING, "$expr": in_time}
        changes = status_change(BookingStatus.CONFIRMED, now)
        if payment_ref is not None:
            changes["$set"]["paymentRef"] = payment_ref
        found = self._compare_and_set(where, changes)
        return None if found is None else _own(found)

    def set_payment(self, booking: Booking, payment_ref: str | None, now: datetime) -> Booking | None:
        """CONFIRMED, and paid under this reference, for a booking that is as it was read; None: another
        writer was faster."""
        where = {**id_is(booking.id), "status": booking.status, "paymentRef": booking.payment_ref}
        changes = status_change(BookingStatus.CONFIRMED, now)
        if payment_ref is not None:
            changes["$set"]["paymentRef"] = payment_ref
        found = self._compare_and_set(where, changes)
        return None if found is None else _own(found)

    def extend(
        self, booking: Booking, deadline: datetime, now: datetime, *, overdue: bool = False
    ) -> Booking | None:
        """Move the deadline of a booking that waits for its payment; None: it has another one by now, or has
        ended. One that has passed by the server's own clock stays, unless `overdue` ones are wanted."""
        where = {
            **id_is(booking.id),
            "status": BookingStatus.PAYMENT_PENDING,
            "paymentExpiresAt": booking.payment_expires_at,
        }
        if not overdue:
            where["$expr"] = {"$gt": ["$paymentExpiresAt", self._deployment.now_expression]}
        found = self._compare_and_set(where, {"$set": {"paymentExpiresAt": deadline, "updatedAt": now}})
        return None if found is None else _own(found)

    def extend_all(
        self, booking_ids: Sequence[BookingId], deadline: datetime, now: datetime, *, overdue: bool
    ) -> int:
        """The same for several that have an earlier deadline; returns how many."""
        where: Document = {
            "_id": {"$in": booking_ids},
            "status": BookingStatus.PAYMENT_PENDING,
            "paymentExpiresAt": {"$lt": deadline},
        }
        if not overdue:
            where["$expr"] = {"$gt": ["$paymentExpiresAt", self._deployment.now_expression]}
        change = {"$set": {"paymentExpiresAt": deadline, "updatedAt": now}}
        return self._compare_and_set_many(where, change)

    def ending_before(self, event_id: EventId, deadline: datetime) -> Iterator[Booking | Unreadable]:
        """The event's bookings that wait for a payment by an earlier time than this, or by no date at all."""
        where: Document = {
            "event": event_id,
            "status": BookingStatus.PAYMENT_PENDING,
            "paymentExpiresAt": {"$not": {"$gte": deadline}},
        }
        yield from map(codec.booking, self._find(where, FIELDS))

    def pending_before(self, booking_ids: Sequence[BookingId], deadline: datetime) -> list[Booking]:
        """Those of these bookings that still wait for a payment by an earlier time than this."""
        where: Document = {
            "_id": {"$in": booking_ids},
            "status": BookingStatus.PAYMENT_PENDING,
            "paymentExpiresAt": {"$lt": deadline},
        }
        return list(map(_own, self._find(where, FIELDS)))

    def give_seats_back(self, booking: Booking, cancelled: int, left: int, now: datetime) -> Booking | None:
        """How many seats the buyer has given back in all, and the labels of those that are `left`, for a
        booking that is as it was read; None: another writer was faster."""
        where = {
            **id_is(booking.id),
            "status": booking.status,
            "seatsCancelled": booking.stored.get("seatsCancelled"),
        }
        changes: Document = {"seatsCancelled": cancelled, "updatedAt": now}
        if booking.labels is not None:
            changes["seats"] = booking.labels[:left]
        found = self._compare_and_set(where, {"$set": changes})
        return None if found is None else _own(found)

    def change(
        self,
        booking_id: BookingId,
        old: BookingStatus,
        new: BookingStatus,
        now: datetime,
        *,
        ended_by: RunId | None = None,
    ) -> Booking | None:
        """Compare-and-set of one booking's status; None: another writer was faster."""
        change = status_change(new, now, ended_by=ended_by)
        found = self._compare_and_set({**id_is(booking_id), "status": old}, change)
        return None if found is None else _own(found)

    def move_to_lock(self, booking: Booking, lock_id: LockId, now: datetime) -> Booking | None:
        """Let a booking name another lock, if it is still as it was read; None otherwise."""
        where = {**id_is(booking.id), "status": booking.status, "seatLockId": booking.lock}
        found = self._compare_and_set(where, {"$set": {"seatLockId": lock_id, "updatedAt": now}})
        return None if found is None else _own(found)

    def ids_of(self, event_id: EventId, status: BookingStatus) -> Iterator[BookingId]:
        """The bookings of an event in one state."""
        for booking in self._find({"event": event_id, "status": status}, ("_id",)):
            yield BookingId(booking["_id"])

    def count_of(self, event_id: EventId, status: BookingStatus) -> int:
        where = {"event": event_id, "status": status}
        return self._documents.count_documents(where, session=self._session)

    def to_cancel(self, event_id: EventId, booking_ids: Sequence[BookingId]) -> Iterator[Booking]:
        """Those of these bookings that are live and of this event, with what was paid."""
        where = {"_id": {"$in": booking_ids}, "event": event_id, "status": {"$in": sorted(LIVE)}}
        for booking in map(codec.booking, self._find(where, (*FIELDS, "paymentRef", "seatsCancelled"))):
            if isinstance(booking, Booking):
                yield booking

    def cancel_all(
        self, booking_ids: Sequence[BookingId], old: BookingStatus, now: datetime, ended_by: RunId
    ) -> int:
        """Compare-and-set of many bookings' status to CANCELLED; returns how many."""
        if not booking_ids:
            return 0
        change = status_change(BookingStatus.CANCELLED, now, ended_by=ended_by)
        return self._compare_and_set_many({"_id": {"$in": booking_ids}, "status": old}, change)

    def has_live(self) -> bool:
        where = {"event": EVERY, "status": {"$in": sorted(LIVE)}}
        return self._one(where, ("_id",)) is not None


def _of_locks(lock_ids: Sequence[LockId]) -> Document:
    # The $type repeats the guard's partial filter, or the planner could not use its index.
    return {"seatLockId": {"$in": list(lock_ids), "$type": "objectId"}}


def _own(document: Document) -> Booking:
    booking = codec.booking(document)
    assert isinstance(booking, Booking)
    return booking
