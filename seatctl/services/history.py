"""`history`: what happened to an event, a lock or a booking, in order, by whom and why. Reads only.

Told from what the documents themselves say, from the operators' commands on them, and from the runs of the
jobs that ended or repaired them. What another program did is recorded nowhere, and is said to be so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from heapq import merge
from itertools import islice, takewhile
from typing import NamedTuple

from seatctl.domain.documents import BookingId, Kind, StoredDocument, mapping_in
from seatctl.domain.states import BLOCK, BookingStatus, LockStatus
from seatctl.domain.validation import ListRequest
from seatctl.domain.words import shorten
from seatctl.errors import NotFound
from seatctl.mongo.store import Store
from seatctl.services.history_entries import (
    Entry,
    by_job,
    by_operator,
    command_of,
    created,
    flat,
    ids_of_booking,
    ids_of_lock,
    in_words,
    is_sale,
    list_in,
    of_operation,
    of_run,
    of_run_on,
    of_run_on_event,
    reason_of,
    seats_in_words,
    time_in,
)

MAKERS_OF_LOCKS, MAKERS_OF_BOOKINGS = {"block", "rebook", "relock"}, {"confirm", "rebook"}
PAST = {"CONSUMED": "is sold", "CONFIRMED": "is paid"}
"""By state, how a sentence says it where the state's own word does not."""
GONE = "no longer exists; no record says who deleted it"
UNRECORDED = "no record says by whom (another program, or before seatctl kept records)"


def listed(store: Store, document_id: object | None, request: ListRequest, now: datetime) -> Iterator[Entry]:
    """What `history` lists: of one document the newest entries in order, of all the newest first, by when
    something happened. Raises NotFound, Usage."""
    since, until = request.bounds(now)
    limit = 0 if since or until else request.limit
    entries = newest(store, limit) if document_id is None else iter(history(store, document_id, limit))
    entries = (entry for entry in entries if not until or entry.at < until)
    if document_id is None:
        return islice(takewhile(lambda entry: not since or entry.at >= since, entries), request.limit or None)
    return iter([entry for entry in entries if not since or entry.at >= since][-request.limit :])


def history(store: Store, document_id: object, limit: int) -> list[Entry]:
    """What happened to the document with this id, the earliest first; of much only the newest `limit` entries
    (0 for all). Raises NotFound."""
    found = store.find_anywhere(document_id)
    if found is None:
        gone = [of_operation(entry, document_id) for entry in store.operations.concerning([document_id])]
        if not gone:
            raise NotFound(f"there is no event, lock, booking, refund, operation or run {document_id}")
        return [*gone, Entry(store.now(), f"{document_id} {GONE}", {})][-limit:]
    kind, document = found
    match kind:
        case Kind.EVENT:
            entries = list(islice(_of_event(store, document), limit or None))[::-1]
        case Kind.LOCK:
            bookings = list(store.bookings.newest({"seatLockId": document_id}, 0))
            entries = _of_sale(store, document_id, document, bookings)
        case Kind.BOOKING:
            entries = _of_sale(store, document_id, store.locks.stored(document.get("seatLockId")), [document])
        case Kind.REFUND:
            entries = _of_refund(store, document_id, document)
        case Kind.OPERATION:
            entries = [of_operation(document, document_id)]
        case Kind.JOB_RUN:
            entries = [of_run(document)]
    return entries[-limit:]


def newest(store: Store, limit: int) -> Iterator[Entry]:
    """What operators and jobs did, the newest first; runs that found nothing to do are left out."""
    entries = merge(
        map(of_operation, store.operations.newest({}, limit, by="at")),
        map(of_run, store.job_logs.newest_with_work(limit)),
        key=_when,
        reverse=True,
    )
    return islice(entries, limit or None)


def _when(entry: Entry) -> datetime:
    return entry.at


# --- one document -----------------------------------------------------------------------------------------


def _of_event(store: Store, event: StoredDocument) -> Iterator[Entry]:
    """The newest first: there may be an operation for each of a hundred thousand bookings."""
    event_id = event["_id"]
    yield from merge(
        (
            of_operation(entry, event_id)
            for entry in store.operations.concerning([event_id], newest_first=True)
        ),
        (of_run_on_event(run, event_id) for run in store.job_logs.concerning(event_id)),
        key=_when,
        reverse=True,
    )
    first = next(store.operations.concerning([event_id]), None)
    if first is None or first.get("command") != "create-event":
        yield Entry(
            created(event),
            f"event created; it now has {seats_in_words(event.get('totalSeats'))}",
            {"event": event_id},
        )


def _of_sale(
    store: Store, about: object, lock: StoredDocument | None, bookings: Sequence[StoredDocument]
) -> list[Entry]:
    """A lock with its bookings, or a booking with its lock."""
    refunds = [
        refund.stored
        for booking in bookings
        for refund in store.refunds.of_booking(BookingId(booking["_id"]))
    ]
    documents = [*([] if lock is None else [lock]), *bookings, *refunds]
    ids = [document["_id"] for document in documents]
    operations = list(store.operations.concerning(ids))
    runs = {str(run["_id"]): run for each in ids for run in store.job_logs.concerning(each)}
    ends = _Ends(store, operations, runs)
    entries = [] if lock is None or _is_recorded(lock, operations) else [_lock_created(lock, operations)]
    for booking in bookings:
        if not _is_recorded(booking, operations):
            what = (
                f"booking {booking['_id']} created, to be paid by {in_words(booking.get('paymentExpiresAt'))}"
            )
            entries.append(Entry(created(booking), what, ids_of_booking(booking)))
    entries += [of_operation(entry, about) for entry in operations]
    entries += [of_run_on(run, ids) for run in runs.values()]
    for booking in bookings:
        entries += ends.of_booking(booking, lock)
    if lock is not None:
        entries += ends.of_lock(lock, bookings)
    named = {str(each) for entry in operations for each in list_in(entry.get("ids"))}
    entries += [_refund_due(refund) for refund in refunds if str(refund["_id"]) not in named]
    return sorted(entries, key=_when)


def _of_refund(store: Store, refund_id: object, refund: StoredDocument) -> list[Entry]:
    operations = list(store.operations.concerning([refund_id]))
    entries = [of_operation(entry, refund_id) for entry in operations]
    if not operations or _when(entries[0]) > created(refund):
        entries.insert(0, _refund_due(refund))
    return entries


def _is_recorded(document: StoredDocument, operations: Sequence[StoredDocument]) -> bool:
    """Whether an operator's command made this lock or booking."""
    made = document.get("createdAt")
    makers = MAKERS_OF_BOOKINGS if "seatLockId" in document else MAKERS_OF_LOCKS
    return any(
        command_of(entry) in makers
        and entry.get("at") == made
        and document["_id"] in list_in(entry.get("ids"))
        for entry in operations
    )


def _lock_created(lock: StoredDocument, operations: Sequence[StoredDocument]) -> Entry:
    """With the seats that it had before some of them were returned."""
    had = (mapping_in(one.get("before")).get("seats") for one in operations if command_of(one) == "cancel")
    seats = next((number for number in had if number is not None), lock.get("seats"))
    what = f"{seats_in_words(seats)} locked"
    what += " off sale" if lock.get("kind") == BLOCK else f" for {shorten(str(lock.get('userId')))}"
    return Entry(created(lock), f"{what}: lock {lock['_id']}", ids_of_lock(lock))


def _refund_due(refund: StoredDocument) -> Entry:
    ids = {"refund": refund["_id"], "booking": refund.get("bookingId"), "event": refund.get("eventId")}
    ref = refund.get("paymentRef")
    payment = "" if ref is None else f" of payment {shorten(str(ref))}"
    what = f"refund {refund['_id']}{payment} due: {refund.get('cause')}"
    if refund.get("status") != "DUE":
        what += f"; it is now {refund.get('status')}"
    return Entry(time_in(refund.get("dueAt")) or created(refund), what, ids)


class _Ends(NamedTuple):
    """How locks and bookings came to their states, where none of these operations and runs says so."""

    store: Store
    operations: Sequence[StoredDocument]
    runs: Mapping[str, StoredDocument]

    def of_booking(self, booking: StoredDocument, lock: StoredDocument | None) -> Iterator[Entry]:
        status, ended_by = str(booking.get("status")), booking.get("endedBy")
        if status in (BookingStatus.PAYMENT_PENDING, BookingStatus.INITIATED):
            return
        what = f"booking {booking['_id']} {PAST.get(status, status.lower())}"
        if ended_by is not None and lock is not None and lock.get("endedBy") == ended_by:
            what += f" with its lock ({seats_in_words(lock.get('seats'))})"
        if status == BookingStatus.EXPIRED:
            what += f": not paid by {in_words(booking.get('paymentExpiresAt'))}"
        yield from self._of(booking, what, ids_of_booking(booking))

    def of_lock(self, lock: StoredDocument, bookings: Sequence[StoredDocument]) -> Iterator[Entry]:
        """Unless it is said with its booking."""
        status, ended_by = str(lock.get("status")), lock.get("endedBy")
        with_booking = ended_by is not None and any(one.get("endedBy") == ended_by for one in bookings)
        if status == LockStatus.ACTIVE or with_booking or (status == LockStatus.CONSUMED and bookings):
            return
        what = f"lock {lock['_id']} {PAST.get(status, status.lower())}"
        if status == LockStatus.EXPIRED:
            what += f": its deadline was {in_words(lock.get('expiresAt'))}"
        sold = status == LockStatus.CONSUMED
        sale = next(filter(is_sale, self.operations), {}) if sold else {}
        booking_id = sale.get("bookingId")
        if booking_id is not None and self.store.bookings.stored(booking_id) is None:
            yield Entry(self.store.now(), f"{what}, but its booking {booking_id} {GONE}", ids_of_lock(lock))
            return
        yield from self._of(lock, what, ids_of_lock(lock))

    def _of(self, document: StoredDocument, what: str, ids: Mapping[str, object]) -> Iterator[Entry]:
        ended_by = document.get("endedBy")
        mine = [entry for entry in self.operations if document["_id"] in list_in(entry.get("ids"))]
        if str(ended_by) in self.runs or any(entry["_id"] == ended_by for entry in self.operations):
            return
        at = time_in(document.get("updatedAt")) or created(document)
        run, operation = (
            None if ended_by is None else entries.stored(ended_by)
            for entries in (self.store.job_logs, self.store.operations)
        )
        if operation is not None:  # one that ended so many that it does not name them
            by, why = by_operator(operation), reason_of(operation)
            yield Entry(at, what, {**ids, "operation": ended_by}, by, why)
        elif run is not None:
            as_of = mapping_in(run.get("details")).get("asOf")
            what += "" if as_of is None else f" (run as of {in_words(as_of)})"
            yield Entry(at, what, {**ids, "run": ended_by}, by=by_job(run))
        elif ended_by is not None:
            what += "; the run's log entry is no longer kept"
            yield Entry(at, what, {**ids, "run": ended_by}, by="a job")
        elif not any(document.get("status") in flat(entry.get("after")).values() for entry in mine):
            yield Entry(at, f"{what}; {UNRECORDED}", ids)
