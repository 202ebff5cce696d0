"""Health: what counts as a problem, what as a warning, and what each is told apart from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
from bson import Decimal128, ObjectId
from conftest import EPOCH, Clock, examined, open_store
from scene import (
    confirm,
    create,
    insert_booking,
    insert_lock,
    lock,
    run_expire_bookings,
    run_expire_locks,
    sell,
)

from seatctl.domain.states import Fault, JobStatus, JobType, RefundCause
from seatctl.errors import CursorLost
from seatctl.mongo.locks import SeatLocks
from seatctl.mongo.store import Store
from seatctl.output.formats import plain
from seatctl.services import expiry, health, sales

MAX_AGE = timedelta(minutes=3)
SWEEPS = (JobType.LOCK_EXPIRY, JobType.BOOKING_EXPIRY)


@pytest.fixture
def store(store: Store) -> Store:
    """A database whose collections are there."""
    for collection in ("events", "seatLocks"):
        store.database.create_collection(collection)
    return store


def test_a_database_without_the_collection_of_events_is_most_often_another_one_than_was_meant(
    store: Store, clock: Clock
) -> None:
    assert not any("mistyped" in problem for problem in check(store, clock).problems)
    store.database.drop_collection("events")
    assert any(
        "the database's name is probably mistyped" in problem for problem in check(store, clock).problems
    )


def check(store: Store, clock: Clock, **options: Any) -> health.Health:
    """Health on a host whose clock is right, unless told otherwise."""
    return health.check(store, **{"max_age": MAX_AGE, "host_clock": clock, **options})


def log_run(store: Store, job: JobType, status: str = "SUCCESS", **fields: Any) -> None:
    """A run as any program may have logged it, now unless `executedAt` says otherwise."""
    entry = {"jobType": job.value, "executedAt": store.now(), "status": status, **fields}
    store.database.jobLogs.insert_one(entry)


def log_sweeps(store: Store) -> None:
    for job in SWEEPS:
        log_run(store, job, details={"recordsProcessed": 0, "seatsRestored": 0, "duration": 4}, host="db1")


def only(problems: list[str]) -> str:
    """The one problem there is."""
    assert len(problems) == 1, problems
    return problems[0]


# --- jobs ------------------------------------------------------------------------------------------


def test_fresh_jobs_on_an_empty_database_are_healthy(store: Store, clock: Clock) -> None:
    """No backlog, no inconsistency, both sweeps fresh: no problem, though recovery never ran."""
    store.init()
    log_sweeps(store)

    found = check(store, clock)

    assert (found.problems, found.warnings) == ([], [])
    assert found.healthy


@pytest.mark.parametrize("job", SWEEPS)
def test_a_sweep_that_never_ran_is_a_problem(store: Store, clock: Clock, job: JobType) -> None:
    """Each expiry job must have run, and the line names the command that schedules it."""
    log_run(store, next(other for other in SWEEPS if other is not job))

    problem = only(check(store, clock).problems)

    assert problem.startswith(f"{job} has never run")
    assert "seatctl schedule cron" in problem


@pytest.mark.parametrize("job", SWEEPS)
def test_a_sweep_that_stopped_running_is_a_problem(store: Store, clock: Clock, job: JobType) -> None:
    """Older than --max-age means stopped: since when, where it last ran, and what to check."""
    log_run(store, job, host="db1")
    clock.advance(minutes=3)
    log_run(store, next(other for other in SWEEPS if other is not job))
    assert check(store, clock).healthy

    clock.advance(seconds=1)
    problem = only(check(store, clock).problems)

    assert problem.startswith(f"{job} has not run for 3m1s (last at 2027-01-01T12:00:00Z on db1)")
    assert "crontab or timer" in problem


@pytest.mark.parametrize("job", SWEEPS)
def test_a_job_that_runs_and_fails_is_told_apart(store: Store, clock: Clock, job: JobType) -> None:
    """The last run failed: how often, why, and where to look, not that it stopped."""
    log_sweeps(store)
    clock.advance(seconds=60)
    log_sweeps(store)
    log_run(store, job, executedAt=clock.advance(seconds=1), status="FAILED", error="skipped lock 1")

    found = check(store, clock)

    problem = only(found.problems)
    assert problem.startswith(f"{job} runs but fails (1 of ")
    assert "last: skipped lock 1; `seatctl jobs --type" in problem
    assert found.jobs[job].failures == 1


def test_a_stopped_job_says_also_that_it_failed(store: Store, clock: Clock) -> None:
    """One line for one job: it stopped, and its last run had failed."""
    log_run(store, JobType.LOCK_EXPIRY, "FAILED", error="no seats")
    clock.advance(hours=1)
    log_run(store, JobType.BOOKING_EXPIRY)

    problem = only(check(store, clock).problems)

    assert problem.startswith("LOCK_EXPIRY has not run for 1h (")
    assert "which failed: no seats)" in problem


def test_a_success_after_a_failure_is_well(store: Store, clock: Clock) -> None:
    """Only the last outcome counts; earlier failures are told as numbers."""
    log_run(store, JobType.LOCK_EXPIRY, "FAILED", error="once")
    clock.advance(seconds=30)
    log_sweeps(store)

    found = check(store, clock)

    assert found.healthy
    assert found.jobs[JobType.LOCK_EXPIRY].statuses == {"SUCCESS": 1, "FAILED": 1}
    assert found.jobs[JobType.LOCK_EXPIRY].last_error is None


def test_recovery_is_judged_by_its_last_outcome_and_not_by_its_age(store: Store, clock: Clock) -> None:
    """A recovery of last month that succeeded is well; one that failed is a problem until it succeeds."""
    log_run(store, JobType.RECOVERY)
    clock.advance(days=30)
    log_sweeps(store)
    assert check(store, clock).healthy

    log_run(store, JobType.RECOVERY, "FAILED", error="oversold")
    clock.advance(days=2)
    log_sweeps(store)
    problem = only(check(store, clock).problems)
    assert problem.startswith("the last RECOVERY failed: oversold (")
    assert problem.endswith("; run `seatctl recover` again: once it succeeds, this is resolved")

    log_run(store, JobType.RECOVERY)
    assert check(store, clock).healthy


def test_runs_are_counted_within_the_window_and_the_last_ones_ever(store: Store, clock: Clock) -> None:
    """Counts forget what is older than the window; last run and last success do not."""
    log_run(store, JobType.LOCK_EXPIRY)
    first = clock.time
    second = clock.advance(hours=2)
    log_run(store, JobType.LOCK_EXPIRY, "FAILED", error="x")
    clock.advance(hours=23)

    job = check(store, clock).jobs[JobType.LOCK_EXPIRY]

    assert (job.runs, job.statuses) == (1, {"FAILED": 1})
    assert (job.last_run, job.last_success, job.age) == (second, first, timedelta(hours=23))


def test_an_entry_from_the_future_hides_nothing(store: Store, clock: Clock) -> None:
    """A run logged under a wrong clock does not make a stopped job look fresh."""
    log_sweeps(store)
    log_run(store, JobType.LOCK_EXPIRY, executedAt=clock.time + timedelta(days=365))
    clock.advance(minutes=10)
    log_run(store, JobType.BOOKING_EXPIRY)

    assert only(check(store, clock).problems).startswith("LOCK_EXPIRY has not run for 10m")


@pytest.mark.parametrize(
    "entry",
    [
        {"status": "RUNNING"},
        {"status": None},
        {"details": None},
        {"details": "none"},
        {"details": {"duration": "long"}},
        {"host": 7},
        {"executedAt": [EPOCH]},
    ],
)
def test_foreign_entries_are_read_as_they_are(store: Store, clock: Clock, entry: Mapping[str, Any]) -> None:
    """A marker or a shape of another program is neither failure nor crash, and goes out as JSON."""
    log_sweeps(store)
    log_run(store, JobType.LOCK_EXPIRY, **{"executedAt": clock.advance(seconds=1), **entry})

    found = check(store, clock)

    assert found.healthy
    assert json.dumps(plain(found.as_document()))


def test_a_run_without_a_date_is_no_run(store: Store, clock: Clock) -> None:
    """`executedAt` stored as a string says nothing about freshness."""
    log_sweeps(store)
    store.database["jobLogs"].update_many({"jobType": "LOCK_EXPIRY"}, {"$set": {"executedAt": "today"}})

    assert only(check(store, clock).problems).startswith("LOCK_EXPIRY has never run")


# --- backlog ---------------------------------------------------------------------------------------


def test_overdue_items_are_a_problem_only_when_the_jobs_had_their_chance(store: Store, clock: Clock) -> None:
    """Overdue for less than --max-age is the sweep's daily work; longer is a backlog."""
    event = create(store)
    for _ in range(3):
        lock(store, event)
    confirm(store, lock(store, event))

    clock.advance(minutes=13)
    log_sweeps(store)
    fresh = check(store, clock)
    assert (fresh.problems, fresh.locks) == ([], health.Backlog(3, timedelta(minutes=3)))

    clock.advance(seconds=1)
    problem = only(check(store, clock).problems)
    assert problem == "3 locks overdue, the oldest for 3m1s; `seatctl expire-locks` returns their seats"

    clock.advance(minutes=6)
    log_sweeps(store)
    both = check(store, clock)
    assert both.bookings == health.Backlog(1, timedelta(minutes=4, seconds=1))
    assert "1 booking overdue, the oldest for 4m1s" in both.problems[1]


def test_the_backlog_is_exactly_what_the_sweep_expires(store: Store, clock: Clock) -> None:
    """Kept, damaged, orphaned and future items are no backlog; what is counted, the next run expires."""
    event, doubtful = create(store), create(store)
    overdue = [lock(store, event) for _ in range(4)]
    kept = lock(store, event)
    insert_booking(store, event, kept)  # by another program, which did not move its lock's deadline
    locks = store.database["seatLocks"]
    late = lock(store, event)
    locks.update_one({"_id": late}, {"$set": {"expiresAt": "soon"}})
    insert_lock(store, ObjectId())
    insert_lock(store, doubtful, 0)
    lock(store, doubtful)
    insert_booking(store, event, overdue[0], "FAILED", paymentExpiresAt="?")
    clock.advance(minutes=11)
    lock(store, event)

    counted = check(store, clock).locks
    expired = run_expire_locks(store).locks

    assert (counted.overdue, expired) == (len(overdue), len(overdue))
    assert counted.oldest == timedelta(minutes=1)
    assert check(store, clock).locks == health.Backlog(0, None)


def test_a_booking_whose_lock_is_gone_is_backlog_until_its_sweep(store: Store, clock: Clock) -> None:
    """As is what is overdue beside it: the sweep of bookings looks at the lock of each itself."""
    event = create(store)
    for _ in range(2):
        insert_booking(store, event, ObjectId(), due=timedelta(0))
    confirm(store, lock(store, event))
    clock.advance(minutes=20)

    assert check(store, clock).bookings == health.Backlog(3, timedelta(minutes=20))
    assert run_expire_bookings(store).bookings == 3
    assert check(store, clock).bookings == health.Backlog(0, None)


def test_the_backlog_is_counted_over_many_batches(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count and the oldest are those of all batches, not of one."""
    in_twos = lambda store, run: expiry.run_sweep(store, run._replace(batch_size=2))  # noqa: E731
    monkeypatch.setattr(health, "run_sweep", in_twos)
    first, middle, last = create(store), create(store), create(store)
    lock(store, middle)
    clock.advance(minutes=1)
    for event in (first, middle, last):
        for _ in range(2):
            lock(store, event)
    clock.advance(minutes=20)

    assert check(store, clock).locks == health.Backlog(7, timedelta(minutes=11))


def test_a_list_of_overdue_items_that_the_server_drops_is_an_error_and_no_number(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted again from its start it would be told twice."""
    lock(store, create(store))
    clock.advance(minutes=11)

    def dropping(*_: Any) -> Iterator[Any]:
        raise CursorLost
        yield

    monkeypatch.setattr(SeatLocks, "overdue", dropping)

    with pytest.raises(CursorLost):
        check(store, clock)


# --- inventory -------------------------------------------------------------------------------------


def test_totals_over_all_events(store: Store, clock: Clock) -> None:
    """Available, locked and sold seats add up to the total, over all events."""
    first, second = create(store, 10), create(store, 5)
    lock(store, first, 2)
    sell(store, second, 3)
    sales.release(store, lock(store, first, 4))

    found = check(store, clock, per_event=True)

    assert found.seats == health.Seats(events=2, total=15, available=10, locked=2, sold=3)
    assert {row["_id"]: (row["availableSeats"], row["locked"], row["sold"]) for row in found.events} == {
        first: (8, 2, 0),
        second: (2, 0, 3),
    }


def test_an_inconsistent_event_is_named(store: Store, clock: Clock) -> None:
    """What verify finds is a problem: one line for each kind of fault, and the events in the document."""
    log_sweeps(store)
    drifted = [create(store), create(store)]
    lock(store, drifted[0])
    store.database["events"].update_many({}, {"$set": {"availableSeats": 50}})

    found = check(store, clock)

    problem = only(found.problems)
    assert problem.startswith(f"{Fault.COUNTER_DRIFT}: event ")
    assert "and 1 more; `seatctl recover`" in problem
    inventory = found.as_document()["inventory"]
    assert set(inventory["inconsistentEvents"]) == set(drifted)
    assert inventory["findingsCount"] == 2


def test_a_foreign_event_of_the_wrong_shape_is_a_finding_and_no_crash(store: Store, clock: Clock) -> None:
    """Seats stored as text count as none in the totals and are reported."""
    log_sweeps(store)
    create(store, 7)
    store.database["events"].insert_one({"name": "x", "totalSeats": "many", "availableSeats": None})

    found = check(store, clock)

    assert (found.seats.events, found.seats.total, found.seats.available) == (2, 7, 7)
    assert only(found.problems).startswith(f"{Fault.DAMAGED_EVENT}: ")


def test_an_event_of_decimals_is_a_finding_and_no_crash(store: Store, clock: Clock) -> None:
    """Nor do decimals, in counters and in locks, hide the rest of the inventory."""
    log_sweeps(store)
    create(store, 7)
    ten = Decimal128("10")
    store.database["events"].insert_one({"name": "x", "totalSeats": ten, "availableSeats": ten})
    insert_lock(store, ObjectId(), Decimal128("2"), status="CONSUMED")  # type: ignore[arg-type]

    found = check(store, clock, per_event=True)

    assert (found.seats.events, found.seats.total, found.seats.sold) == (2, 7, 0)
    assert any(problem.startswith(f"{Fault.DAMAGED_EVENT}: ") for problem in found.problems)
    assert len(list(found.events)) == 2


# --- warnings --------------------------------------------------------------------------------------


def test_refunds_that_are_due_are_a_warning_and_a_problem_once_they_are_forgotten(
    store: Store, clock: Clock
) -> None:
    booked = store.bookings.get(confirm(store, lock(store, create(store))))
    store.refunds.record(booked, 1, RefundCause.LATE_PAYMENT, "one", clock())
    clock.advance(days=2)
    store.refunds.record(booked, 1, RefundCause.LATE_PAYMENT, "two", clock())
    words = "2 refunds due, the oldest for 2d; `seatctl refunds` lists them"

    state = check(store, clock)
    assert (state.refunds.due, state.refunds.oldest) == (2, timedelta(days=2))
    assert words in state.warnings
    assert words not in state.problems

    clock.advance(days=6)
    state = check(store, clock)
    assert words.replace("2d", "8d") in state.problems
    assert not [line for line in state.warnings if "refunds due" in line]


def test_missing_indexes_are_a_warning(store: Store, clock: Clock) -> None:
    """Without `init` everything works, only slower: said, but not unhealthy."""
    log_sweeps(store)

    found = check(store, clock)

    assert found.healthy
    assert "seatLocks.locks_by_status" in only(found.warnings)
    assert "seatctl init" in only(found.warnings)


@pytest.mark.parametrize(
    ("ahead", "words"),
    [(6, "6s ahead of"), (-6, "6s behind"), (7200, "2h ahead of"), (5, None), (-5, None), (0, None)],
)
def test_a_wrong_host_clock_is_a_warning(store: Store, clock: Clock, ahead: int, words: str | None) -> None:
    """More than five seconds between this host and the server is said, in either direction."""
    store.init()
    log_sweeps(store)

    found = check(store, clock, host_clock=lambda: clock.time + timedelta(seconds=ahead))

    assert found.healthy
    assert found.clock_difference == timedelta(seconds=ahead)
    if words:
        assert words in only(found.warnings)
    else:
        assert found.warnings == []


def test_a_slow_answer_is_no_clock_difference(store: Store, clock: Clock) -> None:
    """The server read its clock somewhere between question and answer; nothing outside is counted."""
    times = iter([clock.time - timedelta(seconds=20), clock.time + timedelta(seconds=20)])

    found = check(store, clock, host_clock=lambda: next(times))

    assert found.clock_difference == timedelta()


def test_health_uses_the_servers_clock(database_uri: str) -> None:
    """Under real clocks a run that just ended is fresh and the clocks of one machine agree."""
    store = open_store(database_uri)
    store.init()
    run_expire_locks(store)
    run_expire_bookings(store)

    found = health.check(store, max_age=MAX_AGE)

    assert found.healthy
    assert found.warnings == []
    store.deployment.close()


# --- the document ----------------------------------------------------------------------------------


def test_the_document_has_every_field(store: Store, clock: Clock) -> None:
    """`--json` is this document: one shape, whatever the state."""
    store.init()
    log_sweeps(store)
    lock(store, create(store, 10), 4)

    document = plain(check(store, clock).as_document())

    run = {
        "runs": 1,
        "statuses": {"SUCCESS": 1},
        "failures": 0,
        "lastRun": "2027-01-01T12:00:00Z",
        "lastStatus": "SUCCESS",
        "lastSuccess": "2027-01-01T12:00:00Z",
        "lastError": None,
        "ageSeconds": 0,
    }
    never = {
        "runs": 0,
        "statuses": {},
        "failures": 0,
        "lastRun": None,
        "lastStatus": None,
        "lastSuccess": None,
        "lastError": None,
        "ageSeconds": None,
    }
    assert document == {
        "healthy": True,
        "problems": [],
        "warnings": [],
        "checkedAt": "2027-01-01T12:00:00Z",
        "maxAgeSeconds": 180,
        "windowSeconds": 86_400,
        "jobs": {"LOCK_EXPIRY": run, "BOOKING_EXPIRY": run, "RECOVERY": never},
        "backlog": {
            "overdueLocks": 0,
            "oldestLockSeconds": 0,
            "overdueBookings": 0,
            "oldestBookingSeconds": 0,
        },
        "refunds": {"due": 0, "oldestSeconds": 0},
        "inventory": {
            "events": 1,
            "totalSeats": 10,
            "availableSeats": 6,
            "lockedSeats": 4,
            "soldSeats": 0,
            "inconsistentEvents": [],
            "inconsistentEventsCount": 0,
            "findings": [],
            "findingsCount": 0,
        },
        "missing": [],
        "clockDifferenceSeconds": 0.0,
    }


def test_a_long_list_of_findings_is_cut_and_counted(store: Store, clock: Clock) -> None:
    """The document names a hundred findings and says how many there are."""
    log_sweeps(store)
    store.database["events"].insert_many({"totalSeats": 5, "availableSeats": 4} for _ in range(150))

    inventory = check(store, clock).as_document()["inventory"]

    assert (len(inventory["findings"]), inventory["findingsCount"]) == (100, 150)
    assert (len(inventory["inconsistentEvents"]), inventory["inconsistentEventsCount"]) == (100, 150)


# --- a long job log --------------------------------------------------------------------------------


def test_a_long_job_log_is_not_read(store: Store, clock: Clock) -> None:
    """Last run, last success and counts examine what they return, whatever else the log holds."""
    store.init()
    past = clock.time - timedelta(days=2)
    store.database["jobLogs"].insert_many(
        {
            "jobType": list(JobType)[number % 3].value,
            "executedAt": past - timedelta(minutes=number),
            "status": JobStatus.SUCCESS.value,
        }
        for number in range(30_000)
    )
    log_sweeps(store)
    with examined(store, "jobLogs") as documents:
        check(store, clock)

    assert documents() <= 10
