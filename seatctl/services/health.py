"""`health`: are the jobs fresh, is anything overdue, is the inventory consistent? Reads only.

A problem is something to act on and makes the database unhealthy; a warning is something to know.
Each is one line that ends with what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from seatctl.domain.documents import PastRun, StoredDocument
from seatctl.domain.rules import LISTED
from seatctl.domain.states import JobStatus, JobType, LockStatus
from seatctl.domain.timespec import format_duration, format_time
from seatctl.domain.validation import ListRequest
from seatctl.domain.words import count
from seatctl.mongo.schema import EVENTS
from seatctl.mongo.store import Store
from seatctl.services.expiry import run_sweep
from seatctl.services.lists import events as list_events
from seatctl.services.sweeps import BookingSweep, LockSweep, Sweep, SweepRun
from seatctl.services.verify import verify
from seatctl.services.violations import Violation, first_of_each

MAX_AGE = timedelta(minutes=3)
WINDOW = timedelta(hours=24)
CLOCK_TOLERANCE = timedelta(seconds=5)
REFUND_AGE = timedelta(days=7)
"""A refund that is due for longer is a problem: money was forgotten (invariant 12)."""
OF_EVENTS = ListRequest(fields=("availableSeats", "locked", "sold"))
NO_MAJORITY = (
    "a majority of the replica set is missing: nothing can be changed; start the members that are down"
)


@dataclass(frozen=True, slots=True)
class JobHealth:
    """The runs of one job: counted by status within the window, and the last one whenever it was."""

    job: JobType
    statuses: Mapping[str, int]
    last: PastRun | None
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
        return self.last.executed_at if self.last else None

    @property
    def last_error(self) -> str | None:
        """Why the last run failed; None when it did not."""
        if not self.last or self.last.status != JobStatus.FAILED:
            return None
        return self.last.error or "no reason given"

    def detail(self, name: str) -> float | None:
        """A number from the last run's `details`, if it is there."""
        value = self.last.details.get(name) if self.last else None
        return value if isinstance(value, int | float) else None

    def problem(self, max_age: timedelta, window: timedelta) -> str | None:
        """What is wrong with this job, or None. Recovery has no schedule but start-up, so it is judged by
        its last outcome, and need not have run at all."""
        if self.last is None:
            if self.job is JobType.RECOVERY:
                return None
            schedules = "`seatctl schedule cron` or `seatctl schedule systemd`"
            return f"{self.job} has never run; {schedules} sets it up"
        assert self.age is not None
        failed = f": {self.last_error}" if self.last_error else ""
        seen = f"{format_time(self.last.executed_at)} on {self.last.host}"
        if self.job is not JobType.RECOVERY and self.age > max_age:
            outcome = f", which failed{failed}" if failed else ""
            return (
                f"{self.job} has not run for {format_duration(self.age)} (last at {seen}{outcome}); "
                "check that its crontab or timer is active"
            )
        if failed and self.job is JobType.RECOVERY:
            return (
                f"the last RECOVERY failed{failed} ({seen}); "
                "run `seatctl recover` again: once it succeeds, this is resolved"
            )
        if failed:
            often = f"{self.failures} of {self.runs} runs in {format_duration(window)} failed"
            return (
                f"{self.job} runs but fails ({often}), last{failed}; "
                f"`seatctl jobs --type {self.job.lower()} --status failed` lists them"
            )
        return None

    def as_document(self) -> dict[str, object]:
        return {
            "runs": self.runs,
            "statuses": dict(self.statuses),
            "failures": self.failures,
            "lastRun": self.last_run,
            "lastStatus": self.last.status if self.last else None,
            "lastSuccess": self.last_success,
            "lastError": self.last_error,
            "ageSeconds": None if self.age is None else _seconds(self.age),
        }


@dataclass(frozen=True, slots=True)
class Backlog:
    """What one sweep would expire now: how many, and for how long the oldest has been overdue."""

    overdue: int = 0
    oldest: timedelta | None = None

    def problem(self, what: str, command: str, max_age: timedelta) -> str | None:
        if self.oldest is None or self.oldest <= max_age:
            return None
        return (
            f"{count(self.overdue, what)} overdue, the oldest for {format_duration(self.oldest)}; "
            f"`seatctl {command}` returns their seats"
        )


@dataclass(frozen=True, slots=True)
class RefundsDue:
    """Money that has to go back: how many refunds, and for how long the oldest has been due."""

    due: int = 0
    oldest: timedelta | None = None

    def __str__(self) -> str:
        since = "" if self.oldest is None else f", the oldest for {format_duration(self.oldest)}"
        return f"{count(self.due, 'refund')} due{since}; `seatctl refunds` lists them"

    @property
    def is_forgotten(self) -> bool:
        return self.oldest is not None and self.oldest > REFUND_AGE


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
    refunds: RefundsDue
    seats: Seats
    violations: list[Violation]
    accepted: list[Violation]
    missing: list[str]
    clock_difference: timedelta
    """How far this host's clock is ahead of the server's."""
    majority_is_missing: bool = False
    events: Iterable[StoredDocument] = ()
    """Each event's seats, if asked for."""

    @property
    def problems(self) -> list[str]:
        """What makes the system unhealthy, a line each."""
        lines = [NO_MAJORITY if self.majority_is_missing else None]
        lines += [job.problem(self.max_age, self.window) for job in self.jobs.values()]
        lines.append(self.locks.problem("lock", "expire-locks", self.max_age))
        lines.append(self.bookings.problem("booking", "expire-bookings", self.max_age))
        lines += _by_fault(self.violations)
        if self.refunds.is_forgotten:
            lines.append(str(self.refunds))
        if EVENTS in self.missing:
            lines.append(
                f"there is no collection `{EVENTS}`: the database's name is probably mistyped; "
                "`seatctl init` creates it"
            )
        return [line for line in lines if line]

    @property
    def warnings(self) -> list[str]:
        """What is worth knowing and makes nothing unhealthy."""
        lines = []
        if abs(self.clock_difference) > CLOCK_TOLERANCE:
            where = "ahead of" if self.clock_difference > timedelta() else "behind"
            lines.append(
                f"this host's clock is {format_duration(self.clock_difference)} {where} the database "
                "server's; deadlines follow the server's, but check time synchronization on both"
            )
        lines += _by_fault(self.accepted)
        if self.refunds.due and not self.refunds.is_forgotten:
            lines.append(str(self.refunds))
        if self.missing:
            lines.append(f"missing {', '.join(self.missing)}; `seatctl init` creates them")
        return lines

    @property
    def healthy(self) -> bool:
        return not self.problems

    @property
    def inconsistent_events(self) -> list[object]:
        """Events that some violation is about, each once."""
        named = (violation.event for violation in self.violations if violation.event is not None)
        return list({str(event): event for event in named}.values())

    def as_document(self) -> dict[str, object]:
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
            "refunds": {
                "due": self.refunds.due,
                "oldestSeconds": _seconds(self.refunds.oldest or timedelta()),
            },
            "inventory": {
                "events": self.seats.events,
                "totalSeats": self.seats.total,
                "availableSeats": self.seats.available,
                "lockedSeats": self.seats.locked,
                "soldSeats": self.seats.sold,
                "inconsistentEvents": self.inconsistent_events[:LISTED],
                "inconsistentEventsCount": len(self.inconsistent_events),
                "findings": [violation.as_document() for violation in self.violations[:LISTED]],
                "findingsCount": len(self.violations),
            },
            "missing": self.missing,
            "clockDifferenceSeconds": self.clock_difference.total_seconds(),
        }


def _by_fault(violations: Sequence[Violation]) -> list[str]:
    """One line for each kind of fault, with its first case."""
    return sorted(
        f"{violation.fault}: {violation.message}"
        + (f", and {number - 1:,} more" if number > 1 else "")
        + ("; nothing to do" if violation.accepted else f"; {_way_out(violation)}")
        for violation, number in first_of_each(violations)
    )


def _way_out(violation: Violation) -> str:
    """A single command stands in quotes, several decisions as `verify` lists them."""
    remedy = f"`{violation.remedy}`" if violation.is_for_recovery else violation.remedy
    return f"{remedy} (`seatctl verify` lists all)"


def check(
    store: Store,
    *,
    max_age: timedelta = MAX_AGE,
    window: timedelta = WINDOW,
    per_event: bool = False,
    host_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Health:
    """Look at everything once. `max_age` is how old the last run of an expiry job, and how long overdue the
    oldest item, may be; `window` is how far back runs are counted."""
    before = host_clock()
    now = store.now()
    # The server read its clock between the two; only what lies outside of them is a difference.
    difference = min(max(before - now, timedelta()), host_clock() - now)
    found, (due, since) = list(verify(store)), store.refunds.count_due()
    return Health(
        checked_at=now,
        max_age=max_age,
        window=window,
        jobs={job: _job(store, job, now, window) for job in JobType},
        locks=_backlog(store, LockSweep(), now),
        bookings=_backlog(store, BookingSweep(), now),
        refunds=RefundsDue(due, None if since is None else now - since),
        seats=_seats(store),
        violations=[violation for violation in found if not violation.accepted],
        accepted=[violation for violation in found if violation.accepted],
        missing=store.missing(),
        clock_difference=difference,
        majority_is_missing=store.deployment.majority_is_missing(),
        events=list_events(store, request=OF_EVENTS) if per_event else (),
    )


@dataclass(frozen=True, slots=True)
class Glance:
    """What can be told at once, however large the database is: are the jobs fresh, and what is overdue?"""

    jobs_are_fresh: bool
    overdue_locks: int
    overdue_bookings: int


def glance(store: Store, now: datetime) -> Glance:
    """As `check` judges the jobs, without the inventory, for who asks every other second."""
    last = {job: store.job_logs.last(job, until=now) for job in JobType}
    jobs = [
        JobHealth(job, {}, run, None, now - run.executed_at if run else None) for job, run in last.items()
    ]
    return Glance(
        not any(job.problem(MAX_AGE, WINDOW) for job in jobs),
        store.locks.count_overdue(now),
        store.bookings.count_overdue(now),
    )


def _job(store: Store, job: JobType, now: datetime, window: timedelta) -> JobHealth:
    last = store.job_logs.last(job, until=now)
    succeeded = store.job_logs.last(job, until=now, status=JobStatus.SUCCESS)
    return JobHealth(
        job,
        store.job_logs.count_by_status(job, now - window),
        last,
        succeeded.executed_at if succeeded else None,
        now - last.executed_at if last else None,
    )


def _backlog(store: Store, sweep: Sweep, now: datetime) -> Backlog:
    """What a dry run of the sweep would expire."""
    overdue, oldest = 0, now
    for batch in run_sweep(store, SweepRun.at(store, sweep, now, now)._replace(dry_run=True)):
        overdue += len(batch.endings)
        oldest = min([oldest, *(ending.deadline for ending in batch.endings)])
    return Backlog(overdue, now - oldest if overdue else None)


def _seats(store: Store) -> Seats:
    number, total, available = store.events.totals()
    held = store.locks.seats_by_status()
    locked, sold = (held[status] for status in (LockStatus.ACTIVE, LockStatus.CONSUMED))
    return Seats(number, total, available, locked, sold)


def _seconds(duration: timedelta) -> int:
    return int(duration.total_seconds())
