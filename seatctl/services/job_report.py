"""What one run of a job did: its numbers, its entry in the job log, why it failed if it did, and what it
ended, one document after the other (`--list`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import NamedTuple, TypeAlias

from seatctl.domain.documents import BookingId, EventId, JobRun, LockId, RunId, StoredDocument
from seatctl.domain.rules import LISTED
from seatctl.domain.states import BookingStatus, Fault, JobStatus, JobType, LockStatus
from seatctl.domain.words import and_more, count
from seatctl.mongo.ids import new_run_id
from seatctl.mongo.job_logs import as_stored
from seatctl.mongo.secrets import scrub
from seatctl.mongo.store import Store
from seatctl.services.seats import seats_of
from seatctl.services.sweeps import Batch, SkippedItem
from seatctl.services.violations import Violation


class Outcome(Enum):
    REPAIRED = "repaired"
    PLANNED = "planned"
    NEEDS_PERSON = "needs a person"
    OVERSOLD = "oversold: the event no longer has the seats; needs a person"
    LEFT_ALONE = "left alone"
    LEFT_FOR_NEXT_RUN = "left for the next run: other writers keep changing it"


UNRESOLVED = frozenset({Outcome.NEEDS_PERSON, Outcome.OVERSOLD, Outcome.LEFT_FOR_NEXT_RUN})


class RepairStep(NamedTuple):
    """A violation that recovery met, and what became of it, as an outcome and in words."""

    violation: Violation
    outcome: Outcome
    words: str = ""

    def as_document(self) -> dict[str, object]:
        return {**self.violation.as_document(), "outcome": self.words or self.outcome.value}


class Ended(NamedTuple):
    """A booking with the lock that ended with it, or a lock alone; and the seats that went back."""

    lock: LockId | None
    booking: BookingId | None = None
    seats: int = 0


Listener: TypeAlias = Callable[[Sequence[Ended]], None]
"""Hears what has ended, once that is committed."""


@dataclass(slots=True)
class JobReport:
    """One run of a job so far."""

    job: JobType
    started: datetime
    host: str
    dry_run: bool = False
    id: RunId = field(default_factory=new_run_id)
    """What it ends names its entry by this."""
    as_of: datetime | None = None
    """The time of the run, where it was moved."""
    locks: int = 0
    bookings: int = 0
    seats: int = 0
    repairs: int = 0
    """Documents that recovery changed beside what the sweeps expired."""
    skipped: dict[tuple[str, str], SkippedItem] = field(default_factory=dict)
    notes: list[SkippedItem] = field(default_factory=list)
    seats_by_event: Counter[EventId] = field(default_factory=Counter)
    blocked: Counter[EventId] = field(default_factory=Counter)
    """By closed event, the seats that came back and went into its block."""
    left_alone: Counter[EventId] = field(default_factory=Counter)
    """By event that counts per day, on an adopted database, its overdue items."""
    steps: list[RepairStep] = field(default_factory=list)
    duration_ms: int = 0
    listener: Listener | None = None
    """Hears what ended."""

    def add(self, batch: Batch) -> None:
        returned = seats_of(batch.returning)
        self.locks += batch.locks
        self.bookings += batch.bookings
        self.seats += returned.total()
        self.seats_by_event.update(returned)
        self.notes += batch.notes
        self.left_alone += batch.left_alone
        self.skip(batch.skipped)

    def tell(self, ended: Iterable[Ended]) -> None:
        """Tell what ended, after the commit. Where nobody listens it is not even put together."""
        if self.listener is not None and (told := list(ended)):
            self.listener(told)

    def skip(self, items: list[SkippedItem]) -> None:
        self.skipped.update({(item.kind, str(item.id)): item for item in items})

    @property
    def before(self) -> datetime:
        """What is overdue at this time is swept."""
        return self.as_of or self.started

    @property
    def processed(self) -> int:
        match self.job:
            case JobType.LOCK_EXPIRY:
                return self.locks
            case JobType.BOOKING_EXPIRY:
                return self.bookings
            case JobType.RECOVERY:
                return self.locks + self.bookings + self.repairs

    @property
    def interrupted(self) -> str:
        """How far a run came that was told to stop."""
        what = {JobType.LOCK_EXPIRY: "lock", JobType.BOOKING_EXPIRY: "booking", JobType.RECOVERY: "record"}
        return f"interrupted after {count(self.processed, what[self.job])}"

    @property
    def changes(self) -> bool:
        """Whether a run changed anything, or a dry run would."""
        steps = any(step.outcome in (Outcome.REPAIRED, Outcome.PLANNED) for step in self.steps)
        return bool(steps or self.processed or self.blocked)

    @property
    def unresolved(self) -> int:
        return sum(step.outcome in UNRESOLVED for step in self.steps)

    @property
    def counters_corrected(self) -> int:
        return sum(
            step.violation.fault is Fault.COUNTER_DRIFT and step.outcome not in UNRESOLVED
            for step in self.steps
        )

    @property
    def error(self) -> str | None:
        """Why this run is no success, or None."""
        parts = []
        if items := list(self.skipped.values()):
            parts.append(f"skipped {items[0]}{and_more(len(items))}")
        if self.notes:
            parts.append(f"expired {self.notes[0]}{and_more(len(self.notes))}")
        if self.unresolved:
            need = "violation needs" if self.unresolved == 1 else "violations need"
            parts.append(f"{self.unresolved} {need} a person to decide; `seatctl verify` says what to do")
        return "; ".join(parts) or None

    def entry(self, error: str | None) -> JobRun:
        """The entry of this run in the job log: no secret ever stands in it."""
        status = JobStatus.FAILED if error else JobStatus.SUCCESS
        told = None if error is None else scrub(error)
        return JobRun(self.job, self.started, status, self._details(), self.host, told, self.id)

    @property
    def run(self) -> StoredDocument:
        return as_stored(self.entry(self.error))

    def _details(self) -> StoredDocument:
        details: dict[str, object] = {
            "recordsProcessed": self.processed,
            "seatsRestored": self.seats,
            "duration": self.duration_ms,
            "locksExpired": self.locks,
        }
        if self.job is not JobType.LOCK_EXPIRY:
            details["bookingsExpired"] = self.bookings
        if self.job is JobType.RECOVERY:
            details["resourcesRecovered"] = self.processed
            details["findings"] = [step.as_document() for step in self.steps[:LISTED]]
            details["findingsCount"] = len(self.steps)
        if self.as_of is not None:
            details["asOf"] = self.as_of
        if self.seats_by_event:
            largest = self.seats_by_event.most_common(LISTED)
            details["seatsByEvent"] = [{"event": event, "seats": seats} for event, seats in largest]
        if self.blocked:
            details["seatsBlocked"] = self.blocked.total()
        if self.left_alone:
            details["leftAlone"] = [
                {"event": event, "items": items} for event, items in self.left_alone.most_common(LISTED)
            ]
        if self.skipped:
            details["setAsideCount"] = len(self.skipped)
            details["setAside"] = [item.as_document() for item in list(self.skipped.values())[:LISTED]]
        return details


def ended_items(store: Store, ended: Sequence[Ended], *, dry_run: bool = False) -> Iterator[StoredDocument]:
    """What ended, as mailers and logs want to read it: each with the event, the user and the key that it was
    for."""
    bookings = store.bookings.buyers([item.booking for item in ended if item.booking is not None])
    named = [LockId(booking["seatLockId"]) for booking in bookings.values()]
    locks = store.locks.buyers([*named, *(item.lock for item in ended if item.lock is not None)])
    for item in ended:
        booking: StoredDocument = {} if item.booking is None else bookings.get(item.booking, {})
        lock_id = item.lock if item.lock is not None else LockId(booking.get("seatLockId"))
        lock = locks.get(lock_id, {})
        what: dict[str, object] = {"what": "lock", "lock": lock_id}
        if item.booking is not None:
            what = {"what": "booking", "booking": item.booking, "lock": lock_id}
        yield {
            **what,
            "event": booking.get("event", lock.get("eventId")),
            "user": booking.get("user", lock.get("userId")),
            "seats": item.seats,
            "key": lock.get("idempotencyKey"),
            "from": (LockStatus.ACTIVE if item.booking is None else BookingStatus.PAYMENT_PENDING).value,
            "to": LockStatus.EXPIRED.value,
            **({"dryRun": True} if dry_run else {}),
        }
