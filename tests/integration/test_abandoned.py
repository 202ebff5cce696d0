"""Transactions that were left open by a seatctl that was killed or stopped in the middle: whoever meets one
ends it, and never one that somebody works in, or another program's."""

from contextlib import contextmanager
from threading import Event, Thread

import pytest
from conftest import available, open_store
from scene import create, lock, lock_of

from seatctl.errors import Contention
from seatctl.mongo import abandoned, transactions


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """As in life, a transaction is left alone for longer than one that works needs."""
    monkeypatch.setattr(abandoned, "FIRST_LOOK", 0)
    monkeypatch.setattr(abandoned, "IDLE", 1)
    monkeypatch.setattr(transactions, "PATIENCE", 5)


@pytest.fixture
def open_other(replica, store):
    """Opens further clients on the same database."""
    opened = []

    def open_another(options=""):
        opened.append(open_store(f"{replica.uri.replace('/?', f'/{store.name}?')}{options}"))
        return opened[-1]

    yield open_another
    for other in opened:
        other.deployment.close()


@contextmanager
def in_transaction(store, event):
    """A client's transaction that has taken a seat of the event, and its session."""
    client = store.deployment.client
    with client.start_session() as session:
        session.start_transaction()
        work(store, event, session)
        yield session


def work(store, event, session):
    store.database.events.update_one({"_id": event}, {"$inc": {"availableSeats": -1}}, session=session)


def test_an_event_that_a_killed_command_held_is_free_again_soon(store, open_other):
    event = create(store, 10)
    with in_transaction(open_other(), event):
        assert lock_of(store, lock(open_other(), event))["status"] == "ACTIVE"
        assert available(store, event) == 9


def test_a_command_that_was_stopped_in_the_middle_starts_over_when_it_wakes_up(store, open_other):
    event = create(store, 10)
    stopped, attempts = open_other(), []
    for attempt in stopped.transaction_attempts():
        with attempt as tx:
            attempts.append(tx.events.take_seats(event, 2).available)
            if len(attempts) == 1:
                lock(open_other(), event, 3)  # meanwhile

    assert attempts == [8, 5]
    assert available(store, event) == 5


def test_a_transaction_in_which_somebody_works_is_left_alone(store, open_other):
    """It sends a statement now and then, as one does on a machine that is much too slow."""
    event, busy, done = create(store, 10), open_other(), Event()
    with in_transaction(busy, event) as session:

        def go_on():
            while not done.wait(0.2):
                work(busy, event, session)

        thread = Thread(target=go_on)
        thread.start()
        with pytest.raises(Contention):
            lock(open_other(), event)
        done.set()
        thread.join()
        session.commit_transaction()
    assert available(store, event) < 9


@pytest.mark.parametrize("options", ["&appName=booking-service", "&appName=mongosh"])
def test_a_transaction_of_another_program_is_left_alone(store, open_other, options):
    event = create(store, 10)
    with in_transaction(open_other(options), event) as session:
        with pytest.raises(Contention):
            lock(open_other(), event)
        session.commit_transaction()
    assert available(store, event) == 9


def test_a_transaction_of_another_driver_is_left_alone_under_the_same_name(store, open_other, monkeypatch):
    monkeypatch.setattr(abandoned, "DRIVER", "^nodejs")
    event = create(store, 10)
    with in_transaction(open_other(), event) as session:
        with pytest.raises(Contention):
            lock(open_other(), event)
        session.commit_transaction()
    assert available(store, event) == 9


def test_a_server_that_does_not_tell_what_is_open_costs_nothing_but_the_wait(store, open_other, monkeypatch):
    monkeypatch.setattr(abandoned, "LOOK", {"$currentOp": {"idleSessions": 7}})
    event = create(store, 10)
    with in_transaction(open_other(), event), pytest.raises(Contention):
        lock(open_other(), event)
