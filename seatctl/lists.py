"""What people ask to see: lists, and one document with all that hangs on it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import TYPE_CHECKING

from seatctl.errors import NotFound
from seatctl.model import Document, Id, JobStatus, JobType, LockStatus
from seatctl.store import object_id

if TYPE_CHECKING:
    from seatctl.store import Store

LATEST = 10
"""Locks shown with their event."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One document, what kind it is, and what belongs to it by collection."""

    kind: str
    document: Document
    related: dict[str, list[Document]] = field(default_factory=dict)

    def as_document(self) -> Document:
        return {**self.document, **self.related}


def newest(store: Store, collection: str, where: Document, limit: int) -> list[Document]:
    """The newest `limit` documents (0: all) that match; events with their `locked` and `sold` seats."""
    documents = store.newest(collection, where, limit, by="executedAt" if collection == "jobLogs" else "_id")
    return with_seats(store, documents) if collection == "events" else documents


def fullest(store: Store, limit: int) -> list[Document]:
    """The `limit` (0: all) events with the smallest share of their seats available."""
    return with_seats(store, store.fullest(limit))


def summary(store: Store, since: datetime) -> list[Document]:
    """For each job, its runs since then: how many, how many went well, what they did, how long the
    median and the longest took (ms)."""
    return [_sum_up(job, list(store.runs_since(job, since))) for job in JobType]


def _sum_up(job: JobType, runs: list[Document]) -> Document:
    details = [run["details"] for run in runs if isinstance(run.get("details"), dict)]
    numbers = {
        name: [detail[name] for detail in details if isinstance(detail.get(name), int | float)]
        for name in ("recordsProcessed", "seatsRestored", "duration")
    }
    good = sum(run.get("status") == JobStatus.SUCCESS for run in runs)
    return {
        "jobType": job.value,
        "runs": len(runs),
        "successRate": good / len(runs) if runs else None,
        "recordsProcessed": sum(numbers["recordsProcessed"]),
        "seatsRestored": sum(numbers["seatsRestored"]),
        "medianDuration": round(median(numbers["duration"])) if numbers["duration"] else None,
        "worstDuration": max(numbers["duration"], default=None),
    }


def with_seats(store: Store, events: list[Document]) -> list[Document]:
    """Events with `locked` (ACTIVE) and `sold` (CONSUMED) seats added."""
    # A document as an id, which MongoDB allows, is no key here, and no lock refers to it.
    ids = [event["_id"] if isinstance(event["_id"], Hashable) else None for event in events]
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
