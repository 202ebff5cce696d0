"""Events that another client keeps in an open transaction: they are named, and everything else is done."""

from contextlib import ExitStack, contextmanager

import pytest
from conftest import available
from pymongo import errors as driver
from scene import (
    HOUR,
    book,
    create,
    insert_booking,
    lock,
    run_expire_bookings,
    run_expire_locks,
    run_recover,
)

from seatctl.errors import Contention
from seatctl.mongo.locks import SeatLocks
from seatctl.mongo.store import Store
from seatctl.services import counters, expiry, recovery
from seatctl.services.job_report import Outcome


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    for module in (expiry, recovery, counters):
        monkeypatch.setattr(module, "BATCH_PATIENCE", 0.2)
    monkeypatch.setattr(expiry, "LAST_PATIENCE", 0.2)


@contextmanager
def kept(replica, store, event):
    """Another client's transaction that has written this event and does not end."""
    with replica.client() as client, client.start_session() as session, session.start_transaction():
        client[store.name].events.update_one({"_id": event}, {"$set": {"kept": 1}}, session=session)
        yield


def test_an_election_may_take_longer_than_a_batch_waits_for_other_writers(store, clock, monkeypatch):
    event = create(store)
    lock(store, event)
    clock.advance(minutes=11)
    monkeypatch.setattr(expiry, "BATCH_PATIENCE", 0)
    expire, lost = expiry.expire, []

    def expire_later(*arguments):
        if not lost:
            lost.append(1)
            raise driver.AutoReconnect("gone", {"errorLabels": ["TransientTransactionError"]})
        return expire(*arguments)

    monkeypatch.setattr(expiry, "expire", expire_later)

    assert run_expire_locks(store).locks == 1
    assert lost


def test_a_buyer_whose_event_is_kept_hears_that_and_not_that_it_is_sold_out(store, clock, monkeypatch):
    event = create(store, 10)
    lock(store, event, 10)
    clock.advance(minutes=11)
    monkeypatch.setattr(SeatLocks, "expire_overdue", lambda *_: 0)

    with pytest.raises(Contention):
        lock(store, event, 1)


def patience_of_attempts(monkeypatch):
    """How long each transaction would start over, in order."""
    original, waits = Store.transaction_attempts, []

    def attempts(self, patience=None):
        waits.append(patience)
        return original(self, patience)

    monkeypatch.setattr(Store, "transaction_attempts", attempts)
    return waits


def test_one_event_that_is_kept_costs_a_sweep_one_wait_and_short_ones_to_find_it(
    store, clock, replica, monkeypatch
):
    """However many other events are in its batch, and it is tried once more at the end."""
    monkeypatch.setattr(expiry, "PART_PATIENCE", 0.05)
    events = [create(store) for _ in range(16)]
    held = [lock(store, event) for event in events]
    clock.advance(minutes=11)
    with kept(replica, store, events[5]):
        waits = patience_of_attempts(monkeypatch)
        report = run_expire_locks(store)

    assert waits[0] == expiry.BATCH_PATIENCE
    assert waits[-1] == expiry.LAST_PATIENCE
    assert set(waits[1:-1]) == {expiry.PART_PATIENCE}
    assert report.locks == 15
    assert [item.id for item in report.skipped.values()] == [held[5]]
    assert "Other writers kept winning" in report.error


def test_an_event_that_is_free_again_at_the_end_of_a_sweep_is_done_then(store, clock, replica, monkeypatch):
    events = [create(store) for _ in range(4)]
    for event in events:
        lock(store, event)
    clock.advance(minutes=11)
    original = expiry._try_again
    with ExitStack() as stack:
        stack.enter_context(kept(replica, store, events[2]))

        def later(*arguments):
            stack.close()
            return original(*arguments)

        monkeypatch.setattr(expiry, "_try_again", later)
        report = run_expire_locks(store)

    assert (report.locks, report.error) == (4, None)
    assert [available(store, event) for event in events] == [100] * 4


def test_a_lock_with_two_bookings_whose_event_is_kept_is_skipped_and_the_rest_is_done(store, clock, replica):
    event, other = create(store), create(store)
    held = lock(store, event)
    for _ in range(2):
        insert_booking(store, event, held)
    book(store, other)
    clock.advance(hours=2)
    with kept(replica, store, event):
        report = run_expire_bookings(store)

    assert report.bookings == 3
    assert [item.id for item in report.skipped.values()] == [held]
    assert available(store, other) == 100


def test_a_repair_whose_event_is_kept_is_left_for_the_next_run_and_the_others_are_made(store, replica):
    event, other = create(store), create(store)
    for each in (event, other):
        insert_booking(store, each, lock(store, each), "FAILED", due=HOUR)
    with kept(replica, store, event):
        report = run_recover(store)

    outcomes = {step.violation.event: step.outcome for step in report.steps}
    assert outcomes == {event: Outcome.LEFT_FOR_NEXT_RUN, other: Outcome.REPAIRED}
    assert (available(store, event), available(store, other)) == (99, 100)
    assert report.run["status"] == "FAILED"
    assert run_recover(store).error is None
