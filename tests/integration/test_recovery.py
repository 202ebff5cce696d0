"""What `recover` heals, in which order, and what it leaves to a person or to the next run."""

from collections import Counter
from datetime import timedelta

import pytest
from bson import ObjectId
from conftest import available, edit, everything

from seatctl.domain.model import JobType
from seatctl.services import audit as findings
from seatctl.services import expiry, recovery, rehearsal
from seatctl.services import jobs as joblog
from seatctl.services import sales as booking
from seatctl.services.seats import Terms

NOWHERE = ObjectId("0" * 24)
A_MINUTE = timedelta(minutes=1)


@pytest.fixture
def event(store):
    """An event with a hundred seats."""
    return booking.create_event(store, "Concert", 100, timedelta(days=30)).document["_id"]


def recover(store, **options):
    """One run; its entry."""
    entry, _ = joblog.run(store, JobType.RECOVERY, lambda run: recovery.recover(store, run), **options)
    return entry


def settle(store, event, clock, lock_status, booking_status, **lock_fields):
    """A lock of two seats and its booking in these states, the counter as invariant 1 has it, and the
    event quiet for long enough that a standalone may correct its counter."""
    lock = booking.lock(store, event, "u", 2, ttl=timedelta(hours=2)).document["_id"]
    booked = booking.confirm(store, lock, payment_ttl=timedelta(hours=2)).document["_id"]
    edit(store, "seatLocks", lock, status=lock_status, **lock_fields)
    edit(store, "bookings", booked, status=booking_status)
    if lock_status == "EXPIRED":
        add(store, event, 2)
    clock.advance(minutes=2)
    return lock, booked


def add(store, event, seats):
    store.database.events.update_one({"_id": event}, {"$inc": {"availableSeats": seats}})


def overdue_locks(store, event, clock, number):
    """Locks written straight into the database, far past their deadline: no key, no booking."""
    foreign = {"eventId": event, "userId": "u", "seats": 1, "status": "ACTIVE"}
    deadline = clock() - timedelta(days=1)
    many = [{**foreign, "expiresAt": deadline} for _ in range(number)]
    return store.database.seatLocks.insert_many(many).inserted_ids


def state(store, event, lock, booked):
    """What the commands would say: lock, booking, counter."""
    return store.lock(lock)["status"], store.booking(booked)["status"], available(store, event)


def outcomes(entry):
    return [(step["fault"], step["outcome"]) for step in entry["details"]["findings"]]


def sums(entry):
    """Locks, bookings and seats given back, and everything that was touched."""
    wanted = ("locksExpired", "bookingsExpired", "seatsRestored", "recordsProcessed")
    return tuple(entry["details"][name] for name in wanted)


def assert_consistent(store):
    assert findings.find_all(store) == []


# --- the scenario, and nothing to do ---------------------------------------------------------------


def test_recovery_scenario(store, clock, event):
    """Seven overdue locks on an event at 93 of 100: all EXPIRED, seven seats back, one entry."""
    locks = overdue_locks(store, event, clock, 7)
    add(store, event, -7)
    entry = recover(store)

    assert [store.lock(lock)["status"] for lock in locks] == ["EXPIRED"] * 7
    assert [store.lock(lock)["oldStatus"] for lock in locks] == ["ACTIVE"] * 7
    assert available(store, event) == 100
    assert sums(entry) == (7, 0, 7, 7)
    assert entry["details"]["resourcesRecovered"] == 7
    assert [run["status"] for run in store.database.jobLogs.find({"jobType": "RECOVERY"})] == ["SUCCESS"]
    assert_consistent(store)


@pytest.mark.parametrize("counter", [100, 97])
def test_recovery_where_the_counter_never_went_down(store, clock, event, counter):
    """The same seven locks on a counter that was never lowered, or not by all of them, end at 100, never
    above."""
    overdue_locks(store, event, clock, 7)
    add(store, event, counter - 100)
    clock.advance(minutes=2)
    entry = recover(store)

    assert available(store, event) == 100
    assert entry["status"] == "SUCCESS"
    assert entry["details"]["locksExpired"] == 7
    assert_consistent(store)


def test_healthy_database(store, clock, event):
    """On a healthy database recovery changes nothing but its own log entry."""
    for lock_status, booking_status in (
        ("ACTIVE", "PAYMENT_PENDING"),
        ("CONSUMED", "CONFIRMED"),
        ("EXPIRED", "FAILED"),
        ("EXPIRED", "EXPIRED"),
    ):
        settle(store, event, clock, lock_status, booking_status)
    booking.lock(store, event, "u", 3)
    before = everything(store, "jobLogs")
    entries = [recover(store), recover(store)]

    assert before == everything(store, "jobLogs")
    assert [sums(entry) for entry in entries] == [(0, 0, 0, 0)] * 2
    assert [outcomes(entry) for entry in entries] == [[]] * 2
    assert store.database.jobLogs.count_documents({}) == 2


def test_twice(store, clock, event):
    """Recovering twice is recovering once."""
    overdue_locks(store, event, clock, 7)
    settle(store, event, clock, "ACTIVE", "CONFIRMED")
    settle(store, event, clock, "EXPIRED", "PAYMENT_PENDING")
    recover(store)
    before = everything(store, "jobLogs")

    assert sums(recover(store)) == (0, 0, 0, 0)
    assert before == everything(store, "jobLogs")


# --- pairs that disagree -----------------------------------------------------------------------------


def test_paid_and_active(store, clock, event):
    """A CONFIRMED booking's ACTIVE lock becomes CONSUMED; the seats stay sold."""
    lock, booked = settle(store, event, clock, "ACTIVE", "CONFIRMED")
    entry = recover(store)

    assert state(store, event, lock, booked) == ("CONSUMED", "CONFIRMED", 98)
    assert store.lock(lock)["oldStatus"] == "ACTIVE"
    assert outcomes(entry) == [("unsettled_lock", "lock CONSUMED")]
    assert sums(entry) == (0, 0, 0, 1)
    assert_consistent(store)


def test_paid_and_expired(store, clock, event):
    """A CONFIRMED booking's EXPIRED lock takes its seats again and becomes CONSUMED."""
    lock, booked = settle(store, event, clock, "EXPIRED", "CONFIRMED")
    entry = recover(store)

    assert state(store, event, lock, booked) == ("CONSUMED", "CONFIRMED", 98)
    assert store.lock(lock)["oldStatus"] == "EXPIRED"
    assert outcomes(entry) == [("lost_lock", "2 seats taken again, lock CONSUMED")]
    assert_consistent(store)


def test_oversold(store, clock, event):
    """When the event no longer has those seats, nothing is changed and a person is told."""
    lock, booked = settle(store, event, clock, "EXPIRED", "CONFIRMED")
    booking.lock(store, event, "u", 99, ttl=timedelta(hours=2))
    clock.advance(minutes=2)
    before = everything(store, "jobLogs")
    entry = recover(store)

    assert before == everything(store, "jobLogs")
    assert state(store, event, lock, booked) == ("EXPIRED", "CONFIRMED", 1)
    assert outcomes(entry) == [("lost_lock", "oversold: the event no longer has the seats; needs a person")]
    (finding,) = findings.find_all(store)
    assert finding.remedy.startswith("seatctl show")
    assert entry["status"] == "FAILED"
    assert "needs a person" in entry["details"]["findings"][0]["outcome"]


def test_paid_and_expired_under_a_low_counter(store, clock, event):
    """A counter that is too low does not make an event oversold: it is corrected, then gives the seats."""
    lock, booked = settle(store, event, clock, "EXPIRED", "CONFIRMED")
    add(store, event, -99)
    entry = recover(store)

    assert state(store, event, lock, booked) == ("CONSUMED", "CONFIRMED", 98)
    assert entry["status"] == "SUCCESS"
    assert_consistent(store)


@pytest.mark.parametrize("ended", ["FAILED", "EXPIRED"])
def test_ended_and_active(store, clock, event, ended):
    """A booking that ended gives its ACTIVE lock's seats back."""
    lock, booked = settle(store, event, clock, "ACTIVE", ended)
    entry = recover(store)

    assert state(store, event, lock, booked) == ("EXPIRED", ended, 100)
    assert store.lock(lock)["oldStatus"] == "ACTIVE"
    assert outcomes(entry) == [("seats_not_returned", "lock EXPIRED, 2 seats back")]
    assert sums(entry) == (1, 0, 2, 1)
    assert_consistent(store)


def test_ended_and_active_on_a_full_counter(store, clock, event):
    """Where the counter cannot take the seats it is left to the last step, and nothing is clamped."""
    lock, booked = settle(store, event, clock, "ACTIVE", "FAILED")
    add(store, event, 2)
    recover(store)

    assert state(store, event, lock, booked) == ("EXPIRED", "FAILED", 100)
    assert_consistent(store)


@pytest.mark.parametrize("lost", ["EXPIRED", "missing"])
def test_waiting_without_seats(store, clock, event, lost):
    """A waiting booking whose lock is EXPIRED or missing becomes EXPIRED and gives no seats."""
    lock, booked = settle(store, event, clock, "EXPIRED", "PAYMENT_PENDING")
    if lost == "missing":
        store.database.seatLocks.delete_one({"_id": lock})
    entry = recover(store)

    assert store.booking(booked)["status"] == "EXPIRED"
    assert available(store, event) == 100
    assert outcomes(entry) == [("booking_without_seats", "booking EXPIRED")]
    assert sums(entry) == (0, 1, 0, 1)
    assert_consistent(store)


@pytest.mark.parametrize("booking_status", ["PAYMENT_PENDING", "FAILED", "EXPIRED", "none"])
def test_sold_without_payment(store, clock, event, booking_status):
    """A CONSUMED lock without a CONFIRMED booking is reported and never freed: somebody may have paid."""
    _, booked = settle(store, event, clock, "CONSUMED", booking_status)
    if booking_status == "none":
        store.database.bookings.delete_one({"_id": booked})
    before = everything(store, "jobLogs")
    entry = recover(store)

    assert before == everything(store, "jobLogs")
    assert ("consumed_without_booking", "needs a person") in outcomes(entry)
    assert entry["status"] == "FAILED"


def test_orphans(store, clock, event):
    """Locks and bookings of an event that does not exist become EXPIRED and are reported as orphans."""
    lock, booked = settle(store, event, clock, "ACTIVE", "PAYMENT_PENDING")
    store.database.events.delete_one({"_id": event})
    entry = recover(store)

    assert store.lock(lock)["status"] == store.booking(booked)["status"] == "EXPIRED"
    assert outcomes(entry) == [
        ("orphan_lock", f"lock EXPIRED with booking {booked}, its event does not exist")
    ]
    assert sums(entry) == (1, 1, 0, 2)
    assert entry["status"] == "SUCCESS"
    assert_consistent(store)


def test_overdue_orphans(store, clock, event):
    """So do overdue ones, which the sweeps set aside."""
    (alone,) = overdue_locks(store, event, clock, 1)
    lock, booked = settle(store, event, clock, "ACTIVE", "PAYMENT_PENDING")
    store.database.events.delete_one({"_id": event})
    clock.advance(hours=3)
    entry = recover(store)

    assert {store.lock(each)["status"] for each in (lock, alone)} == {"EXPIRED"}
    assert store.booking(booked)["status"] == "EXPIRED"
    assert {fault for fault, _ in outcomes(entry)} == {"orphan_lock", "orphan_booking"}
    assert entry["status"] == "SUCCESS"
    assert_consistent(store)


@pytest.mark.parametrize("bookings", [1, 2])
def test_orphan_lock_under_bookings_of_a_known_event(store, clock, event, bookings):
    """One run ends an ACTIVE lock of no event together with whatever waits for its payment, also where
    that names an event that exists."""
    lock, booked = settle(store, event, clock, "ACTIVE", "PAYMENT_PENDING")
    store.database.bookings.drop_indexes()
    twins = [{**store.booking(booked), "_id": ObjectId()} for _ in range(bookings - 1)]
    for twin in twins:
        store.database.bookings.insert_one(twin)
    edit(store, "seatLocks", lock, eventId=NOWHERE)
    add(store, event, 2)
    entry = recover(store)

    assert state(store, event, lock, booked) == ("EXPIRED", "EXPIRED", 100)
    assert {store.booking(twin["_id"])["status"] for twin in twins} <= {"EXPIRED"}
    assert ("orphan_lock", "needs a person") not in outcomes(entry)
    assert sums(entry) == (1, bookings, 0, 1 + bookings)
    assert {finding.fault for finding in findings.find_all(store)} <= {findings.Fault.SEVERAL_BOOKINGS}


def test_orphan_lock_under_a_paid_booking(store, clock, event):
    """An ACTIVE lock of no event that was paid for becomes CONSUMED and is reported in the same run."""
    lock, booked = settle(store, event, clock, "ACTIVE", "CONFIRMED")
    edit(store, "seatLocks", lock, eventId=NOWHERE)
    add(store, event, 2)
    entry = recover(store)

    assert state(store, event, lock, booked) == ("CONSUMED", "CONFIRMED", 100)
    assert ("orphan_lock", "needs a person") in outcomes(entry)


def test_orphan_lock_under_a_booking_in_several_states(replica_store, clock):
    """A lock of no event whose booking may be paid, having a list for a status, is left to a person, and
    the rest is healed."""
    event = booking.create_event(replica_store, "Concert", 100, timedelta(days=30)).document["_id"]
    lock, booked = settle(replica_store, event, clock, "ACTIVE", ["FAILED", "CONFIRMED"])
    edit(replica_store, "seatLocks", lock, eventId=NOWHERE)
    entry = recover(replica_store)

    assert state(replica_store, event, lock, booked) == ("ACTIVE", ["FAILED", "CONFIRMED"], 100)
    assert outcomes(entry) == [
        ("orphan_lock", "needs a person"),
        ("damaged_booking", "needs a person"),
        ("counter_drift", "corrected"),
    ]


def test_orphan_lock_whose_payment_arrives_meanwhile(store, clock, event, monkeypatch):
    """A booking that is paid between the look and the repair keeps its lock, whatever the event."""
    lock, booked = settle(store, event, clock, "ACTIVE", "PAYMENT_PENDING")
    edit(store, "seatLocks", lock, eventId=NOWHERE)
    add(store, event, 2)
    look, calls = store.live_bookings_of, iter(range(100))

    def paid_meanwhile(*arguments):
        found = look(*arguments)
        if not next(calls):
            edit(store, "bookings", booked, status="CONFIRMED")
        return found

    monkeypatch.setattr(store, "live_bookings_of", paid_meanwhile)
    entry = recover(store)

    assert state(store, event, lock, booked) == ("ACTIVE", "CONFIRMED", 100)
    assert outcomes(entry) == [("orphan_lock", "needs a person")]


def test_sold_orphan(store, clock, event):
    """What was paid for on an event that does not exist is never expired by a program."""
    lock, booked = settle(store, event, clock, "CONSUMED", "CONFIRMED")
    store.database.events.delete_one({"_id": event})
    entry = recover(store)

    assert (store.lock(lock)["status"], store.booking(booked)["status"]) == ("CONSUMED", "CONFIRMED")
    assert outcomes(entry) == [("orphan_sold", "needs a person")] * 2


@pytest.mark.parametrize(("lock_status", "booking_status"), [("EXPIRED", "CONFIRMED"), ("ACTIVE", "FAILED")])
def test_damaged_lock_of_a_pair(store, clock, event, lock_status, booking_status):
    """Seats that cannot be read are neither taken again nor given back by a program."""
    lock, _ = settle(store, event, clock, lock_status, booking_status, seats=0.5)
    before = store.lock(lock)
    entry = recover(store)

    assert before == store.lock(lock)
    assert entry["status"] == "FAILED"


def test_paid_and_expired_of_no_event(store, clock, event):
    """A CONFIRMED booking whose EXPIRED lock names no event is reported, and the rest is healed."""
    lock, _ = settle(store, event, clock, "EXPIRED", "CONFIRMED")
    store.database.seatLocks.update_one({"_id": lock}, {"$unset": {"eventId": 1}})
    other, booked = settle(store, event, clock, "ACTIVE", "CONFIRMED")
    entry = recover(store)

    assert state(store, event, other, booked)[0] == "CONSUMED"
    assert entry["status"] == "FAILED"


# --- order, and everything at once --------------------------------------------------------------------


def test_order(store, clock, event):
    """Sweeps come first, then pairs, then counters: seats that come back serve a paid booking whose lock
    had lost them, and the counter is judged last."""
    lock, booked = settle(store, event, clock, "EXPIRED", "CONFIRMED")
    booking.lock(store, event, "u", 100, ttl=timedelta(minutes=1))
    clock.advance(minutes=2)
    entry = recover(store)

    assert state(store, event, lock, booked) == ("CONSUMED", "CONFIRMED", 98)
    assert (entry["status"], outcomes(entry)) == (
        "SUCCESS",
        [("lost_lock", "2 seats taken again, lock CONSUMED")],
    )
    assert_consistent(store)


def test_broken_item(store, clock, event):
    """A broken lock is set aside and named; everything else is healed."""
    broken, *_ = overdue_locks(store, event, clock, 3)
    add(store, event, -3)
    edit(store, "seatLocks", broken, seats="x")
    lock, booked = settle(store, event, clock, "ACTIVE", "CONFIRMED")
    entry = recover(store)

    assert store.lock(lock)["status"] == "CONSUMED"
    assert entry["details"]["locksExpired"] == 2
    assert [item["id"] for item in entry["details"]["setAside"]] == [broken]
    assert str(broken) in entry["error"]
    assert store.booking(booked)["status"] == "CONFIRMED"


# --- counters ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drift", [-3, 3, 200])
def test_counter(store, clock, event, drift):
    """A counter that drifted is set right and reported with what it was and what it should be."""
    booking.lock(store, event, "u", 10, ttl=timedelta(hours=1))
    add(store, event, drift)
    clock.advance(minutes=2)
    entry = recover(store)
    (step,) = entry["details"]["findings"]

    assert available(store, event) == 90
    assert (step["fault"], step["outcome"]) == ("counter_drift", "corrected")
    assert f"{90 + drift} seats available, should be 90" in step["message"]
    assert sums(entry) == (0, 0, 0, 1)
    assert int is type(available(store, event))


@pytest.mark.parametrize("dry_run", [True, False])
def test_counter_under_a_deleted_paid_lock(store, clock, event, dry_run):
    """While a paid booking has no lock, its event's counter is not raised: that could sell paid seats
    again. It is a person's to decide, with the reason."""
    lock, _ = settle(store, event, clock, "CONSUMED", "CONFIRMED")
    store.database.seatLocks.delete_one({"_id": lock})
    before = everything(store, "jobLogs")
    entry = recover(store, dry_run=dry_run)

    assert before == everything(store, "jobLogs")
    assert set(outcomes(entry)) == {
        ("confirmed_without_lock", "needs a person"),
        ("counter_in_doubt", "needs a person"),
    }
    assert "98 seats available, should be 100" in entry["details"]["findings"][-1]["message"]
    assert "paid booking has no lock" in entry["details"]["findings"][-1]["message"]
    assert entry["status"] == "FAILED"


def test_counter_above_a_deleted_paid_lock(store, clock, event):
    """A counter that is too high is lowered all the same: that sells nothing."""
    lock, _ = settle(store, event, clock, "CONSUMED", "CONFIRMED")
    store.database.seatLocks.delete_one({"_id": lock})
    add(store, event, 2 + 5)
    entry = recover(store)

    assert available(store, event) == 100
    assert ("counter_drift", "corrected") in outcomes(entry)


def test_paid_and_expired_beside_a_deleted_paid_lock(store, clock, event):
    """Nor is it raised to take the seats of another paid booking again."""
    deleted, _ = settle(store, event, clock, "CONSUMED", "CONFIRMED")
    lock, booked = settle(store, event, clock, "EXPIRED", "CONFIRMED")
    store.database.seatLocks.delete_one({"_id": deleted})
    add(store, event, -97)
    entry = recover(store)

    assert state(store, event, lock, booked) == ("EXPIRED", "CONFIRMED", 1)
    assert {outcome for _, outcome in outcomes(entry)} == {"needs a person"}


def test_overbooked_event(store, clock, event):
    """Where locks hold more seats than there are, no counter can be right: a person must decide."""
    lock = booking.lock(store, event, "u", 1, ttl=timedelta(hours=1)).document["_id"]
    edit(store, "seatLocks", lock, seats=101)
    clock.advance(minutes=2)
    before = everything(store, "jobLogs")
    entry = recover(store)

    assert before == everything(store, "jobLogs")
    assert outcomes(entry) == [("overbooked", "needs a person")]


def test_counter_moved_meanwhile(standalone_store, clock, monkeypatch):
    """Without transactions a counter is never set across a purchase made after the locks were read."""
    store = standalone_store
    event = booking.create_event(store, "Concert", 100, timedelta(days=30)).document["_id"]
    add(store, event, -3)
    clock.advance(minutes=2)
    look, calls = store.held_by_event, iter(range(100))

    def bought_meanwhile(session=None, event_id=None):
        held = look(session, event_id)
        if event_id is not None and not next(calls):
            clock.advance(milliseconds=1)
            booking.lock(store, event, "u", 5, ttl=timedelta(hours=1))
        return held

    monkeypatch.setattr(store, "held_by_event", bought_meanwhile)
    recover(store)
    assert available(store, event) == 92

    clock.advance(minutes=2)
    recover(store)
    assert available(store, event) == 95


def test_busy_event_on_a_standalone(standalone_store, clock):
    """Without transactions an event that somebody changed within the last minute is left for the next
    run: a lock command may have taken seats and not yet written its lock."""
    store = standalone_store
    event = booking.create_event(store, "Concert", 100, timedelta(days=30)).document["_id"]
    clock.advance(minutes=5)
    store.take_seats(event, 2, None)
    clock.advance(seconds=59)
    entry = recover(store)

    assert available(store, event) == 98
    assert outcomes(entry) == [
        ("counter_drift", "left for the next run: the event was changed within the last minute")
    ]
    assert (entry["status"], entry["details"]["countersLeft"]) == ("FAILED", 1)
    assert "run `seatctl recover` again in a minute" in entry["error"]
    clock.advance(seconds=1)
    entry = recover(store)
    assert (entry["status"], "countersLeft" in entry["details"]) == ("SUCCESS", False)
    assert available(store, event) == 100


def test_half_done_command_is_nothing_left(standalone_store, clock, monkeypatch):
    """Without transactions, a counter that is right again at another look was a command in flight, and
    nobody is told to run recovery again."""
    store = standalone_store
    event = booking.create_event(store, "Concert", 100, timedelta(days=30)).document["_id"]
    store.take_seats(event, 2, None)
    look, calls = recovery.is_quiet, iter(range(100))

    def finished_meanwhile(*arguments):
        if next(calls) == 1:
            overdue_locks(store, event, clock, 2)
        return look(*arguments)

    monkeypatch.setattr(recovery, "is_quiet", finished_meanwhile)
    entry = recover(store)

    assert (available(store, event), entry["status"], outcomes(entry)) == (98, "SUCCESS", [])


def test_busy_event_with_transactions(replica_store, clock):
    """With transactions a half-done command cannot be met, so nothing has to wait."""
    event = booking.create_event(replica_store, "Concert", 100, timedelta(days=30)).document["_id"]
    add(replica_store, event, -2)
    recover(replica_store)

    assert available(replica_store, event) == 100
    assert clock() == replica_store.event(event)["updatedAt"]


def test_own_changes_are_quiet(standalone_store, clock):
    """Recovery's own changes of the same run do not make an event busy."""
    store = standalone_store
    event = booking.create_event(store, "Concert", 100, timedelta(days=30)).document["_id"]
    overdue_locks(store, event, clock, 3)
    add(store, event, -5)
    clock.advance(minutes=2)
    recover(store)

    assert available(store, event) == 100


@pytest.mark.parametrize("own_change", ["swept", "returned", "taken again"])
def test_own_changes_hide_no_neighbour(standalone_store, clock, own_change):
    """A change that somebody else made a moment before recovery's own still counts."""
    store = standalone_store
    event = booking.create_event(store, "Concert", 100, timedelta(days=30)).document["_id"]
    if own_change == "swept":
        overdue_locks(store, event, clock, 3)
        add(store, event, -3)
    elif own_change == "returned":
        settle(store, event, clock, "ACTIVE", "FAILED")
    else:
        settle(store, event, clock, "EXPIRED", "CONFIRMED")
    clock.advance(minutes=5)
    store.take_seats(event, 10, None)  # a buyer whose lock is about to appear
    clock.advance(seconds=1)
    entry = recover(store)

    assert available(store, event) == (88 if own_change == "taken again" else 90)
    assert outcomes(entry)[-1][0] == "counter_drift"
    assert outcomes(entry)[-1][1].startswith("left for the next run")


def test_low_counter_of_a_busy_event_is_not_oversold(standalone_store, clock):
    """A paid lock whose event's counter is low only because it may not be corrected yet waits for the
    next run; nobody is told that the event is oversold."""
    store = standalone_store
    event = booking.create_event(store, "Concert", 100, timedelta(days=30)).document["_id"]
    lock, booked = settle(store, event, clock, "EXPIRED", "CONFIRMED")
    store.take_seats(event, 99, None)
    clock.advance(seconds=1)
    entry = recover(store)

    assert state(store, event, lock, booked) == ("EXPIRED", "CONFIRMED", 1)
    assert [outcome.partition(":")[0] for _, outcome in outcomes(entry)] == ["left for the next run"] * 2
    assert entry["details"]["countersLeft"] == 1
    clock.advance(minutes=1)
    recover(store)
    assert state(store, event, lock, booked) == ("CONSUMED", "CONFIRMED", 98)


def test_event_without_a_date(standalone_store, clock):
    """An event of another program that carries no `updatedAt` counts as quiet."""
    event = booking.create_event(standalone_store, "Concert", 100, timedelta(days=30)).document["_id"]
    standalone_store.database.events.update_one(
        {"_id": event}, {"$unset": {"updatedAt": 1}, "$inc": {"availableSeats": -1}}
    )
    recover(standalone_store)

    assert available(standalone_store, event) == 100
    assert clock() == standalone_store.event(event)["updatedAt"]


# --- somebody was faster -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lock_status", "booking_status"),
    [
        ("ACTIVE", "CONFIRMED"),
        ("EXPIRED", "CONFIRMED"),
        ("ACTIVE", "FAILED"),
        ("EXPIRED", "PAYMENT_PENDING"),
    ],
)
def test_healed_meanwhile(store, clock, event, monkeypatch, lock_status, booking_status):
    """What another run of recovery has healed between finding and repairing is left alone and not
    reported."""
    settle(store, event, clock, lock_status, booking_status)
    find, calls = recovery.look, iter(range(100))

    def healed_meanwhile(where):
        found = find(where)
        if not next(calls):
            assert sums(recover(store)) != (0, 0, 0, 0)
        return found

    monkeypatch.setattr(recovery, "look", healed_meanwhile)
    entry = recover(store)

    assert (sums(entry), outcomes(entry)) == ((0, 0, 0, 0), [])
    assert_consistent(store)


def test_counter_healed_meanwhile(store, clock, event, monkeypatch):
    """So is a counter."""
    add(store, event, -3)
    clock.advance(minutes=2)
    find, calls = recovery.look, iter(range(100))

    def healed_meanwhile(where):
        found = find(where)
        if not next(calls):
            recover(store)
        return found

    monkeypatch.setattr(recovery, "look", healed_meanwhile)

    assert outcomes(recover(store)) == []
    assert available(store, event) == 100


def test_lock_taken_again_meanwhile(store, clock, event, monkeypatch):
    """Seats that another run took again are not taken twice."""
    lock, booked = settle(store, event, clock, "EXPIRED", "CONFIRMED")
    take, calls = store.retake_seats, iter(range(100))

    def healed_meanwhile(*arguments):
        if not next(calls):
            recover(store)
        return take(*arguments)

    monkeypatch.setattr(store, "retake_seats", healed_meanwhile)

    assert outcomes(recover(store)) == []
    assert state(store, event, lock, booked) == ("CONSUMED", "CONFIRMED", 98)


# --- dry runs ------------------------------------------------------------------------------------------


def test_dry_run_writes_nothing(store, clock, event):
    """A dry run prints every finding as a plan and changes nothing, not even the log."""
    overdue_locks(store, event, clock, 7)
    settle(store, event, clock, "ACTIVE", "CONFIRMED")
    settle(store, event, clock, "CONSUMED", "FAILED")
    settle(store, event, clock, "EXPIRED", "PAYMENT_PENDING")
    before = everything(store)
    entry = recover(store, dry_run=True)

    assert before == everything(store)
    assert set(outcomes(entry)) == {
        ("unsettled_lock", "planned"),
        ("booking_without_seats", "planned"),
        ("consumed_without_booking", "needs a person"),
        ("counter_drift", "planned"),
    }


@pytest.mark.parametrize(("counter", "gains"), [(93, 7), (100, 0)])
def test_dry_run_says_what_the_sweeps_would_do(store, clock, event, counter, gains):
    """A dry run over overdue locks gives the numbers of the run that follows it."""
    overdue_locks(store, event, clock, 7)
    add(store, event, counter - 100)
    clock.advance(minutes=2)
    planned = recover(store, dry_run=True)

    assert sums(planned)[:3] == sums(recover(store))[:3] == (7, 0, gains)


def test_dry_run_plans_an_overdue_orphan_once(store, clock, event):
    """An overdue lock of an event that does not exist stands in the plan once."""
    overdue_locks(store, NOWHERE, clock, 1)
    planned = recover(store, dry_run=True)

    assert outcomes(planned) == [("orphan_lock", "planned")]
    assert available(store, event) == 100


def test_dry_run_beside_a_buyer(store, clock, event):
    """What a buyer takes after a dry run has planned something for the event is no drift in the plan."""
    overdue_locks(store, event, clock, 7)
    add(store, event, -7)
    plan = rehearsal.Rehearsal(store)
    (swept,) = expiry.sweep(plan, expiry.lock_sweep(plan), Terms(clock(), overdue_at=clock()), dry_run=True)
    booking.lock(store, event, "u", 5)

    assert (swept.locks, list(findings.counters(plan))) == (7, [])


def twins(store, event, clock, lock_status, *states):
    """A lock with several bookings, of another program's making."""
    lock = booking.lock(store, event, "u", 2, ttl=timedelta(hours=2)).document["_id"]
    edit(store, "seatLocks", lock, status=lock_status)
    store.database.bookings.drop_indexes()
    due = clock() + timedelta(hours=2)
    for status in states:
        fields = {"event": event, "user": "u", "seatLockId": lock, "paymentExpiresAt": due}
        store.database.bookings.insert_one({**fields, "status": status})
    clock.advance(minutes=2)


def swept_onto(counter):
    def damage(store, event, clock):
        overdue_locks(store, event, clock, 7)
        add(store, event, counter - 100)

    return damage


def settled(lock_status, booking_status, *, late=0, more=0, **lock_fields):
    """A pair, its counter off by `more`, that long past its settling."""

    def damage(store, event, clock):
        settle(store, event, clock, lock_status, booking_status, **lock_fields)
        add(store, event, more)
        clock.advance(hours=late)

    return damage


def lost_lock_of_a_full_event(store, event, clock):
    settle(store, event, clock, "EXPIRED", "CONFIRMED")
    booking.lock(store, event, "u", 100, ttl=timedelta(minutes=1))


def nowhere(lock_status, booking_status, *, late=0, both=True):
    """A pair whose event is gone; unless `both`, only the lock says so."""

    def damage(store, event, clock):
        lock, booked = settle(store, event, clock, lock_status, booking_status)
        edit(store, "seatLocks", lock, eventId=NOWHERE)
        if both:
            edit(store, "bookings", booked, event=NOWHERE)
        clock.advance(hours=late)

    return damage


def elsewhere(late):
    """A waiting booking that names another event than its lock's."""

    def damage(store, event, clock):
        _, booked = settle(store, event, clock, "ACTIVE", "PAYMENT_PENDING")
        other = booking.create_event(store, "Other", 10, timedelta(days=30)).document["_id"]
        edit(store, "bookings", booked, event=other)
        clock.advance(hours=late)

    return damage


def lock_without_an_event(store, event, clock):
    lock = booking.lock(store, event, "u", 2, ttl=timedelta(hours=2)).document["_id"]
    store.database.seatLocks.update_one({"_id": lock}, {"$unset": {"eventId": 1}})
    clock.advance(minutes=2)


def booking_of_no_possible_lock(late):
    def damage(store, event, clock):
        _, booked = settle(store, event, clock, "EXPIRED", "PAYMENT_PENDING")
        edit(store, "bookings", booked, seatLockId=f"L-{booked}")  # mongomock guards these, too
        clock.advance(hours=late)

    return damage


def deleted_paid_lock(store, event, clock):
    lock, _ = settle(store, event, clock, "CONSUMED", "CONFIRMED")
    overdue_locks(store, event, clock, 3)
    store.database.seatLocks.delete_one({"_id": lock})


def overdue_twins(store, event, clock):
    twins(store, event, clock, "ACTIVE", "PAYMENT_PENDING", "PAYMENT_PENDING")
    clock.advance(hours=3)


def busy_event(store, event, clock):
    clock.advance(minutes=2)
    store.take_seats(event, 2, None)
    clock.advance(seconds=1)
    overdue_locks(store, event, clock, 3)


def everything_at_once(store, _event, clock):
    # Once a lock has two bookings, a standalone confirms no more.
    for name in sorted(list(DAMAGE)[:-1], key=lambda name: "twice" in name):
        DAMAGE[name](
            store, booking.create_event(store, "Concert", 100, timedelta(days=30)).document["_id"], clock
        )


DAMAGE = {
    "overdue locks": swept_onto(93),
    "overdue locks on a full counter": swept_onto(100),
    "overdue locks on a counter that takes some": swept_onto(97),
    "a counter that is too high": settled("CONSUMED", "CONFIRMED", more=1),
    "a counter that is too low": settled("CONSUMED", "CONFIRMED", more=-1),
    "paid, active": settled("ACTIVE", "CONFIRMED"),
    "paid, active, overdue": settled("ACTIVE", "CONFIRMED", late=3),
    "paid, lost": settled("EXPIRED", "CONFIRMED"),
    "paid, lost, counter too low": settled("EXPIRED", "CONFIRMED", more=-99),
    "paid, lost, seats come back first": lost_lock_of_a_full_event,
    "failed, active": settled("ACTIVE", "FAILED"),
    "failed, active, full counter": settled("ACTIVE", "FAILED", more=2),
    "failed, active, overdue": settled("ACTIVE", "FAILED", late=3),
    "failed twice, active": lambda *scene: twins(*scene, "ACTIVE", "FAILED", "EXPIRED"),
    "paid twice, active": lambda *scene: twins(*scene, "ACTIVE", "CONFIRMED", "CONFIRMED"),
    "paid by a list of states, active, overdue": settled("ACTIVE", ["CONFIRMED"], late=3),
    "waiting by a list of states, overdue": settled("ACTIVE", ["PAYMENT_PENDING"], late=3),
    "sold by a list of states": settled(["CONSUMED"], "CONFIRMED", late=3),
    "waiting, lost": settled("EXPIRED", "PAYMENT_PENDING"),
    "waiting, lost, overdue": settled("EXPIRED", "PAYMENT_PENDING", late=3),
    "waiting, sold": settled("CONSUMED", "PAYMENT_PENDING", late=3),
    "waiting twice, overdue": overdue_twins,
    "a lock without seats": settled("ACTIVE", "FAILED", seats="x", late=3),
    "a lock without a deadline": settled("ACTIVE", "PAYMENT_PENDING", expiresAt=None),
    "a lock without a deadline, overdue": settled("ACTIVE", "PAYMENT_PENDING", late=3, expiresAt=None),
    "a lock without an event": lock_without_an_event,
    "a booking of no possible lock": booking_of_no_possible_lock(0),
    "a booking of no possible lock, overdue": booking_of_no_possible_lock(3),
    "no event": nowhere("ACTIVE", "PAYMENT_PENDING"),
    "no event, overdue": nowhere("ACTIVE", "PAYMENT_PENDING", late=3),
    "no event, paid": nowhere("ACTIVE", "CONFIRMED"),
    "no event, failed": nowhere("ACTIVE", "FAILED"),
    "no event but the booking's": nowhere("ACTIVE", "PAYMENT_PENDING", both=False),
    "no event but the booking's, overdue": nowhere("ACTIVE", "PAYMENT_PENDING", late=3, both=False),
    "another event": elsewhere(0),
    "another event, overdue": elsewhere(3),
    "a deleted paid lock": deleted_paid_lock,
    "a busy event": busy_event,
    "everything at once": everything_at_once,
}


@pytest.mark.parametrize("batch_size", [1, 5000])
@pytest.mark.parametrize("damage", DAMAGE)
def test_plan(store, clock, event, damage, batch_size):
    """What a dry run plans is what the run that follows it does: the same numbers, findings and counters,
    and the same left to a person, to the next run, or set aside."""
    DAMAGE[damage](store, event, clock)

    def told(dry_run):
        entry, run = joblog.run(
            store,
            JobType.RECOVERY,
            lambda run: recovery.recover(store, run, batch_size=batch_size),
            dry_run=dry_run,
        )
        undone = Counter(step for step in outcomes(entry) if step[1].startswith(("need", "left", "oversold")))
        found = Counter((step["fault"], step["message"]) for step in entry["details"]["findings"])
        return sums(entry), found, undone, set(map(str, run.set_aside.values())), entry.get("error")

    before = everything(store)
    planned = told(dry_run=True)

    assert before == everything(store)
    assert planned == told(dry_run=False)


def test_what_a_repair_cannot_decide():
    """A finding that no repair knows is a fault of the program, not something to pass over."""
    unknown = findings.Finding(findings.Fault.OVERBOOKED, "no repair exists")

    with pytest.raises(AssertionError):
        recovery._repair(None, None, unknown, None, set())
