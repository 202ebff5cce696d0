"""Health as Prometheus reads it: a file for node_exporter's textfile collector.

Every time series here exists whatever the number of events, unless one for each event is asked
for. Values are gauges: the job log forgets, so nothing counted in it only ever grows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from seatctl.domain.model import JobStatus, whole_number
from seatctl.errors import Misconfigured
from seatctl.services.audit import Fault

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from seatctl.services.health import Health

STDOUT = "-"
OTHER = "OTHER"
"""Any status of a run that only other programs write: labels come from a fixed list."""

Samples = Iterable[tuple[Mapping[str, str], float]]


def text(health: Health) -> str:
    """All metrics in Prometheus' text format. Raises Misconfigured without the client library."""
    registry = _registry(health)
    from prometheus_client import generate_latest

    return generate_latest(registry).decode()


def write(health: Health, path: str) -> None:
    """Replace the file at `path` (`*.prom` in the collector's directory) at once and whole, so that
    nobody reads half of it. Raises Misconfigured when it cannot be written."""
    registry = _registry(health)
    from prometheus_client import write_to_textfile

    try:
        write_to_textfile(path, registry)
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

    def gauge(name: str, help_text: str, samples: Samples) -> None:
        samples = list(samples)
        if samples:
            metric = Gauge(f"seatctl_{name}", help_text, list(samples[0][0]), registry=registry)
            for labels, value in samples:
                (metric.labels(**labels) if labels else metric).set(value)

    for name, help_text, value in _single(health):
        gauge(name, help_text, [({}, value)])
    _jobs(gauge, health)
    _inventory(gauge, health)
    return registry


def _single(health: Health) -> list[tuple[str, str, float]]:
    """The metrics without labels: name, help, value."""
    oldest_lock, oldest_booking = health.locks.oldest, health.bookings.oldest
    return [
        ("healthy", "1 when seatctl health finds no problem, else 0.", health.healthy),
        ("problems", "Problems that seatctl health finds.", len(health.problems)),
        ("warnings", "Warnings that seatctl health gives.", len(health.warnings)),
        (
            "check_timestamp_seconds",
            "When this was measured, by the database's clock.",
            _unix(health.checked_at),
        ),
        ("window_seconds", "How far back seatctl_job_runs counts.", health.window.total_seconds()),
        ("overdue_locks", "Locks that expire-locks would expire now.", health.locks.overdue),
        ("overdue_bookings", "Bookings that expire-bookings would expire now.", health.bookings.overdue),
        (
            "oldest_overdue_lock_age_seconds",
            "For how long the oldest of seatctl_overdue_locks has been overdue, 0 if there is none.",
            oldest_lock.total_seconds() if oldest_lock else 0,
        ),
        (
            "oldest_overdue_booking_age_seconds",
            "For how long the oldest of seatctl_overdue_bookings has been overdue, 0 if there is none.",
            oldest_booking.total_seconds() if oldest_booking else 0,
        ),
        ("events", "Events in the database.", health.seats.events),
        ("capacity_seats", "Seats of all events together.", health.seats.total),
        (
            "inconsistent_events",
            "Events about which seatctl verify finds something.",
            len(health.inconsistent_events),
        ),
        (
            "missing_schema_objects",
            "Collections, indexes and such that seatctl init would create.",
            len(health.missing),
        ),
        (
            "clock_difference_seconds",
            "How far this host's clock is ahead of the database's.",
            health.clock_difference.total_seconds(),
        ),
    ]


def _jobs(gauge: Callable[[str, str, Samples], None], health: Health) -> None:
    jobs = {job.value: state for job, state in health.jobs.items()}
    gauge(
        "job_runs",
        "Runs of a job by outcome within the last seatctl_window_seconds.",
        (
            ({"job": name, "status": status}, count)
            for name, state in jobs.items()
            for status, count in _by_known_status(state.statuses).items()
        ),
    )
    gauge(
        "job_last_run_timestamp_seconds",
        "When a job ran last, 0 if never.",
        (({"job": name}, _unix(state.last_run)) for name, state in jobs.items()),
    )
    gauge(
        "job_last_success_timestamp_seconds",
        "When a job last succeeded, 0 if never.",
        (({"job": name}, _unix(state.last_success)) for name, state in jobs.items()),
    )
    gauge(
        "job_last_run_failed",
        "1 when the last run of a job failed, else 0.",
        (({"job": name}, state.last_error is not None) for name, state in jobs.items()),
    )
    for metric, help_text, detail, unit in (
        ("job_last_run_duration_seconds", "How long the last run of a job took.", "duration", 1000),
        ("job_last_run_records", "Records that the last run of a job processed.", "recordsProcessed", 1),
        ("job_last_run_restored_seats", "Seats that the last run of a job gave back.", "seatsRestored", 1),
    ):
        values = {name: state.detail(detail) for name, state in jobs.items()}
        gauge(
            metric,
            help_text,
            [({"job": job}, value / unit) for job, value in values.items() if value is not None],
        )


def _inventory(gauge: Callable[[str, str, Samples], None], health: Health) -> None:
    seats = health.seats
    states = {"available": seats.available, "locked": seats.locked, "sold": seats.sold}
    gauge(
        "seats",
        "Seats of all events by state; available is what the counters say, locked and sold what locks hold.",
        (({"state": state}, count) for state, count in states.items()),
    )
    found = Counter(finding.fault for finding in health.findings)
    gauge(
        "findings",
        "What seatctl verify finds, by fault; counter_drift are events whose counter is wrong.",
        (({"fault": fault.value}, found[fault]) for fault in Fault),
    )
    gauge(
        "event_seats",
        "Seats of one event by state.",
        (
            ({"event": str(event["_id"]), "state": state}, count)
            for event in health.events
            for state, field in (("available", "availableSeats"), ("locked", "locked"), ("sold", "sold"))
            if (count := whole_number(event.get(field))) is not None
        ),
    )


def _by_known_status(statuses: Mapping[str, int]) -> dict[str, int]:
    counts = {**dict.fromkeys(map(str, JobStatus), 0), OTHER: 0}
    for status, count in statuses.items():
        counts[status if status in counts else OTHER] += count
    return counts


def _unix(moment: datetime | None) -> float:
    return moment.timestamp() if moment else 0
