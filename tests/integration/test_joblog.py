"""One run of a job: its entry in the log, and how it fails and is interrupted."""

import os
import signal
import socket
import threading
from collections import Counter
from datetime import datetime

import pytest
from bson import ObjectId
from pymongo.errors import OperationFailure

from seatctl.domain.model import JobStatus, JobType
from seatctl.errors import Interrupted, Misconfigured, SoldOut
from seatctl.services import jobs as joblog
from seatctl.services.seats import Cause, GivenBack, SetAside

EVENT = ObjectId()
TYPE_FIELDS = {
    JobType.LOCK_EXPIRY: {"locksExpired": 2},
    JobType.BOOKING_EXPIRY: {"locksExpired": 2, "bookingsExpired": 1},
    JobType.RECOVERY: {
        "locksExpired": 2,
        "bookingsExpired": 1,
        "resourcesRecovered": 4,
        "findings": [],
        "findingsCount": 0,
    },
}
PROCESSED = {JobType.LOCK_EXPIRY: 2, JobType.BOOKING_EXPIRY: 1, JobType.RECOVERY: 4}


def batch(*aside):
    return GivenBack(2, 1, Counter({EVENT: 3}), list(aside))


def broken(number=1):
    return SetAside("lock", ObjectId(f"{number:024x}"), "seats is 0", Cause.DAMAGED)


@pytest.mark.parametrize("job", JobType)
def test_entry(store, clock, job):
    """Each run leaves one entry with exactly the contract's fields, and returns it."""

    def work(run):
        run.record(batch())
        run.repairs += 1
        clock.advance(seconds=5)

    started = clock()
    entry, run = joblog.run(store, job, work)
    (stored,) = store.database.jobLogs.find()
    duration = stored["details"].pop("duration")

    assert stored == {
        "_id": entry["_id"],
        "jobType": job.value,
        "executedAt": started,
        "status": "SUCCESS",
        "details": {"recordsProcessed": PROCESSED[job], "seatsRestored": 3, **TYPE_FIELDS[job]},
        "host": socket.gethostname(),
    }
    assert (type(duration), type(stored["executedAt"])) == (int, datetime)
    assert run.seats_by_event == {EVENT: 3}


def test_entry_of_an_idle_run(store):
    """A run with nothing to do is logged too."""
    joblog.run(store, JobType.LOCK_EXPIRY, lambda _: None)
    (stored,) = store.database.jobLogs.find()

    assert (stored["status"], stored["details"]["recordsProcessed"]) == ("SUCCESS", 0)


def test_dry_run(store):
    """A dry run returns what the entry would say and logs nothing, whether it succeeds or fails."""
    entry, _ = joblog.run(store, JobType.LOCK_EXPIRY, lambda run: run.record(batch()), dry_run=True)

    assert entry["details"]["locksExpired"] == 2
    with pytest.raises(SoldOut):
        joblog.run(store, JobType.LOCK_EXPIRY, fails, dry_run=True)
    assert store.database.jobLogs.count_documents({}) == 0


def fails(_):
    raise SoldOut("no seats\nare left")


@pytest.mark.parametrize("status", JobStatus)
def test_status(store, status):
    """A run that set nothing aside is a SUCCESS; one that did is FAILED and names what."""
    aside = [broken()] if status is JobStatus.FAILED else []
    entry, _ = joblog.run(store, JobType.LOCK_EXPIRY, lambda run: run.record(batch(*aside)))

    assert entry["status"] == status.value
    assert ("error" in entry) == (status is JobStatus.FAILED)


def test_many_items_set_aside(store):
    """The entry names the first hundred items; their number is complete, and each counts once."""
    aside = [broken(number) for number in range(150)]

    def work(run):
        run.record(batch(*aside))
        run.record(batch(aside[0]))

    entry, _ = joblog.run(store, JobType.LOCK_EXPIRY, work)

    assert (entry["details"]["setAsideCount"], len(entry["details"]["setAside"])) == (150, 100)
    assert entry["details"]["setAside"][1] == {
        "kind": "lock",
        "id": ObjectId(f"{1:024x}"),
        "reason": "seats is 0",
    }
    assert entry["error"] == f"set aside lock {'0' * 24}: seats is 0 and 149 more"


def test_unresolved_findings(store):
    """Findings that need a person make a run FAILED."""

    def work(run):
        run.unresolved += 2

    entry, _ = joblog.run(store, JobType.RECOVERY, work)

    assert entry["status"] == "FAILED"
    assert "2 findings need a person" in entry["error"]


def test_failed_run(store):
    """A run that fails is logged with how far it came, and its error goes on to the caller."""

    def work(run):
        run.record(batch())
        fails(run)

    with pytest.raises(SoldOut):
        joblog.run(store, JobType.LOCK_EXPIRY, work)
    (stored,) = store.database.jobLogs.find()

    assert (stored["status"], stored["details"]["locksExpired"]) == ("FAILED", 2)
    assert stored["error"].split() == ["no", "seats", "are", "left"]


def test_done_run_that_cannot_be_logged(store, monkeypatch):
    """When only the log entry fails, the error keeps its code and says that the work is done."""

    def refuse(_):
        raise OperationFailure("not authorized", 13)

    monkeypatch.setattr(store, "insert_run", refuse)
    with pytest.raises(
        Misconfigured, match="2 records were processed and 3 seats restored, but the run could"
    ):
        joblog.run(store, JobType.LOCK_EXPIRY, lambda run: run.record(batch()))


def test_failed_run_that_cannot_be_logged(store, monkeypatch):
    """When the log cannot be written either, the first failure is the one to report."""

    def refuse(_):
        raise OSError("the disk is full")

    monkeypatch.setattr(store, "insert_run", refuse)
    with pytest.raises(SoldOut):
        joblog.run(store, JobType.LOCK_EXPIRY, fails)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(store, number):
    """A signal lets the batch in flight end; the run is logged FAILED with how far it came."""

    def work(run):
        os.kill(os.getpid(), number)
        run.record(batch())
        run.checkpoint()
        raise AssertionError("went on after a request to stop")

    with pytest.raises(Interrupted) as raised:
        joblog.run(store, JobType.LOCK_EXPIRY, work)
    (stored,) = store.database.jobLogs.find()

    assert raised.value.exit_code == 128 + number
    assert (stored["status"], stored["error"]) == ("FAILED", "interrupted after 2 locks")


def test_interrupted_twice(store):
    """Whoever asks twice does not want to wait: the second signal acts at once, as it did before."""

    def work(_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        joblog.run(store, JobType.LOCK_EXPIRY, work)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert store.database.jobLogs.find_one()["error"] == "interrupted after 0 locks"


def test_signal_handlers_return(store):
    """After the run, signals mean again what they meant before."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    joblog.run(store, JobType.LOCK_EXPIRY, lambda _: None)

    assert before == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))


@pytest.mark.parametrize("dry_run", [False, True])
def test_story(store, caplog, dry_run):
    """The story of a run tells each batch with every counter before and after it; a counter that is no
    number has no story."""
    caplog.set_level("INFO", "seatctl")
    other = ObjectId()
    now_there = 97 if dry_run else 100  # a dry run has not changed it
    store.database.events.insert_many(
        [{"_id": EVENT, "availableSeats": now_there}, {"_id": other, "availableSeats": "many"}]
    )

    def work(run):
        run.record(GivenBack(4, 0, Counter({EVENT: 3, other: 1}), [broken()]))

    joblog.run(store, JobType.LOCK_EXPIRY, work, dry_run=dry_run)

    assert f"event {EVENT}: 97 → 100 seats available (+3)" in caplog.text
    assert str(other) not in caplog.text
    assert f"set aside {broken()}" in caplog.text
    assert ("would be expired" in caplog.text) is dry_run


def test_story_of_a_plan(store, caplog):
    """A dry run tells each counter as it would be after the batches before."""
    caplog.set_level("INFO", "seatctl")
    store.database.events.insert_one({"_id": EVENT, "availableSeats": 5})
    run = joblog.Run(JobType.LOCK_EXPIRY, store, dry_run=True)
    for seats in (2, 3):
        run.record(GivenBack(1, 0, Counter({EVENT: seats})))

    assert [line.partition(": ")[2] for line in caplog.messages if "→" in line] == [
        "5 → 7 seats available (+2)",
        "7 → 10 seats available (+3)",
    ]


def test_run_in_a_thread(store):
    """A run outside the main thread cannot listen to signals and works all the same."""
    results = []
    thread = threading.Thread(
        target=lambda: results.append(joblog.run(store, JobType.LOCK_EXPIRY, lambda _: None))
    )
    thread.start()
    thread.join()

    assert results[0][0]["status"] == "SUCCESS"


def test_last_run_and_counts(store, clock):
    """The last run of a type, of any or of one outcome, and how many runs there were since when."""
    joblog.run(store, JobType.LOCK_EXPIRY, lambda _: None)
    clock.advance(hours=1)
    with pytest.raises(SoldOut):
        joblog.run(store, JobType.LOCK_EXPIRY, fails)
    joblog.run(store, JobType.RECOVERY, lambda _: None)

    assert store.last_run("LOCK_EXPIRY")["status"] == "FAILED"
    assert store.last_run("LOCK_EXPIRY", status="SUCCESS")["executedAt"] < clock()
    assert store.last_run("BOOKING_EXPIRY") is None
    assert store.count_runs("LOCK_EXPIRY", clock()) == {"FAILED": 1}
