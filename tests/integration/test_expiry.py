"""What the two sweeps expire, leave alone and skip."""

from datetime import timedelta

import pytest
from bson import ObjectId
from conftest import available, edit, everything, open_store
from scene import (
    HOUR,
    NOWHERE,
    add,
    book,
    create,
    event_of,
    insert_booking,
    insert_lock,
    lock,
    lock_of,
    run_expire_bookings,
    run_expire_locks,
    states,
)

from seatctl.domain.rules import BATCH
from seatctl.domain.states import LIVE, BookingStatus, LockStatus
from seatctl.errors import FutureRefused
from seatctl.services import jobs
from seatctl.services.expiry import return_overdue, run_sweep
from seatctl.services.sweeps import LockSweep, SweepClearance, SweepRun


@pytest.fixture
def event(store):
    """An event with a hundred seats."""
    return create(store)


def take(store, event, number=1, seats=1):
    """Lock seats; the new locks' ids."""
    return [lock(store, event, seats, user=f"user {n}") for n in range(number)]


def counts(report):
    return report.locks, report.bookings, report.seats


def reasons(report):
    return {item.id: item.reason for item in report.skipped.values()}


def status(store, lock_id):
    return lock_of(store, lock_id)["status"]


# --- expire-locks ----------------------------------------------------------------------------------


def test_five_locks_of_one_seat_come_back_past_their_deadline(store, clock, event):
    locks = take(store, event, 5)
    assert available(store, event) == 95
    clock.advance(minutes=11)
    report = run_expire_locks(store)

    assert counts(report) == (5, 0, 5)
    assert [status(store, each) for each in locks] == ["EXPIRED"] * 5
    assert available(store, event) == 100
    assert [run["status"] for run in store.database.jobLogs.find({"jobType": "LOCK_EXPIRY"})] == ["SUCCESS"]


def test_an_expired_lock_remembers_its_state_and_keeps_its_deadline_and_what_is_unknown(store, clock, event):
    (held,) = take(store, event)
    edit(store, "seatLocks", held, rows=["A1"])
    before = lock_of(store, held)
    clock.advance(minutes=11)
    run_expire_locks(store)

    run = store.database.jobLogs.find_one({})
    changes = {"status": "EXPIRED", "oldStatus": "ACTIVE", "updatedAt": clock(), "endedBy": run["_id"]}
    assert lock_of(store, held) == {**before, **changes}
    assert type(available(store, event)) is int
    assert event_of(store, event)["updatedAt"] == clock()


def test_a_lock_is_overdue_after_its_deadline_not_at_it(store, clock, event):
    take(store, event)
    clock.advance(minutes=10)
    assert counts(run_expire_locks(store)) == (0, 0, 0)

    clock.advance(milliseconds=1)
    assert counts(run_expire_locks(store)) == (1, 0, 1)


def test_running_the_job_twice_is_running_it_once(store, clock, event):
    take(store, event, 3, seats=2)
    clock.advance(minutes=11)
    run_expire_locks(store)
    before = everything(store, "jobLogs")

    assert counts(run_expire_locks(store)) == (0, 0, 0)
    assert before == everything(store, "jobLogs")


@pytest.mark.parametrize("state", LockStatus)
def test_only_active_locks_expire(store, clock, event, state):
    (held,) = take(store, event)
    edit(store, "seatLocks", held, status=state.value)
    clock.advance(minutes=11)

    assert (state is LockStatus.ACTIVE) == run_expire_locks(store).locks
    assert status(store, held) == ("EXPIRED" if state is LockStatus.ACTIVE else state)


@pytest.mark.parametrize("state", BookingStatus)
def test_a_lock_with_a_live_booking_is_never_expired(store, clock, event, state):
    """However late the lock is, also when the program that wrote the booking did not touch the lock."""
    (held,) = take(store, event)
    insert_booking(store, event, held, state.value, due=timedelta(days=1))
    clock.advance(hours=1)
    expired = 0 if state in LIVE else 1

    assert counts(run_expire_locks(store)) == (expired, 0, expired)
    assert available(store, event) == 99 + expired


@pytest.mark.parametrize(
    "state", ["ON_HOLD", None, ["CONFIRMED"], ["FAILED", "CONFIRMED"], ["EXPIRED"]], ids=str
)
def test_a_lock_whose_booking_cannot_be_read_is_skipped(store, clock, event, state):
    """It may be live."""
    (held,) = take(store, event)
    insert_booking(store, event, held, state)
    clock.advance(hours=1)
    report = run_expire_locks(store)

    assert (counts(report), list(reasons(report))) == ((0, 0, 0), [held])
    assert (status(store, held), available(store, event)) == ("ACTIVE", 99)


def test_a_lock_in_no_known_state_never_expires_nor_does_any_other_of_its_event(store, clock, event):
    odd, other = take(store, event, 2)
    edit(store, "seatLocks", odd, status="ON_HOLD")
    clock.advance(minutes=11)
    report = run_expire_locks(store)

    assert counts(report) == (0, 0, 0)
    assert reasons(report) == {other: f"event {event}: 1 lock cannot be read; `seatctl verify` names it"}


def test_batches_end_where_an_event_ends_and_return_every_seat_once(store, clock):
    """Two batches in flight should not meet on one event."""
    events = [create(store, 10) for _ in range(3)]
    for event in events:
        take(store, event, 3, seats=2)
    clock.advance(minutes=11)
    run = SweepRun(LockSweep(), clock(), clock(), SweepClearance(store), batch_size=4)

    assert [batch.locks for batch in run_sweep(store, run)] == [3, 3, 3]
    assert [available(store, event) for event in events] == [10, 10, 10]


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_an_event_larger_than_a_batch_gets_every_seat_once(store, clock, event, batch_size):
    locks = take(store, event, 7)
    clock.advance(minutes=11)

    assert counts(run_expire_locks(store, batch_size=batch_size)) == (7, 0, 7)
    assert {status(store, each) for each in locks} == {"EXPIRED"}
    assert available(store, event) == 100


def test_whole_seats_stored_as_a_double_come_back_whole(store, clock, event):
    (held,) = take(store, event, seats=2)
    edit(store, "seatLocks", held, seats=2.0)
    clock.advance(minutes=11)

    assert counts(run_expire_locks(store)) == (1, 0, 2)
    assert available(store, event) == 100


def test_careless_uris_weaken_no_sweep(database_uri):
    """A URI that asks for unacknowledged writes and unrepeatable reads does not make a sweep lose count."""
    store, careless = open_store(database_uri), open_store(f"{database_uri}&w=0&readConcernLevel=local")
    event = create(store)
    take(store, event, 2)
    report = run_expire_locks(careless, as_of=HOUR, force=True)

    assert counts(report) == (2, 0, 2)
    assert available(store, event) == 100
    for each in (store, careless):
        each.deployment.close()


# --- as of another time, and dry runs -----------------------------------------------------------------


def test_a_run_as_of_a_time_judges_deadlines_by_it_and_stamps_with_the_servers_now(store, clock, event):
    (held,) = take(store, event)

    assert counts(run_expire_locks(store, as_of=clock() - HOUR)) == (0, 0, 0)
    report = run_expire_locks(store, as_of=clock() + HOUR, force=True)
    assert counts(report) == (1, 0, 1)
    assert lock_of(store, held)["updatedAt"] == clock()
    assert report.run["details"]["asOf"] == clock() + HOUR


@pytest.mark.parametrize("as_of", [timedelta(milliseconds=1), HOUR])
@pytest.mark.parametrize("run", [run_expire_locks, run_expire_bookings])
def test_a_run_in_the_future_is_refused_without_force_and_logs_nothing(store, event, run, as_of):
    book(store, event)
    before = everything(store)

    with pytest.raises(FutureRefused, match="add --force"):
        run(store, as_of=as_of)
    assert everything(store) == before
    assert run(store, as_of=timedelta(0)).error is None


def test_a_forced_run_in_the_future_spares_a_lock_with_a_live_booking(store, event):
    """The booking's deadline rules, however far in the future the run is."""
    held, _ = book(store, event)
    report = run_expire_locks(store, as_of=10 * HOUR, force=True)

    assert counts(report) == (0, 0, 0)
    assert status(store, held) == "ACTIVE"


def test_a_dry_run_says_what_the_run_does_and_writes_nothing(store, clock, event):
    other = create(store)
    book(store, other)
    broken, *_ = take(store, event, 3)
    edit(store, "seatLocks", broken, seats=0)
    take(store, other, 2)
    clock.advance(hours=1)
    before = everything(store)
    sweeps = (run_expire_locks, run_expire_bookings)
    planned = [run(store, dry_run=True) for run in sweeps]
    assert before == everything(store)

    done = [run(store) for run in sweeps]
    assert [counts(each) for each in planned] == [counts(each) for each in done] == [(2, 0, 2), (1, 1, 1)]
    assert [reasons(each) for each in planned] == [reasons(each) for each in done]
    assert len(reasons(done[0])) == 3  # the broken one, and what is on its event


@pytest.mark.parametrize("batch_size", [1, 2, BATCH])
@pytest.mark.parametrize("run", [run_expire_locks, run_expire_bookings])
@pytest.mark.parametrize("drift", [-2, 0, 3])
def test_a_dry_run_over_several_batches_promises_what_the_run_does(
    store, clock, event, run, batch_size, drift
):
    for _ in range(5):
        if run is run_expire_bookings:
            book(store, event)
        else:
            lock(store, event)
    add(store, event, drift)
    clock.advance(hours=1)
    planned = run(store, dry_run=True, batch_size=batch_size)
    done = run(store, batch_size=batch_size)

    assert counts(planned) == counts(done)
    assert reasons(planned) == reasons(done)
    assert available(store, event) == 95 + drift + planned.seats <= 100


# --- what is broken -----------------------------------------------------------------------------------

BROKEN_LOCKS = {
    "no seats": ({"seats": None}, "seats is missing"),
    "zero seats": ({"seats": 0}, "seats is 0"),
    "negative seats": ({"seats": -1}, "seats is -1"),
    "half a seat": ({"seats": 1.5}, "seats is 1.5"),
    "endless seats": ({"seats": float("inf")}, "seats is inf"),
    "seats that are no number": ({"seats": float("nan")}, "seats is nan"),
    "seats in words": ({"seats": "2"}, "seats is '2'"),
    "seats that are true": ({"seats": True}, "seats is True"),
    "a deadline in words": ({"expiresAt": "2020-01-01"}, "expiresAt is '2020-01-01', not a date"),
    "no deadline": ({"expiresAt": None}, "expiresAt is missing, not a date"),
    "an unknown event": ({"eventId": NOWHERE}, f"event {NOWHERE} does not exist"),
    "no event": ({"eventId": None}, "eventId is missing, not an id"),
    "an event id in words": ({"eventId": "x"}, "eventId is 'x', not an id"),
    "an event id that is a document": ({"eventId": {"oid": "x"}}, "eventId is {'oid': 'x'}, not an id"),
    "an event id that is a list": ({"eventId": ["x"]}, "eventId is ['x'], not an id"),
}


def test_each_broken_lock_is_skipped_with_its_reason_and_the_rest_is_done(store, clock, event):
    broken = take(store, event, len(BROKEN_LOCKS))
    good = create(store)
    take(store, good, 2)
    for each, (fields, _) in zip(broken, BROKEN_LOCKS.values(), strict=True):
        edit(store, "seatLocks", each, **fields)
    clock.advance(minutes=11)
    before = [lock_of(store, each) for each in broken]
    report = run_expire_locks(store)

    assert counts(report) == (2, 0, 2)
    found = reasons(report)
    assert set(broken) == set(found)
    for each, (_, reason) in zip(broken, BROKEN_LOCKS.values(), strict=True):
        assert reason in found[each]
    assert str(before) == str([lock_of(store, each) for each in broken])  # as text: nan is not itself


@pytest.mark.parametrize("deadline", ["soon", None], ids=str)
def test_a_lock_whose_deadline_is_no_date_is_skipped_and_holds_its_seats(store, clock, event, deadline):
    """Its seats are known, so whatever else is overdue on its event goes back."""
    broken, _ = take(store, event, 2)
    edit(store, "seatLocks", broken, expiresAt=deadline)
    clock.advance(minutes=11)
    report = run_expire_locks(store)

    assert counts(report) == (1, 0, 1)
    assert list(reasons(report)) == [broken]
    assert (status(store, broken), available(store, event)) == ("ACTIVE", 99)


@pytest.mark.parametrize("odd_id", ["L-1", 7, {"n": 1}], ids=["string", "number", "document"])
def test_a_lock_whose_id_is_no_object_id_is_skipped(store, clock, event, odd_id):
    """No booking could refer to it. Whatever else is of its event goes back."""
    take(store, event)
    insert_lock(store, event, _id=odd_id, due=timedelta(0))
    add(store, event, -1)
    clock.advance(minutes=11)
    report = run_expire_locks(store)

    assert counts(report) == (1, 0, 1)
    assert [item.id for item in report.skipped.values()] == [odd_id]
    assert "its _id is not an ObjectId" in report.error
    assert available(store, event) == 99


def test_a_skipped_item_is_named_with_its_kind_id_and_reason(store, clock, event):
    (held,) = take(store, event)
    edit(store, "seatLocks", held, seats=0)
    clock.advance(minutes=11)

    told = [str(item) for item in run_expire_locks(store).skipped.values()]
    assert told == [f"lock {held}: seats is 0, not a positive whole number"]


def test_a_lock_that_the_validator_refuses_is_skipped_and_the_rest_of_its_batch_is_done(store, clock):
    event = create(store, 10)
    locks = take(store, event, 5)
    rule = {"$nor": [{"_id": locks[2], "status": "EXPIRED"}]}
    store.database.command("collMod", "seatLocks", validator=rule)
    clock.advance(minutes=11)
    report = run_expire_locks(store)

    assert counts(report) == (4, 0, 4)
    assert list(reasons(report)) == [locks[2]]
    assert "validator refused" in reasons(report)[locks[2]]
    assert (status(store, locks[2]), available(store, event)) == ("ACTIVE", 9)


def test_a_booking_that_the_validator_refuses_is_skipped_and_the_rest_of_its_batch_is_done(store, clock):
    event = create(store, 10)
    pairs = [book(store, event) for _ in range(3)]
    rule = {"$nor": [{"_id": pairs[0][1], "status": "EXPIRED"}]}
    store.database.command("collMod", "bookings", validator=rule)
    clock.advance(minutes=16)
    report = run_expire_bookings(store)

    assert counts(report) == (2, 2, 2)
    assert list(reasons(report)) == [pairs[0][1]]
    assert states(store, *pairs[0]) == ("ACTIVE", "PAYMENT_PENDING")


# --- one event alone -------------------------------------------------------------------------------


def test_what_is_overdue_on_one_event_goes_back_and_no_other(store, clock, event):
    other = create(store, 10)
    book(store, event)
    take(store, event, 2)
    take(store, other)
    clock.advance(minutes=16)
    done = return_overdue(store, event)

    assert (done.locks, done.bookings) == (3, 1)
    assert (available(store, event), available(store, other)) == (100, 9)
    assert store.database.jobLogs.count_documents({}) == 0


def test_a_sweep_tells_how_many_items_it_is_about_before_it_begins(store, clock, event):
    take(store, event, 3)
    book(store, event)
    clock.advance(minutes=16)
    told = []

    class Told:
        def start(self, what, count):
            told.append((what, count()))

        def advance(self, items):
            told.append(items)

        def stop(self):
            told.append("over")

    jobs.expire_bookings(store, jobs.JobOptions(), Told())
    jobs.expire_locks(store, jobs.JobOptions(batch_size=2), Told())

    assert told[:3] == [("bookings", 1), 1, "over"]
    assert (told[3], sum(told[4:-1]), told[-1]) == (("locks", 3), 3, "over")


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(("job", "make"), [(jobs.expire_locks, lock), (jobs.expire_bookings, book)])
def test_what_is_done_and_what_is_left_are_the_same_number_after_each_batch(store, clock, job, make, dry_run):
    """Also in a dry run, which ends nothing of what is counted."""
    event = create(store, 100)
    for _ in range(4):
        make(store, event)
    clock.advance(minutes=16)
    totals = []

    class Told:
        def start(self, _what, count):
            self.done, self.count = 0, count

        def advance(self, items):
            self.done += items
            totals.append(self.done + self.count())

        def stop(self):
            pass

    job(store, jobs.JobOptions(batch_size=2, dry_run=dry_run), Told())
    assert set(totals) == {4}


def test_an_id_of_an_event_that_nobody_knows_returns_nothing(store):
    assert return_overdue(store, ObjectId()).endings == []
