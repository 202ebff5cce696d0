"""The stream of changes on a real replica set: complete, small, and continued after each kind of loss."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from bson import ObjectId
from conftest import Clock, fresh_store, open_store
from mongoose import Backend
from scene import Document, Id, confirm, create, delete, insert_lock, lock, run_expire_bookings, sell
from servers import Server, replica_set, set_uri

from seatctl.errors import Misconfigured
from seatctl.mongo.store import Store
from seatctl.services import adoption, cancellation
from seatctl.services.following import Step, follow

HUGE = "x" * 8_000_000
STEPS = 120


def started(store: Store, event: Id | None = None, token: str | None = None) -> tuple[Iterator[Step], Step]:
    """A stream that listens already, and its first step."""
    steps = follow(store, event, token)
    return steps, next(steps)


def lines(steps: Iterator[Step], last: str) -> list[Document]:
    """The lines up to the first that is called so."""
    found: list[Document] = []
    for _ in range(STEPS):
        line = next(steps).line
        if line is not None:
            found.append(dict(line))
            if line["what"] == last:
                return found
    raise AssertionError(found)


def words(found: list[Document]) -> list[str]:
    return [line["what"] for line in found]


def test_a_sale_is_told_in_the_order_in_which_it_was_written(store: Store) -> None:
    store.init()
    steps, _ = started(store)
    event = create(store, 9)
    held, booking = sell(store, event, 3)
    cancellation.cancel(store, cancellation.CancelRequest(booking))

    told = lines(steps, "booking_cancelled")

    assert words(told) == [
        *("event_created", "seats_changed", "lock_created", "lock_changed", "booking_created"),
        *("booking_confirmed", "lock_consumed", "seats_changed", "lock_cancelled", "booking_cancelled"),
    ]
    assert {line["event"] for line in told} == {event}
    assert {line.get("lock", held) for line in told} == {held}
    assert {line.get("booking", booking) for line in told} == {booking}
    assert [line["seats"] for line in told] == [9, 6, 3, 3, 3, 3, 3, 9, 3, 3]
    assert len({line["token"] for line in told}) == len(told)


def test_an_expiry_is_told_with_both_states(store: Store, clock: Clock) -> None:
    store.init()
    confirm(store, lock(store, create(store), 2))
    steps, _ = started(store)
    clock.advance(hours=1)
    run_expire_bookings(store)

    told = lines(steps, "lock_expired")

    states = [(line["what"], line["from"], line["to"], line["seats"]) for line in told]
    assert ("booking_expired", "PAYMENT_PENDING", "EXPIRED", 2) in states
    assert ("lock_expired", "ACTIVE", "EXPIRED", 2) in states


def test_only_the_wanted_event_is_told_and_what_no_longer_says_whose_it_is(store: Store) -> None:
    store.init()
    wanted, other = create(store), create(store)
    gone = lock(store, other)
    steps, _ = started(store, wanted)
    sell(store, other)
    delete(store, "seatLocks", gone)
    held, _ = sell(store, wanted)

    told = lines(steps, "lock_consumed")

    assert words(told)[0] == "lock_deleted"
    assert (told[0]["lock"], told[0]["event"]) == (gone, None)
    assert {line["event"] for line in told[1:]} == {wanted}
    assert told[-1]["lock"] == held


def test_the_seats_of_a_booking_are_those_of_a_lock_that_was_made_before(store: Store) -> None:
    held = insert_lock(store, create(store), 4, due=timedelta(hours=1))
    steps, _ = started(store)
    store.database.bookings.insert_many(
        [
            {"seatLockId": held, "status": "INITIATED", "seats": ["A1"]},
            {"seatLockId": {"$gt": ObjectId("0" * 24)}, "status": "INITIATED"},
            {"status": "INITIATED"},
            {"_id": {"odd": [1]}, "seatLockId": held, "status": "FAILED"},
        ]
    )
    store.database.bookings.delete_one({"_id": {"odd": [1]}})

    assert [line["seats"] for line in lines(steps, "booking_deleted")][:3] == [4, None, None]


def test_documents_of_8_mb_come_as_a_few_hundred_bytes(store: Store) -> None:
    steps, _ = started(store)
    event = store.database.events.insert_one({"availableSeats": 9, "picture": HUGE}).inserted_id
    store.database.events.update_one({"_id": event}, {"$set": {"picture": HUGE[:-1]}})
    store.database.events.update_one({"_id": event}, {"$inc": {"availableSeats": -1}})
    store.database.events.replace_one({"_id": event}, {"availableSeats": 8, "picture": HUGE + HUGE})
    store.database.events.delete_one({"_id": event})

    told = lines(steps, "event_deleted")

    assert words(told) == [
        "event_created",
        "event_changed",
        "seats_changed",
        "event_changed",
        "event_deleted",
    ]
    assert [line["seats"] for line in told] == [9, None, 8, 8, None]
    assert len(str(told)) < 3_000


def test_the_locks_of_an_adopted_database_are_followed_in_their_collection(store: Store) -> None:
    backend = Backend(store.database, lambda: datetime.now(UTC))
    backend.start()
    event = backend.event()
    backend.confirm(backend.lock(event))
    adoption.adopt(store, adoption.inspect(store))
    steps, _ = started(Store.open(store.deployment))
    held = backend.lock(event)

    assert lines(steps, "lock_created")[-1]["lock"] == held


# --- tokens ---------------------------------------------------------------------------------------------


def test_a_stream_goes_on_after_any_line_also_within_a_transaction(store: Store) -> None:
    store.init()
    steps, _ = started(store)
    sell(store, create(store))
    told = lines(steps, "lock_consumed")

    for number, line in enumerate(told[:-1]):
        again, _ = started(store, token=line["token"])
        assert lines(again, "lock_consumed") == told[number + 1 :]


def test_a_token_moves_on_while_there_is_nothing_to_tell(store: Store) -> None:
    """Else the oplog would lose it under a stream of one quiet event."""
    quiet, busy = create(store), create(store)
    steps, begun = started(store, quiet)
    lock(store, busy)
    assert any(step.token != begun.token and step.line is None for step in islice(steps, STEPS))


def test_a_token_of_another_database_is_refused(store: Store, replica: Server, clock: Clock) -> None:
    store.init()
    steps, begun = started(store)
    create(store)
    line = lines(steps, "event_created")[0]
    with fresh_store(replica, clock) as other:
        create(other)
        with pytest.raises(Misconfigured, match="does not belong to this database"):
            started(other, token=line["token"])
    assert begun.token
    for nonsense in ("82", "82ff", "ff", "aa" * 30, begun.token[:-8]):
        with pytest.raises(Misconfigured, match="does not belong to this database"):
            started(store, token=nonsense)


def test_a_dropped_database_ends_the_stream(store: Store) -> None:
    create(store)
    steps, _ = started(store)
    store.drop()
    with pytest.raises(Misconfigured, match="was dropped"):
        list(islice(steps, STEPS))


# --- lost servers ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again_loses_no_line() -> None:
    server = Server().start()
    try:
        store = open_store(server.uri + "&serverSelectionTimeoutMS=300")
        store.init()
        event = create(store)
        steps, _ = started(store)
        lock(store, event)
        before = lines(steps, "lock_created")
        server.kill()
        lost = next(step for step in steps if step.lost)
        assert lost.token
        server.start()
        for _ in range(3):
            lock(store, event)
        after = [line for _ in range(3) for line in lines(steps, "lock_created")]
    finally:
        server.stop()

    assert words(before) == ["seats_changed", "lock_created"]
    assert words(after) == words(before) * 3
    assert [line["seats"] for line in before + after if "lock" not in line] == [99, 98, 97, 96]


@pytest.mark.slow
def test_an_election_loses_no_line() -> None:
    servers = replica_set(3)
    try:
        store = open_store(set_uri(servers, "shop"))
        store.init()
        event = create(store)
        steps, _ = started(store)
        lock(store, event)
        lines(steps, "lock_created")
        primary = store.deployment.client.primary
        assert primary
        next(server for server in servers if server.port == primary[1]).kill()
        for _ in range(3):
            lock(store, event)

        told = [line for _ in range(3) for line in lines(steps, "lock_created")]

        assert [line["seats"] for line in told if "lock" not in line] == [98, 97, 96]
    finally:
        for server in servers:
            server.stop()
