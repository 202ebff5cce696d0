"""What creating events once, editing and resizing them promise."""

import pytest
from conftest import edit, everything
from scene import (
    HOUR,
    MONTH,
    NOWHERE,
    add,
    book,
    create,
    event_of,
    insert_lock,
    lock,
    lock_of,
    meanwhile,
    run_recover,
    sell,
)

from seatctl.errors import CountedByDay, DamagedDocument, KeyReused, NotFound, SeatsHeld, Usage
from seatctl.mongo.aggregations import Aggregations
from seatctl.mongo.operations import Operations
from seatctl.services.blocks import BlockRequest, block
from seatctl.services.closing import close
from seatctl.services.events import CreateEventRequest, EditEventRequest, create_event, edit_event
from seatctl.services.resizing import ResizeRequest, resize
from seatctl.services.verify import verify


@pytest.fixture
def event(store):
    """An event with ten seats."""
    return create(store, 10)


def operations(store, event):
    return [(each["command"], each["before"], each["after"]) for each in store.operations.concerning([event])]


def numbers(store, event):
    found = event_of(store, event)
    return found["totalSeats"], found["availableSeats"]


# --- create-event --key ------------------------------------------------------------------------------


def create_once(store, key="k1", name="Gala", seats=10, date=MONTH):
    return create_event(store, CreateEventRequest(name, seats, date, key=key))


def test_the_same_key_is_the_same_event_made_once(store, clock):
    first = create_once(store)
    clock.advance(hours=1)
    again = create_once(store, " k1 ")

    assert (first.created, again.created) == (True, False)
    assert first.event == again.event
    assert event_of(store, first.id)["idempotencyKey"] == "k1"
    assert store.database.events.count_documents({}) == 1
    assert [command for command, _, _ in operations(store, first.id)] == ["create-event"]


def test_a_key_made_its_event_also_after_that_was_changed(store):
    made = create_once(store)
    resize(store, ResizeRequest(made.id, 20))
    edit_event(store, EditEventRequest(made.id, name="Spring gala"))

    again = create_once(store)
    assert (again.id, again.event["totalSeats"], again.event["name"]) == (made.id, 20, "Spring gala")


@pytest.mark.parametrize("other", [{"name": "Ball"}, {"seats": 11}])
def test_a_key_with_another_name_or_capacity_is_refused_and_changes_nothing(store, other):
    create_once(store)
    before = everything(store)
    with pytest.raises(KeyReused, match="with a different name, date or capacity"):
        create_once(store, **other)
    assert everything(store) == before


def test_a_key_is_refused_for_another_date_but_not_for_another_moment_of_a_relative_one(store, clock):
    absolute = clock() + MONTH
    made = create_once(store, date=absolute)
    clock.advance(minutes=1)
    assert create_once(store, date=absolute).id == made.id
    assert create_once(store, date=MONTH).id == made.id
    with pytest.raises(KeyReused):
        create_once(store, date=absolute + HOUR)


def test_a_key_whose_event_is_gone_is_told(store):
    made = create_once(store)
    store.database.events.delete_one({"_id": made.id})
    with pytest.raises(NotFound, match="no longer exists"):
        create_once(store)


def test_a_key_sent_twice_at_once_makes_one_event(store, monkeypatch):
    """Whoever looked for the key before the other one made the event starts over, without any index."""
    happened = meanwhile(monkeypatch, Operations, "stored", lambda: create_once(store))
    late = create_once(store)
    assert (late.created, late.id) == (False, happened[0].id)
    assert store.database.events.count_documents({}) == 1


# --- edit-event --------------------------------------------------------------------------------------


def test_an_edit_changes_what_is_given_and_nothing_else(store, clock, event):
    before = event_of(store, event)
    later = clock.advance(minutes=1)
    done = edit_event(store, EditEventRequest(event, " Ball ", MONTH, "in the garden"))

    changed = {"name": "Ball", "eventDate": later + MONTH, "description": "in the garden"}
    assert done.changed == tuple(changed)
    assert event_of(store, event) == done.event == {**before, **changed, "updatedAt": later}
    old = {"name": "Concert", "eventDate": before["eventDate"], "description": None}
    assert operations(store, event)[1:] == [("edit-event", old, changed)]


def test_an_edit_again_changes_and_records_nothing(store, clock, event):
    edit_event(store, EditEventRequest(event, "Ball"))
    before = everything(store)
    clock.advance(minutes=1)
    assert edit_event(store, EditEventRequest(event, "Ball")).changed == ()
    assert everything(store) == before


def test_an_edit_without_a_change_or_of_no_event_is_refused(store, event):
    with pytest.raises(Usage, match="nothing to change"):
        edit_event(store, EditEventRequest(event))
    with pytest.raises(Usage, match="name must not be empty"):
        edit_event(store, EditEventRequest(event, " "))
    with pytest.raises(NotFound):
        edit_event(store, EditEventRequest(NOWHERE, "Ball"))


# --- resize ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seats", "free"), [(12, 6), (8, 2), (6, 0)])
def test_a_capacity_moves_the_counter_by_the_difference(store, clock, event, seats, free):
    lock(store, event, 4)
    sell(store, event, 2)
    clock.advance(minutes=1)
    done = resize(store, ResizeRequest(event, seats))

    assert (done.before, done.changed, done.free, done.returned) == (10, True, free, 0)
    assert numbers(store, event) == (seats, free)
    assert list(verify(store)) == []
    was, now = {"totalSeats": 10, "availableSeats": 4}, {"totalSeats": seats, "availableSeats": free}
    assert operations(store, event)[-1:] == [("resize", was, now)]


def test_a_capacity_again_changes_and_records_nothing(store, clock, event):
    resize(store, ResizeRequest(event, 12))
    before = everything(store)
    clock.advance(minutes=1)
    assert not resize(store, ResizeRequest(event, 12)).changed
    assert everything(store) == before


def test_a_capacity_below_what_is_held_is_refused_and_names_the_smallest(store, event):
    lock(store, event, 4)
    sell(store, event, 2)
    block(store, BlockRequest(event, 1))
    before = everything(store)
    with pytest.raises(SeatsHeld, match=r"7 seats of .* are held; the smallest capacity is 7"):
        resize(store, ResizeRequest(event, 6))
    assert everything(store) == before
    assert resize(store, ResizeRequest(event, 7)).free == 0


@pytest.mark.parametrize("dry_run", [True, False])
def test_overdue_seats_are_returned_before_a_capacity_is_refused(store, clock, event, dry_run):
    lock(store, event, 5)
    book(store, event, 2)
    lock(store, event, 1, ttl=HOUR)
    clock.advance(minutes=16)
    before = everything(store)
    done = resize(store, ResizeRequest(event, 3, dry_run))

    assert (done.changed, done.free, done.returned) == (True, 2, 7)
    assert (everything(store) == before) == dry_run
    if not dry_run:
        assert numbers(store, event) == (3, 2)
        assert list(verify(store)) == []


def test_overdue_seats_stay_where_a_capacity_is_possible_without_them(store, clock, event):
    held = lock(store, event, 5)
    clock.advance(minutes=16)
    resize(store, ResizeRequest(event, 5))
    assert lock_of(store, held)["status"] == "ACTIVE"


def test_a_dry_run_of_a_new_capacity_changes_nothing(store, event):
    lock(store, event, 4)
    before = everything(store)
    done = resize(store, ResizeRequest(event, 12, dry_run=True))
    assert (done.changed, done.free) == (True, 8)
    assert everything(store) == before


@pytest.mark.parametrize("seats", [0, -1, 10**9])
def test_a_capacity_that_makes_no_sense_is_refused(store, event, seats):
    with pytest.raises(Usage, match="seats must be a whole number"):
        resize(store, ResizeRequest(event, seats))


def test_the_capacity_of_what_is_no_event_or_counts_by_day_is_refused(store, event):
    with pytest.raises(NotFound):
        resize(store, ResizeRequest(NOWHERE, 5))
    edit(store, "events", event, dailySeats={"2027-01-01": {"total": 5}})
    with pytest.raises(CountedByDay):
        resize(store, ResizeRequest(event, 5))


def test_an_event_grows_before_anybody_locked_seats_in_the_database(store):
    event = create(store, 10)
    assert resize(store, ResizeRequest(event, 12)).free == 12


def test_more_seats_cure_an_overbooked_event(store, event):
    lock(store, event, 4)
    edit(store, "events", event, totalSeats=3, availableSeats=0)
    with pytest.raises(SeatsHeld, match="the smallest capacity is 4"):
        resize(store, ResizeRequest(event, 2))
    assert resize(store, ResizeRequest(event, 5)).free == 1
    assert list(verify(store)) == []


def test_a_new_capacity_lowers_a_counter_that_is_too_high(store, event):
    lock(store, event, 4)
    add(store, event, 3)
    assert resize(store, ResizeRequest(event, 12)).free == 8
    assert list(verify(store)) == []


def test_a_new_capacity_raises_no_counter_by_a_drift(store, event):
    """Seats that a counter lacks may be held by what nobody can see: recovery decides about them."""
    add(store, event, -3)
    assert resize(store, ResizeRequest(event, 12)).free == 9
    assert resize(store, ResizeRequest(event, 9)).free == 6
    add(store, event, -6)
    with pytest.raises(DamagedDocument, match="run `seatctl recover` first"):
        resize(store, ResizeRequest(event, 8))


def test_an_event_with_what_cannot_be_read_gets_no_more_and_no_fewer_seats(store, event):
    odd = insert_lock(store, event, 2, status="HELD")
    for seats in (9, 11):
        with pytest.raises(DamagedDocument, match="cannot be read"):
            resize(store, ResizeRequest(event, seats))
    edit(store, "seatLocks", odd, status="EXPIRED")
    held, _ = book(store, event)
    store.database.seatLocks.delete_one({"_id": held})
    with pytest.raises(DamagedDocument, match=r"cannot get more seats: .* lock cannot be found"):
        resize(store, ResizeRequest(event, 11))


def test_new_seats_of_a_closed_event_are_off_sale_and_seats_that_are_off_sale_can_go(store, event):
    lock(store, event, 4)
    close(store, event)
    for seats, off_sale in ((12, 8), (7, 3), (4, 0), (6, 2)):
        done = resize(store, ResizeRequest(event, seats))
        assert (done.free, done.closed) == (off_sale, True)
        assert numbers(store, event) == (seats, 0)
        assert sum(each.seats for each in store.locks.of_closing(event)) == off_sale
        assert list(verify(store)) == []
    with pytest.raises(SeatsHeld, match="the smallest capacity is 4"):
        resize(store, ResizeRequest(event, 3))


def test_seats_locked_while_a_capacity_is_set_are_counted(store, event, monkeypatch):
    happened = meanwhile(monkeypatch, Aggregations, "held_seats", lambda: lock(store, event, 4))
    with pytest.raises(SeatsHeld, match="4 seats"):
        resize(store, ResizeRequest(event, 3))
    assert happened
    assert run_recover(store).repairs == 0


def test_an_operation_names_the_reason(store, event):
    with_reason = type(store)(store.deployment, operator=store.operator._replace(reason="balcony"))
    resize(with_reason, ResizeRequest(event, 12))
    assert [each.get("reason") for each in store.operations.concerning([event])] == [None, "balcony"]
