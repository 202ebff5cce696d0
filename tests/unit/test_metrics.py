"""The metrics: which there are, that Prometheus' own checker takes them, and how the file appears."""

from __future__ import annotations

import builtins
import os
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import EPOCH
from prometheus_client.parser import text_string_to_metric_families

from seatctl.domain.model import Document, JobType
from seatctl.errors import Misconfigured
from seatctl.ops import prometheus as metrics
from seatctl.services.audit import Fault, Finding
from seatctl.services.health import Backlog, Health, JobHealth, Seats

RUN: Document = {
    "executedAt": EPOCH - timedelta(seconds=40),
    "status": "SUCCESS",
    "details": {"duration": 250, "recordsProcessed": 5, "seatsRestored": 8},
}


def job(name: JobType, last: Document | None = RUN, **statuses: int) -> JobHealth:
    at = last["executedAt"] if last else None
    return JobHealth(name, statuses, last, at, EPOCH - at if at else None)


def healthy(**changes: Any) -> Health:
    """A healthy system with ten events, and whatever a test wants different."""
    return Health(
        **{
            "checked_at": EPOCH,
            "max_age": timedelta(minutes=3),
            "window": timedelta(hours=24),
            "jobs": {name: job(name, SUCCESS=3) for name in JobType},
            "locks": Backlog(),
            "bookings": Backlog(),
            "seats": Seats(10, 1000, 700, 100, 200),
            "findings": [],
            "missing": [],
            "clock_difference": timedelta(),
            **changes,
        }
    )


def samples(health: Health) -> dict[tuple[str, ...], float]:
    """Each value by its name and its labels' values, as Prometheus would read them."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.text(health))
        for sample in family.samples
    }


def test_a_healthy_system() -> None:
    """The verdict, its time, and the seats of all events by state."""
    found = samples(healthy())

    assert found["seatctl_healthy",] == 1
    assert found["seatctl_problems",] == 0
    assert found["seatctl_check_timestamp_seconds",] == EPOCH.timestamp()
    assert found["seatctl_events",] == 10
    assert found["seatctl_capacity_seats",] == 1000
    assert [found["seatctl_seats", state] for state in ("available", "locked", "sold")] == [700, 100, 200]


def test_each_job_tells_its_last_run() -> None:
    """Time stamps, outcome, duration in seconds, and what it did."""
    found = samples(healthy())

    for name in JobType:
        assert found["seatctl_job_last_run_timestamp_seconds", name] == EPOCH.timestamp() - 40
        assert found["seatctl_job_last_success_timestamp_seconds", name] == EPOCH.timestamp() - 40
        assert found["seatctl_job_last_run_failed", name] == 0
        assert found["seatctl_job_last_run_duration_seconds", name] == 0.25
        assert found["seatctl_job_last_run_records", name] == 5
        assert found["seatctl_job_last_run_restored_seats", name] == 8
        assert found["seatctl_job_runs", name, "SUCCESS"] == 3
        assert found["seatctl_job_runs", name, "FAILED"] == 0


def test_a_job_that_never_ran_has_the_oldest_time_stamp() -> None:
    """Zero, so that an alert on the age of the last success fires; what it did is absent."""
    jobs = {name: job(name, None) for name in JobType}
    found = samples(healthy(jobs=jobs))

    assert found["seatctl_job_last_success_timestamp_seconds", "LOCK_EXPIRY"] == 0
    assert found["seatctl_healthy",] == 0
    assert ("seatctl_job_last_run_duration_seconds", "LOCK_EXPIRY") not in found


def test_a_failed_run_is_told() -> None:
    """The last run of one job failed, those of the others did not."""
    failed = job(JobType.RECOVERY, {**RUN, "status": "FAILED", "error": "oversold"}, FAILED=2)
    jobs = {**healthy().jobs, JobType.RECOVERY: failed}
    found = samples(healthy(jobs=jobs))

    assert found["seatctl_job_last_run_failed", "RECOVERY"] == 1
    assert found["seatctl_job_last_run_failed", "LOCK_EXPIRY"] == 0
    assert found["seatctl_job_runs", "RECOVERY", "FAILED"] == 2


def test_statuses_of_other_programs_share_one_label() -> None:
    """Labels come from a fixed list, whatever is stored."""
    jobs = {name: job(name, SUCCESS=1, RUNNING=2, CRASHED=3) for name in JobType}

    assert samples(healthy(jobs=jobs))["seatctl_job_runs", "LOCK_EXPIRY", "OTHER"] == 5


def test_backlog_and_drift() -> None:
    """How much is overdue and for how long, what is wrong by fault, and what `init` would create."""
    found = samples(
        healthy(
            locks=Backlog(7, timedelta(minutes=2)),
            bookings=Backlog(3, timedelta(minutes=5)),
            findings=[
                Finding(Fault.COUNTER_DRIFT, "event 1", "1"),
                Finding(Fault.COUNTER_DRIFT, "event 2", "2"),
            ],
            missing=["jobLogs.retention"],
            clock_difference=timedelta(seconds=-6),
        )
    )

    assert found["seatctl_overdue_locks",] == 7
    assert found["seatctl_oldest_overdue_lock_age_seconds",] == 120
    assert found["seatctl_overdue_bookings",] == 3
    assert found["seatctl_oldest_overdue_booking_age_seconds",] == 300
    assert found["seatctl_findings", "counter_drift"] == 2
    assert found["seatctl_inconsistent_events",] == 2
    assert found["seatctl_missing_schema_objects",] == 1
    assert found["seatctl_clock_difference_seconds",] == -6
    assert found["seatctl_problems",] == 2
    assert found["seatctl_warnings",] == 2


def test_every_fault_has_a_series() -> None:
    """Also those not found, as zero: a series that appears only in need cannot be graphed or alerted on."""
    found = samples(healthy())

    assert dict.fromkeys(Fault, 0) == {fault: found["seatctl_findings", fault] for fault in Fault}


def test_events_have_labels_only_when_asked_for() -> None:
    """The number of series does not grow with the number of events unless somebody wants that."""
    events = [{"_id": f"{n:024x}", "availableSeats": n, "locked": 2, "sold": 1} for n in range(50)]
    few, many = samples(healthy()), samples(healthy(events=events))

    assert not [key for key in few if key[0] == "seatctl_event_seats"]
    assert len(many) == len(few) + 150
    assert many["seatctl_event_seats", f"{7:024x}", "available"] == 7


def test_a_damaged_event_has_no_available_seats() -> None:
    """A counter that is no number is left out, and the rest is told."""
    found = samples(healthy(events=[{"_id": "e", "availableSeats": "many", "locked": 2, "sold": 1}]))

    assert ("seatctl_event_seats", "e", "available") not in found
    assert found["seatctl_event_seats", "e", "sold"] == 1


@pytest.mark.parametrize("events", [[], [{"_id": 'a"\\\nb', "availableSeats": 1, "locked": 0, "sold": 0}]])
def test_promtool_accepts_the_metrics(events: list[Document]) -> None:
    """Prometheus' own checker finds nothing to criticise in names, units, help or types."""
    promtool = shutil.which("promtool")
    assert promtool or not os.environ.get("CI"), "promtool must be installed in CI"
    text = metrics.text(healthy(events=events))
    assert text.count("# HELP seatctl_") == text.count("# TYPE seatctl_")
    if promtool:
        checked = subprocess.run(
            [promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_the_file_is_replaced_whole(tmp_path: Path) -> None:
    """The new file appears by a rename, and nothing else stays in the collector's directory."""
    path = tmp_path / "seatctl.prom"
    metrics.write(healthy(), str(path))
    before = path.stat().st_ino
    reader = path.open()

    metrics.write(healthy(missing=["events"]), str(path))

    assert path.read_text() == metrics.text(healthy(missing=["events"]))
    assert path.stat().st_ino != before
    assert reader.read() == metrics.text(healthy())
    assert list(tmp_path.iterdir()) == [path]
    reader.close()


def test_a_file_that_cannot_be_written_is_a_configuration_error(tmp_path: Path) -> None:
    """The message names the path and the reason; no half-written file stays."""
    with pytest.raises(Misconfigured, match="No such file or directory"):
        metrics.write(healthy(), str(tmp_path / "absent" / "seatctl.prom"))
    (tmp_path / "taken").mkdir()
    with pytest.raises(Misconfigured, match="taken: Is a directory"):
        metrics.write(healthy(), str(tmp_path / "taken"))
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_without_the_client_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Misconfigured, match=r"seatctl\[metrics\]"):
        metrics.text(healthy())
