"""Documents of another program that cannot be read: what `verify` says of them, each once, and that nothing
trips over them."""

from datetime import timedelta

import pytest
from bson import Decimal128
from conftest import everything
from damage import Scene, damage_lock, drift, forget_to_consume, keep_seats_of_failed, lose_paid_lock
from pymongo.errors import OperationFailure
from scene import NOWHERE, insert_booking, lock, lock_of, meanwhile, run_recover

from seatctl.domain.states import Fault
from seatctl.errors import CursorLost
from seatctl.mongo.aggregations import Aggregations
from seatctl.mongo.store import SNAPSHOT_RETRIES
from seatctl.services.verify import verify


@pytest.fixture
def scene(store):
    return Scene(store)


def faults(store):
    return {violation.fault for violation in verify(store)}


# --- locks --------------------------------------------------------------------------------------------


def test_while_a_locks_seats_cannot_be_read_the_counter_is_not_judged(store, scene):
    damage_lock(scene)
    drift(scene)

    assert faults(store) == {Fault.DAMAGED_LOCK}


@pytest.mark.parametrize(
    "status", ["ON_HOLD", None, ["EXPIRED"], ["ACTIVE"], ["CONSUMED"], ["ACTIVE", "EXPIRED"], []], ids=str
)
def test_a_lock_in_no_known_state_is_told_and_hides_the_counter(store, scene, status):
    """To a query one with a list is in each of its states; it is damaged in any case."""
    scene.edit("seatLocks", scene.held, status=status)
    drift(scene)
    found = list(verify(store))

    assert [(each.fault, each.lock) for each in found] == [(Fault.DAMAGED_LOCK, scene.held)]
    assert found[0].message.startswith(f"lock {scene.held}: its status is ")


@pytest.mark.parametrize(
    "seats", [float("inf"), float("nan"), Decimal128("2"), 2**40, "two", 0, None], ids=str
)
@pytest.mark.parametrize("of", ["held", "lock_of_paid"])
def test_a_lock_whose_seats_are_another_kind_of_number_is_told(store, scene, seats, of):
    scene.edit("seatLocks", getattr(scene, of), seats=seats)

    assert faults(store) == {Fault.DAMAGED_LOCK}
    assert run_recover(store).error


@pytest.mark.parametrize("seats", ["two", None], ids=str)
def test_an_ended_lock_holds_nothing_whatever_its_seats(store, scene, seats):
    scene.edit("seatLocks", scene.lock_of_failed, seats=seats)

    assert faults(store) == set()


@pytest.mark.parametrize("odd", [{"n": 1}, ["x"], "x", None, 7], ids=str)
def test_a_lock_whose_event_is_no_id_is_told_and_no_counter_is_called_too_low(store, scene, odd):
    """It may hold seats of any event."""
    scene.edit("seatLocks", scene.held, eventId=odd)

    assert faults(store) == {Fault.DAMAGED_LOCK, Fault.COUNTER_IN_DOUBT}
    before = everything(store, "jobLogs")
    assert run_recover(store).error
    assert everything(store, "jobLogs") == before


@pytest.mark.parametrize("as_stored", [str, lambda event: [event], lambda event: [str(event), "x"]])
def test_a_lock_that_names_its_event_by_text_or_in_a_list_is_told_and_the_event_not_corrected(
    store, scene, as_stored
):
    scene.edit("seatLocks", scene.held, eventId=as_stored(scene.event))
    before = everything(store, "jobLogs")

    assert Fault.DAMAGED_LOCK in faults(store)
    assert run_recover(store).error
    assert everything(store, "jobLogs") == before


@pytest.mark.parametrize("breakage", [keep_seats_of_failed, lose_paid_lock])
def test_where_a_pair_disagrees_and_its_lock_cannot_be_read_the_lock_is_what_is_told(store, scene, breakage):
    """Recovery cannot move its seats."""
    breakage(scene)
    held = scene.lock_of_failed if breakage is keep_seats_of_failed else scene.lock_of_paid
    scene.edit("seatLocks", held, seats="two")
    (found,) = verify(store)

    assert (found.fault, found.lock) == (Fault.DAMAGED_LOCK, held)


# --- bookings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status", ["LOST", None, ["EXPIRED"], ["FAILED"], ["PAYMENT_PENDING"], ["CONFIRMED"], []], ids=str
)
def test_a_booking_in_no_known_state_is_told_whatever_its_lock_is(store, scene, status):
    for booked in (scene.pending, scene.paid, scene.failed):
        scene.edit("bookings", booked, status=status)
    damaged = [each.booking for each in verify(store) if each.fault is Fault.DAMAGED_BOOKING]

    assert sorted(damaged) == sorted([scene.pending, scene.paid, scene.failed])


@pytest.mark.parametrize("status", ["PAYMENT_PENDING", "CONFIRMED"])
@pytest.mark.parametrize("odd", ["L-1", None, [NOWHERE], {"n": 1}, 7], ids=str)
def test_a_live_booking_that_names_no_lock_is_told(store, scene, status, odd):
    booked = insert_booking(store, scene.event, odd, status)

    assert [(each.fault, each.booking) for each in verify(store)] == [(Fault.DAMAGED_BOOKING, booked)]


@pytest.mark.parametrize("status", ["FAILED", "EXPIRED", "CANCELLED", "INITIATED"])
def test_a_booking_that_protects_nothing_may_name_whatever_it_likes(store, scene, status):
    insert_booking(store, scene.event, "L-1", status)
    insert_booking(store, "an event", None, status)

    assert list(verify(store)) == []


@pytest.mark.parametrize("status", ["PAYMENT_PENDING", ["CONFIRMED"]], ids=str)
def test_seats_that_a_damaged_booking_keeps_are_not_called_unreturned(store, scene, status):
    """Recovery can free nothing there, and nobody is sent to it; the damaged booking is what a person must
    look at."""
    keep_seats_of_failed(scene)
    named = [scene.lock_of_failed]
    insert_booking(store, scene.event, named, status, _id=NOWHERE)
    found = {each.fault for each in verify(store)} - {Fault.SEVERAL_BOOKINGS}

    assert found == {Fault.DAMAGED_BOOKING}
    run_recover(store)
    assert lock_of(store, scene.lock_of_failed)["status"] == "ACTIVE"


def test_two_lists_in_one_booking_break_no_reader(store, scene):
    """By which no server can sort."""
    scene.edit("bookings", scene.failed, event=[scene.event], seatLockId=[scene.held], status="CONFIRMED")
    forget_to_consume(scene)

    assert faults(store) >= {Fault.DAMAGED_BOOKING, Fault.UNSETTLED_LOCK}


# --- deadlines ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize(
    ("collection", "of", "field", "fault"),
    [
        ("seatLocks", "held", "expiresAt", Fault.DAMAGED_LOCK),
        ("bookings", "pending", "paymentExpiresAt", Fault.DAMAGED_BOOKING),
    ],
)
@pytest.mark.parametrize("deadline", ["a list", "soon", None])
def test_a_deadline_that_is_no_date_is_told_and_the_counter_judged_all_the_same(
    store, clock, scene, collection, of, field, fault, deadline, indexed
):
    """A sweep passes over a list with a date to come: no seat is lost without a word."""
    if indexed:
        store.init()
    value = [clock() + timedelta(days=1)] if deadline == "a list" else deadline
    scene.edit(collection, getattr(scene, of), **{field: value})

    assert faults(store) == {fault}
    scene.counter(1)
    assert faults(store) == {fault, Fault.COUNTER_DRIFT}


# --- events -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"totalSeats": 0},
        {"availableSeats": "97"},
        {"availableSeats": None},
        {"totalSeats": Decimal128("100")},
    ],
    ids=str,
)
def test_an_event_whose_counter_cannot_be_read_is_told_and_its_pairs_are_judged(store, scene, fields):
    scene.edit("events", scene.event, **fields)
    assert faults(store) == {Fault.DAMAGED_EVENT}
    forget_to_consume(scene)
    assert faults(store) == {Fault.DAMAGED_EVENT, Fault.UNSETTLED_LOCK}


@pytest.mark.parametrize("odd", ["E-1", 7, {"n": 1}], ids=str)
def test_an_event_whose_id_is_no_object_id_is_told(store, scene, odd):
    store.database.events.insert_one({"_id": odd, "totalSeats": 1, "availableSeats": 1})
    (found,) = verify(store)

    assert (found.fault, found.event) == (Fault.DAMAGED_EVENT, odd)
    assert scene.event


# --- met in several ways --------------------------------------------------------------------------------


def odd_id_and_list(scene):
    insert_booking(scene.store, scene.event, [scene.held], "CONFIRMED", _id="b-7")


def no_deadline_and_no_state(scene):
    scene.edit("seatLocks", scene.held, status=["ACTIVE"], expiresAt=None)


def nowhere_twice(scene):
    for event in (str(NOWHERE), [NOWHERE]):
        scene.edit("seatLocks", lock(scene.store, scene.event), eventId=event)
        scene.counter(1)


@pytest.mark.parametrize(
    ("damage", "fault", "times"),
    [
        (odd_id_and_list, Fault.DAMAGED_BOOKING, 1),
        (no_deadline_and_no_state, Fault.DAMAGED_LOCK, 1),
        (nowhere_twice, Fault.DAMAGED_LOCK, 2),
    ],
)
def test_a_document_that_is_met_in_several_ways_is_named_once_by_verify_and_by_recovery(
    store, scene, damage, fault, times
):
    damage(scene)
    steps = run_recover(store, dry_run=True).steps

    assert [violation.fault for violation in verify(store)] == [fault] * times
    assert [step.violation.fault for step in steps] == [fault] * times


# --- a server that forgets ------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [239, 246], ids=["too old", "unavailable"])
@pytest.mark.parametrize("where", ["events", "held_seats", "booking_counts"])
def test_when_the_server_drops_the_point_in_time_it_is_read_again_at_another(
    store, scene, monkeypatch, where, code
):
    drift(scene)
    forget_to_consume(scene)

    def drop():
        raise OperationFailure("no such snapshot", code)

    happened = meanwhile(monkeypatch, Aggregations, where, drop, before=True)

    assert faults(store) == {Fault.UNSETTLED_LOCK, Fault.COUNTER_DRIFT}
    assert happened


def test_a_server_that_keeps_dropping_it_ends_the_look(store, scene, monkeypatch):
    looks = []

    def drop(*_, **__):
        looks.append(1)
        raise OperationFailure("no such snapshot", 239)

    monkeypatch.setattr(Aggregations, "held_seats", drop)
    with pytest.raises(CursorLost):
        list(verify(store))
    assert len(looks) % SNAPSHOT_RETRIES == 0
    assert scene.event
