"""The jobs that cron and systemd run: expire-locks, expire-bookings, recover."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

from seatctl.cli.command import command
from seatctl.cli.invocation import Invocation
from seatctl.cli.options import AsOf, BatchSize, DryRun, EndedList, Force, duration
from seatctl.domain.rules import BATCH, SETTLE
from seatctl.domain.states import JobType
from seatctl.domain.words import count
from seatctl.errors import ItemsLeft, Unhealthy, Usage
from seatctl.output import console, formats, tables

if TYPE_CHECKING:
    from seatctl.mongo.store import Store
    from seatctl.services.job_report import Ended, JobReport, Listener
    from seatctl.services.jobs import JobOptions, Progress

    Job = Callable[[Store, JobOptions, Progress, Listener | None], JobReport]


@command("expire-locks", example="seatctl expire-locks --dry-run --as-of +11m")
def expire_locks(
    call: Invocation,
    dry_run: DryRun = False,
    as_of: AsOf = None,
    force: Force = False,
    batch_size: BatchSize = BATCH,
    listed: EndedList = False,
) -> None:
    """Expire overdue locks and return their seats.

    This is one run; schedule it every minute."""
    from seatctl.services import jobs

    options = jobs.JobOptions(as_of, force, dry_run, batch_size)
    _finish(_run(call, jobs.expire_locks, call.store(), options, listed))


@command("expire-bookings", example="seatctl expire-bookings -v")
def expire_bookings(
    call: Invocation,
    dry_run: DryRun = False,
    as_of: AsOf = None,
    force: Force = False,
    batch_size: BatchSize = BATCH,
    listed: EndedList = False,
) -> None:
    """Expire overdue bookings and return their seats.

    This is one run; schedule it every minute."""
    from seatctl.services import jobs

    options = jobs.JobOptions(as_of, force, dry_run, batch_size)
    _finish(_run(call, jobs.expire_bookings, call.store(), options, listed))


@command("recover", example="seatctl recover --dry-run")
def recover(
    call: Invocation,
    dry_run: DryRun = False,
    wait: Annotated[timedelta | None, duration("How long to wait for the database to come up.")] = None,
    settle: Annotated[
        timedelta, duration("How long a counter must show the same drift before it is raised.", SETTLE)
    ] = SETTLE,
    as_of: AsOf = None,
    force: Force = False,
    batch_size: BatchSize = BATCH,
    listed: EndedList = False,
) -> None:
    """Repair inconsistent state after a crash.

    Returns overdue seats, repairs locks and bookings that contradict each other, and corrects counters."""
    from seatctl.services import jobs

    store = call.store(wait=wait.total_seconds() if wait else 0)
    options = jobs.JobOptions(as_of, force, dry_run, batch_size, settle)
    report = _run(call, jobs.recover, store, options, listed)
    if not dry_run:
        _finish(report)
    elif report.changes or report.error:
        plan = "there is something to recover" if report.changes else "recover would change nothing"
        raise Unhealthy("; ".join(filter(None, (plan, report.error))))


def _run(call: Invocation, job: Job, store: Store, options: JobOptions, listed: bool) -> JobReport:
    """Run a job, with a progress bar for a person, and print what it did; with `listed`, a line for each lock
    or booking that it ended."""
    from seatctl.services.job_report import ended_items

    if listed and call.json:
        raise Usage("--list and --json are two output formats; use one of them")

    def print_ended(ended: Sequence[Ended]) -> None:
        formats.print_json_lines(ended_items(store, ended, dry_run=options.dry_run))

    bar = call.progress(unless=listed and sys.stdout.isatty())
    report = job(store, options, bar, print_ended if listed else None)
    if listed:
        call.note(_sentence(report))
        return report
    call.tell(report.run, _sentence(report), planned=report.dry_run)
    if report.steps and not (call.json or call.quiet):
        console.show(tables.list_table([step.as_document() for step in report.steps], tables.REPAIRS))
    return report


def _finish(report: JobReport) -> None:
    if report.error is not None:
        raise ItemsLeft(report.error)


def _sentence(report: JobReport) -> str:
    """`RECOVERY: 1 booking and 3 locks expired, 4 seats returned, 1 counter corrected (12 ms).`"""
    would = "would be " if report.dry_run else ""
    expired = count(report.locks, "lock")
    if report.job is not JobType.LOCK_EXPIRY:
        expired = f"{count(report.bookings, 'booking')} and {expired}"
    parts = [f"{expired} {would}expired", f"{count(report.seats, 'seat')} {would}returned"]
    if report.counters_corrected:
        parts.append(f"{count(report.counters_corrected, 'counter')} {would}corrected")
    if report.blocked:
        closed = count(len(report.blocked), "closed event")
        parts.append(f"{count(report.blocked.total(), 'seat')} of {closed} {would}blocked")
    if report.left_alone:
        items, events = report.left_alone.total(), count(len(report.left_alone), "event")
        parts.append(f"{count(items, 'item')} of {events} counted per day left alone")
    return f"{report.job}: {', '.join(parts)} ({report.duration_ms} ms)."
