"""Health as Prometheus reads it: a file for node_exporter's textfile collector.

The time series are always the same, whatever the number of events, unless one for each event is asked
for. All are gauges: the job log has a retention, so nothing counted in it only grows.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from seatctl.domain.states import Fault, JobStatus
from seatctl.errors import Misconfigured
from seatctl.ops import atomic_file
from seatctl.output.formats import whole_number

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from seatctl.domain.documents import StoredDocument
    from seatctl.services.health import Health

OTHER = "OTHER"
"""Any status of a run that only other programs write: labels come from a fixed list."""

Labelled: TypeAlias = tuple[str, str, tuple[str, ...], Mapping[Any, float]]
"""A metric's name, its help, its labels, and its numbers by the values of the labels."""


def text(health: Health) -> Iterator[str]:
    """All metrics in Prometheus' text format, in parts: those of the events as they are read, so that memory
    does not grow with their number. Raises Misconfigured without the client library."""
    registry = _registry(health)
    from prometheus_client import generate_latest

    yield generate_latest(registry).decode()
    yield from _of_events(health.events)


def write(health: Health, path: str) -> None:
    """Replace the file at `path` (`*.prom` in the collector's directory; `-` is stdout) in one step, so that
    nobody reads half of it, readable by everybody whatever the umask: node_exporter is another user. What
    exists and is no regular file, such as a pipe or /dev/null, is written to and never replaced; of a link
    the file that it leads to is replaced.

    Raises Misconfigured when it cannot be written, or without the client library.
    """
    metrics, target = text(health), Path(path)
    if path == "-":
        sys.stdout.writelines(metrics)
        return
    try:
        if target.exists() and not target.is_file():
            with target.open("w") as file:
                file.writelines(metrics)
            return
        # A link stays: as root, /dev/stdout of a shell's `> file` is one.
        atomic_file.replace(target.resolve(), metrics)
    except OSError as error:
        raise Misconfigured(f"cannot write the metrics to {path}: {error.strerror}") from error


def _registry(health: Health) -> CollectorRegistry:
    try:
        from prometheus_client import CollectorRegistry, Gauge
    except ImportError:
        raise Misconfigured(
            "metrics need the package prometheus-client; install it with "
            f"`{Path(sys.executable).with_name('pip')} install '.[metrics]'` in a clone of seatctl"
        ) from None
    registry = CollectorRegistry()
    for name, help_text, number in _totals(health):
        Gauge(f"seatctl_{name}", help_text, registry=registry).set(number)
    for name, help_text, labels, numbers in (*_jobs(health), *_inventory(health)):
        if numbers:
            gauge = Gauge(f"seatctl_{name}", help_text, labels, registry=registry)
            for values, number in numbers.items():
                gauge.labels(*values).set(number)
    return registry


def _totals(health: Health) -> Iterator[tuple[str, str, float]]:
    """The metrics without labels: name, help, number."""
    yield "healthy", "1 when seatctl health finds no problem, else 0.", health.healthy
    yield "problems", "Problems that seatctl health finds.", len(health.problems)
    yield "warnings", "Warnings that seatctl health gives.", len(health.warnings)
    measured = "When this was measured, by the database's clock."
    yield "check_timestamp_seconds", measured, _unix(health.checked_at)
    yield "window_seconds", "How far back seatctl_job_runs counts.", _seconds(health.window)
    backlogs = (("lock", health.locks), ("booking", health.bookings))
    for what, backlog in backlogs:
        yield f"overdue_{what}s", f"{what.title()}s that expire-{what}s would expire now.", backlog.overdue
    for what, backlog in backlogs:
        overdue = f"How long the oldest of seatctl_overdue_{what}s has been overdue, 0 if there is none."
        yield f"oldest_overdue_{what}_age_seconds", overdue, _seconds(backlog.oldest)
    yield "refunds_due", "Refunds that have to be paid.", health.refunds.due
    due_for = "For how long the oldest of seatctl_refunds_due has been due, 0 if there is none."
    yield "oldest_refund_due_age_seconds", due_for, _seconds(health.refunds.oldest)
    yield "events", "Events in the database.", health.seats.events
    yield "capacity_seats", "Total seats of all events.", health.seats.total
    inconsistent = "Events with violations, as seatctl verify finds them."
    yield "inconsistent_events", inconsistent, len(health.inconsistent_events)
    missing = "Collections, indexes and other objects that seatctl init would create."
    yield "missing_schema_objects", missing, len(health.missing)
    ahead = "How far this host's clock is ahead of the database's."
    yield "clock_difference_seconds", ahead, _seconds(health.clock_difference)


LAST_RUN_DETAILS = (
    ("duration_seconds", "How long the last run of a job took.", "duration", 1000),
    ("records", "Records that the last run of a job processed.", "recordsProcessed", 1),
    ("restored_seats", "Seats that the last run of a job returned.", "seatsRestored", 1),
)
"""Metric, help, field of the run's details, and what it is divided by."""


def _jobs(health: Health) -> Iterator[Labelled]:
    jobs, by_job = health.jobs.items(), ("job",)
    runs = {(job, status): 0 for job in health.jobs for status in (*JobStatus, OTHER)}
    for job, state in jobs:
        for status, number in state.statuses.items():
            runs[job, status if (job, status) in runs else OTHER] += number
    counted = "Runs of a job by outcome within the last seatctl_window_seconds."
    yield "job_runs", counted, ("job", "status"), runs
    ran = {(job,): _unix(state.last_run) for job, state in jobs}
    yield "job_last_run_timestamp_seconds", "When a job last ran, 0 if never.", by_job, ran
    succeeded = {(job,): _unix(state.last_success) for job, state in jobs}
    yield "job_last_success_timestamp_seconds", "When a job last succeeded, 0 if never.", by_job, succeeded
    failed = {(job,): state.last_error is not None for job, state in jobs}
    yield "job_last_run_failed", "1 when the last run of a job failed, else 0.", by_job, failed
    for name, help_text, field, unit in LAST_RUN_DETAILS:
        details = {(job,): state.detail(field) for job, state in jobs}
        known = {job: value / unit for job, value in details.items() if value is not None}
        yield f"job_last_run_{name}", help_text, by_job, known


def _inventory(health: Health) -> Iterator[Labelled]:
    totals = health.seats
    seats = {("available",): totals.available, ("locked",): totals.locked, ("sold",): totals.sold}
    by_state = (
        "Seats of all events by state: available by the events' counters, locked and sold by their locks."
    )
    yield "seats", by_state, ("state",), seats
    found = Counter(violation.fault for violation in health.violations)
    by_fault = "Violations that seatctl verify finds, by fault; counter_drift is events with a wrong counter."
    yield "findings", by_fault, ("fault",), {(fault,): found[fault] for fault in Fault}


def _of_events(events: Iterable[StoredDocument]) -> Iterator[str]:
    """The seats of each event by state; nothing where there are no events, or none are asked for."""
    name = "seatctl_event_seats"
    before = f"# HELP {name} Seats of one event by state.\n# TYPE {name} gauge\n"
    for event in events:
        label = str(event["_id"]).replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
        for state, field in (("available", "availableSeats"), ("locked", "locked"), ("sold", "sold")):
            if (number := whole_number(event.get(field))) is not None:
                yield f'{before}{name}{{event="{label}",state="{state}"}} {float(number)}\n'
                before = ""


def _unix(moment: datetime | None) -> float:
    return moment.timestamp() if moment else 0


def _seconds(duration: timedelta | None) -> float:
    return duration.total_seconds() if duration else 0
