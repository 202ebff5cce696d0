"""What people ask to see: lists, and one document with all that hangs on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from statistics import median
from typing import TYPE_CHECKING

from seatctl.domain.model import Document, Id, JobStatus, JobType, LockStatus, is_key
from seatctl.errors import NotFound
from seatctl.mongo.store import object_id

if TYPE_CHECKING:
    from seatctl.mongo.store import Store

LATEST = 10
"""Locks shown with their event."""
EVENTS_AT_ONCE = 1_000
"""Events whose held seats are summed up in one query."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One document, what kind it is, and what belongs to it by collection."""

    kind: str
    document: Document
    related: dict[str, list[Document]] = field(default_factory=dict)

    def as_document(self) -> Document:
        return {**self.document, **self.related}


def newest(store: Store, collection: str, where: Document, limit: int) -> Iterator[Document]:
    """The newest `limit` documents (0: all) that match; events with their `locked` and `sold` seats.
    Raises NotFound for the locks or bookings of what is no event."""
    by = "executedAt" if collection == "jobLogs" else "_id"
    found = store.from_newest(collection, where, limit, by)
    if collection == "events":
        yield from _with_seats(store, found)
        return
    first = next(found, None)
    if first is not None:
        yield first
        yield from found
    elif (event := where.get("eventId") or where.get("event")) and store.event(event) is None:
        other = store.find_anywhere(event)
        raise NotFound(f"there is no event {event}{f'; that is the id of {other[0]}' if other else ''}")


def fullest(store: Store, limit: int) -> Iterator[Document]:
    """The `limit` (0: all) events with the smallest share of their seats available."""
    return _with_seats(store, store.fullest(limit))


def _with_seats(store: Store, events: Iterator[Document]) -> Iterator[Document]:
    while batch := list(islice(events, EVENTS_AT_ONCE)):
        yield from with_seats(store, batch)


def summary(store: Store, jobs: Iterable[JobType], since: datetime) -> list[Document]:
    """For each of these jobs, its runs since then: how many, how many went well, what they did, how
    long the median and the longest took (ms)."""
    return [_sum_up(job, list(store.runs_since(job, since))) for job in jobs]


def _sum_up(job: JobType, groups: list[Document]) -> Document:
    durations: Counter[float] = Counter()
    for group in groups:
        if isinstance(group.get("duration"), int | float):
            durations[group["duration"]] += group["runs"]
    runs = sum(group["runs"] for group in groups)
    good = sum(group["runs"] for group in groups if group.get("status") == JobStatus.SUCCESS)
    return {
        "jobType": job.value,
        "runs": runs,
        "successRate": good / runs if runs else None,
        "recordsProcessed": sum(group["recordsProcessed"] for group in groups),
        "seatsRestored": sum(group["seatsRestored"] for group in groups),
        "medianDuration": round(median(durations.elements())) if durations else None,
        "worstDuration": max(durations, default=None),
    }


def with_seats(store: Store, events: list[Document]) -> list[Document]:
    """Events with `locked` (ACTIVE) and `sold` (CONSUMED) seats added."""
    # A document as an id, which MongoDB allows, is no key here, and no lock refers to it.
    ids = [event["_id"] if is_key(event["_id"]) else None for event in events]
    held = store.held_seats(ids)
    return [
        {
            **event,
            "locked": held.get((event_id, LockStatus.ACTIVE), 0),
            "sold": held.get((event_id, LockStatus.CONSUMED), 0),
        }
        for event_id, event in zip(ids, events, strict=True)
    ]


def show(store: Store, wanted: Id) -> Shown:
    """Find any document by its id. Raises Usage for what is no id, NotFound."""
    wanted = object_id(wanted)
    found = store.find_anywhere(wanted)
    if found is None:
        raise NotFound(f"there is no event, lock, booking or job run {wanted}")
    kind, document = found
    related: dict[str, list[Document]] = {}
    match kind:
        case "an event":
            document = with_seats(store, [document])[0]
            related["seatLocks"] = store.newest("seatLocks", {"eventId": wanted}, LATEST)
            related["bookings"] = store.newest("bookings", {"event": wanted}, LATEST)
        case "a lock":
            related["bookings"] = store.bookings_of_locks([wanted])
            related["events"] = _one(store.event(document.get("eventId")))
        case "a booking":
            related["seatLocks"] = _one(store.lock(document.get("seatLockId")))
            related["events"] = _one(store.event(document.get("event")))
    if "events" in related:
        related["events"] = with_seats(store, related["events"])
    return Shown(kind.split()[-1] if kind != "a job run" else "job run", document, related)


def _one(document: Document | None) -> list[Document]:
    return [] if document is None else [document]
