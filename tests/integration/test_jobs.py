"""One run of a job: its entry in the log, its story, and how it fails and is interrupted."""

import os
import re
import signal
import socket
import threading
from datetime import datetime, timedelta

import pytest
from bson import ObjectId
from conftest import available, edit
from pymongo.errors import OperationFailure
from scene import (
    HOUR,
    add,
    book,
    create,
    delete,
    insert_lock,
    lock,
    meanwhile,
    run_expire_bookings,
    run_expire_locks,
    run_recover,
)

from seatctl.domain.documents import JobRun
from seatctl.domain.states import JobStatus, JobType
from seatctl.errors import Interrupted, Misconfigured, SoldOut
from seatctl.mongo import secrets
from seatctl.mongo.job_logs import JobLogs
from seatctl.mongo.locks import SeatLocks
from seatctl.services import expiry, recovery, seats

RUN = {
    JobType.LOCK_EXPIRY: run_expire_locks,
    JobType.BOOKING_EXPIRY: run_expire_bookings,
    JobType.RECOVERY: run_recover,
}


@pytest.fixture
def event(store):
    """An event with a hundred seats."""
    return create(store)


def logged(store):
    """The one entry of the log."""
    (entry,) = store.database.jobLogs.find()
    return entry


def run_of(moment, job=JobType.LOCK_EXPIRY, status=JobStatus.SUCCESS, **fields):
    return JobRun(job, moment, status, {"recordsProcessed": 0}, "db1", **fields)


# --- the entry ----------------------------------------------------------------------------------------

DETAILS = {
    JobType.LOCK_EXPIRY: {"recordsProcessed": 1, "seatsRestored": 2, "locksExpired": 1},
    JobType.BOOKING_EXPIRY: {
        "recordsProcessed": 1,
        "seatsRestored": 3,
        "locksExpired": 1,
        "bookingsExpired": 1,
    },
    JobType.RECOVERY: {
        "recordsProcessed": 4,
        "seatsRestored": 5,
        "locksExpired": 2,
        "bookingsExpired": 1,
        "resourcesRecovered": 4,
        "findingsCount": 1,
    },
}


@pytest.mark.parametrize("job", JobType)
def test_each_run_leaves_one_entry_with_exactly_the_contracts_fields(store, clock, event, job):
    lock(store, event, 2)
    book(store, event, 3)
    if job is JobType.RECOVERY:
        add(store, event, -1)
    started = clock.advance(hours=1)
    report = RUN[job](store)
    entry = logged(store)

    assert {**report.run, "_id": entry["_id"]} == entry
    details = entry.pop("details")
    findings = details.pop("findings", None)
    duration = details.pop("duration")
    assert details == {**DETAILS[job], "seatsByEvent": [{"event": event, "seats": details["seatsRestored"]}]}
    assert entry == {
        "_id": entry["_id"],
        "jobType": job.value,
        "executedAt": started,
        "status": "SUCCESS",
        "host": socket.gethostname(),
    }
    assert (type(duration), duration >= 0, type(entry["executedAt"])) == (int, True, datetime)
    if job is JobType.RECOVERY:
        assert [(step["fault"], step["outcome"]) for step in findings] == [("counter_drift", "corrected")]


@pytest.mark.parametrize("job", JobType)
def test_a_run_with_nothing_to_do_is_logged_too(store, event, job):
    RUN[job](store)
    entry = logged(store)

    assert (entry["status"], entry["details"]["recordsProcessed"]) == ("SUCCESS", 0)
    assert ("asOf" in entry["details"], "seatsByEvent" in entry["details"]) == (False, False)
    assert available(store, event) == 100


@pytest.mark.parametrize("job", JobType)
def test_a_dry_run_returns_what_the_entry_would_say_and_logs_nothing(store, clock, event, job):
    lock(store, event, 2)
    book(store, event, 3)
    clock.advance(hours=1)
    report = RUN[job](store, dry_run=True)

    wanted = {name: DETAILS[job][name] for name in ("seatsRestored", "locksExpired")}
    assert {name: report.run["details"][name] for name in wanted} == wanted
    assert store.database.jobLogs.count_documents({}) == 0


def test_a_dry_run_that_fails_logs_nothing(store, monkeypatch):
    monkeypatch.setattr(SeatLocks, "overdue", fail)
    with pytest.raises(SoldOut):
        run_expire_locks(store, dry_run=True)
    assert store.database.jobLogs.count_documents({}) == 0


def fail(*_):
    raise SoldOut("no seats\nare left")


def test_a_run_that_skipped_something_is_failed_and_names_it(store, clock, event):
    held = lock(store, event)
    edit(store, "seatLocks", held, seats=0)
    clock.advance(minutes=11)
    report = run_expire_locks(store)
    entry = logged(store)

    assert entry["status"] == "FAILED"
    assert entry["error"] == report.error == f"skipped lock {held}: seats is 0, not a positive whole number"
    assert entry["details"]["setAside"] == [
        {"kind": "lock", "id": held, "reason": "seats is 0, not a positive whole number"}
    ]
    assert entry["details"]["setAsideCount"] == 1


def test_the_entry_names_the_first_hundred_skipped_items_and_their_number_is_complete(store, event):
    made = [insert_lock(store, event, 0) for _ in range(150)]
    run_expire_locks(store, batch_size=20)
    entry = logged(store)

    assert (entry["details"]["setAsideCount"], len(entry["details"]["setAside"])) == (150, 100)
    assert {item["id"] for item in entry["details"]["setAside"]} <= set(made)
    assert re.fullmatch(r"skipped lock \w{24}: seats is 0, not a .* number and 149 more", entry["error"])


def test_an_item_that_several_sweeps_skip_counts_once(store, clock, event):
    held, _ = book(store, event)
    edit(store, "seatLocks", held, seats=0)
    clock.advance(hours=1)
    run_recover(store)
    details = logged(store)["details"]

    kinds = sorted(item["kind"] for item in details["setAside"])
    assert (details["setAsideCount"], kinds) == (2, ["booking", "lock"])


def test_violations_that_need_a_person_make_a_run_failed(store, event):
    for _ in range(2):
        insert_lock(store, event, due=HOUR, status="CONSUMED")
    add(store, event, -2)
    report = run_recover(store)

    assert (report.unresolved, logged(store)["status"]) == (2, "FAILED")
    assert logged(store)["error"] == "2 violations need a person to decide; `seatctl verify` says what to do"


def test_what_ended_without_a_lock_is_noted_and_several_are_counted(store, clock, event):
    pairs = [book(store, event) for _ in range(3)]
    for held, _ in pairs:
        delete(store, "seatLocks", held)
    lock(store, event)
    clock.advance(hours=1)
    run_expire_bookings(store)
    entry = logged(store)

    assert entry["details"]["bookingsExpired"] == 3
    assert re.fullmatch(
        r"expired booking \w{24}: its lock \w{24} does not exist, so no seats were returned and 2 more",
        entry["error"],
    )


def test_the_entry_tells_the_hundred_events_that_got_most_seats(store):
    events = [create(store) for _ in range(103)]
    for number, event in enumerate(events):
        insert_lock(store, event, 1 + number % 50)
        add(store, event, -50)
    report = run_expire_locks(store)
    told = logged(store)["details"]["seatsByEvent"]

    assert len(told) == 100
    assert [each["seats"] for each in told] == sorted((each["seats"] for each in told), reverse=True)
    assert told[0]["seats"] == 50
    assert report.seats == sum(1 + number % 50 for number in range(103))


# --- failures -----------------------------------------------------------------------------------------


def test_a_run_that_fails_is_logged_with_how_far_it_came_and_its_error_goes_on(store, clock, monkeypatch):
    for _ in range(4):
        lock(store, create(store))
    clock.advance(minutes=11)
    expire, calls = seats.expire, iter(range(100))

    def expire_two(*arguments):
        if next(calls) >= 2:
            fail()
        expire(*arguments)

    monkeypatch.setattr(expiry, "expire", expire_two)
    with pytest.raises(SoldOut):
        run_expire_locks(store, batch_size=1)
    entry = logged(store)

    assert (entry["status"], entry["details"]["locksExpired"]) == ("FAILED", 2)
    assert entry["error"].split() == ["no", "seats", "are", "left"]


def test_a_done_run_that_cannot_be_logged_says_that_the_work_is_done(store, clock, event, monkeypatch):
    lock(store, event, 2)
    lock(store, event, 1)
    clock.advance(minutes=11)

    def refuse(*_):
        raise OperationFailure("not authorized", 13)

    monkeypatch.setattr(JobLogs, "insert", refuse)
    said = "2 records processed and 3 seats returned, but the run could not be logged"
    with pytest.raises(Misconfigured, match=said):
        run_expire_locks(store)
    assert available(store, event) == 100


def test_when_a_failed_run_cannot_be_logged_the_first_failure_is_reported(store, event, monkeypatch):
    def refuse(*_):
        raise OSError("the disk is full")

    monkeypatch.setattr(JobLogs, "insert", refuse)
    monkeypatch.setattr(SeatLocks, "overdue", fail)
    with pytest.raises(SoldOut):
        run_expire_locks(store)
    assert available(store, event) == 100


def test_no_secret_stands_in_the_log(store, event, monkeypatch):
    secrets.remember("mongodb://ann:hunter2hunter2@db1/")

    def tell(*_):
        raise SoldOut("failed with hunter2hunter2")

    monkeypatch.setattr(SeatLocks, "overdue", tell)
    with pytest.raises(SoldOut):
        run_expire_locks(store)
    assert "hunter2" not in logged(store)["error"]
    assert logged(store)["error"].startswith("failed with ")
    assert available(store, event) == 100


# --- signals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("job", JobType)
def test_a_signal_lets_what_is_in_flight_end_and_the_run_is_logged_with_how_far_it_came(
    store, clock, monkeypatch, job, number
):
    events = [create(store) for _ in range(12)]
    for event in events:
        book(store, event)
    clock.advance(hours=1)
    happened = meanwhile(monkeypatch, expiry, "expire", lambda: os.kill(os.getpid(), number))
    if job is JobType.LOCK_EXPIRY:
        store.database.bookings.delete_many({})
    with pytest.raises(Interrupted) as raised:
        RUN[job](store, batch_size=1)
    entry = logged(store)

    what = {JobType.LOCK_EXPIRY: "lock", JobType.BOOKING_EXPIRY: "booking", JobType.RECOVERY: "record"}[job]
    done = entry["details"]["recordsProcessed"]
    assert happened
    assert raised.value.exit_code == 128 + number
    assert entry["status"] == "FAILED"
    assert entry["error"] == f"interrupted after {done} {what}{'s' if done != 1 else ''}"
    expired = store.database.seatLocks.count_documents({"status": "EXPIRED"})
    assert entry["details"]["locksExpired"] == expired < 12
    assert sum(available(store, event) for event in events) == 1188 + expired


def test_the_second_signal_acts_at_once_as_it_did_before(store, event, monkeypatch):
    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    happened = meanwhile(monkeypatch, SeatLocks, "overdue", twice, before=True)
    with pytest.raises(KeyboardInterrupt):
        run_expire_locks(store)
    assert happened
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert logged(store)["error"] == "interrupted after 0 locks"
    assert available(store, event) == 100


def test_a_recovery_is_interrupted_between_two_repairs(store, event, monkeypatch):
    for _ in range(3):
        _, booked = book(store, event)
        edit(store, "bookings", booked, status="CONFIRMED")
    happened = meanwhile(
        monkeypatch, recovery.Recovery, "_repair", lambda: signal.raise_signal(signal.SIGTERM)
    )
    with pytest.raises(Interrupted):
        run_recover(store)

    assert happened
    assert store.database.seatLocks.count_documents({"status": "CONSUMED"}) == 1
    assert logged(store)["error"] == "interrupted after 1 record"


def test_after_a_run_signals_mean_again_what_they_meant_before(store, event):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run_expire_locks(store)

    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    assert available(store, event) == 100


def test_a_run_outside_the_main_thread_cannot_listen_to_signals_and_works_all_the_same(store, event):
    results = []
    thread = threading.Thread(target=lambda: results.append(run_expire_locks(store)))
    thread.start()
    thread.join()

    assert [report.error for report in results] == [None]
    assert logged(store)["status"] == "SUCCESS"
    assert available(store, event) == 100


# --- the story of a run ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dry_run", [False, True])
def test_the_story_tells_each_batch_with_every_counter_before_and_after_it(
    store, clock, event, caplog, dry_run
):
    for _ in range(3):
        lock(store, event)
    broken = lock(store, create(store))
    edit(store, "seatLocks", broken, seats=0)
    clock.advance(minutes=11)
    caplog.set_level("INFO", "seatctl")
    run_expire_locks(store, dry_run=dry_run)

    assert (
        f"LOCK_EXPIRY on database {store.name} starts; the server's time is 2027-01-01T12:11:00Z"
        in caplog.text
    )
    assert f"event {event}: 97 → 100 seats available (+3)" in caplog.text
    assert f"skipped lock {broken}: seats is 0" in caplog.text
    told = "3 locks and 0 bookings would be expired" if dry_run else "3 locks and 0 bookings expired"
    assert f"{told} in this batch" in caplog.text


def test_the_story_of_a_dry_run_tells_each_counter_as_it_would_be_after_the_batches_before(
    store, clock, event, caplog
):
    for _ in range(5):
        lock(store, event)
    clock.advance(minutes=11)
    caplog.set_level("INFO", "seatctl")
    run_expire_locks(store, dry_run=True, batch_size=2)

    assert [line.partition(": ")[2] for line in caplog.messages if "→" in line] == [
        "95 → 97 seats available (+2)",
        "97 → 99 seats available (+2)",
        "99 → 100 seats available (+1)",
    ]


def test_the_story_of_a_recovery_tells_each_violation_and_what_became_of_it(store, event, caplog):
    held, booked = book(store, event)
    edit(store, "bookings", booked, status="CONFIRMED")
    caplog.set_level("INFO", "seatctl")
    run_recover(store)

    assert f"booking {booked} is CONFIRMED but its lock {held} is ACTIVE: lock CONSUMED" in caplog.text
    assert "RECOVERY ends after" in caplog.text


# --- reading the log ------------------------------------------------------------------------------------


def test_the_last_run_of_a_job_of_any_or_of_one_outcome_and_how_many_there_were(store, clock):
    store.job_logs.insert(run_of(clock()))
    first = clock()
    clock.advance(hours=1)
    store.job_logs.insert(run_of(clock(), status=JobStatus.FAILED, error="x"))
    store.job_logs.insert(run_of(clock(), JobType.RECOVERY))
    last, succeeded = (
        store.job_logs.last(JobType.LOCK_EXPIRY, clock(), status) for status in (None, JobStatus.SUCCESS)
    )

    assert (last.status, last.executed_at, last.error, last.host) == ("FAILED", clock(), "x", "db1")
    assert succeeded.executed_at == first
    assert store.job_logs.last(JobType.BOOKING_EXPIRY, clock()) is None
    assert store.job_logs.count_by_status(JobType.LOCK_EXPIRY, clock()) == {"FAILED": 1}
    assert store.job_logs.count_by_status(JobType.LOCK_EXPIRY, first) == {"FAILED": 1, "SUCCESS": 1}


def test_a_run_of_the_future_is_not_the_last_one(store, clock):
    store.job_logs.insert(run_of(clock()))
    store.job_logs.insert(run_of(clock() + timedelta(days=365), status=JobStatus.FAILED))

    assert store.job_logs.last(JobType.LOCK_EXPIRY, clock()).status == "SUCCESS"


def test_an_entry_that_another_program_wrote_is_read_as_far_as_it_goes(store, clock):
    entry = {"jobType": "LOCK_EXPIRY", "executedAt": clock(), "details": "none", "_id": ObjectId()}
    store.database.jobLogs.insert_one(entry)
    last = store.job_logs.last(JobType.LOCK_EXPIRY, clock())

    assert (last.status, last.host, last.error, last.details) == ("None", "unknown host", None, {})
