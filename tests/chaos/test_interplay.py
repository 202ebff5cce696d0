"""seatctl beside another program that keeps none of its rules: a confirmation that does not write the lock,
transactions that are tried once, a job that ends everything at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Event

import pytest
from bson import ObjectId
from mongoose import Backend, seats_in_order
from pymongo.errors import OperationFailure
from scene import run_expire_bookings, run_expire_locks, run_recover

from seatctl.domain.settings import GRACE, NOT_ADOPTED
from seatctl.errors import SoldOut, WrongState
from seatctl.mongo.store import Store
from seatctl.services import adoption, sales
from seatctl.services.sales import LockRequest
from seatctl.services.verify import verify

STEPS = 40
USER = ObjectId("a" * 24)


@pytest.fixture
def backend(store, clock):
    started = Backend(store.database, clock)
    started.start()
    started.pay(started.confirm(started.lock(started.event())))
    return started


@pytest.fixture
def adopted(store, backend):  # noqa: ARG001 - there is something to adopt
    adoption.adopt(store, adoption.inspect(store))
    return Store.open(store.deployment)


def buy(store: Store, event: ObjectId) -> None:
    """A buyer finds no seat, and reclaims none."""
    with pytest.raises(SoldOut):
        sales.lock(store, LockRequest(event, USER, 1))


SWEEPS: dict[str, Callable[[Store, ObjectId], object]] = {
    "expire-locks": lambda store, _: run_expire_locks(store),
    "recover": lambda store, _: run_recover(store),
    "a buyer": buy,
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.parametrize("step", range(STEPS + 1))
def test_their_confirmation_at_the_very_deadline_keeps_its_seats(
    adopted, backend, clock, sweep: str, step: int
) -> None:
    """It read the lock at the last moment; a sweep comes while it has not written its booking yet, any time
    within the grace."""
    event = backend.event(2)
    lock = backend.lock(event, 2)
    clock.advance(minutes=10)
    late = GRACE * step / STEPS

    def a_sweep_comes_between() -> None:
        clock.advance(seconds=late.total_seconds())
        SWEEPS[sweep](adopted, event)

    booking = backend.confirm(lock, a_sweep_comes_between)
    run_expire_locks(adopted)
    assert backend.locks.find_one({"_id": lock})["status"] == "ACTIVE"
    backend.pay(booking)
    assert seats_in_order(backend, event)
    assert list(verify(adopted)) == []


def test_without_the_grace_the_same_confirmation_loses_its_seats(adopted, backend, clock) -> None:
    """So it is the grace that keeps them."""
    eager = adopted.with_settings(
        type(NOT_ADOPTED)(locks="seatlocks", adopted_at=adopted.settings.adopted_at)
    )
    lock = backend.lock(backend.event(2), 2)
    clock.advance(minutes=10)

    def a_sweep_comes_between() -> None:
        clock.advance(seconds=1)
        run_expire_locks(eager)

    backend.confirm(lock, a_sweep_comes_between)
    assert backend.locks.find_one({"_id": lock})["status"] == "EXPIRED"
    assert [violation.fault for violation in verify(adopted)] == ["booking_without_seats"]


@pytest.fixture
def begun(backend, monkeypatch) -> Callable[[ObjectId], None]:
    """Begin a confirmation of a lock: it read the lock, and is done while `release` waits."""
    read, go_on = Event(), Event()
    with ThreadPoolExecutor(1) as pool:

        def begin(lock: ObjectId) -> None:
            def pause() -> None:
                read.set()
                assert go_on.wait(60)

            confirmation = pool.submit(backend.confirm, lock, pause)

            def sleep(_seconds: float) -> None:
                go_on.set()
                confirmation.result(60)

            monkeypatch.setattr(sales, "sleep", sleep)
            assert read.wait(60)

        yield begin
        go_on.set()


def test_their_confirmation_that_had_begun_before_a_release_keeps_its_seats(adopted, backend, begun) -> None:
    event = backend.event(2)
    lock = backend.lock(event, 2)
    begun(lock)

    with pytest.raises(WrongState, match=r"has booking .* which is PAYMENT_PENDING"):
        sales.release(adopted, lock)
    (booking,) = backend.bookings.find({"seatLockId": lock})
    backend.pay(booking["_id"])
    assert seats_in_order(backend, event)
    assert list(verify(adopted)) == []


def test_their_confirmation_that_begins_while_a_release_waits_is_too_late(
    adopted, backend, clock, monkeypatch
) -> None:
    event = backend.event(2)
    lock = backend.lock(event, 2)

    def sleep(_seconds: float) -> None:
        clock.advance(milliseconds=1)
        with pytest.raises(AssertionError, match="too late"):
            backend.confirm(lock)

    monkeypatch.setattr(sales, "sleep", sleep)
    assert sales.release(adopted, lock).lock.status == "EXPIRED"
    assert seats_in_order(backend, event)
    assert list(verify(adopted)) == []


def test_without_the_wait_the_same_release_sells_its_seats_a_second_time(
    adopted, backend, begun, monkeypatch
) -> None:
    lock = backend.lock(backend.event(2), 2)
    begun(lock)
    monkeypatch.setattr(sales, "_wait_for_confirmations", lambda *_: None)

    sales.release(adopted, lock)
    sales.sleep(0)
    assert [violation.fault for violation in verify(adopted)] == ["booking_without_seats"]


def test_a_release_waits_for_nothing_where_the_deadline_passed_before(
    adopted, backend, clock, monkeypatch
) -> None:
    monkeypatch.delattr(sales, "sleep")
    lock = backend.lock(backend.event(2), 2)
    clock.advance(minutes=10, seconds=GRACE.total_seconds())

    assert sales.release(adopted, lock).lock.status == "EXPIRED"


def test_a_release_that_a_sweep_completes_is_done(adopted, backend, clock, monkeypatch) -> None:
    event = backend.event(2)
    lock = backend.lock(event, 2)

    def sleep(seconds: float) -> None:
        clock.advance(seconds=seconds + 1)
        assert run_expire_locks(adopted).locks == 1

    monkeypatch.setattr(sales, "sleep", sleep)
    assert sales.release(adopted, lock).lock.status == "EXPIRED"
    assert seats_in_order(backend, event)


def tried(action: Callable[[], object]) -> str:
    """What became of one request of the other program, which it does not repeat."""
    try:
        action()
    except OperationFailure as error:
        if not error.has_error_label("TransientTransactionError"):
            raise
        return "lost to another writer"
    except AssertionError:
        return "refused"
    return "done"


@pytest.mark.parametrize("batch_size", [1, 7, 5_000])
def test_their_transactions_without_retries_and_our_batches_count_each_seat_once(
    adopted, backend, clock, rounds, batch_size: int
) -> None:
    """Buyers, payments, cancellations and their own job run beside both sweeps on the same events."""
    events = [backend.event(400) for _ in range(3)]
    for event in events:
        for number in range(rounds(25, 100)):
            lock = backend.lock(event, 1 + number % 3)
            if number % 2:
                backend.confirm(lock)
    clock.advance(minutes=10, seconds=GRACE.total_seconds() + 1)
    fresh = [(event, backend.lock(event, 2)) for event in events for _ in range(20)]
    bookings = [backend.confirm(lock) for _, lock in fresh[::2]]
    requests: list[Callable[[], object]] = []
    for number, booking in enumerate(bookings):
        settle = backend.pay if number % 2 else backend.fail
        requests += [lambda booking=booking, settle=settle: settle(booking)]
        requests += [lambda booking=booking: backend.cancel(booking)]
        requests += [lambda event=events[number % 3]: backend.lock(event, 2)]
    requests.insert(5, backend.expire_locks)

    with ThreadPoolExecutor(4) as pool:
        sweeps = [
            pool.submit(run, adopted, batch_size=batch_size)
            for run in (run_expire_bookings, run_expire_locks)
        ]
        outcomes = Counter(pool.map(tried, requests))
        assert [sweep.result().error for sweep in sweeps] == [None, None]

    assert outcomes["done"]
    for run in (run_expire_bookings, run_expire_locks):
        run(adopted)
    assert all(seats_in_order(backend, event) for event in events), outcomes
    overdue = {"status": "ACTIVE", "expiresAt": {"$lt": clock() - GRACE - timedelta(seconds=1)}}
    assert backend.locks.count_documents(overdue) == 0
