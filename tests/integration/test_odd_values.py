"""What is stored in a counter by whoever stored it: the codec, which reads an event, and the condition of the
writes that move its counter say the same, and no number stops anybody.

Where they differ, a sweep plans what it can never write, and starts over until its patience ends.
"""

import math

import pytest
from bson import Code, Decimal128, Int64
from conftest import available, edit
from scene import HOUR, book, create, event_of, lock, lock_of, states

from seatctl.domain.documents import Event
from seatctl.domain.states import Fault
from seatctl.services import health, lists
from seatctl.services.jobs import JobOptions, expire_bookings, expire_locks, recover
from seatctl.services.lists import Order
from seatctl.services.verify import verify

MISSING = object()
SMALLEST, LARGEST = Int64(-(2**63)), Int64(2**63 - 1)
NUMBERS = [
    10,
    10.0,
    Int64(10),
    0,
    -1,
    -1.0,
    2.5,
    True,
    None,
    MISSING,
    "ten",
    "10",
    [10],
    {"n": 10},
    SMALLEST,
    LARGEST,
    2**31,
    -(2**31),
    1e300,
    math.nan,
    math.inf,
    -math.inf,
    Decimal128("10"),
    Decimal128("NaN"),
    Decimal128("-Infinity"),
    Decimal128("-9E+6144"),
]
DAYS = [MISSING, None, {}, [], False, True, [{}], [None], [[]], {"d": 1}, {"d": {}}, "x", "", 0, math.nan]
TYPES = [
    MISSING,
    None,
    "",
    "single",
    "Multi-Day",
    "multi-day",
    ["multi-day"],
    [],
    {},
    5,
    False,
    Code("multi-day"),
    Code("x"),
]
ODD = [
    *({"dailySeats": value} for value in DAYS),
    *({"eventType": value} for value in TYPES),
    *({"totalSeats": value} for value in NUMBERS),
    *({"availableSeats": value} for value in NUMBERS if value != 10),  # room for one more
    {"totalSeats": -1, "availableSeats": -10},
    {"totalSeats": 0, "availableSeats": -10},
    {"totalSeats": SMALLEST, "availableSeats": SMALLEST},
    {"totalSeats": math.inf, "availableSeats": 5},
    {"eventType": "multi-day", "dailySeats": {"d": 1}},
    {"eventType": "single", "dailySeats": []},
]


def store_odd(store, event, fields):
    """Values as they are, or away."""
    change = {
        "$set": {"availableSeats": 5, **{name: each for name, each in fields.items() if each is not MISSING}}
    }
    if gone := [name for name, each in fields.items() if each is MISSING]:
        change["$unset"] = dict.fromkeys(gone, "")
        change["$set"] = {name: each for name, each in change["$set"].items() if name not in gone}
        change = {name: each for name, each in change.items() if each}
    store.database.events.update_one({"_id": event}, change)


def described(fields):
    return ", ".join(
        f"{name} {'missing' if each is MISSING else repr(each)}" for name, each in fields.items()
    )


@pytest.mark.parametrize("fields", ODD, ids=described)
def test_the_codec_and_the_condition_of_a_write_agree_on_which_events_can_be_read(store, fields):
    event = create(store, 10)
    store_odd(store, event, fields)
    read = store.events.get(event)
    before = event_of(store, event)
    added = store.events.add_seats({event: 1}, store.now())

    assert added == isinstance(read, Event)
    assert (str(event_of(store, event)) == str(before)) == (not added)
    store_odd(store, event, fields)
    taken = store.events.take_seats(event, 1)
    assert (taken is not None) == (isinstance(read, Event) and read.available >= 1)
    assert taken is None or taken.available == read.available - 1


def test_among_the_odd_values_are_some_that_can_be_read_and_some_that_cannot(store):
    """Or the agreement is one about nothing."""
    found = set()
    for fields in ODD:
        event = create(store, 10)
        store_odd(store, event, fields)
        found.add((*sorted(fields), isinstance(store.events.get(event), Event)))

    for field in ("dailySeats", "eventType", "totalSeats", "availableSeats"):
        assert {(field, True), (field, False)} <= found


@pytest.mark.parametrize("number", [SMALLEST, LARGEST, math.nan, -math.inf, Decimal128("-9E+6144")], ids=repr)
@pytest.mark.parametrize(
    "where",
    [
        ("events", "availableSeats"),
        ("events", "totalSeats"),
        ("seatLocks", "seats", "ACTIVE"),
        ("seatLocks", "seats", "CONSUMED"),
        ("seatLocks", "seats", "EXPIRED"),
    ],
    ids=" ".join,
)
def test_no_number_stops_anybody_from_looking_at_the_rest_or_from_returning_its_seats(
    store, clock, where, number
):
    store.init()
    odd, good = create(store, 10), create(store, 10)
    overdue, pair = lock(store, good, 2), book(store, good, 3)
    document = odd if where[0] == "events" else lock(store, odd, 1, ttl=10 * HOUR)
    store.database.command("collMod", where[0], validator={})  # it is older than the validator
    edit(store, where[0], document, **{where[1]: number}, **({"status": where[2]} if where[2:] else {}))
    before = event_of(store, odd)
    clock.advance(hours=1)
    reports = [
        expire_locks(store, JobOptions()),
        expire_bookings(store, JobOptions()),
        recover(store, JobOptions(settle=0 * HOUR)),
    ]
    found = {violation.fault for violation in verify(store)}

    assert (lock_of(store, overdue)["status"], states(store, *pair)) == ("EXPIRED", ("EXPIRED", "EXPIRED"))
    assert (available(store, good), [report.seats for report in reports]) == (10, [2, 3, 0])
    fault = {"events": Fault.DAMAGED_EVENT, "seatLocks": Fault.DAMAGED_LOCK}[where[0]]
    ended = where[2:] == ("EXPIRED",)
    assert found == (set() if ended else {fault})
    assert str(event_of(store, odd)) == str(before) or ended
    assert health.check(store, per_event=True).as_document()
    for order in Order:
        assert {event["_id"] for event in lists.events(store, order)} == {odd, good}
    assert lists.show(store, document).as_document()
