"""How locks, bookings and counters are judged, without a database."""

import pytest
from bson import ObjectId

from seatctl.domain.documents import Booking, Event, Flaw, Kind, SeatLock, Unreadable
from seatctl.domain.faults import EXPLANATIONS
from seatctl.domain.states import HOLDING, LIVE, BookingStatus, Fault, LockStatus
from seatctl.services import violations
from seatctl.services.verify import once
from seatctl.services.violations import Violation

EVENT, LOCK = ObjectId("e" * 24), ObjectId("a" * 24)
ENDED = [BookingStatus.FAILED, BookingStatus.EXPIRED, BookingStatus.CANCELLED]


def lock(status=LockStatus.ACTIVE, event=EVENT, seats=2):
    return SeatLock(LOCK, event, "u", seats, LockStatus(status), None, None, {})


def booking(status="PAYMENT_PENDING", event=EVENT, number=1):
    return Booking(ObjectId(f"{number:024x}"), event, "u", LOCK, BookingStatus(status), None, {})


def unreadable(kind=Kind.BOOKING, number=9, flaw=Flaw.DAMAGED):
    wrong = ObjectId(f"{number:024x}"), "its status is 'ON_HOLD'"
    return Unreadable(kind, *wrong, EVENT, flaw, field="status", value="ON_HOLD")


def judged(held, *bookings):
    return [violation.fault for violation in violations.judge_lock(held, bookings)]


# --- a lock and one booking ---------------------------------------------------------------------------


@pytest.mark.parametrize("status", BookingStatus)
def test_an_active_lock_and_its_booking(status):
    wanted = {
        BookingStatus.CONFIRMED: [Fault.UNSETTLED_LOCK],
        **{ended: [Fault.SEATS_NOT_RETURNED] for ended in ENDED},
    }
    assert judged(lock(), booking(status)) == wanted.get(status, [])


@pytest.mark.parametrize("status", BookingStatus)
def test_a_consumed_lock_needs_a_confirmed_booking(status):
    wanted = [] if status is BookingStatus.CONFIRMED else [Fault.CONSUMED_WITHOUT_BOOKING]
    assert judged(lock("CONSUMED"), booking(status)) == wanted


def test_a_lock_without_a_booking():
    assert judged(lock()) == []
    assert judged(lock("CONSUMED")) == [Fault.CONSUMED_WITHOUT_BOOKING]


@pytest.mark.parametrize("status", BookingStatus)
@pytest.mark.parametrize("held", [LockStatus.EXPIRED, LockStatus.CANCELLED, None])
def test_a_booking_whose_lock_holds_nothing_is_judged_from_its_own_side(held, status):
    missing = {"PAYMENT_PENDING": Fault.BOOKING_WITHOUT_LOCK, "CONFIRMED": Fault.CONFIRMED_WITHOUT_LOCK}
    ended = {"PAYMENT_PENDING": Fault.BOOKING_WITHOUT_SEATS, "CONFIRMED": Fault.LOST_LOCK}
    found = list(violations.judge_booking(booking(status), None if held is None else lock(held)))

    wanted = (missing if held is None else ended).get(status)
    assert [violation.fault for violation in found] == ([] if wanted is None else [wanted])
    for violation in found:
        state = "missing" if held is None else held
        assert violation.message.endswith(f"is {status} but its lock {LOCK} is {state}")


@pytest.mark.parametrize("status", BookingStatus)
@pytest.mark.parametrize("held", sorted(HOLDING))
def test_a_booking_whose_lock_holds_seats_is_judged_with_the_lock(held, status):
    assert list(violations.judge_booking(booking(status), lock(held))) == []


def test_a_booking_whose_lock_cannot_be_read_names_the_lock():
    (found,) = violations.judge_booking(booking(), unreadable(Kind.LOCK))

    assert (found.fault, found.lock) == (Fault.DAMAGED_LOCK, unreadable().id)


# --- several bookings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("ended", ENDED)
@pytest.mark.parametrize("live", sorted(LIVE))
def test_seats_that_a_live_booking_keeps_are_not_called_unreturned(ended, live):
    found = judged(lock(), booking(ended), booking(live, number=2))

    assert Fault.SEATS_NOT_RETURNED not in found
    assert found[0] is Fault.SEVERAL_BOOKINGS
    assert (Fault.UNSETTLED_LOCK in found) == (live is BookingStatus.CONFIRMED)


@pytest.mark.parametrize("ended", ENDED)
def test_seats_that_a_booking_keeps_which_cannot_be_read_are_not_called_unreturned(ended):
    assert judged(lock(), booking(ended), unreadable()) == [Fault.SEVERAL_BOOKINGS, Fault.DAMAGED_BOOKING]


def test_two_ended_bookings_leave_seats_unreturned():
    found = judged(lock(), booking("FAILED"), booking("EXPIRED", number=2))

    assert found == [Fault.SEVERAL_BOOKINGS, Fault.SEATS_NOT_RETURNED, Fault.SEATS_NOT_RETURNED]


def test_two_paid_bookings_of_a_consumed_lock_are_several():
    assert judged(lock("CONSUMED"), booking("CONFIRMED"), booking("CONFIRMED", number=2)) == [
        Fault.SEVERAL_BOOKINGS
    ]


def test_a_consumed_lock_among_several_bookings_needs_one_that_is_paid():
    assert judged(lock("CONSUMED"), booking("CONFIRMED"), booking("FAILED", number=2)) == [
        Fault.SEVERAL_BOOKINGS
    ]
    assert judged(lock("CONSUMED"), booking(), booking("FAILED", number=2)) == [
        Fault.SEVERAL_BOOKINGS,
        Fault.CONSUMED_WITHOUT_BOOKING,
    ]


@pytest.mark.parametrize("live", sorted(LIVE))
def test_an_initiated_booking_beside_a_live_one_breaks_nothing(live):
    """It holds nothing: at most one live booking a lock is the promise."""
    held = lock("CONSUMED" if live is BookingStatus.CONFIRMED else "ACTIVE")

    assert judged(held, booking("INITIATED"), booking(live, number=2)) == []


@pytest.mark.parametrize("status", BookingStatus)
def test_a_live_booking_names_the_event_whose_seats_its_lock_holds(status):
    other = ObjectId("f" * 24)
    held = lock("CONSUMED" if status is BookingStatus.CONFIRMED else "ACTIVE")
    found = list(violations.judge_lock(held, [booking(status, event=other)]))

    elsewhere = [violation for violation in found if violation.fault is Fault.OTHER_EVENT]
    assert len(elsewhere) == (status in LIVE)
    for violation in elsewhere:
        assert violation.event == other
        assert f"names event {other}, but its lock {LOCK} holds seats of event {EVENT}" in violation.message


# --- orphans, counters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "fault"),
    [
        (lock("ACTIVE"), Fault.ORPHAN_LOCK),
        (lock("CONSUMED"), Fault.ORPHAN_SOLD),
        (booking("PAYMENT_PENDING"), Fault.ORPHAN_BOOKING),
        (booking("CONFIRMED"), Fault.ORPHAN_SOLD),
    ],
)
def test_what_belongs_to_no_event_and_was_not_sold_can_be_ended(document, fault):
    found = violations.orphan(document)

    assert (found.fault, found.event, found.lock) == (fault, EVENT, LOCK)
    assert found.is_for_recovery == (fault is not Fault.ORPHAN_SOLD)
    assert f"({document.status}) belongs to event {EVENT}, which does not exist" in found.message


@pytest.mark.parametrize(
    ("available", "held", "fault", "says"),
    [
        (7, 3, None, ""),
        (10, 0, None, ""),
        (0, 10, None, ""),
        (6, 3, Fault.COUNTER_DRIFT, "6 seats available, should be 7 (10 in all, 3 held)"),
        (8, 3, Fault.COUNTER_DRIFT, "8 seats available, should be 7 (10 in all, 3 held)"),
        (-1, 3, Fault.COUNTER_DRIFT, "-1 seats available, should be 7"),
        (0, 11, Fault.OVERBOOKED, "locks hold 11 of 10 seats, 1 too many"),
        (-1, 11, Fault.OVERBOOKED, "locks hold 11 of 10 seats, 1 too many"),
    ],
)
def test_a_counter_is_judged_by_what_the_locks_hold(available, held, fault, says):
    found = violations.judge_counter(Event(EVENT, "Concert", None, 10, available, None), held)

    assert (found and found.fault) == fault
    assert says in (found.message if found else "")


def test_a_counter_in_doubt_is_told_with_its_numbers_and_the_reason_and_is_not_for_recovery():
    drift = violations.judge_counter(Event(EVENT, "Concert", None, 10, 6, None), 3)
    doubted = violations.counter_in_doubt(drift, "a lock is gone")

    assert (doubted.fault, doubted.event, doubted.is_for_recovery) == (Fault.COUNTER_IN_DOUBT, EVENT, False)
    assert "should be 7" in doubted.message
    assert "but a lock is gone: raising it could sell those seats again" in doubted.message


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        (Kind.EVENT, Fault.DAMAGED_EVENT),
        (Kind.LOCK, Fault.DAMAGED_LOCK),
        (Kind.BOOKING, Fault.DAMAGED_BOOKING),
    ],
)
def test_what_cannot_be_read_is_named_by_its_kind_and_shown(kind, fault):
    found = violations.unreadable(unreadable(kind))

    assert found.fault is fault
    collection = {Kind.EVENT: "events", Kind.LOCK: "seatLocks", Kind.BOOKING: "bookings"}[kind]
    assert found.remedy == (
        f"correct the field in mongosh: db.{collection}.updateOne("
        f'{{_id: ObjectId("{unreadable().id}"), "status": "ON_HOLD"}}, {{$set: {{"status": VALUE}}}}), '
        f"then seatctl recover; seatctl explain {fault}"
    )
    assert found.message == f"{kind} {unreadable().id}: its status is 'ON_HOLD'"
    assert found.event == (unreadable().id if kind is Kind.EVENT else EVENT)


def test_an_event_counted_by_day_is_its_own_fault():
    found = violations.counted_by_day(unreadable(Kind.EVENT, flaw=Flaw.COUNTED_BY_DAY))

    assert (found.fault, found.is_for_recovery) == (Fault.UNKNOWN_COUNTING, False)


# --- a violation ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", Fault)
def test_the_remedy_is_recover_where_a_program_may_repair_and_else_what_a_person_can_decide(fault):
    found = Violation(fault, "x", EVENT, LOCK, "B")
    unrepairable = Violation(fault, "x", EVENT, LOCK, "B", repairable=False)

    if EXPLANATIONS[fault].repairable:
        assert found.remedy == "seatctl recover"
    for remedy in unrepairable.remedies:
        assert str(remedy) in unrepairable.remedy
        assert not [
            name for name in ("EVENT_ID", "LOCK_ID", " BOOKING_ID") if f" {name.strip()}" in str(remedy)
        ]
    assert unrepairable.remedy.endswith(f"seatctl explain {fault}")
    assert "seatctl show" not in unrepairable.remedy


def test_what_needs_a_booking_is_left_out_where_the_violation_has_none():
    sold_lock = Violation(Fault.ORPHAN_SOLD, "x", EVENT, LOCK)
    paid_booking = Violation(Fault.ORPHAN_SOLD, "x", EVENT, LOCK, "B")

    assert [one.commands for one in sold_lock.remedies] == [(f"seatctl cancel {LOCK}",)]
    assert paid_booking.remedies[0].commands == ("seatctl cancel B",)


def test_which_of_several_is_the_other_one_is_left_to_the_person():
    assert "OTHER_BOOKING_ID" in Violation(Fault.SEVERAL_BOOKINGS, "x", EVENT, LOCK).remedy
    assert "OTHER_LOCK_ID" in Violation(Fault.DUPLICATE_KEY, "x", EVENT, LOCK).remedy


def test_the_smallest_capacity_is_filled_in():
    found = violations.judge_counter(Event(EVENT, "Concert", None, 10, 0, None), 13)

    assert found is not None
    assert f"seatctl resize {EVENT} --seats 13" in found.remedy


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("totalSeats", None, '"totalSeats": null}, {$set: {"totalSeats": VALUE}}'),
        ("availableSeats", "many", '"availableSeats": "many"}, {$set: {"availableSeats": 0}}'),
        ("expiresAt", 7, '"expiresAt": 7}, {$set: {"expiresAt": new Date()}}'),
        ("eventId", [EVENT], f'"eventId": [ObjectId("{EVENT}")]}}, {{$set: {{"eventId": VALUE}}}}'),
        ("seats", {"a": 1}, '"seats": {$exists: true}}, {$set: {"seats": VALUE}}'),
    ],
)
def test_the_line_for_mongosh_names_what_is_there_now(field, value, line):
    damage = Unreadable(Kind.LOCK, LOCK, "x", EVENT, field=field, value=value)

    assert line in violations.unreadable(damage).remedy


def test_a_document_whose_id_is_wrong_is_copied_under_an_id_of_its_own():
    damage = Unreadable(Kind.EVENT, "gala", "x", None, field="_id", value="gala")

    assert violations.unreadable(damage).remedies[0].commands == (
        'db.events.insertOne({...db.events.findOne({_id: "gala"}), _id: ObjectId()})',
        'db.events.deleteOne({_id: "gala"})',
    )


def test_a_remedy_can_be_pasted_whatever_the_name_of_the_index():
    found = Violation(Fault.TTL_INDEX, "x", index='events.a."b"\\c')
    assert found.remedies[0].commands == (r"""db.events.dropIndex("a.\"b\"\\c")""",)


def test_the_document_of_a_violation_has_the_ids_that_there_are():
    assert Violation(Fault.TTL_INDEX, "x", index="events.tidy").as_document() == {
        "fault": "ttl_index",
        "invariant": EXPLANATIONS[Fault.TTL_INDEX].invariant,
        "message": "x",
        "index": "events.tidy",
        "remedy": 'drop it in mongosh: db.events.dropIndex("tidy"); the other program cannot be changed: '
        "seatctl adopt; seatctl explain ttl_index",
    }
    full = Violation(Fault.LOST_LOCK, "x", EVENT, LOCK, "B").as_document()
    assert (full["event"], full["lock"], full["booking"]) == (EVENT, LOCK, "B")


def test_one_thing_met_in_several_ways_is_told_once_whatever_the_numbers_in_it():
    drifts = [Violation(Fault.COUNTER_DRIFT, f"{number} seats", EVENT) for number in (1, 2)]
    other = Violation(Fault.COUNTER_DRIFT, "1 seats", LOCK)
    by_text = Violation(Fault.COUNTER_DRIFT, "1 seats", str(EVENT))

    assert list(once([*drifts, other, by_text, drifts[0]])) == [drifts[0], other, by_text]
