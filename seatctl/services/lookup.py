"""What people ask to see: lists, and one document with all that belongs to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from math import isfinite
from statistics import median

from seatctl.domain.documents import EventId, Kind, StoredDocument, UserId
from seatctl.domain.states import BookingStatus, JobStatus, JobType, LockStatus, RefundStatus
from seatctl.errors import NotFound
from seatctl.mongo.collection import chunks
from seatctl.mongo.store import Store
from seatctl.services.found import not_found

LATEST = 10
"""Locks and bookings shown with their event."""
EVENTS_AT_ONCE = 1_000
"""Events whose held seats are summed up in one query."""


class EventOrder(StrEnum):
    """How a list of events is sorted."""

    NEWEST = "newest"
    FULLEST = "fullest"


@dataclass(frozen=True, slots=True)
class Shown:
    """One document, what kind it is, and what belongs to it by collection."""

    kind: Kind
    document: StoredDocument
    related: Mapping[str, list[StoredDocument]] = field(default_factory=dict)

    def as_document(self) -> StoredDocument:
        return {**self.document, **self.related}


# --- lists, newest first; a limit of 0 shows all ---------------------------------------------------------


def events(store: Store, order: EventOrder, limit: int) -> Iterator[StoredDocument]:
    """Events with their `locked` and `sold` seats added."""
    fullest = order is EventOrder.FULLEST
    return _with_seats(store, store.events.fullest(limit) if fullest else store.events.newest({}, limit))


def locks(
    store: Store, event: EventId | None, status: LockStatus | None, user: UserId | None, limit: int
) -> Iterator[StoredDocument]:
    """Raises NotFound for the locks of what is no event."""
    where = _given(eventId=event, status=status, userId=user)
    return _of_event(store, event, store.locks.newest(where, limit))


def bookings(
    store: Store, event: EventId | None, status: BookingStatus | None, user: UserId | None, limit: int
) -> Iterator[StoredDocument]:
    """Raises NotFound for the bookings of what is no event."""
    where = _given(event=event, status=status, user=user)
    return _of_event(store, event, store.bookings.newest(where, limit))


def job_runs(
    store: Store, job: JobType | None, status: JobStatus | None, since: timedelta | None, limit: int
) -> Iterator[StoredDocument]:
    """The runs of the jobs, those that started within `since`."""
    where = _given(jobType=job, status=status)
    if since is not None:
        where["executedAt"] = {"$gte": store.now() - since}
    return store.job_logs.newest(where, limit, by="executedAt")


def refunds(
    store: Store, event: EventId | None, status: RefundStatus | None, limit: int
) -> Iterator[StoredDocument]:
    """Raises NotFound for the refunds of what is no event."""
    where = _given(eventId=event, status=status)
    return _of_event(store, event, store.refunds.newest(where, limit, by="dueAt"))


def newest_ids(store: Store, collection: str, limit: int, **filters: str | None) -> list[str]:
    """The newest ids for a shell to complete."""
    collections = {
        "events": store.events,
        "seatLocks": store.locks,
        "bookings": store.bookings,
        "refunds": store.refunds,
    }
    found = collections[collection].newest(_given(**filters), limit)
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


def _with_seats(store: Store, found: Iterator[StoredDocument]) -> Iterator[StoredDocument]:
    for some_events in chunks(found, EVENTS_AT_ONCE):
        held = store.locks.held_by_status(event["_id"] for event in some_events)
        for event in some_events:
            seats = {status: held.get((str(event["_id"]), status), 0) for status in LockStatus}
            yield {**event, "locked": seats[LockStatus.ACTIVE], "sold": seats[LockStatus.CONSUMED]}


# --- one document ----------------------------------------------------------------------------------------


def show(store: Store, document_id: object) -> Shown:
    """Any document by its id. Raises NotFound."""
    found = store.find_anywhere(document_id)
    if found is None:
        raise NotFound(f"there is no event, lock, booking or job run {document_id}")
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


def summarize(store: Store, jobs: Iterable[JobType], since: timedelta) -> list[StoredDocument]:
    """For each of these jobs, its runs within `since`: how many, how many succeeded, what they did, how long
    the median and the longest took (ms)."""
    start = store.now() - since
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
