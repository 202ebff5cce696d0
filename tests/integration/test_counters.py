"""Setting a counter right: down at once, up by a drift that lasts, and never across a change or a doubt.

Another program without transactions may be between its two writes. It is simulated by changing the database
between two looks, in the place of the sleep.
"""

import signal
from datetime import timedelta
from types import SimpleNamespace

import pytest
from conftest import available, edit, everything
from damage import (
    Scene,
    damage_booking,
    delete_lock_of_paid_and_nothing_else,
    delete_lock_of_pending,
    let_documents_expire,
    lose_paid_lock,
)
from scene import (
    HOUR,
    add,
    create,
    delete,
    event_of,
    insert_booking,
    insert_lock,
    lock,
    meanwhile,
    run_recover,
)

from seatctl.domain.rules import TOUCHED
from seatctl.domain.states import Fault
from seatctl.errors import Interrupted
from seatctl.mongo.aggregations import Aggregations
from seatctl.mongo.events import Events
from seatctl.services import counters
from seatctl.services.counters import READINGS, correct, drifts_of, stable_drifts
from seatctl.services.verify import verify

SETTLE = timedelta(seconds=5)


@pytest.fixture
def event(store):
    """An event of a hundred seats, just touched."""
    store.database.create_collection("seatLocks")
    return create(store)


@pytest.fixture
def between_looks(monkeypatch):
    """Replaces the sleep between two looks: `between_looks(act)` has `act(n)` called in the n-th, counted
    from 1. Returns the seconds that were slept."""
    slept = []

    def install(act=lambda _: None):
        def sleep(seconds):
            slept.append(seconds)
            act(len(slept))

        monkeypatch.setattr(counters, "time", SimpleNamespace(sleep=sleep))
        return slept

    return install


def drifts(store, *events, go_on=lambda: True):
    """By event, the drifts that last."""
    found = stable_drifts(store, drifts_of(store, events), SETTLE, go_on)
    return {drift.event: drift.seats for drift in found}


# --- drifts that last -----------------------------------------------------------------------------------


def test_a_drift_that_lasts_is_what_every_look_saw(store, event, between_looks):
    slept = between_looks()
    add(store, event, -3)

    assert drifts(store, event) == {event: 3}
    assert slept == [SETTLE.total_seconds() / READINGS] * READINGS


@pytest.mark.parametrize("look", range(1, READINGS + 1))
def test_a_writer_between_its_two_writes_is_no_drift_whenever_it_ends(store, event, between_looks, look):
    """Counter down first, lock after."""
    add(store, event, -3)
    between_looks(lambda n: insert_lock(store, event, 3, due=HOUR) if n == look else None)

    assert drifts(store, event) == {}


def test_a_writer_beside_a_drift_leaves_the_drift(store, event, between_looks):
    add(store, event, -3 - 2)
    between_looks(lambda n: insert_lock(store, event, 3, due=HOUR) if n == 2 else None)

    assert drifts(store, event) == {event: 2}


def test_writers_that_come_one_after_the_other_leave_the_smallest_drift(store, event, between_looks):
    """A buyer at each look: each of them takes seats before the one before has inserted its lock."""
    add(store, event, -1)  # the drift
    add(store, event, -2)  # the first buyer is between its writes

    def buy(_):
        insert_lock(store, event, 2, due=HOUR)
        add(store, event, -2)

    between_looks(buy)

    assert drifts(store, event) == {event: 3}


def test_a_drift_that_vanishes_and_comes_again_did_not_last(store, event, between_looks):
    add(store, event, -1)
    between_looks(lambda n: add(store, event, 1 if n % 2 else -1))

    assert drifts(store, event) == {}


def test_a_counter_that_is_too_high_is_no_drift_that_has_to_last(store, event, between_looks):
    between_looks()
    add(store, event, 4)

    assert [drift.seats for drift in drifts_of(store, [event])] == [-4]
    assert drifts(store, event) == {}


@pytest.mark.parametrize("untouched", ["long ago", "never", "a text"])
def test_one_look_is_enough_where_nobody_touched_the_event_lately(
    store, clock, event, between_looks, untouched
):
    slept = between_looks()
    add(store, event, -3)
    stamp = {"long ago": clock() - TOUCHED, "never": None, "a text": "yesterday"}[untouched]
    edit(store, "events", event, updatedAt=stamp)

    assert (drifts(store, event), slept) == ({event: 3}, [])


def test_only_the_events_that_were_touched_are_looked_at_again(
    store, clock, event, between_looks, monkeypatch
):
    quiet = create(store)
    edit(store, "events", quiet, updatedAt=clock() - TOUCHED)
    edit(store, "events", event, updatedAt=clock() - TOUCHED + timedelta(milliseconds=1))
    for each in (event, quiet):
        add(store, each, -2)
    read, scopes = Aggregations.held_seats, []

    def recording(self, scope, **options):
        scopes.append(scope["$in"])
        return read(self, scope, **options)

    monkeypatch.setattr(Aggregations, "held_seats", recording)
    between_looks()

    assert drifts(store, event, quiet) == {event: 2, quiet: 2}
    assert scopes == [[event, quiet]] + [[event]] * READINGS


def test_looks_stop_when_somebody_asked_to_stop(store, event, between_looks):
    slept = between_looks()
    add(store, event, -3)
    answers = iter([True, True, False])
    drifts(store, event, go_on=lambda: next(answers))

    assert len(slept) == 2


def test_an_event_that_is_deleted_between_looks_is_not_corrected(store, event, between_looks):
    add(store, event, -3)
    between_looks(lambda _: delete(store, "events", event))
    report = run_recover(store, settle=SETTLE)

    assert (report.counters_corrected, report.error) == (0, None)
    assert event_of(store, event) is None


def test_an_event_that_cannot_be_read_has_no_drift(store, event, between_looks):
    between_looks()
    edit(store, "events", event, availableSeats="many")

    assert drifts(store, event) == {}


def oversell(scene):
    """A paid booking lost its lock, and its seat was sold again."""
    lose_paid_lock(scene)
    lock(scene.store, scene.event, 98)


# --- correct ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("drift", "at_most", "after"),
    [(-3, 3, 90), (-3, 100, 90), (-3, 1, 88), (3, 0, 90), (200, 0, 90), (-100, 100, 90), (-200, 5, -105)],
)
def test_a_counter_goes_up_by_as_much_as_it_may_and_down_at_once(store, clock, event, drift, at_most, after):
    lock(store, event, 10)
    add(store, event, drift)
    clock.advance(seconds=1)
    done = correct(store, event, clock(), at_most)

    assert (done.corrected, available(store, event)) == (True, after)
    assert event_of(store, event)["updatedAt"] == clock()
    assert f"{90 + drift} seats available, should be 90" in done.violation.message


def test_a_counter_that_is_right_is_left(store, clock, event):
    lock(store, event, 10)
    done = correct(store, event, clock(), 100)

    assert (done.violation, done.corrected, available(store, event)) == (None, False, 90)


def test_a_counter_that_may_not_go_up_is_left_and_not_reported(store, clock, event):
    """Its drift did not last."""
    add(store, event, -3)
    done = correct(store, event, clock(), 0)

    assert (done.violation, done.corrected, available(store, event)) == (None, False, 97)


def test_a_counter_is_not_raised_for_a_reason_against_it_and_lowered_all_the_same(store, clock, event):
    add(store, event, -3)
    done = correct(store, event, clock(), 3, "a lock is gone")
    assert (done.violation.fault.value, done.corrected) == ("counter_in_doubt", False)
    assert "a lock is gone" in done.violation.message
    assert available(store, event) == 97

    edit(store, "events", event, availableSeats=105)
    assert correct(store, event, clock(), 3, "a lock is gone").corrected
    assert available(store, event) == 100


@pytest.mark.parametrize("counter", [100, 1, 0, -1, -20])
def test_an_overbooked_event_has_no_right_counter_and_sells_nothing_more(store, clock, event, counter):
    insert_lock(store, event, 105, due=HOUR)
    edit(store, "events", event, availableSeats=counter)
    done = correct(store, event, clock(), 100)

    assert (done.violation.fault.value, done.corrected) == ("overbooked", False)
    assert available(store, event) == min(counter, 0)


def test_an_overbooked_event_whose_counter_is_0_is_not_touched(store, clock, event):
    insert_lock(store, event, 101, due=HOUR)
    edit(store, "events", event, availableSeats=0)
    clock.advance(hours=1)
    before = event_of(store, event)
    correct(store, event, clock(), 100)

    assert event_of(store, event) == before


@pytest.mark.parametrize("way", ["gone", "unreadable", "a lock that cannot be read"])
def test_an_event_that_cannot_be_read_any_more_is_left(store, clock, event, way):
    add(store, event, -3)
    if way == "gone":
        delete(store, "events", event)
    elif way == "unreadable":
        edit(store, "events", event, totalSeats="?")
    else:
        insert_lock(store, event, "two")
    done = correct(store, event, clock(), 3)

    assert (done.violation, done.corrected) == (None, False)
    assert (event_of(store, event) or {}).get("availableSeats") in (97, None)


@pytest.mark.parametrize(
    "doubt",
    [
        delete_lock_of_paid_and_nothing_else,
        damage_booking,
        lambda scene: insert_booking(scene.store, scene.event, str(scene.held), "ON_HOLD"),
        lambda scene: insert_lock(scene.store, str(scene.event), due=HOUR),
    ],
)
def test_a_counter_is_not_raised_where_seats_of_what_cannot_be_read_may_be_among_them(store, clock, doubt):
    scene = Scene(store)
    doubt(scene)
    scene.counter(-5)
    before = available(store, scene.event)
    done = correct(store, scene.event, clock(), 100)

    assert (done.violation.fault.value, done.corrected) == ("counter_in_doubt", False)
    assert available(store, scene.event) == before


def damage_ended_lock_of_pending(scene: Scene) -> None:
    """Another program ended the lock, and left neither its seats nor its booking as they must be."""
    scene.edit("seatLocks", scene.lock_of_pending, status="CANCELLED", seats="two")


@pytest.mark.parametrize(
    ("doubt", "reason"),
    [
        (damage_ended_lock_of_pending, "a booking waits for its payment, and its lock"),
        (delete_lock_of_paid_and_nothing_else, "it has a live booking whose lock cannot be found"),
        (delete_lock_of_pending, "it has a live booking whose lock cannot be found"),
        (damage_booking, "its status is 'LOST'"),
        (lambda scene: insert_booking(scene.store, scene.event, str(scene.held), "ON_HOLD"), "'ON_HOLD'"),
        (lambda scene: insert_lock(scene.store, str(scene.event), due=HOUR), "not an id"),
        (lambda scene: insert_lock(scene.store, None, due=HOUR), "its seats may belong to any event"),
        (let_documents_expire, "bookings has the TTL index tidy"),
        (oversell, "a paid booking has lost its seats"),
    ],
)
def test_verify_doubts_a_counter_that_is_too_low_for_the_reason_for_which_recovery_leaves_it(
    store, doubt, reason
):
    scene = Scene(store)
    doubt(scene)
    edit(store, "events", scene.event, availableSeats=-1)
    told = [found.message for found in verify(store) if found.fault is Fault.COUNTER_IN_DOUBT]
    steps = run_recover(store).steps

    assert [reason in message for message in told] == [True]
    left = [step.violation.message for step in steps if step.violation.fault is Fault.COUNTER_IN_DOUBT]
    assert left == told
    assert available(store, scene.event) == -1


def test_the_seats_that_a_paid_booking_lost_are_not_raised_while_they_are_sold_again(store, clock, event):
    """The one seat that is left is not for the next buyer: two were paid."""
    held = insert_lock(store, event, 2, status="EXPIRED")
    insert_booking(store, event, held, "CONFIRMED")
    insert_lock(store, event, 99, due=HOUR)
    edit(store, "events", event, availableSeats=0)
    done = correct(store, event, clock(), 100)

    assert (done.violation.fault.value, done.corrected) == ("counter_in_doubt", False)
    assert "a paid booking has lost its seats" in done.violation.message
    assert available(store, event) == 0
    assert [found.fault.value for found in verify(store)] == ["lost_lock", "counter_in_doubt"]


def test_a_counter_is_never_set_across_a_purchase_made_meanwhile(store, clock, event, monkeypatch):
    add(store, event, -3)
    happened = meanwhile(monkeypatch, Events, "set_counter", lambda: lock(store, event, 5), before=True)
    done = correct(store, event, clock(), 3)

    assert happened
    assert (done.corrected, available(store, event)) == (True, 95)


def test_a_correction_that_changes_nothing_does_not_touch_the_event(store, clock, event):
    """Or the next run would wait for writers that are not there."""
    scene = Scene(store)
    delete_lock_of_paid_and_nothing_else(scene)
    clock.advance(hours=1)
    before = everything(store)
    correct(store, scene.event, clock(), 100)
    correct(store, event, clock(), 100)

    assert everything(store) == before


# --- recover ------------------------------------------------------------------------------------------


def test_recovery_waits_for_a_drift_to_last_before_it_raises_a_counter(store, event, between_looks):
    slept = between_looks()
    add(store, event, -3)
    report = run_recover(store, settle=SETTLE)

    assert (available(store, event), report.error, report.counters_corrected) == (100, None, 1)
    assert sum(slept) == SETTLE.total_seconds()


def test_recovery_leaves_a_writer_between_its_two_writes_alone(store, event, between_looks):
    add(store, event, -3)
    between_looks(lambda n: insert_lock(store, event, 3, due=HOUR) if n == READINGS else None)
    report = run_recover(store, settle=SETTLE)

    assert (available(store, event), report.error, report.steps) == (97, None, [])


def test_recovery_raises_by_what_lasted_and_the_next_run_does_the_rest(store, clock, event, between_looks):
    """The writer that is still between its writes at the end loses nothing."""
    add(store, event, -1)

    def buy(n):
        if n == READINGS:
            add(store, event, -2)

    between_looks(buy)
    run_recover(store, settle=SETTLE)
    assert available(store, event) == 98
    insert_lock(store, event, 2, due=HOUR)
    clock.advance(minutes=2)
    report = run_recover(store, settle=SETTLE)

    assert (available(store, event), report.steps) == (98, [])


def test_recovery_waits_for_nobody_to_lower_a_counter(store, event, between_looks):
    slept = between_looks()
    edit(store, "events", event, availableSeats=105)
    run_recover(store, settle=SETTLE)

    assert (available(store, event), slept) == (100, [])


def test_a_recovery_that_is_interrupted_while_a_drift_has_to_last_raises_nothing(store, event, between_looks):
    add(store, event, -3)
    between_looks(lambda n: signal.raise_signal(signal.SIGTERM) if n == 1 else None)
    with pytest.raises(Interrupted):
        run_recover(store, settle=SETTLE)

    assert available(store, event) == 97
    assert store.database.jobLogs.find_one()["status"] == "FAILED"


def test_no_seat_is_on_sale_that_a_paid_booking_of_another_event_has_lost(store, event):
    """The lock was of this event and has ended; its booking names the other one."""
    other = create(store)
    insert_booking(store, other, insert_lock(store, event, 2, status="EXPIRED"), "CONFIRMED")
    insert_lock(store, event, 99, due=HOUR)
    add(store, event, -100)

    run_recover(store)

    assert available(store, event) == 0
