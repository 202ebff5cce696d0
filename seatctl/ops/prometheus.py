"""Health as Prometheus reads it: a file for node_exporter's textfile collector.

The time series are always the same, whatever the number of events, unless one for each event is asked
for. All are gauges: the job log has a retention, so nothing counted in it only grows.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from seatctl.domain.states import Fault, JobStatus
from seatctl.errors import Misconfigured
from seatctl.output.formats import whole_number

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from seatctl.services.health import Health

STDOUT = "-"
OTHER = "OTHER"
"""Any status of a run that only other programs write: labels come from a fixed list."""


class Sample(NamedTuple):
    labels: Mapping[str, str]
    value: float


class Metric(NamedTuple):
    name: str
    help_text: str
    samples: list[Sample]


def text(health: Health) -> str:
    """All metrics in Prometheus' text format. Raises Misconfigured without the client library."""
    registry = _registry(health)
    from prometheus_client import generate_latest

    return generate_latest(registry).decode()


def write(health: Health, path: str) -> None:
    """Replace the file at `path` (`*.prom` in the collector's directory) in one step, so that nobody reads
    half of it, readable by everybody whatever the umask: node_exporter is another user. What exists and is
    no regular file, such as a pipe or /dev/null, is written to and never replaced.

    Raises Misconfigured when it cannot be written, or without the client library.
    """
    metrics, target = text(health), Path(path)
    try:
        if target.exists() and not target.is_file():
            target.write_text(metrics)
            return
        beside = target.with_name(f"{target.name}.{os.getpid()}")
        beside.write_text(metrics)
        beside.chmod(0o644)
        beside.replace(target)
    except OSError as error:
        raise Misconfigured(f"cannot write the metrics to {path}: {error.strerror}") from error


def _registry(health: Health) -> CollectorRegistry:
    try:
        from prometheus_client import CollectorRegistry, Gauge
    except ImportError:
        raise Misconfigured(
            "metrics need the package prometheus-client; install it with pip install 'seatctl[metrics]'"
        ) from None
    registry = CollectorRegistry()
    for metric in (*_totals(health), *_jobs(health), *_inventory(health)):
        if metric.samples:
            names = list(metric.samples[0].labels)
            gauge = Gauge(f"seatctl_{metric.name}", metric.help_text, names, registry=registry)
            for labels, value in metric.samples:
                (gauge.labels(**labels) if labels else gauge).set(value)
    return registry


TOTALS: tuple[tuple[str, str, Callable[[Health], float]], ...] = (
    (
        "healthy",
        "1 when seatctl health finds no problem, else 0.",
        lambda health: health.healthy,
    ),
    (
        "problems",
        "Problems that seatctl health finds.",
        lambda health: len(health.problems),
    ),
    (
        "warnings",
        "Warnings that seatctl health gives.",
        lambda health: len(health.warnings),
    ),
    (
        "check_timestamp_seconds",
        "When this was measured, by the database's clock.",
        lambda health: _unix(health.checked_at),
    ),
    (
        "window_seconds",
        "How far back seatctl_job_runs counts.",
        lambda health: health.window.total_seconds(),
    ),
    (
        "overdue_locks",
        "Locks that expire-locks would expire now.",
        lambda health: health.locks.overdue,
    ),
    (
        "overdue_bookings",
        "Bookings that expire-bookings would expire now.",
        lambda health: health.bookings.overdue,
    ),
    (
        "oldest_overdue_lock_age_seconds",
        "How long the oldest of seatctl_overdue_locks has been overdue, 0 if there is none.",
        lambda health: _seconds(health.locks.oldest),
    ),
    (
        "oldest_overdue_booking_age_seconds",
        "How long the oldest of seatctl_overdue_bookings has been overdue, 0 if there is none.",
        lambda health: _seconds(health.bookings.oldest),
    ),
    (
        "events",
        "Events in the database.",
        lambda health: health.seats.events,
    ),
    (
        "capacity_seats",
        "Total seats of all events.",
        lambda health: health.seats.total,
    ),
    (
        "inconsistent_events",
        "Events with violations, as seatctl verify finds them.",
        lambda health: len(health.inconsistent_events),
    ),
    (
        "missing_schema_objects",
        "Collections, indexes and other objects that seatctl init would create.",
        lambda health: len(health.missing),
    ),
    (
        "clock_difference_seconds",
        "How far this host's clock is ahead of the database's.",
        lambda health: health.clock_difference.total_seconds(),
    ),
)
"""The metrics without labels."""

LAST_RUN_DETAILS = (
    ("duration_seconds", "How long the last run of a job took.", "duration", 1000),
    ("records", "Records that the last run of a job processed.", "recordsProcessed", 1),
    ("restored_seats", "Seats that the last run of a job returned.", "seatsRestored", 1),
)
"""Metric, help, field of the run's details, and what it is divided by."""


def _totals(health: Health) -> Iterator[Metric]:
    for name, help_text, value in TOTALS:
        yield Metric(name, help_text, [Sample({}, value(health))])


def _jobs(health: Health) -> Iterator[Metric]:
    jobs = {job.value: state for job, state in health.jobs.items()}
    runs = [
        Sample({"job": name, "status": status}, number)
        for name, state in jobs.items()
        for status, number in _by_known_status(state.statuses).items()
    ]
    yield Metric("job_runs", "Runs of a job by outcome within the last seatctl_window_seconds.", runs)
    yield Metric(
        "job_last_run_timestamp_seconds",
        "When a job last ran, 0 if never.",
        _by_job((name, _unix(state.last_run)) for name, state in jobs.items()),
    )
    yield Metric(
        "job_last_success_timestamp_seconds",
        "When a job last succeeded, 0 if never.",
        _by_job((name, _unix(state.last_success)) for name, state in jobs.items()),
    )
    yield Metric(
        "job_last_run_failed",
        "1 when the last run of a job failed, else 0.",
        _by_job((name, state.last_error is not None) for name, state in jobs.items()),
    )
    for metric, help_text, field, unit in LAST_RUN_DETAILS:
        values = ((name, state.detail(field)) for name, state in jobs.items())
        samples = _by_job((name, value / unit) for name, value in values if value is not None)
        yield Metric(f"job_last_run_{metric}", help_text, samples)


def _inventory(health: Health) -> Iterator[Metric]:
    seats = health.seats
    states = {"available": seats.available, "locked": seats.locked, "sold": seats.sold}
    yield Metric(
        "seats",
        "Seats of all events by state: available by the events' counters, locked and sold by their locks.",
        [Sample({"state": state}, number) for state, number in states.items()],
    )
    found = Counter(violation.fault for violation in health.violations)
    yield Metric(
        "findings",
        "Violations that seatctl verify finds, by fault; counter_drift is events with a wrong counter.",
        [Sample({"fault": fault.value}, found[fault]) for fault in Fault],
    )
    fields = {"available": "availableSeats", "locked": "locked", "sold": "sold"}
    yield Metric(
        "event_seats",
        "Seats of one event by state.",
        [
            Sample({"event": str(event["_id"]), "state": state}, number)
            for event in health.events
            for state, field in fields.items()
            if (number := whole_number(event.get(field))) is not None
        ],
    )


def _by_job(values: Iterable[tuple[str, float]]) -> list[Sample]:
    return [Sample({"job": job}, value) for job, value in values]


def _by_known_status(statuses: Mapping[str, int]) -> dict[str, int]:
    numbers = {**dict.fromkeys(map(str, JobStatus), 0), OTHER: 0}
    for status, number in statuses.items():
        numbers[status if status in numbers else OTHER] += number
    return numbers


def _unix(moment: datetime | None) -> float:
    return moment.timestamp() if moment else 0


def _seconds(duration: timedelta | None) -> float:
    return duration.total_seconds() if duration else 0
