"""The jobs that cron and systemd run: expire-locks, expire-bookings, recover."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import typer

from seatctl.cli.invocation import Invocation, command
from seatctl.cli.options import JOBS, AsOf, BatchSize, DryRun, Force, Settle, Wait
from seatctl.domain.rules import BATCH, SETTLE
from seatctl.domain.states import JobType
from seatctl.domain.words import count
from seatctl.errors import ItemsLeft, Unhealthy

if TYPE_CHECKING:
    from seatctl.services.jobs import Progress
    from seatctl.services.report import JobReport

commands = typer.Typer()


@command(commands, "expire-locks", panel=JOBS, example="seatctl expire-locks --dry-run --as-of +11m")
def expire_locks(
    call: Invocation,
    dry_run: DryRun = False,
    as_of: AsOf = None,
    force: Force = False,
    batch_size: BatchSize = BATCH,
) -> None:
    """Expire overdue locks and return their seats.

    This is one run; schedule it every minute."""
    from seatctl.services.jobs import SweepOptions, expire_locks

    options = SweepOptions(as_of=as_of, force=force, dry_run=dry_run, batch_size=batch_size)
    _finish(call, _run(call, lambda progress: expire_locks(call.store(), options, progress)))


@command(commands, "expire-bookings", panel=JOBS, example="seatctl expire-bookings -v")
def expire_bookings(
    call: Invocation,
    dry_run: DryRun = False,
    as_of: AsOf = None,
    force: Force = False,
    batch_size: BatchSize = BATCH,
) -> None:
    """Expire unpaid bookings and return their seats.

    This is one run; schedule it every minute."""
    from seatctl.services.jobs import SweepOptions, expire_bookings

    options = SweepOptions(as_of=as_of, force=force, dry_run=dry_run, batch_size=batch_size)
    _finish(call, _run(call, lambda progress: expire_bookings(call.store(), options, progress)))


@command(commands, "recover", panel=JOBS, example="seatctl recover --dry-run")
def recover(
    call: Invocation,
    dry_run: DryRun = False,
    wait: Wait = None,
    settle: Settle = SETTLE,
    batch_size: BatchSize = BATCH,
) -> None:
    """Repair inconsistent state after a crash.

    Returns overdue seats, repairs locks and bookings that contradict each other, corrects counters."""
    from seatctl.services.jobs import RecoverOptions, recover

    store = call.store(wait=wait.total_seconds() if wait else 0)
    options = RecoverOptions(dry_run=dry_run, batch_size=batch_size, settle=settle)
    report = _run(call, lambda progress: recover(store, options, progress))
    if not dry_run:
        _finish(call, report)
        return
    _print(call, report)
    if report.skipped or report.steps or report.locks or report.bookings or report.error:
        raise Unhealthy("; ".join(filter(None, ("there is something to recover", report.error))))


def _run(call: Invocation, job: Callable[[Progress], JobReport]) -> JobReport:
    """Run a job; a bar shows how far it is, where there is a person to see it."""
    from seatctl.output.progress import Progress
    from seatctl.services.jobs import SILENT

    progress = SILENT if call.quiet or call.verbose else Progress()
    try:
        return job(progress)
    finally:
        progress.stop()


def _finish(call: Invocation, report: JobReport) -> None:
    """The outcome of a job on stdout. Raises ItemsLeft when it had to skip something."""
    _print(call, report)
    if report.error is not None:
        raise ItemsLeft(report.error)


def _print(call: Invocation, report: JobReport) -> None:
    if call.json:
        from seatctl.output.formats import print_json

        print_json(report.run)
    elif not call.quiet:
        print(_sentence(report))
        if report.steps:
            from seatctl.output import console, tables

            console.show(
                tables.violations_table([step.as_document() for step in report.steps], last="outcome")
            )


def _sentence(report: JobReport) -> str:
    """`RECOVERY: 1 booking and 3 locks expired, 4 seats returned, 1 counter corrected (12 ms).`"""
    would = "would be " if report.dry_run else ""
    expired = count(report.locks, "lock")
    if report.job is not JobType.LOCK_EXPIRY:
        expired = f"{count(report.bookings, 'booking')} and {expired}"
    parts = [f"{expired} {would}expired", f"{count(report.seats, 'seat')} {would}returned"]
    if report.counters_corrected:
        parts.append(f"{count(report.counters_corrected, 'counter')} {would}corrected")
    return f"{report.job}: {', '.join(parts)} ({report.duration_ms} ms)."
