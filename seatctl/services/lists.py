"""The lists (`events`, `locks`, `bookings`, `jobs`, `refunds`), and `show`: one document with what belongs to
it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite
from statistics import median

from seatctl.domain.documents import EventId, Kind, StoredDocument, UserId
from seatctl.domain.states import BookingStatus, JobStatus, JobType, LockStatus, RefundStatus
from seatctl.domain.timespec import PastTime, resolve_past
from seatctl.domain.validation import ALL, ListRequest
from seatctl.errors import NotFound
from seatctl.mongo.bookings import Bookings
from seatctl.mongo.collection import chunks
from seatctl.mongo.ids import first_id_at
from seatctl.mongo.locks import SeatLocks
from seatctl.mongo.store import Store
from seatctl.services.by_id import not_found

LATEST = 10
"""Locks and bookings shown with their event."""
SUMMED_EVENTS, SUMMED_WHOLE_EVENTS = 1_000, 100
"""Events whose held seats are summed up in one query. Whole ones may be of many megabytes."""
HELD = frozenset({"locked", "sold"})
"""Fields of an event in a list that its locks add up to."""


class Order(StrEnum):
    NEWEST = "newest"
    OLDEST = "oldest"
    FULLEST = "fullest"
    """Events, by the share of their seats that is available."""
    DATE = "date"
    """Events, by when they take place."""
    DEADLINE = "deadline"
    """Locks and bookings, the first deadline first."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One document, what kind it is, and what belongs to it by collection."""

    kind: Kind
    document: StoredDocument
    related: Mapping[str, list[StoredDocument]] = field(default_factory=dict)

    def as_document(self) -> StoredDocument:
        return {**self.document, **self.related}


# --- lists -----------------------------------------------------------------------------------------------


def events(store: Store, order: Order = Order.NEWEST, request: ListRequest = ALL) -> Iterator[StoredDocument]:
    """Events, with their `locked` and `sold` seats where those are asked for."""
    where, fields = _within(store, request, "_id"), request.fields
    if order is Order.FULLEST:
        found = store.events.fullest(where, request.limit, fields)
    else:
        found = store.events.sorted(_order(order, "eventDate"), where, request.limit, fields)
    wants_seats = fields is None or not HELD.isdisjoint(fields)
    if not wants_seats:
        return found
    return _with_seats(store, found, SUMMED_WHOLE_EVENTS if fields is None else SUMMED_EVENTS)


def locks(
    store: Store,
    event: EventId | None = None,
    status: LockStatus | None = None,
    user: UserId | None = None,
    request: ListRequest = ALL,
    order: Order = Order.NEWEST,
    *,
    overdue: bool = False,
) -> Iterator[StoredDocument]:
    """Locks; `overdue` ones are ACTIVE. Raises NotFound for the locks of what is no event."""
    where = _given(eventId=event, status=status, userId=user)
    return _of_event(store, event, _expiring(store, store.locks, where, request, order, overdue=overdue))


def bookings(
    store: Store,
    event: EventId | None = None,
    status: BookingStatus | None = None,
    user: UserId | None = None,
    request: ListRequest = ALL,
    order: Order = Order.NEWEST,
    *,
    overdue: bool = False,
) -> Iterator[StoredDocument]:
    """Bookings; `overdue` ones are PAYMENT_PENDING. Raises NotFound for the bookings of what is no event."""
    where = _given(event=event, status=status, user=user)
    return _of_event(store, event, _expiring(store, store.bookings, where, request, order, overdue=overdue))


def _expiring(
    store: Store,
    documents: SeatLocks | Bookings,
    where: dict[str, object],
    request: ListRequest,
    order: Order,
    *,
    overdue: bool,
) -> Iterator[StoredDocument]:
    where |= _within(store, request, "_id")
    if overdue:
        where |= {"status": documents.open_status, documents.deadline_field: {"$lt": store.now()}}
    sort = _order(order, documents.deadline_field)
    return documents.sorted(sort, where, request.limit, request.fields)


def job_runs(
    store: Store,
    job: JobType | None = None,
    status: JobStatus | None = None,
    request: ListRequest = ALL,
    order: Order = Order.NEWEST,
) -> Iterator[StoredDocument]:
    """The runs of the jobs, by when they started."""
    where = _given(jobType=job, status=status) | _within(store, request, "executedAt")
    by = {"executedAt": 1 if order is Order.OLDEST else -1}
    return store.job_logs.sorted(by, where, request.limit, request.fields)


def _order(order: Order, deadline: str) -> dict[str, int]:
    """By id: an ObjectId carries its second of creation, and every document has one."""
    if order in (Order.DATE, Order.DEADLINE):
        return {deadline: 1, "_id": 1}
    return {"_id": 1 if order is Order.OLDEST else -1}


def _within(store: Store, request: ListRequest, field: str) -> dict[str, object]:
    """A condition: this time, or that in an id, is one for which the request asks."""
    if request.since is None and request.until is None:
        return {}
    since, until = request.bounds(store.now())
    if field == "_id":
        between = _given(**{"$gte": since and first_id_at(since), "$lt": until and first_id_at(until)})
    else:
        between = _given(**{"$gte": since, "$lt": until})
    return {field: between}


def refunds(
    store: Store,
    event: EventId | None = None,
    status: RefundStatus | None = None,
    request: ListRequest = ALL,
    order: Order = Order.OLDEST,
) -> Iterator[StoredDocument]:
    """Refunds, by when they became due. Raises NotFound for the refunds of what is no event."""
    where = _given(eventId=event, status=status) | _within(store, request, "dueAt")
    by = {"dueAt": 1 if order is Order.OLDEST else -1}
    return _of_event(store, event, store.refunds.sorted(by, where, request.limit, request.fields))


def newest_ids(store: Store, collection: str, limit: int, **filters: str | None) -> list[str]:
    collections = {
        "events": store.events,
        "seatLocks": store.locks,
        "bookings": store.bookings,
        "refunds": store.refunds,
    }
    found = collections[collection].newest(_given(**filters), limit, fields=("_id",))
    return [str(document["_id"]) for document in found]


def _given(**filters: object) -> dict[str, object]:
    return {field: value for field, value in filters.items() if value is not None}


def _of_event(
    store: Store, event: EventId | None, found: Iterator[StoredDocument]
) -> Iterator[StoredDocument]:
    first = next(found, None)
    if first is not None:
        yield first
        yield from found
    elif event is not None and store.events.stored(event) is None:
        raise not_found(store, "event", event)


def _with_seats(
    store: Store, found: Iterator[StoredDocument], at_once: int = SUMMED_EVENTS
) -> Iterator[StoredDocument]:
    for some_events in chunks(found, at_once):
        held = store.locks.held_by_status(event["_id"] for event in some_events)
        for event in some_events:
            seats = {status: held.get((str(event["_id"]), status), 0) for status in LockStatus}
            yield {**event, "locked": seats[LockStatus.ACTIVE], "sold": seats[LockStatus.CONSUMED]}


def with_seats_of_locks(store: Store, found: Iterator[StoredDocument]) -> Iterator[StoredDocument]:
    """Bookings with `seatsOfLock`, the seats of the lock that each names, where there is one."""
    for some in chunks(found, SUMMED_EVENTS):
        seats = store.locks.seats_of_all([booking.get("seatLockId") for booking in some])
        for booking, its in zip(some, seats, strict=True):
            yield booking if its is None else {**booking, "seatsOfLock": its}


# --- one document ----------------------------------------------------------------------------------------


def show(store: Store, document_id: object) -> Shown:
    """Any document by its id. Raises NotFound."""
    found = store.find_anywhere(document_id)
    if found is None:
        raise NotFound(f"there is no event, lock, booking, refund, operation or job run {document_id}")
    kind, document = found
    related: dict[str, list[StoredDocument]] = {}
    match kind:
        case Kind.EVENT:
            document = next(_with_seats(store, iter([document])))
            related["seatLocks"] = list(store.locks.newest({"eventId": document_id}, LATEST))
            related["bookings"] = list(store.bookings.newest({"event": document_id}, LATEST))
        case Kind.LOCK:
            related["bookings"] = list(store.bookings.newest({"seatLockId": document_id}, LATEST))
            related["events"] = _event(store, document.get("eventId"))
        case Kind.BOOKING:
            lock = store.locks.stored(document.get("seatLockId"))
            related["seatLocks"] = [] if lock is None else [lock]
            related["events"] = _event(store, document.get("event"))
    return Shown(kind, document, related)


def _event(store: Store, event_id: object) -> list[StoredDocument]:
    event = store.events.stored(event_id)
    return list(_with_seats(store, iter([] if event is None else [event])))


# --- sums ------------------------------------------------------------------------------------------------


def summarize(store: Store, jobs: Iterable[JobType], since: PastTime) -> list[StoredDocument]:
    """For each of these jobs, its runs since then: how many, how many succeeded, what they did, how long
    the median and the longest took (ms)."""
    start = resolve_past(since, store.now())
    return [_sum_up(job, list(store.job_logs.durations(job, start))) for job in jobs]


def _sum_up(job: JobType, groups: list[StoredDocument]) -> StoredDocument:
    durations: Counter[float] = Counter()
    for group in groups:
        duration = group.get("duration")
        if isinstance(duration, int | float):
            durations[duration] += _number(group, "runs")
    runs = sum(_number(group, "runs") for group in groups)
    good = sum(_number(group, "runs") for group in groups if group.get("status") == JobStatus.SUCCESS)
    return {
        "jobType": job.value,
        "runs": runs,
        "successRate": good / runs if runs else None,
        "recordsProcessed": sum(_number(group, "recordsProcessed") for group in groups),
        "seatsRestored": sum(_number(group, "seatsRestored") for group in groups),
        "medianDuration": round(median(durations.elements())) if durations else None,
        "worstDuration": max(durations, default=None),
    }


def _number(group: StoredDocument, name: str) -> int:
    value = group.get(name)
    return int(value) if isinstance(value, int | float) and isfinite(value) else 0
