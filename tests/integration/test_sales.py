"""What creating events and locking seats promise."""

from datetime import UTC, datetime, timedelta

import pytest
from bson import Decimal128, ObjectId
from conftest import available, edit, everything, open_store
from pymongo.errors import DuplicateKeyError
from scene import (
    HOUR,
    book,
    confirm,
    create,
    delete,
    event_of,
    lock,
    lock_of,
    meanwhile,
    states,
)

from seatctl.domain.rules import MAX_DESCRIPTION, MAX_SEATS, MAX_TEXT
from seatctl.errors import (
    CountedByDay,
    DamagedDocument,
    NotFound,
    SoldOut,
    Usage,
    WriteRefused,
)
from seatctl.mongo.client import Deployment
from seatctl.services import expiry, payments, sales
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


# --- create-event ----------------------------------------------------------------------------------


def test_an_event_is_stored_with_exactly_the_contracts_fields_and_all_its_seats_available(store, clock):
    made = create_event(store, CreateEventRequest(" Concert ", 10, clock() + timedelta(days=1)))

    stored = event_of(store, made.id)
    assert made.event == stored
    assert types(stored) == {
        "_id": ObjectId,
        "name": str,
        "eventDate": datetime,
        "totalSeats": int,
        "availableSeats": int,
        "createdAt": datetime,
        "updatedAt": datetime,
    }
    assert (stored["name"], stored["totalSeats"], stored["availableSeats"]) == ("Concert", 10, 10)
    assert clock() == stored["createdAt"] == stored["updatedAt"]


def test_a_description_may_have_lines(store, clock):
    told = create_event(store, CreateEventRequest("Concert", 1, clock(), "first\n\tsecond"))

    assert event_of(store, told.id)["description"] == "first\n\tsecond"


def test_an_event_date_is_stored_in_utc_milliseconds(store, clock):
    precise = datetime(2027, 5, 1, 19, 30, 0, 123_456, tzinfo=UTC)
    absolute = create_event(store, CreateEventRequest("A", 1, precise))
    relative = create_event(store, CreateEventRequest("B", 1, timedelta(hours=2)))

    assert event_of(store, absolute.id)["eventDate"] == precise.replace(microsecond=123_000)
    assert event_of(store, relative.id)["eventDate"] == clock() + timedelta(hours=2)
    assert (absolute.is_past, relative.is_past) == (False, False)


def test_an_event_of_the_past_is_created_and_said_to_be_past(store, clock):
    assert create_event(store, CreateEventRequest("A", 1, clock() - HOUR)).is_past


def test_an_event_that_makes_no_sense_is_refused_and_nothing_is_stored(store, clock):
    for name in BAD_TEXTS:
        with pytest.raises(Usage, match="name"):
            create_event(store, CreateEventRequest(name, 1, clock()))
    for seats in BAD_SEATS:
        with pytest.raises(Usage, match="seats must be a whole number"):
            create_event(store, CreateEventRequest("Concert", seats, clock()))
    for description in ("", "x" * (MAX_DESCRIPTION + 1), "bell\a"):
        with pytest.raises(Usage, match="description"):
            create_event(store, CreateEventRequest("Concert", 1, clock(), description))
    with pytest.raises(Usage, match="too far in the future"):
        create_event(store, CreateEventRequest("Concert", 1, timedelta(days=3_000_000)))
    assert not store.database.events.count_documents({})


# --- lock ------------------------------------------------------------------------------------------


def test_a_lock_is_stored_with_exactly_the_contracts_fields(store, clock, event):
    made = ask(store, event, 3)

    stored = lock_of(store, made.lock.id)
    assert made.lock.stored == stored
    assert types(stored) == {
        "_id": ObjectId,
        "eventId": ObjectId,
        "userId": ObjectId,
        "seats": int,
        "status": str,
        "expiresAt": datetime,
        "idempotencyKey": str,
        "createdAt": datetime,
        "updatedAt": datetime,
    }
    assert [stored[field] for field in ("eventId", "userId", "seats", "status")] == [event, USER, 3, "ACTIVE"]
    assert stored["expiresAt"] == clock() + timedelta(minutes=10)
    assert clock() == stored["createdAt"] == stored["updatedAt"]


def test_a_lock_takes_its_seats_once_and_says_what_is_left(store, event):
    made = ask(store, event, 3)

    assert (made.created, made.available) == (True, 7)
    assert available(store, event) == 7


def test_every_lock_has_a_key_of_its_own_also_where_the_caller_gives_none(store, event):
    keys = [lock_of(store, lock(store, event))["idempotencyKey"] for _ in range(3)]

    assert len(set(keys)) == 3
    assert all(key.startswith("seatctl-") and len(key) == len("seatctl-") + 24 for key in keys)


def test_a_user_that_is_a_text_stays_a_text(store, event):
    assert lock_of(store, lock(store, event, user="alice"))["userId"] == "alice"


def test_a_lock_runs_as_long_as_the_caller_says(store, clock, event):
    made = lock(store, event, ttl=timedelta(seconds=90))

    assert lock_of(store, made)["expiresAt"] == clock() + timedelta(seconds=90)


def test_all_seats_of_an_event_can_be_locked_and_not_one_more(store, event):
    lock(store, event, 10)

    with pytest.raises(SoldOut, match="has 0 seats left, 1 requested"):
        lock(store, event, 1)
    assert available(store, event) == 0


def test_a_lock_is_stamped_by_the_server_as_it_writes(database_uri, monkeypatch):
    """A process that is stopped before it takes its seats leaves no stamp from before, by which recovery
    would believe that nobody touched the event lately."""
    store = open_store(database_uri)
    made = create(store, 10)
    before = store.now()
    monkeypatch.setattr(Deployment, "now", None)
    held = lock_of(store, lock(store, made, 3))
    monkeypatch.undo()

    assert event_of(store, made)["updatedAt"] == held["createdAt"] == held["updatedAt"]
    assert before <= held["createdAt"] <= store.now()
    assert held["expiresAt"] - held["createdAt"] == timedelta(minutes=10)
    store.deployment.close()


@pytest.mark.parametrize("ttl", [timedelta(), timedelta(seconds=-1), timedelta(days=366)])
def test_a_ttl_that_makes_no_sense_is_refused_before_anything_is_taken(store, event, ttl):
    with pytest.raises(Usage, match="at most 365 days"):
        lock(store, event, ttl=ttl)
    assert available(store, event) == 10


def test_a_request_that_makes_no_sense_is_refused_and_takes_no_seat(store, event):
    for seats in BAD_SEATS:
        with pytest.raises(Usage, match="seats must be a whole number"):
            lock(store, event, seats)
    for text in BAD_TEXTS:
        with pytest.raises(Usage, match="key"):
            lock(store, event, key=text)
    assert available(store, event) == 10
    assert not store.database.seatLocks.count_documents({})


def test_a_request_for_more_than_is_left_changes_nothing(store, event):
    lock(store, event, 3)
    before = everything(store)

    with pytest.raises(SoldOut, match="has 7 seats left, 8 requested"):
        lock(store, event, 8)
    assert before == everything(store)


def test_the_last_seat_is_told_in_the_singular(store, event):
    lock(store, event, 9)

    with pytest.raises(SoldOut, match="has 1 seat left, 2 requested"):
        lock(store, event, 2)


def test_whole_numbers_stored_as_doubles_are_whole(store, event):
    """The old mongo shell stores 2 as 2.0; nobody is told of 2.0 seats."""
    edit(store, "events", event, availableSeats=3.0, totalSeats=10.0)

    assert str(ask(store, event, 1).available) == "2"
    with pytest.raises(SoldOut, match="has 2 seats left, 3 requested"):
        lock(store, event, 3)
    edit(store, "events", event, availableSeats=11.0)
    with pytest.raises(DamagedDocument, match="11 of 10 seats available; run `seatctl recover`"):
        lock(store, event, 30)


def test_a_counter_above_the_total_or_below_zero_sells_nothing(store, event):
    for counter in (11, -1):
        edit(store, "events", event, availableSeats=counter)
        before = everything(store)
        with pytest.raises(DamagedDocument, match=f"{counter} of 10 seats available; run `seatctl recover`"):
            lock(store, event, 1)
        assert everything(store) == before


TEN = Decimal128("10")
NO_SEAT_COUNTS = [
    *[(seats, seats) for seats in (TEN, float("inf"), 2.5, 2**40, float("nan"))],
    (TEN, 10),
    (10, TEN),
    (2.5, 10),
    ("many", 10),
    (None, 10),
    (10, 0),
]


@pytest.mark.parametrize(("free", "total"), NO_SEAT_COUNTS, ids=str)
def test_numbers_that_are_no_seat_counts_sell_no_seat_and_take_none_back(store, event, free, total):
    held = lock(store, event)
    edit(store, "events", event, availableSeats=free, totalSeats=total)
    before = str(everything(store))  # NaN is not equal to itself

    with pytest.raises(DamagedDocument, match=r"Seats is .*, not a (positive )?whole number"):
        lock(store, event)
    with pytest.raises(DamagedDocument, match=r"Seats is .*, not a (positive )?whole number"):
        sales.release(store, held)
    assert str(everything(store)) == before


@pytest.mark.parametrize(
    "fields", [{"eventType": "multi-day"}, {"dailySeats": {"2027-01-01": {"total": 5, "available": 5}}}]
)
def test_an_event_counted_by_day_sells_nothing(store, event, fields):
    edit(store, "events", event, **fields)
    before = everything(store)

    with pytest.raises(CountedByDay, match="counts its seats per day"):
        lock(store, event)
    assert everything(store) == before


def test_an_event_with_empty_daily_seats_is_like_any_other(store, event):
    edit(store, "events", event, dailySeats={}, eventType="single-day")
    lock(store, event)

    assert available(store, event) == 9


def test_an_unknown_event_is_not_found_and_another_documents_id_is_recognised(store, event):
    held = lock(store, event)

    with pytest.raises(NotFound, match="there is no event"):
        lock(store, ObjectId())
    with pytest.raises(NotFound, match="that is the id of a lock"):
        lock(store, held)


def test_an_unknown_id_is_not_found_and_another_kind_is_named(store, event):
    for command in (confirm, payments.pay, payments.fail_payment, sales.release):
        with pytest.raises(NotFound, match="there is no"):
            command(store, ObjectId())
        with pytest.raises(NotFound, match="that is the id of an event"):
            command(store, event)


def test_a_refused_lock_takes_no_seats(store):
    event = create(store, 10)
    store.database.create_collection("seatLocks", validator={"seats": {"$lt": 3}})

    with pytest.raises(WriteRefused, match="validator"):
        lock(store, event, 3)
    assert available(store, event) == 10


def test_a_lock_that_another_programs_unique_index_refuses_takes_no_seats(store, event):
    store.database.seatLocks.create_index("userId", unique=True)
    lock(store, event, 3)

    with pytest.raises((WriteRefused, DuplicateKeyError)):
        lock(store, event, 3, key="k1")
    assert available(store, event) == 7


# --- lock on a sold-out event ------------------------------------------------------------------------


def test_an_overdue_lock_gives_way_without_a_job(store, clock, event):
    held = lock(store, event, 3)
    clock.advance(minutes=11)

    assert ask(store, event, 10).available == 0
    assert [lock_of(store, held)[field] for field in ("status", "oldStatus")] == ["EXPIRED", "ACTIVE"]


def test_an_overdue_booking_gives_way_with_its_lock(store, clock, event):
    pair = book(store, event, 3)
    clock.advance(minutes=16)

    assert ask(store, event, 10).available == 0
    assert states(store, *pair) == ("EXPIRED", "EXPIRED")


def test_nothing_gives_way_while_there_are_enough_seats(store, clock, event):
    held = lock(store, event, 3)
    clock.advance(minutes=11)
    lock(store, event, 7)

    assert lock_of(store, held)["status"] == "ACTIVE"


def test_a_lock_at_its_deadline_does_not_give_way_yet(store, clock, event):
    lock(store, event, 10)
    clock.advance(minutes=10)

    with pytest.raises(SoldOut):
        lock(store, event)


def test_nothing_gives_way_on_another_event(store, clock, event):
    held = lock(store, event, 3)
    other = create(store, 1)
    clock.advance(minutes=11)

    with pytest.raises(SoldOut):
        lock(store, other, 2)
    assert lock_of(store, held)["status"] == "ACTIVE"


def test_a_lock_with_a_live_booking_never_gives_way(store, clock, event):
    held, _ = book(store, event, 10, ttl=2 * HOUR)
    edit(store, "seatLocks", held, expiresAt=clock() - HOUR)

    with pytest.raises(SoldOut, match="has 0 seats left"):
        lock(store, event)
    assert lock_of(store, held)["status"] == "ACTIVE"


def test_an_overdue_booking_whose_lock_is_gone_keeps_no_other_overdue_booking(store, clock, event):
    lost, _ = book(store, event, 1)
    book(store, event, 9)
    delete(store, "seatLocks", lost)
    clock.advance(minutes=16)

    assert ask(store, event, 9).available == 0


def test_overdue_seats_that_are_taken_by_somebody_else_meanwhile_are_sold_out(
    store, clock, event, monkeypatch
):
    lock(store, event, 10)
    clock.advance(minutes=11)
    happened = meanwhile(monkeypatch, expiry, "return_overdue", lambda: lock(store, event, 10))

    with pytest.raises(SoldOut, match="has 0 seats left, 10 requested"):
        lock(store, event, 10)
    assert happened
    assert available(store, event) == 0
