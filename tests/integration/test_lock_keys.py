"""What an idempotency key promises, and that no index is needed for it."""

import uuid

import pytest
from bson import ObjectId
from conftest import available, edit, everything, open_store
from pymongo.errors import DuplicateKeyError
from scene import (
    HOUR,
    MONTH,
    add,
    book,
    confirm,
    create,
    insert_lock,
    lock,
    lock_of,
    meanwhile,
)

from seatctl.domain.rules import MAX_SEATS, MAX_TEXT
from seatctl.errors import (
    DamagedDocument,
    KeyReused,
    SoldOut,
)
from seatctl.mongo.locks import SeatLocks
from seatctl.services import sales
from seatctl.services.cancellation import CancelRequest, cancel
from seatctl.services.events import CreateEventRequest, create_event
from seatctl.services.sales import LockRequest

USER = ObjectId("65f000000000000000000001")
BAD_TEXTS = ["", "   ", "x" * (MAX_TEXT + 1), "x" * 10_000, "a\x00b", "a\nb", "\x1b[31mred"]
BAD_SEATS = [0, -1, MAX_SEATS + 1, 10**30]


@pytest.fixture
def event(store):
    """An event with ten seats."""
    return create(store, 10)


def ask(store, event, seats, user=USER, **options):
    return sales.lock(store, LockRequest(event, user, seats, **options))


def types(document):
    return {field: type(value) for field, value in document.items()}


# --- lock --key ------------------------------------------------------------------------------------


def test_the_same_key_is_the_same_lock_taken_once(store, event):
    first = ask(store, event, 3, key="k1")
    again = ask(store, event, 3, key=" k1 ")

    assert (first.created, again.created) == (True, False)
    assert first.lock == again.lock
    assert lock_of(store, first.lock.id)["idempotencyKey"] == "k1"
    assert available(store, event) == 7


def test_a_key_with_other_seats_is_refused_and_changes_nothing(store, event):
    lock(store, event, 3, key="k1")
    before = everything(store)

    with pytest.raises(KeyReused, match="already locked 3 seats"):
        lock(store, event, 4, key="k1")
    assert before == everything(store)


def test_the_key_of_a_lock_of_which_the_buyer_returned_seats_is_the_same_lock(store, event):
    held = sales.lock(store, LockRequest(event, "ada", 4, "k")).lock
    cancel(store, CancelRequest(confirm(store, held.id), seats=1))
    again = sales.lock(store, LockRequest(event, "ada", 4, "k"))

    assert (again.lock.id, again.created, again.lock.seats) == (held.id, False, 3)
    with pytest.raises(KeyReused):
        sales.lock(store, LockRequest(event, "ada", 3, "k"))


def test_a_key_belongs_to_its_user_and_event(store, event):
    other = create(store, 10)
    requests = ((event, USER), (event, "x"), (other, USER))
    made = [ask(store, where, 1, user, key="k1") for where, user in requests]

    assert [each.created for each in made] == [True, True, True]


def test_the_key_of_an_expired_lock_takes_no_seats_anew(store, event):
    first = lock(store, event, 3, key="k1")
    sales.release(store, first)

    assert lock(store, event, 3, key="k1") == first
    assert available(store, event) == 10


def test_the_key_of_a_lock_on_a_sold_out_event_returns_that_lock(store, event):
    first = lock(store, event, 10, key="k1")

    assert lock(store, event, 10, key="k1") == first


def test_the_key_of_an_overdue_lock_returns_it_and_does_not_sweep(store, clock, event):
    first = lock(store, event, 10, key="k1")
    clock.advance(minutes=11)

    assert lock(store, event, 10, key="k1") == first
    assert lock_of(store, first)["status"] == "ACTIVE"


def test_seats_stored_as_a_double_are_told_whole_for_a_key_too(store, event):
    held = lock(store, event, 2, key="k")
    edit(store, "seatLocks", held, seats=2.0)

    assert lock(store, event, 2, key="k") == held
    with pytest.raises(KeyReused, match="already locked 2 seats"):
        lock(store, event, 3, key="k")


def test_a_key_of_a_lock_that_cannot_be_read_is_refused(store, event):
    held = lock(store, event, 2, key="k")
    edit(store, "seatLocks", held, seats="two")

    with pytest.raises(DamagedDocument, match="seats is 'two'"):
        lock(store, event, 2, key="k")
    assert available(store, event) == 8


@pytest.mark.parametrize("prepared", [False, True], ids=["bare", "init"])
@pytest.mark.parametrize("seats", [3, 4])
def test_a_key_that_somebody_takes_meanwhile_is_theirs(store, event, monkeypatch, seats, prepared):
    """Between look-up and insert, also where nobody ran init: no seat is lost."""
    if prepared:
        store.init()
    happened = meanwhile(monkeypatch, SeatLocks, "by_key", lambda: lock(store, event, 3, key="k1"))

    if seats == 3:
        assert [lock(store, event, seats, key="k1")] == happened
    else:
        with pytest.raises(KeyReused):
            lock(store, event, seats, key="k1")
    assert happened
    assert available(store, event) == 7
    assert store.database.seatLocks.count_documents({}) == 1


def test_the_same_request_twice_at_once_for_the_last_seats_is_one_lock(store, event, monkeypatch):
    happened = meanwhile(monkeypatch, SeatLocks, "by_key", lambda: lock(store, event, 10, key="k"))
    done = ask(store, event, 10, "u", key="k")

    assert ([done.lock.id], False) == (happened, done.created)
    with pytest.raises(SoldOut):
        lock(store, event, 10, key="another")


def test_no_command_creates_an_index(store, event):
    """A key and a lock's one booking are kept unique by the transactions; the guards are init's."""
    confirm(store, lock(store, event, key="k1"))

    for collection in ("events", "seatLocks", "bookings"):
        assert list(store.database[collection].index_information()) == ["_id_"]


def test_after_init_the_database_itself_refuses_a_second_lock_with_a_key_and_a_second_booking(store, event):
    store.init()
    held, booked = book(store, event)
    keyed = lock_of(store, held)
    booking = store.database.bookings.find_one({"_id": booked})

    with pytest.raises(DuplicateKeyError):
        store.database.seatLocks.insert_one({**keyed, "_id": ObjectId()})
    with pytest.raises(DuplicateKeyError):
        store.database.bookings.insert_one({**booking, "_id": ObjectId()})


@pytest.mark.parametrize("prepared", [False, True], ids=["bare", "init"])
@pytest.mark.parametrize("fields", [{}, {"idempotencyKey": None}], ids=["no key", "null"])
def test_locks_without_a_key_are_accepted_beside_ours(store, event, prepared, fields):
    if prepared:
        store.init()
    lock(store, event, key="k1")
    for _ in range(7):
        insert_lock(store, event, due=HOUR, **fields)
    add(store, event, -7)

    assert lock(store, event, key="k1") is not None
    assert store.database.seatLocks.count_documents({}) == 8


def test_a_database_of_its_own_is_where_everything_lands(replica):
    """The name in the URI's path, and nowhere else."""
    name = f"test_{uuid.uuid4().hex}"
    store = open_store(replica.uri.replace("/?", f"/{name}?"))
    create_event(store, CreateEventRequest("Concert", 1, MONTH))

    assert store.deployment.client[name].events.count_documents({}) == 1
    store.drop()
    store.deployment.close()
