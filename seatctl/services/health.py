"""Are the jobs fresh, is anything left lying, is the inventory consistent? Reads only.

A problem is something to act on and makes the database unhealthy; a warning is something to know.
Each is one line that ends with what to do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from seatctl.domain.model import Document, Id, JobStatus, JobType, is_key
from seatctl.domain.timespec import format_duration, format_time
from seatctl.errors import Contention
from seatctl.mongo.schema import EVENTS
from seatctl.mongo.store import ReadLost
from seatctl.services.audit import Finding, find_all
from seatctl.services.expiry import BATCH, Sweep, booking_sweep, lock_sweep
from seatctl.services.seats import ATTEMPTS, sound

if TYPE_CHECKING:
    from seatctl.mongo.store import Store

WINDOW = timedelta(hours=24)
CLOCK_TOLERANCE = timedelta(seconds=5)
LISTED = 100
"""Findings and events named in one document; their number is always complete."""


@dataclass(frozen=True, slots=True)
class JobHealth:
    """The runs of one job: counted by status within the window, and the last one whenever it was."""

    job: JobType
    statuses: Mapping[str, int]
    last: Document | None
    last_success: datetime | None
    age: timedelta | None

    @property
    def runs(self) -> int:
        return sum(self.statuses.values())

    @property
    def failures(self) -> int:
        return self.statuses.get(JobStatus.FAILED, 0)

    @property
    def last_run(self) -> datetime | None:
        return self.last["executedAt"] if self.last else None

    @property
    def last_status(self) -> str | None:
        return self.last.get("status") if self.last else None

    @property
    def last_error(self) -> str | None:
        """Why the last run failed; None when it did not."""
        if not self.last or self.last_status != JobStatus.FAILED:
            return None
        return str(self.last.get("error") or "no reason given")

    def detail(self, name: str) -> float | None:
        """A number from the last run's `details`, if it is there."""
        details = self.last.get("details") if self.last else None
        value = details.get(name) if isinstance(details, dict) else None
        return value if isinstance(value, int | float) else None

    def problem(self, max_age: timedelta, window: timedelta) -> str | None:
        """What is wrong with this job, or None. Recovery has no schedule but start-up, so it is
        judged by its last outcome, and a database that never needed it is well."""
        if self.last is None:
            if self.job is JobType.RECOVERY:
                return None
            return f"{self.job} has never run; `seatctl schedule cron` prints a crontab that runs it"
        assert self.age is not None
        failed = f": {self.last_error}" if self.last_error else ""
        if self.job is not JobType.RECOVERY and self.age > max_age:
            seen = (
                f"last at {format_time(self.last['executedAt'])} on {self.last.get('host', 'unknown host')}"
            )
            outcome = f", which failed{failed}" if failed else ""
            return (
                f"{self.job} has not run for {format_duration(self.age)} ({seen}{outcome}); "
                "check that its crontab or timer is active"
            )
        if failed:
            often = f"{self.failures} of {self.runs} runs in {format_duration(window)} failed"
            return (
                f"{self.job} runs but fails ({often}), last{failed}; "
                f"`seatctl jobs --type {self.job.lower()} --status failed` lists them"
            )
        return None

    def as_document(self) -> Document:
        return {
            "runs": self.runs,
            "statuses": dict(self.statuses),
            "failures": self.failures,
            "lastRun": self.last_run,
            "lastStatus": self.last_status,
            "lastSuccess": self.last_success,
            "lastError": self.last_error,
            "ageSeconds": None if self.age is None else _seconds(self.age),
        }


@dataclass(frozen=True, slots=True)
class Backlog:
    """What one sweep would give back now: how many, and for how long the oldest has been overdue."""

    overdue: int = 0
    oldest: timedelta | None = None

    def problem(self, what: str, command: str, max_age: timedelta) -> str | None:
        if self.oldest is None or self.oldest <= max_age:
            return None
        return (
            f"{self.overdue:,} {what} overdue, the oldest for {format_duration(self.oldest)}; "
            f"`seatctl {command}` gives their seats back"
        )


@dataclass(frozen=True, slots=True)
class Seats:
    """Seats of all events: how many there are, and how many of them in which state."""

    events: int
    total: int
    available: int
    locked: int
    sold: int


@dataclass(slots=True)
class Health:
    """One look at the whole system, at the server's time `checked_at`."""

    checked_at: datetime
    max_age: timedelta
    window: timedelta
    jobs: dict[JobType, JobHealth]
    locks: Backlog
    bookings: Backlog
    seats: Seats
    findings: list[Finding]
    missing: list[str]
    clock_difference: timedelta
    """How far this host's clock is ahead of the server's."""
    events: list[Document] = field(default_factory=list)
    """Each event's seats, if asked for."""

    @property
    def problems(self) -> list[str]:
        """What makes the system unhealthy, a line each."""
        lines = [job.problem(self.max_age, self.window) for job in self.jobs.values()]
        lines.append(self.locks.problem("locks", "expire-locks", self.max_age))
        lines.append(self.bookings.problem("bookings", "expire-bookings", self.max_age))
        lines += self._violations()
        if EVENTS in self.missing:
            lines.append(
                f"there is no collection `{EVENTS}`: most often the database's name is mistyped; "
                "`seatctl init` creates it"
            )
        return [line for line in lines if line]

    def _violations(self) -> list[str]:
        """One line for each kind of fault, with its first case."""
        count = Counter(finding.fault for finding in self.findings)
        first = {finding.fault: finding for finding in reversed(self.findings)}
        return [
            f"{fault}: {finding.message}"
            + (f", and {count[fault] - 1:,} more" if count[fault] > 1 else "")
            + f"; `{finding.remedy}`, or `seatctl verify` for all"
            for fault, finding in sorted(first.items())
        ]

    @property
    def warnings(self) -> list[str]:
        """What is worth knowing and makes nothing unhealthy."""
        lines = []
        if abs(self.clock_difference) > CLOCK_TOLERANCE:
            where = "ahead of" if self.clock_difference > timedelta() else "behind"
            lines.append(
                f"this host's clock is {format_duration(self.clock_difference)} {where} the database "
                "server's; deadlines follow the server's, but check the time service of both"
            )
        if self.missing:
            lines.append(f"missing {', '.join(self.missing)}; `seatctl init` creates them")
        return lines

    @property
    def healthy(self) -> bool:
        return not self.problems

    @property
    def inconsistent_events(self) -> list[Id]:
        """Events that some finding is about, each once."""
        named = (finding.event for finding in self.findings if finding.event is not None)
        return list({str(event): event for event in named}.values())

    def as_document(self) -> Document:
        """For `--json`; field names in the manner of the stored ones."""
        return {
            "healthy": self.healthy,
            "problems": self.problems,
            "warnings": self.warnings,
            "checkedAt": self.checked_at,
            "maxAgeSeconds": _seconds(self.max_age),
            "windowSeconds": _seconds(self.window),
            "jobs": {job.value: health.as_document() for job, health in self.jobs.items()},
            "backlog": {
                "overdueLocks": self.locks.overdue,
                "oldestLockSeconds": _seconds(self.locks.oldest or timedelta()),
                "overdueBookings": self.bookings.overdue,
                "oldestBookingSeconds": _seconds(self.bookings.oldest or timedelta()),
            },
            "inventory": {
                "events": self.seats.events,
                "totalSeats": self.seats.total,
                "availableSeats": self.seats.available,
                "lockedSeats": self.seats.locked,
                "soldSeats": self.seats.sold,
                "inconsistentEvents": self.inconsistent_events[:LISTED],
                "inconsistentEventsCount": len(self.inconsistent_events),
                "findings": [finding.as_document() for finding in self.findings[:LISTED]],
                "findingsCount": len(self.findings),
            },
            "missing": self.missing,
            "clockDifferenceSeconds": self.clock_difference.total_seconds(),
        }


def check(
    store: Store,
    *,
    max_age: timedelta,
    window: timedelta = WINDOW,
    per_event: bool = False,
    host_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Health:
    """Look at everything once. `max_age` is how old the last run of an expiry job, and how long
    overdue the oldest item, may be; `window` is how far back runs are counted."""
    before = host_clock()
    now = store.now()
    # The server read its clock between the two; only what lies outside of them is a difference.
    difference = min(max(before - now, timedelta()), host_clock() - now)
    return Health(
        checked_at=now,
        max_age=max_age,
        window=window,
        jobs={job: _job(store, job, now, window) for job in JobType},
        locks=_backlog(store, lock_sweep(store), now),
        bookings=_backlog(store, booking_sweep(store), now),
        seats=Seats(**store.seat_totals()),
        findings=find_all(store),
        missing=store.missing(),
        clock_difference=difference,
        events=list(store.seats_by_event()) if per_event else [],
    )


def _job(store: Store, job: JobType, now: datetime, window: timedelta) -> JobHealth:
    # Never after now: one entry from a clock that was wrong must not hide that the job stopped.
    until_now = {"$lte": now, "$not": {"$type": "array"}}
    last = store.last_run(job, executedAt=until_now)
    succeeded = store.last_run(job, executedAt=until_now, status=JobStatus.SUCCESS)
    return JobHealth(
        job,
        store.count_runs(job, now - window),
        last,
        succeeded["executedAt"] if succeeded else None,
        now - last["executedAt"] if last else None,
    )


def _backlog(store: Store, kind: Sweep, now: datetime) -> Backlog:
    """What the sweep would take, judged by the sweep's own plan, without keeping it in memory."""
    for _ in range(ATTEMPTS):
        overdue, oldest = 0, now
        candidates = kind.read(now, None)
        try:
            while batch := list(islice(candidates, BATCH)):
                deadlines: dict[Id, Any] = {
                    item["_id"]: item.get(kind.deadline) for item in batch if is_key(item["_id"])
                }
                claims, _ = sound(store, kind.plan(batch)[0])
                overdue += len(claims)
                mine = (claim.booking or (claim.hold and claim.hold.lock) for claim in claims)
                oldest = min([oldest, *(deadlines[item] for item in mine)])
        except ReadLost:
            continue
        return Backlog(overdue, now - oldest if overdue else None)
    raise Contention("the server kept dropping the list of what is overdue; try again")


def _seconds(duration: timedelta) -> int:
    return int(duration.total_seconds())
