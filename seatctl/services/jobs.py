"""The three jobs: one logged run each of `expire-locks`, `expire-bookings`, `recover`.

Every run is logged, also one that found nothing to do or failed. A first SIGINT or SIGTERM lets the
transaction in flight end; the run is then logged as FAILED with how far it came.
"""

from __future__ import annotations

import logging
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol

from seatctl.domain.documents import Unreadable
from seatctl.domain.rules import BATCH, SETTLE
from seatctl.domain.states import JobType
from seatctl.domain.timespec import format_duration, format_time
from seatctl.domain.validation import moment
from seatctl.domain.words import count
from seatctl.errors import FutureRefused, Interrupted, Misconfigured, SeatctlError, Unreachable
from seatctl.mongo.failures import translate
from seatctl.mongo.store import Store
from seatctl.services.closing import block_what_came_back, would_block
from seatctl.services.expiry import run_sweep
from seatctl.services.job_report import Ended, JobReport, Listener
from seatctl.services.seats import Ending, seats_of
from seatctl.services.signals import Stop, listening
from seatctl.services.sweeps import Batch, BookingSweep, LockSweep, Sweep, SweepRun

log = logging.getLogger(__name__)

LOG_TIME, LOG_TIME_FAILED, LOG_TIME_FORCED = 15.0, 5.0, 1.0
"""Seconds in which the entry of a run is stored: of one that is done, of one that failed, and of one whose
operator will not wait."""

NOT_THE_JOBS_USER = (
    "the database user is not authorized to run insert on {}.jobLogs, so this run could not be logged; "
    "nothing was changed. Run it with the URI of the jobs' user, who has the role seatctlJobs: "
    "`seatctl help privileges`"
)


class Progress(Protocol):
    """Hears how far a job is."""

    def start(self, what: str, count: Callable[[], int]) -> None:
        """A job on `what` begins; `count()` tells how many items are left when it is asked."""

    def advance(self, items: int) -> None:
        """Another batch of so many items is done."""

    def stop(self) -> None:
        """The job is over."""


class _Silent:
    def start(self, what: str, count: Callable[[], int]) -> None: ...
    def advance(self, items: int) -> None: ...
    def stop(self) -> None: ...


SILENT: Progress = _Silent()


class JobOptions(NamedTuple):
    """How a job runs. `as_of` moves "now" for its sweeps, to a time or by a duration; a time in the future
    needs `force`, or `dry_run`, since it would expire locks that are not overdue."""

    as_of: datetime | timedelta | None = None
    force: bool = False
    dry_run: bool = False
    batch_size: int = BATCH
    settle: timedelta = SETTLE
    """Recovery: how long a drift must last before a counter is raised by it, on an event that was changed
    within the last minute."""


def expire_locks(
    store: Store, options: JobOptions, progress: Progress = SILENT, listener: Listener | None = None
) -> JobReport:
    """Expire ACTIVE locks past their deadline that no live booking keeps (invariants 3 and 4)."""
    return _run_expiry(store, JobType.LOCK_EXPIRY, LockSweep(), options, progress, listener)


def expire_bookings(
    store: Store, options: JobOptions, progress: Progress = SILENT, listener: Listener | None = None
) -> JobReport:
    """Expire PAYMENT_PENDING bookings past their deadline, with their locks (invariants 3 and 5)."""
    return _run_expiry(store, JobType.BOOKING_EXPIRY, BookingSweep(), options, progress, listener)


def _run_expiry(
    store: Store,
    job: JobType,
    sweep: Sweep,
    options: JobOptions,
    progress: Progress,
    listener: Listener | None,
) -> JobReport:
    """Raises FutureRefused, before the run begins, and whatever ends it before its time."""
    with _logged(store, job, options, listener) as (report, stop):
        run = SweepRun.at(store, sweep, report.before, report.started)
        _sweep_into_report(store, run, options, report, stop, progress)
        _keep_closed(store, report)
    return report


def _sweep_into_report(
    store: Store, run: SweepRun, options: JobOptions, report: JobReport, stop: Stop, progress: Progress
) -> None:
    """One sweep, batch by batch, into the report. Raises Interrupted if it was asked to stop."""
    run = run._replace(batch_size=options.batch_size, dry_run=options.dry_run, id=report.id)
    ended = 0

    def left() -> int:  # a dry run ends nothing of what is counted
        overdue = run.sweep.documents(store).count_overdue(run.before)
        return overdue - (ended if run.dry_run else 0)

    progress.start(run.sweep.name, left)
    try:
        for batch in run_sweep(store, run, stop.go_on):
            report.add(batch)
            _log_batch(store, report, batch)
            report.tell(map(_ended, batch.returning))
            report.tell(_ended(ending)._replace(seats=0) for ending in batch.without_seats)
            ended += len(batch.endings)
            progress.advance(len(batch.endings))
    finally:
        progress.stop()
    stop.check(report.interrupted)


def _ended(ending: Ending) -> Ended:
    lock = ending.lock
    return Ended(None if lock is None else lock.id, ending.booking, 0 if lock is None else lock.seats)


def _as_of(options: JobOptions, now: datetime) -> datetime | None:
    if options.as_of is None:
        return None
    before = moment("--as-of", options.as_of, now)
    if before > now and not (options.dry_run or options.force):
        raise FutureRefused(
            f"--as-of is {format_duration(before - now)} from now and would expire locks before their "
            "deadline; preview it with --dry-run, or add --force if that is what you want"
        )
    return before


def recover(
    store: Store, options: JobOptions, progress: Progress = SILENT, listener: Listener | None = None
) -> JobReport:
    """Both sweeps, then every violation that a program may repair, then the counters. Repeatable, also beside
    buyers and beside itself (invariants 1 to 5, 8 and 11)."""
    from seatctl.services.recovery import Recovery  # 5 ms that the sweeps, run every minute, need not spend

    with _logged(store, JobType.RECOVERY, options, listener) as (report, stop):
        recovery = Recovery(store, report, stop, options.settle)
        for sweep in (BookingSweep(), LockSweep()):
            run = SweepRun.at(store, sweep, report.before, report.started, recovery.clearance)
            _sweep_into_report(store, run, options, report, stop, progress)
        recovery.repair_all()
        _keep_closed(store, report)
    return report


def _keep_closed(store: Store, report: JobReport) -> None:
    """Take off sale what came back to closed events, also by commands since the last run (invariant 14)."""
    if report.dry_run:
        report.blocked = would_block(store, report.seats_by_event)
    else:
        report.blocked = block_what_came_back(store, report.started)
    for event_id, seats in report.blocked.items():
        log.info("event %s is closed: %s blocked", event_id, count(seats, "seat"))


# --- the log -------------------------------------------------------------------------------------------


@contextmanager
def _logged(
    store: Store, job: JobType, options: JobOptions, listener: Listener | None
) -> Iterator[tuple[JobReport, Stop]]:
    """One run: its report, and its request to stop. At the end the entry is stored: FAILED when items were
    skipped or violations are left, or when an error ended the run, which goes on. A dry run logs nothing.
    Raises FutureRefused, and Misconfigured for a user who may not log the run, before anything is changed."""
    started, dry_run = store.now(), options.dry_run
    as_of = _as_of(options, started)
    if not (dry_run or store.job_logs.may_insert()):
        raise Misconfigured(NOT_THE_JOBS_USER.format(store.name))
    report, clock = JobReport(job, started, socket.gethostname(), dry_run), time.monotonic()
    report.as_of, report.listener = as_of, listener
    log.info("%s on database %s starts; the server's time is %s", job, store.name, format_time(started))
    with listening() as stop:
        try:
            yield report, stop
        except BaseException as error:
            report.duration_ms = _milliseconds_since(clock)
            forced = Interrupted(stop.signal or signal.SIGINT, report.interrupted)
            reason = translate(error) if isinstance(error, Exception) else forced
            if not dry_run:
                if isinstance(reason, Unreachable):
                    with suppress(SeatctlError):
                        store.deployment.revive()
                # Where the server is gone or a majority is missing, this will hardly succeed either.
                with store.deployment.time_limit(
                    LOG_TIME_FAILED if isinstance(error, Exception) else LOG_TIME_FORCED
                ):
                    _log_failure(store, report, str(reason))
            raise
        report.duration_ms = _milliseconds_since(clock)
        log.info("%s ends after %d ms: %s", job, report.duration_ms, report.error or "success")
        if not dry_run:
            with store.deployment.time_limit(LOG_TIME):
                _log_run(store, report)


def _log_run(store: Store, report: JobReport) -> None:
    """Store the entry of a run that is done. Where that fails, the error says that the work is done: who
    reads of a failure alone believes that nothing happened."""
    try:
        store.job_logs.insert(report.entry(report.error))
    except Exception as error:
        reason = translate(error)
        done = f"{count(report.processed, 'record')} processed and {count(report.seats, 'seat')} returned"
        raise type(reason)(f"{done}, but the run could not be logged: {reason}") from error


def _log_failure(store: Store, report: JobReport, reason: str) -> None:
    try:
        store.job_logs.insert(report.entry(reason))
    except Exception as error:  # noqa: BLE001 - the first failure is the one to report
        log.info("the run could not be logged: %s", translate(error))


def _log_batch(store: Store, report: JobReport, batch: Batch) -> None:
    """The batch in the run's story, with each counter as it is now and as that makes it before."""
    if not log.isEnabledFor(logging.INFO):
        return
    would = "would be " if report.dry_run else ""
    expired = f"{count(batch.locks, 'lock')} and {count(batch.bookings, 'booking')}"
    log.info("%s %sexpired in this batch", expired, would)
    for item in batch.skipped:
        log.info("skipped %s", item)
    returned = seats_of(batch.returning)
    for event_id, event in store.events.by_id(returned).items():
        if not isinstance(event, Unreadable):
            # A dry run leaves the counter as it was before its first batch.
            planned = report.seats_by_event[event_id] if report.dry_run else 0
            before = event.available + planned - returned[event_id]
            after = before + returned[event_id]
            log.info("event %s: %d → %d seats available (%+d)", event_id, before, after, after - before)


def _milliseconds_since(clock: float) -> int:
    return round((time.monotonic() - clock) * 1000)
