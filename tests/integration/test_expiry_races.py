"""What the sweeps do when somebody is faster, or when the server is in trouble."""

import signal
import threading
from datetime import timedelta
from itertools import chain

import pytest
from conftest import available, edit, everything
from scene import (
    HOUR,
    book,
    confirm,
    create,
    event_of,
    insert_booking,
    lock,
    lock_of,
    meanwhile,
    run_expire_bookings,
    run_expire_locks,
    run_recover,
    states,
)

from seatctl.errors import CachePressure, Contention, CursorLost, Interrupted
from seatctl.mongo import transactions
from seatctl.mongo.bookings import Bookings
from seatctl.mongo.locks import SeatLocks
from seatctl.services import expiry, parallel, payments, sales, seats
from seatctl.services.expiry import CURSOR_RETRIES, run_sweep
from seatctl.services.sweeps import LockSweep, SweepRun


@pytest.fixture
def event(store):
    """An event with a hundred seats."""
    return create(store)


def counts(report):
    return report.locks, report.bookings, report.seats


def reasons(report):
    return {item.id: item.reason for item in report.skipped.values()}


def in_time(clock, act):
    """Do something as somebody did who was in time."""

    def acting():
        clock.advance(minutes=-5)
        done = act()
        clock.advance(minutes=5)
        return done

    return acting


# --- somebody was faster -------------------------------------------------------------------------------


def test_a_lock_that_is_confirmed_between_reading_and_writing_keeps_its_seats(
    store, clock, event, monkeypatch
):
    locks = [lock(store, event) for _ in range(3)]
    clock.advance(minutes=10, milliseconds=1)
    act = in_time(clock, lambda: confirm(store, locks[1]))
    happened = meanwhile(monkeypatch, Bookings, "protecting", act)

    assert counts(run_expire_locks(store)) == (2, 0, 2)
    assert happened
    assert (lock_of(store, locks[1])["status"], available(store, event)) == ("ACTIVE", 99)


def test_two_jobs_over_the_same_locks_return_each_seat_once(store, clock, event, monkeypatch):
    """Also where the counter has room for more."""
    lock(store, event, 10, ttl=HOUR)
    for _ in range(3):
        lock(store, event)
    clock.advance(minutes=11)

    def other_job():
        clock.advance(milliseconds=1)
        return run_expire_locks(store).locks

    happened = meanwhile(monkeypatch, Bookings, "protecting", other_job)

    assert counts(run_expire_locks(store)) == (0, 0, 0)
    assert (happened, available(store, event)) == ([3], 90)


def test_a_lock_that_is_released_between_reading_and_writing_returns_its_seats_once(
    store, clock, event, monkeypatch
):
    locks = [lock(store, event, 2) for _ in range(3)]
    clock.advance(minutes=11)
    happened = meanwhile(monkeypatch, Bookings, "protecting", lambda: sales.release(store, locks[0]))

    assert counts(run_expire_locks(store)) == (2, 0, 4)
    assert happened
    assert available(store, event) == 100


def test_a_booking_that_is_paid_between_reading_and_writing_stays_paid(store, clock, event, monkeypatch):
    (paid, _) = pairs = [book(store, event) for _ in range(2)]
    clock.advance(minutes=15, milliseconds=1)
    act = in_time(clock, lambda: payments.pay(store, paid[1]))
    happened = meanwhile(monkeypatch, Bookings, "protecting", act)

    assert counts(run_expire_bookings(store)) == (1, 1, 1)
    assert happened
    assert [states(store, *pair) for pair in pairs] == [("CONSUMED", "CONFIRMED"), ("EXPIRED", "EXPIRED")]
    assert available(store, event) == 99


def test_a_booking_that_another_program_confirms_between_reading_and_writing_keeps_its_lock(
    store, clock, event, monkeypatch
):
    """Though that program has not touched the lock."""
    (paid, _) = [book(store, event) for _ in range(2)]
    clock.advance(minutes=16)
    happened = meanwhile(
        monkeypatch, Bookings, "protecting", lambda: edit(store, "bookings", paid[1], status="CONFIRMED")
    )

    assert counts(run_expire_bookings(store)) == (1, 1, 1)
    assert happened
    assert (states(store, *paid), available(store, event)) == (("ACTIVE", "CONFIRMED"), 99)


def test_a_lock_that_loses_its_readable_seats_between_reading_and_writing_is_left(
    store, clock, event, monkeypatch
):
    """Nothing of its event is returned once a look at it fails."""
    locks = [lock(store, event) for _ in range(2)]
    clock.advance(minutes=11)

    def damage():
        edit(store, "seatLocks", locks[0], seats="two", status="ACTIVE")
        edit(store, "seatLocks", locks[1], expiresAt=clock() + HOUR)  # so that the batch is planned again

    happened = meanwhile(monkeypatch, Bookings, "protecting", damage)
    report = run_expire_locks(store)

    assert happened
    assert counts(report) == (0, 0, 0)
    assert str(locks[0]) in report.error
    assert available(store, event) == 98


def test_a_counter_that_is_raised_by_hand_between_reading_and_writing_is_not_overfilled(
    store, clock, event, monkeypatch
):
    lock(store, event, 3)
    clock.advance(minutes=11)
    happened = meanwhile(
        monkeypatch, expiry, "expire", lambda: edit(store, "events", event, availableSeats=99), before=True
    )
    report = run_expire_locks(store)

    assert happened
    assert (counts(report), available(store, event)) == ((0, 0, 0), 99)
    assert "99 available and 3 held are more than its 100 seats" in report.error


def test_a_forced_run_in_the_future_spares_a_lock_that_is_confirmed_meanwhile(store, event, monkeypatch):
    """Beyond the deadline that confirm gave it, too."""
    held, other = lock(store, event), lock(store, event)
    happened = meanwhile(monkeypatch, Bookings, "protecting", lambda: confirm(store, held))

    assert counts(run_expire_locks(store, as_of=10 * HOUR, force=True)) == (1, 0, 1)
    assert happened
    assert [lock_of(store, each)["status"] for each in (held, other)] == ["ACTIVE", "EXPIRED"]


def test_a_forced_run_in_the_future_spares_a_lock_that_another_program_books_meanwhile(
    store, event, monkeypatch
):
    """Though that program has not touched the lock."""
    held, other = lock(store, event), lock(store, event)
    happened = meanwhile(monkeypatch, Bookings, "protecting", lambda: insert_booking(store, event, held))

    assert counts(run_expire_locks(store, as_of=10 * HOUR, force=True)) == (1, 0, 1)
    assert happened
    assert [lock_of(store, each)["status"] for each in (held, other)] == ["ACTIVE", "EXPIRED"]


def test_when_others_keep_winning_sweeps_and_commands_end_with_a_word_and_nothing_changed(
    store, clock, event, monkeypatch
):
    held = lock(store, event)
    clock.advance(minutes=11)
    before = everything(store, "jobLogs")
    monkeypatch.setattr(expiry, "BATCH_PATIENCE", 0)
    monkeypatch.setattr(transactions, "PATIENCE", 0)
    monkeypatch.setattr(SeatLocks, "expire_overdue", lambda *_: 0)
    monkeypatch.setattr(SeatLocks, "change", lambda *_, **__: None)
    report = run_expire_locks(store)

    assert (counts(report), reasons(report)) == ((0, 0, 0), {held: Contention.default_message()})
    with pytest.raises(Contention, match="Other writers kept winning"):
        sales.release(store, held)
    assert before == everything(store, "jobLogs")


JOBS = {"expire-locks": run_expire_locks, "expire-bookings": run_expire_bookings, "recover": run_recover}


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_of_a_batch_only_the_event_that_somebody_keeps_is_skipped_and_named(
    store, clock, replica, monkeypatch, job, number
):
    """Another client wrote it in a transaction that it neither commits nor rolls back."""
    events = [create(store) for _ in range(3)]
    kept = events[number]
    locks = {
        event: [lock(store, event) for _ in range(size)]
        for event, size in zip(events, (3, 1, 2), strict=True)
    }
    booked = {}
    for each in chain(*locks.values()) if job != "expire-locks" else ():
        booked[each] = confirm(store, each)
    clock.advance(hours=1)
    monkeypatch.setattr(expiry, "BATCH_PATIENCE", 0.2)
    with replica.client() as other, other.start_session() as session, session.start_transaction():
        other[store.name].events.update_one({"_id": kept}, {"$set": {"note": "?"}}, session=session)
        report = JOBS[job](store)

    left = [booked.get(each, each) for each in locks[kept]]
    assert reasons(report) == dict.fromkeys(left, Contention.default_message())
    assert {event: available(store, event) for event in events} == {
        event: 100 - len(locks[event]) if event == kept else 100 for event in events
    }
    assert report.seats == 6 - len(left)
    assert {lock_of(store, each)["status"] for each in locks[kept]} == {"ACTIVE"}
    (run,) = store.database.jobLogs.find()
    assert (run["status"], {item["id"] for item in run["details"]["setAside"]}) == ("FAILED", set(left))
    assert event_of(store, kept)["note"] == "?"
    assert JOBS[job](store).error is None
    assert available(store, kept) == 100


@pytest.mark.parametrize(("at", "done"), [(1, 0), (2, 2)])
def test_no_half_of_a_batch_is_begun_once_somebody_asked_to_stop(store, clock, monkeypatch, at, done):
    locks = [lock(store, create(store)) for _ in range(4)]
    clock.advance(minutes=11)
    expire, batches = seats.expire, []

    def contested_at_first(*arguments):
        batches.append(1)
        if len(batches) == at:
            signal.raise_signal(signal.SIGTERM)
        if len(batches) == 1:
            raise Contention
        expire(*arguments)

    monkeypatch.setattr(expiry, "expire", contested_at_first)
    with pytest.raises(Interrupted, match=f"interrupted after {done} locks"):
        run_expire_locks(store)

    assert len(batches) == at
    assert [lock_of(store, each)["status"] for each in locks] == ["EXPIRED"] * done + ["ACTIVE"] * (4 - done)
    assert store.database.jobLogs.find_one()["details"]["locksExpired"] == done


# --- a server in trouble -------------------------------------------------------------------------------


def test_a_list_that_the_server_drops_is_read_again(store, clock, event, monkeypatch):
    for _ in range(5):
        lock(store, event)
    clock.advance(minutes=11)
    dropped = drop_list(monkeypatch, times=1)

    assert counts(run_expire_locks(store, batch_size=1)) == (5, 0, 5)
    assert dropped == [1]


def test_a_dry_run_whose_list_the_server_drops_gives_up_since_it_would_count_twice(
    store, clock, event, monkeypatch
):
    for _ in range(5):
        lock(store, event)
    clock.advance(minutes=11)
    drop_list(monkeypatch, times=1)

    with pytest.raises(CursorLost):
        run_expire_locks(store, batch_size=1, dry_run=True)


def test_a_list_that_the_server_keeps_dropping_ends_the_run(store, clock, event, monkeypatch):
    for _ in range(5):
        lock(store, event)
    clock.advance(minutes=11)
    dropped = drop_list(monkeypatch, times=1000, after=0)

    with pytest.raises(CursorLost, match="kept dropping the list of what is overdue"):
        run_expire_locks(store)
    assert len(dropped) == CURSOR_RETRIES
    assert store.database.jobLogs.find_one()["status"] == "FAILED"


def drop_list(monkeypatch, times, after=2):
    """Have the server drop the list of overdue locks some times, each after so many of them."""
    read, dropped = SeatLocks.overdue, []

    def dropping(self, *arguments):
        for number, each in enumerate(read(self, *arguments)):
            if number == after and len(dropped) < times:
                dropped.append(1)
                raise CursorLost
            yield each

    monkeypatch.setattr(SeatLocks, "overdue", dropping)
    return dropped


def test_a_batch_that_the_server_cannot_take_is_halved_down_to_one(store, clock, event, monkeypatch):
    locks = [lock(store, event) for _ in range(9)]
    clock.advance(minutes=11)
    expire, sizes = seats.expire, []

    def expire_few(tx, returning, *arguments):
        sizes.append(len(returning))
        if len(returning) > 2 or locks[4] in [ending.id for ending in returning]:
            raise CachePressure
        expire(tx, returning, *arguments)

    monkeypatch.setattr(expiry, "expire", expire_few)
    report = run_expire_locks(store)

    assert sizes[0] == 9
    assert counts(report) == (8, 0, 8)
    assert reasons(report) == {locks[4]: CachePressure.default_message()}
    assert available(store, event) == 99


def test_an_error_in_one_batch_lets_those_in_flight_end_and_the_log_says_how_far_the_run_came(
    store, clock, monkeypatch
):
    events = [create(store) for _ in range(6)]
    for event in events:
        lock(store, event)
    clock.advance(minutes=11)
    expire = seats.expire

    def expire_all_but_one(tx, returning, *arguments):
        if returning[0].lock.event == events[3]:
            raise ZeroDivisionError
        expire(tx, returning, *arguments)

    monkeypatch.setattr(expiry, "expire", expire_all_but_one)
    with pytest.raises(ZeroDivisionError):
        run_expire_locks(store, batch_size=1)

    (run,) = store.database.jobLogs.find()
    expired = store.database.seatLocks.count_documents({"status": "EXPIRED"})
    assert (run["status"], run["details"]["locksExpired"]) == ("FAILED", expired)
    assert 3 <= expired <= 5
    assert sum(available(store, event) for event in events) == 594 + expired


def test_deadlines_of_a_run_are_those_of_its_start_however_long_it_takes(store, clock, event, monkeypatch):
    """A lock whose time runs out while the run is under way waits for the next."""
    early, late = lock(store, event), lock(store, event, ttl=timedelta(minutes=20))
    clock.advance(minutes=11)
    happened = meanwhile(monkeypatch, SeatLocks, "overdue", lambda: clock.advance(hours=1), before=True)

    assert counts(run_expire_locks(store)) == (1, 0, 1)
    assert happened
    assert [lock_of(store, each)["status"] for each in (early, late)] == ["EXPIRED", "ACTIVE"]


def test_a_plan_that_waited_for_its_turn_is_made_again(store, clock, event, monkeypatch):
    """While the first batch of an event is written, the last one is planned. Then another program's
    booking becomes live without a write to its lock."""
    locks = [lock(store, event) for _ in range(parallel.WORKERS)]
    booked = insert_booking(store, event, locks[-1], "INITIATED")
    clock.advance(hours=1)
    all_planned = threading.Semaphore(0)
    plan, write, begun = LockSweep.plan, SeatLocks.expire_overdue, []

    def count_plans(*arguments):
        planned = plan(*arguments)
        all_planned.release()
        return planned

    def let_it_become_live(*arguments):
        begun.append(None)
        if len(begun) == 1:
            assert all(all_planned.acquire(timeout=30) for _ in locks)
            edit(store, "bookings", booked, status="PAYMENT_PENDING", paymentExpiresAt=clock() + HOUR)
        return write(*arguments)

    monkeypatch.setattr(LockSweep, "plan", count_plans)
    monkeypatch.setattr(SeatLocks, "expire_overdue", let_it_become_live)
    monkeypatch.setattr(expiry, "PLAN_SECONDS", 0)

    assert counts(run_expire_locks(store, batch_size=1)) == (len(locks) - 1, 0, len(locks) - 1)
    assert lock_of(store, locks[-1])["status"] == "ACTIVE"


def test_two_batches_of_one_event_are_never_written_at_once(store, clock, event, monkeypatch):
    """Each writes the event's counter, so that one would roll the other one back."""
    locks = [lock(store, event) for _ in range(12)]
    clock.advance(minutes=11)
    write, writers, most = seats.expire, [], []

    def count_writers(*arguments):
        writers.append(None)
        most.append(len(writers))
        overlap.wait(0.02)
        write(*arguments)
        writers.pop()

    overlap = threading.Event()
    monkeypatch.setattr(expiry, "expire", count_writers)

    assert counts(run_expire_locks(store, batch_size=1)) == (len(locks), 0, len(locks))
    assert max(most) == 1


def test_a_batch_whose_turn_comes_after_a_request_to_stop_is_not_begun(store, clock, event, monkeypatch):
    for _ in range(12):
        lock(store, event)
    clock.advance(minutes=11)
    write, written = seats.expire, []

    def count_writes(*arguments):
        written.append(None)
        write(*arguments)

    monkeypatch.setattr(expiry, "expire", count_writes)
    run = SweepRun.at(store, LockSweep(), clock(), clock())._replace(batch_size=1)
    done = list(run_sweep(store, run, lambda: not written))

    assert [len(batch.endings) for batch in done if batch.endings] == [1]
    assert (len(written), available(store, event)) == (1, 89)
