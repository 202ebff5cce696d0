"""The door: what is read as an event, lock or booking, what is not, and why; and ids as people type them."""

from datetime import UTC, datetime

import pytest
from bson import Decimal128, Int64, ObjectId

from seatctl.domain.documents import (
    Booking,
    Event,
    Flaw,
    Kind,
    SeatLock,
    Unreadable,
)
from seatctl.domain.rules import LARGEST_NUMBER
from seatctl.domain.states import BookingStatus, LockStatus
from seatctl.errors import Usage
from seatctl.mongo import codec, ids

NOW = datetime(2027, 1, 1, 12, tzinfo=UTC)
ID, EVENT = ObjectId("a" * 24), ObjectId("e" * 24)
AN_EVENT = {"_id": EVENT, "name": "Concert", "eventDate": NOW, "totalSeats": 10, "availableSeats": 7}
A_LOCK = {"_id": ID, "eventId": EVENT, "userId": "u", "seats": 2, "status": "ACTIVE", "expiresAt": NOW}
A_BOOKING = {
    "_id": ID,
    "event": EVENT,
    "user": "u",
    "seatLockId": ObjectId("b" * 24),
    "status": "PAYMENT_PENDING",
    "paymentExpiresAt": NOW,
}
NO_WHOLE_NUMBERS = [
    None,
    True,
    False,
    "2",
    2.5,
    [2],
    {"n": 2},
    float("inf"),
    float("-inf"),
    float("nan"),
    Decimal128("2"),
    LARGEST_NUMBER + 1,
    -LARGEST_NUMBER - 1,
    2.0**40,
    Int64(2**40),
]


# --- values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (2, 2),
        (2.0, 2),
        (Int64(2), 2),
        (0, 0),
        (-1, -1),
        (-3.0, -3),
        (LARGEST_NUMBER, LARGEST_NUMBER),
        (-LARGEST_NUMBER, -LARGEST_NUMBER),
    ],
)
def test_a_whole_number_is_an_int_or_a_double_with_nothing_behind_the_point(value, number):
    assert (codec.whole_number(value), type(codec.whole_number(value))) == (number, int)


@pytest.mark.parametrize("value", NO_WHOLE_NUMBERS, ids=str)
def test_what_is_no_whole_number(value):
    assert codec.whole_number(value) is None


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (ID, [ID]),
        (str(ID), [ID]),
        ([ID, "x", str(EVENT), None, 5], [ID, EVENT]),
        ("x", []),
        (None, []),
        ({"_id": ID}, []),
        (7, []),
    ],
)
def test_a_reference_names_one_id_also_by_text_or_several_in_a_list(value, found):
    assert codec.ids_in(value) == found
    assert codec.event_named_by(value) == (found[0] if found else None)


def test_a_value_is_described_for_a_message_however_long_it_is():
    assert codec.describe(None) == "missing"
    assert codec.describe("x") == "'x'"
    assert codec.describe("x" * 99) == f"'{'x' * 38}…"


# --- events -------------------------------------------------------------------------------------------


def test_an_event_is_read():
    assert codec.event({**AN_EVENT, "updatedAt": NOW}) == Event(EVENT, "Concert", NOW, 10, 7, NOW)


@pytest.mark.parametrize("available", [0, -1, 11, 3.0])
def test_a_counter_that_is_wrong_can_be_read_all_the_same(available):
    assert codec.event({**AN_EVENT, "availableSeats": available}).available == int(available)


def test_an_event_needs_nothing_but_its_counter():
    read = codec.event({"_id": EVENT, "totalSeats": 1, "availableSeats": 1, "eventDate": "soon"})

    assert read == Event(EVENT, "", None, 1, 1, None)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"totalSeats": 0}, "totalSeats is 0, not a positive whole number"),
        ({"totalSeats": -5}, "totalSeats is -5, not a positive whole number"),
        ({"availableSeats": "7"}, "availableSeats is '7', not a whole number"),
        ({"availableSeats": None}, "availableSeats is missing, not a whole number"),
        *(({"totalSeats": value}, "totalSeats is ") for value in NO_WHOLE_NUMBERS),
        *(({"availableSeats": value}, "availableSeats is ") for value in NO_WHOLE_NUMBERS),
    ],
    ids=str,
)
def test_an_event_whose_counter_cannot_be_used_is_unreadable(fields, reason):
    read = codec.event({**AN_EVENT, **fields})

    assert (read.kind, read.id, read.event, read.flaw) == (Kind.EVENT, EVENT, EVENT, Flaw.DAMAGED)
    assert read.reason.startswith(reason)


@pytest.mark.parametrize("odd", ["E-1", 7, {"n": 1}], ids=str)
def test_an_event_whose_id_is_no_object_id_can_be_named_by_no_lock(odd):
    read = codec.event({**AN_EVENT, "_id": odd})

    assert (read.id, read.event) == (odd, None)
    assert "no lock can refer to it" in read.reason


@pytest.mark.parametrize(
    "fields",
    [
        {"eventType": "multi-day"},
        {"dailySeats": {"2027-01-01": {"total": 5, "available": 5}}},
        {"eventType": "multi-day", "totalSeats": "?"},
        *({"eventType": odd} for odd in (["multi-day"], ["single"], [], {}, 5, 0, False)),
        *({"dailySeats": odd} for odd in ([{}], [None], [5], {"d": None}, "x", "", 0, False, True)),
    ],
    ids=str,
)
def test_an_event_that_counts_by_day_is_left_alone(fields):
    read = codec.event({**AN_EVENT, **fields})

    assert (read.flaw, read.event) == (Flaw.COUNTED_BY_DAY, EVENT)
    assert "counts its seats per day" in str(read)


@pytest.mark.parametrize(
    "fields",
    [
        *({"eventType": ordinary} for ordinary in ("single", "", "Multi-Day", None)),
        *({"dailySeats": nothing} for nothing in ({}, [], None)),
    ],
    ids=str,
)
def test_an_event_of_one_day_is_like_any_other(fields):
    assert isinstance(codec.event({**AN_EVENT, **fields}), Event)


# --- locks --------------------------------------------------------------------------------------------


def test_a_lock_is_read_with_everything_that_is_stored():
    document = {**A_LOCK, "idempotencyKey": "k", "rows": ["A1"]}

    assert codec.lock(document) == SeatLock(ID, EVENT, "u", 2, LockStatus.ACTIVE, NOW, "k", document)


@pytest.mark.parametrize("status", LockStatus)
@pytest.mark.parametrize("deadline", [None, "soon", [NOW]], ids=str)
def test_a_lock_needs_its_deadline_only_while_it_is_active(status, deadline):
    read = codec.lock({**A_LOCK, "status": status.value, "expiresAt": deadline})

    if status is LockStatus.ACTIVE:
        assert read.reason == f"expiresAt is {codec.describe(deadline)}, not a date"
    else:
        assert (read.status, read.expires_at) == (status, None)


@pytest.mark.parametrize("key", [None, "", 5, ["k"]], ids=str)
def test_a_key_that_is_no_text_counts_as_none(key):
    assert codec.lock({**A_LOCK, "idempotencyKey": key}).key is None


@pytest.mark.parametrize("status", LockStatus)
@pytest.mark.parametrize("seats", [0, -1, *NO_WHOLE_NUMBERS], ids=str)
def test_a_lock_without_a_number_of_seats_is_unreadable_in_every_state(status, seats):
    read = codec.lock({**A_LOCK, "seats": seats, "status": status.value})

    assert isinstance(read, Unreadable)
    assert read.reason == f"seats is {codec.describe(seats)}, not a positive whole number"
    assert (read.kind, read.id, read.event) == (Kind.LOCK, ID, EVENT)


@pytest.mark.parametrize("status", [None, "ON_HOLD", "active", ["ACTIVE"], [], 1, {"s": 1}], ids=str)
def test_a_lock_in_no_known_state_is_unreadable(status):
    read = codec.lock({**A_LOCK, "status": status})

    assert read.reason == f"its status is {codec.describe(status)}"


@pytest.mark.parametrize(
    ("event", "named"),
    [(None, None), ("x", None), ({"n": 1}, None), (["x"], None), (str(EVENT), EVENT), ([EVENT], EVENT)],
    ids=str,
)
def test_a_lock_whose_event_is_no_object_id_is_unreadable_and_told_with_the_event_that_it_seems_to_name(
    event, named
):
    read = codec.lock({**A_LOCK, "eventId": event})

    assert (read.reason, read.event) == (f"eventId is {codec.describe(event)}, not an id", named)


def test_a_lock_whose_own_id_is_no_object_id_is_unreadable():
    assert codec.lock({**A_LOCK, "_id": "L-1"}).reason == "its _id is not an ObjectId"


# --- bookings -----------------------------------------------------------------------------------------


def test_a_booking_is_read_with_everything_that_is_stored():
    document = {**A_BOOKING, "invoice": "R-1"}
    lock = A_BOOKING["seatLockId"]

    wanted = Booking(ID, EVENT, "u", lock, BookingStatus.PAYMENT_PENDING, NOW, document)
    assert codec.booking(document) == wanted


@pytest.mark.parametrize("status", BookingStatus)
@pytest.mark.parametrize("deadline", [None, "soon", [NOW]], ids=str)
def test_a_booking_needs_its_deadline_only_while_it_waits(status, deadline):
    read = codec.booking({**A_BOOKING, "status": status.value, "paymentExpiresAt": deadline})

    if status is BookingStatus.PAYMENT_PENDING:
        assert read.reason == f"paymentExpiresAt is {codec.describe(deadline)}, not a date"
    else:
        assert (read.status, read.payment_expires_at) == (status, None)


@pytest.mark.parametrize(
    ("fields", "reason", "event"),
    [
        ({"_id": "B-1"}, "its _id is not an ObjectId", EVENT),
        ({"status": "ON_HOLD"}, "its status is 'ON_HOLD'", EVENT),
        ({"status": ["FAILED"]}, "its status is ['FAILED']", EVENT),
        ({"status": None}, "its status is missing", EVENT),
        ({"event": None}, "event is missing, not an id", None),
        ({"event": str(EVENT)}, f"event is '{EVENT}', not an id", EVENT),
        ({"seatLockId": None}, "seatLockId is missing, not an id", EVENT),
        ({"seatLockId": "L-1"}, "seatLockId is 'L-1', not an id", EVENT),
        ({"seatLockId": [1]}, "seatLockId is [1], not an id", EVENT),
    ],
    ids=str,
)
def test_a_booking_of_which_nobody_can_say_what_it_names_is_unreadable(fields, reason, event):
    read = codec.booking({**A_BOOKING, **fields})

    assert (read.kind, read.reason, read.event) == (Kind.BOOKING, reason, event)
    assert str(read) == f"booking {read.id}: {reason}"


# --- new documents ------------------------------------------------------------------------------------


def test_what_seatctl_writes_it_reads_back():
    event = codec.new_event("Concert", NOW, 10, None, None, NOW)
    lock = codec.new_lock(event["_id"], "u", 2, NOW, "k", NOW)
    read = codec.lock(lock)
    booking = codec.new_booking(read, NOW, NOW)

    assert codec.event(event) == Event(event["_id"], "Concert", NOW, 10, 10, NOW)
    assert (read.seats, read.status, read.key) == (2, LockStatus.ACTIVE, "k")
    assert codec.booking(booking).lock == lock["_id"]
    assert "description" not in event
    assert codec.new_event("Concert", NOW, 10, "x", None, NOW)["description"] == "x"


def test_a_new_id_carries_the_servers_time_and_not_the_hosts_and_is_made_once():
    event = codec.new_event("Concert", NOW, 10, None, None, NOW)
    lock = codec.new_lock(event["_id"], "u", 2, NOW, "k", NOW)
    block = codec.new_block(event["_id"], 2, None, NOW)
    booking = codec.new_booking(codec.lock(lock), NOW, NOW)
    made = [document["_id"] for document in (event, lock, block, booking)]

    assert {each.generation_time for each in made} == {NOW}
    assert len({ids.new_id(NOW) for _ in range(1_000)} | set(made)) == 1_004


# --- ids ----------------------------------------------------------------------------------------------

HEX = "65f0aBcD00000000000000e1"


@pytest.mark.parametrize(
    "text", [HEX, f" {HEX} ", f'"{HEX}"', f"'{HEX}'", f'ObjectId("{HEX}")', f"ObjectId( '{HEX}' )"]
)
def test_an_id_is_accepted_as_printed_quoted_or_as_an_object_id(text):
    assert ids.parse_document_id(text) == ObjectId(HEX)


@pytest.mark.parametrize("text", ["", "not-an-id", HEX[:-1], HEX + "0", "z" * 24, "x" * 999])
def test_a_text_that_is_no_id_is_a_usage_error(text):
    with pytest.raises(Usage, match="is not an id; an id has 24 hexadecimal digits"):
        ids.parse_document_id(text)


def test_a_user_of_24_hex_digits_is_an_object_id_and_any_other_a_text():
    assert ids.parse_user(HEX) == ObjectId(HEX)
    for user in ("alice", HEX[:-1], "zz" * 12):
        assert ids.parse_user(f" {user} ") == user
    assert ids.parse_user(f" {HEX}") == ObjectId(HEX)


@pytest.mark.parametrize("text", ["", "   ", "x" * 201, "a\x00b", "a\nb", "\x1b[31mred"])
def test_a_user_that_is_no_text_is_a_usage_error(text):
    with pytest.raises(Usage, match="user"):
        ids.parse_user(text)


def test_no_key_is_made_twice():
    keys = {ids.new_key() for _ in range(100)}

    assert len(keys) == 100
    assert all(key.startswith("seatctl-") for key in keys)
