"""The collection `refunds`: money that has to go back (invariant 12)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from pymongo.errors import BulkWriteError

from seatctl.domain.documents import Booking, BookingId, EventId, Refund, RefundId, UserId
from seatctl.domain.states import RefundCause, RefundStatus
from seatctl.errors import StaleRead, WriteRefused
from seatctl.mongo import codec, schema
from seatctl.mongo.collection import Documents, id_is
from seatctl.mongo.document import Document
from seatctl.mongo.ids import id_of_key

if TYPE_CHECKING:
    from collections.abc import Sequence


class Refunds(Documents):
    name = schema.REFUNDS

    def get(self, refund_id: RefundId) -> Refund | None:
        found = self._one(id_is(refund_id))
        return None if found is None else _refund(found)

    def of_booking(self, booking_id: BookingId) -> list[Refund]:
        """The refunds of a booking, the earliest first."""
        return list(self._all({"bookingId": booking_id}))

    def record(
        self, booking: Booking, seats: int, cause: RefundCause, payment_ref: str | None, now: datetime
    ) -> Refund:
        """The refund of one payment for a booking, made if there is none yet.

        Its id is made of what it is unique on, so that two transactions that record the same one exclude
        each other, also where nobody ran `init`.
        """
        document = new_refund(booking, seats, cause, payment_ref, now)
        if (found := self.get(RefundId(document["_id"]))) is not None:
            return found
        self._insert_new(document)
        return _own(document)

    def owe(
        self, booking: Booking, seats: int, cause: RefundCause, payment_ref: str | None, now: datetime
    ) -> Refund:
        """So many more seats of a payment have to be paid back: with the refund that is due, or, where that
        is settled, as a further part. Raises StaleRead when that was settled just now."""
        same = {"bookingId": booking.id, "cause": cause.value, "paymentRef": payment_ref}
        parts = [_own(found) for found in self._find(same)]
        due = next((refund for refund in parts if refund.status is RefundStatus.DUE), None)
        if due is not None:
            return self.change_seats(due, due.seats + seats, now)
        document = new_refund(booking, seats, cause, payment_ref, now, part=len(parts))
        self._insert_new(document)
        return _own(document)

    def change_seats(self, refund: Refund, seats: int, now: datetime) -> Refund:
        """A refund that is due, for another number of seats. Raises StaleRead when it has changed."""
        where = {**id_is(refund.id), "status": RefundStatus.DUE.value, "seats": refund.seats or None}
        found = self._compare_and_set(where, {"$set": {"seats": seats, "updatedAt": now}})
        if found is None:
            raise StaleRead
        return _own(found)

    def set_payment(self, refund_id: RefundId, payment_ref: str, now: datetime) -> Refund | None:
        """The reference of a payment that was recorded without one. None: it has one by now, or is not
        due."""
        where = {**id_is(refund_id), "status": RefundStatus.DUE.value, "paymentRef": None}
        found = self._compare_and_set(where, {"$set": {"paymentRef": payment_ref, "updatedAt": now}})
        return None if found is None else _own(found)

    def record_all(self, owed: Sequence[tuple[Booking, int]], cause: RefundCause, now: datetime) -> None:
        """Refunds of bookings, each with its seats, that have none of this cause. Raises WriteRefused where
        one has."""
        documents = [new_refund(booking, seats, cause, booking.payment_ref, now) for booking, seats in owed]
        if not documents:
            return
        try:
            self._documents.insert_many(documents, session=self._session)
        except BulkWriteError as error:
            if error.has_error_label("TransientTransactionError"):
                raise
            raise WriteRefused("a booking has a refund of this cause already") from error

    def finish(
        self, refund_id: RefundId, status: RefundStatus, now: datetime, ref: str | None
    ) -> Refund | None:
        """DUE → DONE or WITHDRAWN; None: it is not due any more."""
        changes: Document = {"status": status.value, "doneAt": now, "updatedAt": now}
        if ref is not None:
            changes["doneRef"] = ref
        found = self._compare_and_set(
            {**id_is(refund_id), "status": RefundStatus.DUE.value}, {"$set": changes}
        )
        return None if found is None else _own(found)

    def count_due(self) -> tuple[int, datetime | None]:
        """How many refunds are due, and since when the oldest of them."""
        due: Document = {"status": RefundStatus.DUE.value}
        oldest = next(self._find(due, ("dueAt",), sort=[("dueAt", 1)], limit=1), None)
        number = self._count(due)
        since = None if oldest is None else oldest.get("dueAt")
        return number, since if isinstance(since, datetime) else None

    def due_of_bookings(self, booking_ids: Sequence[BookingId]) -> list[Refund]:
        """What is due for these bookings, the oldest first."""
        return list(self._all({"bookingId": {"$in": [*booking_ids]}, "status": RefundStatus.DUE.value}))

    def count_due_of(self, event_id: EventId) -> int:
        return self._count({"eventId": event_id, "status": RefundStatus.DUE.value})

    def due_of_event(self, event_id: EventId) -> Iterator[Refund]:
        """What is due for an event, the oldest first."""
        return self._all({"eventId": event_id, "status": RefundStatus.DUE.value})

    def _all(self, where: Document) -> Iterator[Refund]:
        for document in self._find(where, sort=[("dueAt", 1), ("_id", 1)]):
            if refund := _refund(document):
                yield refund


def new_refund(
    booking: Booking, seats: int, cause: RefundCause, payment_ref: str | None, now: datetime, part: int = 0
) -> Document:
    """A refund that is due, with the id that its booking, cause and payment make, and for a further part of
    the same its number. 0 seats: nobody knows how many, and `null` says so."""
    unique = (booking.id, cause.value, payment_ref or "", *([part] if part else []))
    document: Document = {
        "_id": id_of_key(*unique),
        "bookingId": booking.id,
        "eventId": booking.event,
        "userId": booking.user,
        "seats": seats or None,
        "cause": cause.value,
        "status": RefundStatus.DUE.value,
        "dueAt": now,
        "createdAt": now,
        "updatedAt": now,
    }
    if part:
        document["part"] = part
    return document if payment_ref is None else {**document, "paymentRef": payment_ref}


def _refund(document: Document) -> Refund | None:
    """None for what was made by hand and cannot be read: it is still listed as it is stored."""
    try:
        return Refund(
            id=RefundId(document["_id"]),
            booking=BookingId(document["bookingId"]),
            event=EventId(document["eventId"]),
            user=UserId(document["userId"]),
            seats=codec.whole_number(document["seats"]) or 0,
            cause=RefundCause(document["cause"]),
            payment_ref=document.get("paymentRef"),
            status=RefundStatus(document["status"]),
            due_at=document["dueAt"],
            stored=document,
        )
    except (KeyError, ValueError):
        return None


def _own(document: Document) -> Refund:
    refund = _refund(document)
    assert refund is not None  # seatctl wrote it
    return refund
