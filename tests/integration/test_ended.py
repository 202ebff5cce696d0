"""What a job ended is told document by document, after its commit: `--list`."""

import json
from datetime import timedelta

import pytest
from bson import ObjectId
from conftest import edit, open_store
from scene import AT_ONCE, book, create, delete, insert_lock, lock, lock_of, sell, states
from terminal import here

from seatctl.domain.documents import UserId
from seatctl.services import jobs
from seatctl.services.job_report import ended_items
from seatctl.services.jobs import JobOptions


@pytest.fixture
def told(store):
    """What a listener heard, each with the state in which its documents were then."""
    heard = []

    def listen(ended):
        for item, document in zip(ended, ended_items(store, ended), strict=True):
            assert item.lock is None or lock_of(store, item.lock)["status"] == "EXPIRED", "before the commit"
            heard.append(document)

    heard_by = lambda run, options: run(store, options, listener=listen)  # noqa: E731
    return heard, heard_by


def test_each_lock_that_expires_is_told_with_whom_it_was_for(store, clock, told):
    heard, run = told
    event = create(store)
    held = [lock(store, event, seats, user=UserId(f"u{seats}"), key=f"k{seats}") for seats in (1, 2)]
    clock.advance(minutes=11)
    run(jobs.expire_locks, JobOptions())

    assert sorted(heard, key=lambda line: line["seats"]) == [
        {
            "what": "lock",
            "lock": held[seats - 1],
            "event": event,
            "user": f"u{seats}",
            "seats": seats,
            "key": f"k{seats}",
            "from": "ACTIVE",
            "to": "EXPIRED",
        }
        for seats in (1, 2)
    ]


def test_each_booking_that_expires_is_told_with_its_lock(store, clock, told):
    heard, run = told
    event = create(store)
    held, booked = book(store, event, 3)
    lost, lonely = book(store, event, 1)
    delete(store, "seatLocks", lost)
    clock.advance(minutes=16)
    run(jobs.expire_bookings, JobOptions())

    by_id = {line["booking"]: line for line in heard}
    assert len(heard) == len(by_id)
    assert by_id[booked] | {"key": None} == {
        "what": "booking",
        "booking": booked,
        "lock": held,
        "event": event,
        "user": "u",
        "seats": 3,
        "key": None,
        "from": "PAYMENT_PENDING",
        "to": "EXPIRED",
    }
    assert by_id.get(lonely, {"seats": 0})["seats"] == 0


def test_as_many_are_told_as_the_run_counts_however_small_its_batches_are(store, clock, told):
    heard, run = told
    events = [create(store) for _ in range(3)]
    for event in events:
        for _ in range(5):
            lock(store, event)
    clock.advance(minutes=11)
    report = run(jobs.expire_locks, JobOptions(batch_size=2))

    assert len({line["lock"] for line in heard}) == len(heard) == report.processed == 15
    assert sum(line["seats"] for line in heard) == report.seats


def test_recovery_tells_what_its_sweeps_and_its_repairs_ended(store, clock, told):
    heard, run = told
    event = create(store)
    overdue = lock(store, event)
    clock.advance(minutes=11)
    failed, booking = book(store, event, 2)
    edit(store, "bookings", booking, status="FAILED")  # its lock is still ACTIVE
    ended, waiting = book(store, event, 4)
    edit(store, "seatLocks", ended, status="EXPIRED")
    orphan = insert_lock(store, ObjectId(), due=timedelta(hours=1))
    report = run(jobs.recover, AT_ONCE)

    assert {(line["what"], line["lock"], line.get("booking")): line["seats"] for line in heard} == {
        ("lock", overdue, None): 1,
        ("lock", failed, None): 2,
        ("booking", ended, waiting): 0,
        ("lock", orphan, None): 0,
    }
    assert report.locks + report.bookings == 4


def test_nothing_is_told_where_nothing_ended(store, told):
    heard, run = told
    sell(store, create(store))
    run(jobs.recover, AT_ONCE)
    run(jobs.expire_locks, JobOptions())

    assert heard == []


def test_recovery_may_be_told_that_it_is_later(store, clock):
    """Only with force: it expires what is not overdue."""
    held, booked = book(store, create(store))
    later = JobOptions(as_of=timedelta(hours=2), settle=timedelta(0))

    with pytest.raises(jobs.FutureRefused):
        jobs.recover(store, later)
    planned = jobs.recover(store, later._replace(dry_run=True))
    assert (planned.bookings, planned.locks, states(store, held, booked)) == (
        1,
        1,
        ("ACTIVE", "PAYMENT_PENDING"),
    )
    assert planned.steps == []
    done = jobs.recover(store, later._replace(force=True))
    assert (done.bookings, states(store, held, booked)) == (1, ("EXPIRED", "EXPIRED"))
    assert store.database.jobLogs.find_one()["details"]["asOf"] == clock() + timedelta(hours=2)


def test_the_command_line_prints_a_line_for_each_and_its_sentence_on_stderr(database_uri, capsys):
    store = open_store(database_uri)
    event = create(store, 9)
    held = lock(store, event, user="ada", key="k")
    store.deployment.close()
    later = ("expire-locks", "--as-of", "+11m", "--list", "--uri", database_uri)

    planned = here(capsys, *later, "--dry-run")
    done = here(capsys, *later, "--force")
    again = here(capsys, *later, "--force", "-q")
    refused = here(capsys, *later, "--force", "--json")

    line = {"what": "lock", "lock": str(held), "event": str(event), "user": "ada", "seats": 1, "key": "k"}
    line |= {"from": "ACTIVE", "to": "EXPIRED"}
    assert json.loads(planned.stdout) == line | {"dryRun": True}
    assert json.loads(done.stdout) == line
    assert "1 lock expired, 1 seat returned" in done.stderr
    assert (again.code, again.stdout, again.stderr) == (0, "", "")
    assert (refused.code, refused.stdout) == (2, "")
