"""The collection `bookings`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from seatctl.domain.documents import Booking, BookingId, EventId, LockId, SeatLock, Unreadable
from seatctl.domain.states import ENDED_BOOKING, LIVE, BookingStatus
from seatctl.mongo import codec, schema
from seatctl.mongo.collection import BY_ID, EVERY, NO_OBJECT_ID, id_is, is_guarded, none_of, status_change
from seatctl.mongo.document import Document
from seatctl.mongo.expiring import ExpiringDocuments

if TYPE_CHECKING:
    from pymongo.collection import Collection

FIELDS = ("event", "user", "seatLockId", "status", "paymentExpiresAt")


def may_protect(bookings: Collection[Document]) -> Document:
    """A condition: the booking is live, or is in a state that nobody knows."""
    return none_of(bookings, schema.BOOKINGS_BY_STATUS, {*ENDED_BOOKING, BookingStatus.INITIATED})


class Bookings(ExpiringDocuments[BookingId, BookingStatus, Booking, Booking]):
    name = schema.BOOKINGS
    event_field, deadline_field = "event", "paymentExpiresAt"
    fields = FIELDS
    buyer_fields = ("event", "user", "seatLockId")
    open_status, expired_status = BookingStatus.PAYMENT_PENDING, BookingStatus.EXPIRED

    def _read(self, document: Document) -> Booking | Unreadable:
        return codec.booking(document)

    def _overdue(self, document: Document) -> Booking | Unreadable:
        return codec.booking(document)

    def _may_count(self) -> Document:
        return may_protect(self._documents)

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
        self._insert_new(document)
        return self._own(document)

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

    def named_twice(self, lock_ids: Sequence[LockId]) -> set[LockId]:
        """Those of these locks that several bookings keep from expiring. Nothing is read where an index rules
        them out."""
        if is_guarded(self._documents, schema.ONE_BOOKING_PER_LOCK):
            return set()
        times = Counter(lock_id for lock_id, _ in self.protecting(lock_ids))
        return {lock_id for lock_id, number in times.items() if number > 1}

    def with_malformed_lock_id(self, events: Document) -> Iterator[tuple[Unreadable, list[LockId]]]:
        """Bookings of these events that may be live and name their lock by something that is no ObjectId,
        and the locks that they do name, by text for example."""
        yield from self._malformed({"event": events, "seatLockId": NO_OBJECT_ID})

    def with_malformed_event_id(self) -> Iterator[tuple[Unreadable, list[LockId]]]:
        """The same for bookings whose event is no ObjectId."""
        yield from self._malformed({"event": NO_OBJECT_ID})

    def unreadable_of(self, event_id: EventId) -> Iterator[tuple[Unreadable, list[LockId]]]:
        """The same for all bookings of an event that cannot be read."""
        yield from self._malformed({"event": event_id})

    def protecting_by_text(self, events: Document) -> dict[LockId, Unreadable]:
        """The locks that those two kinds of bookings name, each with its booking."""
        found = [*self.with_malformed_lock_id(events), *self.with_malformed_event_id()]
        return {lock_id: booking for booking, lock_ids in reversed(found) for lock_id in lock_ids}

    def _malformed(self, where: Document) -> Iterator[tuple[Unreadable, list[LockId]]]:
        for document in self._find({**where, **self._may_count()}, FIELDS):
            booking = codec.booking(document)
            if isinstance(booking, Unreadable):
                yield booking, [LockId(named) for named in codec.ids_in(document.get("seatLockId"))]

    def events_without_locks(self, events: Document, overdue_before: datetime | None) -> set[EventId]:
        """Those of these events that have a PAYMENT_PENDING booking whose lock does not exist. Overdue ones
        are passed over if their time is given: whoever ends those looks at each lock."""
        where: Document = {"event": events, "status": BookingStatus.PAYMENT_PENDING}
        if overdue_before is not None:  # what is no date is not overdue either
            where["paymentExpiresAt"] = {"$not": {"$lt": overdue_before}}
        without = without_lock(where, ("event", "seatLockId"), self._settings.locks)
        pipeline = [*without, {"$group": {"_id": "$event"}}]
        groups = self._aggregate(pipeline)
        return {EventId(event_id) for group in groups for event_id in codec.ids_in(group["_id"])}

    def still_pending(self, booking_ids: Sequence[BookingId]) -> set[BookingId]:
        """Those of these bookings that wait for their payment."""
        return {booking["_id"] for booking in self._find(self._open_among(booking_ids), ("_id",), hint=BY_ID)}

    def confirm(self, booking_id: BookingId, now: datetime, payment_ref: str | None = None) -> Booking | None:
        """PAYMENT_PENDING → CONFIRMED before the deadline by the server's own clock; None: too late, or
        another writer was faster."""
        where = {**id_is(booking_id), "status": BookingStatus.PAYMENT_PENDING, **self._in_time()}
        return self._changed(where, _paid(payment_ref, now))

    def stamp(self, booking: Booking, field: str, now: datetime) -> bool:
        """Write a time into a booking whose state stays as it is: what is decided by that state excludes what
        changes it. False: another writer was faster."""
        where = {**id_is(booking.id), "status": booking.status}
        return self._changed(where, {"$set": {field: now}}) is not None

    def set_payment(self, booking: Booking, payment_ref: str | None, now: datetime) -> Booking | None:
        """CONFIRMED, and paid under this reference, for a booking that is as it was read; None: another
        writer was faster."""
        where = {**id_is(booking.id), "status": booking.status, "paymentRef": booking.payment_ref}
        return self._changed(where, _paid(payment_ref, now))

    def extend_all(
        self, booking_ids: Sequence[BookingId], deadline: datetime, now: datetime, *, overdue: bool
    ) -> int:
        """Move the deadline of several that have an earlier one; returns how many."""
        where = {**self._open_among(booking_ids), "paymentExpiresAt": {"$lt": deadline}}
        change = {"$set": {"paymentExpiresAt": deadline, "updatedAt": now}}
        return self._compare_and_set_many({**where, **({} if overdue else self._in_time())}, change)

    def pending_before(self, booking_ids: Sequence[BookingId], deadline: datetime) -> list[Booking]:
        """Those of these bookings that still wait for a payment by an earlier time than this."""
        where = {**self._open_among(booking_ids), "paymentExpiresAt": {"$lt": deadline}}
        return list(map(self._own, self._find(where, FIELDS, hint=BY_ID)))

    def return_some_seats(self, booking: Booking, cancelled: int, left: int, now: datetime) -> Booking | None:
        """How many seats the buyer has returned in all, and the labels of those that are `left`, for a
        booking that is as it was read; None: another writer was faster."""
        where = {
            **id_is(booking.id),
            "status": booking.status,
            "seatsCancelled": booking.stored.get("seatsCancelled"),
        }
        changes: Document = {"seatsCancelled": cancelled, "updatedAt": now}
        if booking.labels is not None:
            changes["seats"] = booking.labels[:left]
        return self._changed(where, {"$set": changes})

    def move_to_lock(self, booking: Booking, lock_id: LockId, now: datetime) -> Booking | None:
        """Let a booking name another lock, if it is still as it was read; None otherwise."""
        where = {**id_is(booking.id), "status": booking.status, "seatLockId": booking.lock}
        return self._changed(where, {"$set": {"seatLockId": lock_id, "updatedAt": now}})

    def to_cancel(self, event_id: EventId, booking_ids: Sequence[BookingId]) -> Iterator[Booking]:
        """Those of these bookings that are live and of this event, with what was paid."""
        where = {"_id": {"$in": booking_ids}, "event": event_id, "status": {"$in": sorted(LIVE)}}
        fields = (*FIELDS, "paymentRef", "seatsCancelled", "seats")
        for booking in map(codec.booking, self._find(where, fields, hint=BY_ID)):
            if isinstance(booking, Booking):
                yield booking

    def has_live(self) -> bool:
        where = {"event": EVERY, "status": {"$in": sorted(LIVE)}}
        return self._one(where, ("_id",)) is not None


def _of_locks(lock_ids: Sequence[LockId]) -> Document:
    # The $type repeats the guard's partial filter, or the planner could not use its index.
    return {"seatLockId": {"$in": list(lock_ids), "$type": "objectId"}}


def _paid(payment_ref: str | None, now: datetime) -> Document:
    """The update that confirms a booking, under this reference if one is given."""
    changes = status_change(BookingStatus.CONFIRMED, now)
    if payment_ref is not None:
        changes["$set"]["paymentRef"] = payment_ref
    return changes


def without_lock(where: Document, fields: Iterable[str], locks: str) -> list[Document]:
    """The stages of a pipeline that find those of these bookings whose lock does not exist."""
    lookup = {"from": locks, "localField": "seatLockId", "foreignField": "_id", "as": "locks"}
    return [
        {"$match": where},
        {"$project": dict.fromkeys(fields, 1)},
        {"$lookup": {**lookup, "pipeline": [{"$project": {"_id": 1}}]}},
        {"$match": {"locks": []}},
    ]
