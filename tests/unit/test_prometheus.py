"""The metrics: which there are, that Prometheus' own checker takes them, and how the file appears."""

from __future__ import annotations

import builtins
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from seatctl.domain.states import Fault, JobType
from seatctl.errors import CursorLost, Misconfigured
from seatctl.ops import prometheus

NOW = datetime(2027, 1, 1, 12, tzinfo=UTC)
LAST_RUN = NOW - timedelta(seconds=40)
DETAILS = {"duration": 250, "recordsProcessed": 5, "seatsRestored": 8}


def text_of(health: Any) -> str:
    return "".join(prometheus.text(health))


def job(**changes: Any) -> SimpleNamespace:
    """A job that succeeds, in the shape of `JobHealth`."""
    job = {"statuses": {"SUCCESS": 3}, "last_run": LAST_RUN, "last_success": LAST_RUN, "last_error": None}
    return SimpleNamespace(**{**job, "detail": DETAILS.get, **changes})


def health(**changes: Any) -> Any:
    """A healthy system with ten events in the shape of `Health`, and whatever a test wants different."""
    return SimpleNamespace(
        **{
            "checked_at": NOW,
            "window": timedelta(hours=24),
            "jobs": {name: job() for name in JobType},
            "locks": SimpleNamespace(overdue=0, oldest=None),
            "bookings": SimpleNamespace(overdue=0, oldest=None),
            "refunds": SimpleNamespace(due=0, oldest=None),
            "seats": SimpleNamespace(events=10, total=1000, available=700, locked=100, sold=200),
            "violations": [],
            "inconsistent_events": [],
            "missing": [],
            "clock_difference": timedelta(),
            "events": [],
            "healthy": True,
            "problems": [],
            "warnings": [],
            **changes,
        }
    )


def samples(state: Any) -> dict[tuple[str, ...], float]:
    """Each value by its name and its labels' values, as Prometheus reads them."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text_of(state))
        for sample in family.samples
    }


def test_the_totals_are_there_without_labels() -> None:
    found = samples(health())

    assert found["seatctl_healthy",] == 1
    assert found["seatctl_problems",] == 0
    assert found["seatctl_warnings",] == 0
    assert found["seatctl_check_timestamp_seconds",] == NOW.timestamp()
    assert found["seatctl_window_seconds",] == 86_400
    assert found["seatctl_events",] == 10
    assert found["seatctl_capacity_seats",] == 1000
    assert [found["seatctl_seats", state] for state in ("available", "locked", "sold")] == [700, 100, 200]


def test_each_job_has_its_last_run_and_what_it_did() -> None:
    found = samples(health())

    for name in JobType:
        assert found["seatctl_job_last_run_timestamp_seconds", name] == LAST_RUN.timestamp()
        assert found["seatctl_job_last_success_timestamp_seconds", name] == LAST_RUN.timestamp()
        assert found["seatctl_job_last_run_failed", name] == 0
        assert found["seatctl_job_last_run_duration_seconds", name] == 0.25
        assert found["seatctl_job_last_run_records", name] == 5
        assert found["seatctl_job_last_run_restored_seats", name] == 8
        assert found["seatctl_job_runs", name, "SUCCESS"] == 3
        assert found["seatctl_job_runs", name, "FAILED"] == 0


def test_a_job_that_never_ran_has_timestamp_zero() -> None:
    """So that an alert on the age of the last success fires; what it did is absent."""
    never = job(statuses={}, last_run=None, last_success=None, detail={}.get)
    found = samples(health(jobs=dict.fromkeys(JobType, never)))

    assert found["seatctl_job_last_success_timestamp_seconds", "LOCK_EXPIRY"] == 0
    assert ("seatctl_job_last_run_duration_seconds", "LOCK_EXPIRY") not in found


def test_a_failed_run_is_reported_of_its_job_only() -> None:
    failed = job(statuses={"FAILED": 2}, last_error="oversold")
    found = samples(health(jobs={**health().jobs, JobType.RECOVERY: failed}))

    assert found["seatctl_job_last_run_failed", "RECOVERY"] == 1
    assert found["seatctl_job_last_run_failed", "LOCK_EXPIRY"] == 0
    assert found["seatctl_job_runs", "RECOVERY", "FAILED"] == 2


def test_statuses_of_other_programs_share_one_label() -> None:
    """Labels come from a fixed list, whatever is stored."""
    mixed = job(statuses={"SUCCESS": 1, "RUNNING": 2, "CRASHED": 3})

    found = samples(health(jobs=dict.fromkeys(JobType, mixed)))
    assert found["seatctl_job_runs", "LOCK_EXPIRY", "OTHER"] == 5


def test_backlog_refunds_and_violations_are_counted() -> None:
    drift = SimpleNamespace(fault=Fault.COUNTER_DRIFT)
    found = samples(
        health(
            locks=SimpleNamespace(overdue=7, oldest=timedelta(minutes=2)),
            bookings=SimpleNamespace(overdue=3, oldest=timedelta(minutes=5)),
            refunds=SimpleNamespace(due=2, oldest=timedelta(days=3)),
            violations=[drift, drift],
            inconsistent_events=["1", "2"],
            missing=["jobLogs.retention"],
            clock_difference=timedelta(seconds=-6),
            healthy=False,
            problems=["one", "two"],
            warnings=["three"],
        )
    )

    assert found["seatctl_overdue_locks",] == 7
    assert found["seatctl_oldest_overdue_lock_age_seconds",] == 120
    assert found["seatctl_overdue_bookings",] == 3
    assert found["seatctl_oldest_overdue_booking_age_seconds",] == 300
    assert found["seatctl_refunds_due",] == 2
    assert found["seatctl_oldest_refund_due_age_seconds",] == 3 * 86_400
    assert found["seatctl_findings", "counter_drift"] == 2
    assert found["seatctl_inconsistent_events",] == 2
    assert found["seatctl_missing_schema_objects",] == 1
    assert found["seatctl_clock_difference_seconds",] == -6
    assert found["seatctl_healthy",] == 0
    assert found["seatctl_problems",] == 2
    assert found["seatctl_warnings",] == 1


def test_every_fault_has_a_series() -> None:
    """Also those not found, as zero: a series that appears only with the fault cannot be graphed."""
    found = samples(health())

    assert dict.fromkeys(Fault, 0) == {fault: found["seatctl_findings", fault] for fault in Fault}


def test_events_have_labels_only_when_asked_for() -> None:
    """The number of series does not grow with the number of events unless somebody wants that."""
    events = [{"_id": f"{n:024x}", "availableSeats": n, "locked": 2, "sold": 1} for n in range(50)]
    few, many = samples(health()), samples(health(events=events))

    assert not [key for key in few if key[0] == "seatctl_event_seats"]
    assert len(many) == len(few) + 150
    assert many["seatctl_event_seats", f"{7:024x}", "available"] == 7


def test_a_counter_that_is_no_number_is_left_out() -> None:
    found = samples(health(events=[{"_id": "e", "availableSeats": "many", "locked": 2, "sold": 1}]))

    assert ("seatctl_event_seats", "e", "available") not in found
    assert found["seatctl_event_seats", "e", "sold"] == 1


@pytest.mark.parametrize("events", [[], [{"_id": 'a"\\\nb', "availableSeats": 1, "locked": 0, "sold": 0}]])
def test_promtool_accepts_the_metrics(events: list[dict[str, object]]) -> None:
    """Prometheus' own checker finds nothing to criticise in names, units, help or types."""
    promtool = shutil.which("promtool")
    if promtool is None:
        assert not os.environ.get("CI"), "promtool must be installed in CI"
        pytest.skip("promtool is not installed")
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=text_of(health(events=events)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_the_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    """The new file appears by a rename, and nothing else stays in the collector's directory."""
    path = tmp_path / "seatctl.prom"
    prometheus.write(health(), str(path))
    before = path.stat().st_ino
    with path.open() as reader:
        prometheus.write(health(missing=["events"]), str(path))

        assert path.read_text() == text_of(health(missing=["events"]))
        assert path.stat().st_ino != before
        assert reader.read() == text_of(health())
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_stays_of_a_file_whose_events_could_not_all_be_read(tmp_path: Path) -> None:
    def events() -> Iterator[dict[str, object]]:
        yield {"_id": "e", "availableSeats": 1, "locked": 2, "sold": 1}
        raise CursorLost

    path = tmp_path / "seatctl.prom"
    path.write_text("before")
    with pytest.raises(CursorLost):
        prometheus.write(health(events=events()), str(path))
    assert (path.read_text(), list(tmp_path.iterdir())) == ("before", [path])


def test_the_metrics_of_events_are_written_as_they_are_read() -> None:
    read: list[int] = []

    def events() -> Iterator[dict[str, object]]:
        for number in range(3):
            read.append(number)
            yield {"_id": f"{number:024x}", "availableSeats": 1}

    parts = prometheus.text(health(events=events()))
    assert ("seatctl_events" in next(parts), read) == (True, [])
    assert (len(list(islice(parts, 2))), read) == (2, [0, 1])


def test_what_is_no_regular_file_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    prometheus.write(health(), str(pipe))

    assert os.read(reader, 100_000).decode() == text_of(health())
    assert pipe.is_fifo()
    os.close(reader)
    assert list(tmp_path.iterdir()) == [pipe]


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_the_file_that_it_leads_to_is_replaced(tmp_path: Path, there: bool) -> None:
    """Behind `> file`, /dev/stdout is a link to a regular file, and root may replace it."""
    link, path = tmp_path / "link", tmp_path / "seatctl.prom"
    link.symlink_to(path)
    if there:
        path.touch()
    prometheus.write(health(), str(link))

    assert link.readlink() == path
    assert path.read_text() == text_of(health())


def test_everybody_can_read_the_file_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        prometheus.write(health(), str(tmp_path / "seatctl.prom"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "seatctl.prom").stat().st_mode) == 0o644


def test_a_file_that_cannot_be_written_is_a_configuration_error(tmp_path: Path) -> None:
    """The message names the path and the reason; no half-written file stays."""
    with pytest.raises(Misconfigured, match="No such file or directory"):
        prometheus.write(health(), str(tmp_path / "absent" / "seatctl.prom"))
    (tmp_path / "taken").mkdir()
    with pytest.raises(Misconfigured, match="taken: Is a directory"):
        prometheus.write(health(), str(tmp_path / "taken"))
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_without_the_client_library_the_command_that_installs_it_here_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any) -> Any:
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.setattr(sys, "executable", "/opt/seatctl/bin/python3")
    command = "`/opt/seatctl/bin/pip install '.[metrics]'` in a clone of seatctl"
    with pytest.raises(Misconfigured, match=re.escape(command)):
        text_of(health())
